//! `postrider retry`: attempt deliveries again, now.

use postrider_proto::v1;

use super::Context;
use crate::failure::{Doing as _, Result};
use crate::output::notice;
use crate::view::delivery::Delivery;
use crate::view::promised;

/// Which deliveries.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Delivery IDs
    #[arg(required = true, value_name = "DELIVERY")]
    deliveries: Vec<String>,
    /// Request ID: repeating the call within 24 hours returns the first result
    #[arg(long, value_name = "TEXT", default_value = "")]
    request_id: String,
}

/// Asks for each; those that are refused do not keep the others from being asked for.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.deliveries();
    each(context, args.deliveries, async |delivery| {
        let step = format!("retry {delivery}");
        let request_id = request_id_of(&args.request_id, &delivery);
        let request = v1::RetryDeliveryRequest { tenant: tenant.clone(), delivery, request_id };
        let answer = api.retry_delivery(request).await.doing(step)?.into_inner();
        Ok(Delivery::from(promised(answer.delivery, "delivery")?))
    })
    .await
}

/// Each delivery needs its own, for a request id that was seen before returns what it returned before.
fn request_id_of(given: &str, delivery: &str) -> String {
    if given.is_empty() { String::new() } else { format!("{given}/{delivery}") }
}

/// Does the same to several deliveries, shows those that it could be done to, and ends with the first failure.
pub(crate) async fn each(
    context: &Context,
    ids: Vec<String>,
    mut act: impl AsyncFnMut(String) -> Result<Delivery>,
) -> Result<()> {
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for id in ids {
        match act(id).await {
            Ok(delivery) => done.push(delivery),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() || !done.is_empty() {
        context.format.list(&done)?;
    }
    let mut failures = failures.into_iter();
    let first = failures.next();
    failures.for_each(|failure| notice(format_args!("error: {failure}")));
    first.map_or(Ok(()), Err)
}

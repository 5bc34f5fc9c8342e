//! `postrider cancel`: end deliveries that have not succeeded.

use postrider_proto::v1;

use super::Context;
use super::retry::each;
use crate::failure::{Doing as _, Result};
use crate::view::delivery::Delivery;
use crate::view::promised;

/// Which deliveries.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Delivery IDs
    #[arg(required = true, value_name = "DELIVERY")]
    deliveries: Vec<String>,
}

/// Cancels each; those that are refused do not keep the others from being cancelled.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.deliveries();
    each(context, args.deliveries, async |delivery| {
        let step = format!("cancel {delivery}");
        let request = v1::CancelDeliveryRequest { tenant: tenant.clone(), delivery };
        let answer = api.cancel_delivery(request).await.doing(step)?.into_inner();
        Ok(Delivery::from(promised(answer.delivery, "delivery")?))
    })
    .await
}

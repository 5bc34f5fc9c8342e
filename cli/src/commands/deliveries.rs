//! `postrider deliveries`: what is owed to whom, and every attempt.

use postrider_proto::v1::{self, DeliveryState};

use super::Context;
use super::events::Span;
use crate::failure::{Doing as _, Result};
use crate::output::{self, Format};
use crate::pages::{self, Limit};
use crate::view::delivery::{Delivery, WithAttempts};
use crate::view::{parse_word, promised};

/// What to do with deliveries.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// List deliveries, newest first
    List(Filter),
    /// Show one delivery with every attempt: timings, response, reason for failure
    #[command(visible_alias = "get")]
    Show {
        /// ID
        id: String,
    },
}

/// Which deliveries.
#[derive(clap::Args, Debug)]
pub(crate) struct Filter {
    /// Only those of this subscription
    #[arg(long, value_name = "ID", default_value = "")]
    subscription: String,
    /// Only those of this event
    #[arg(long, value_name = "ID", default_value = "")]
    event: String,
    /// Only in these states: pending, attempting, waiting, delivered, exhausted, cancelled
    #[arg(long = "state", value_name = "STATE,…", value_delimiter = ',', value_parser = parse_word::<DeliveryState>)]
    states: Vec<DeliveryState>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    limit: Limit,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List(filter) => list(context, filter).await,
        Command::Show { id } => show(context, id).await,
    }
}

async fn list(context: &Context, filter: Filter) -> Result<()> {
    let (start_time, end_time) = filter.span.to_wire();
    let request = v1::ListDeliveriesRequest {
        tenant: context.tenant()?,
        subscription: filter.subscription,
        event: filter.event,
        states: filter.states.into_iter().map(i32::from).collect(),
        start_time,
        end_time,
        ..Default::default()
    };
    let mut api = context.client.deliveries();
    let deliveries = pages::collect(filter.limit, "list deliveries", async |page_size, page_token| {
        api.list_deliveries(v1::ListDeliveriesRequest { page_size, page_token, ..request.clone() }).await
    });
    deliveries.await?.show::<Delivery>(context.format)
}

async fn show(context: &Context, id: String) -> Result<()> {
    let step = format!("get the delivery '{id}'");
    let request = v1::GetDeliveryRequest { tenant: context.tenant()?, delivery: id };
    let answer = context.client.deliveries().get_delivery(request).await.doing(step)?.into_inner();
    let shown = WithAttempts::new(promised(answer.delivery, "delivery")?, answer.attempts);
    match context.format {
        Format::Json => context.format.json(&shown),
        Format::Table => output::print(&shown.for_people()),
    }
}

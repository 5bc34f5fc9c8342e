//! `postrider replay`: attempt deliveries again that have ended, however many they are.

use postrider_proto::v1::{self, DeliveryState};

use super::Context;
use super::events::Span;
use super::operations::follow;
use crate::failure::{Doing as _, Result};
use crate::view::operation::Operation;
use crate::view::{parse_word, promised};

/// Which deliveries, and how fast.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only deliveries of this subscription [default: all subscriptions of the tenant]
    #[arg(long, value_name = "ID", default_value = "")]
    subscription: String,
    /// Only deliveries of events of these types
    #[arg(long = "type", value_name = "TYPE,…", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Only in these states: delivered, exhausted, cancelled [default: delivered,exhausted]
    #[arg(long = "state", value_name = "STATE,…", value_delimiter = ',', value_parser = parse_word::<DeliveryState>)]
    states: Vec<DeliveryState>,
    #[command(flatten)]
    span: Span,
    /// Count the deliveries that would be replayed, without replaying them
    #[arg(long)]
    dry_run: bool,
    /// Rate at which deliveries return to their queues, per second: 1 to 10000 [default: 100]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    max_per_second: u32,
    /// Wait until it is done, and show its progress
    #[arg(long)]
    wait: bool,
    /// Request ID: repeating the call within 24 hours returns the first operation
    #[arg(long, value_name = "TEXT", default_value = "")]
    request_id: String,
}

/// Begins it. A dry run is waited for: its result is the count.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let (start_time, end_time) = args.span.to_wire();
    let replay = v1::Replay {
        subscription: args.subscription,
        event_types: args.event_types,
        states: args.states.into_iter().map(i32::from).collect(),
        start_time,
        end_time,
        dry_run: args.dry_run,
        max_per_second: args.max_per_second,
    };
    let request = v1::ReplayDeliveriesRequest {
        tenant: context.tenant()?,
        replay: Some(replay),
        request_id: args.request_id,
    };
    let answer = context.client.operations().replay_deliveries(request).await.doing("begin the replay")?;
    let begun = promised(answer.into_inner().operation, "operation")?;
    let operation = if args.wait || args.dry_run { follow(context, begun).await? } else { begun };
    context.format.one(&Operation::from(operation))
}

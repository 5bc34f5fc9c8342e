//! `postrider events`: what was accepted.

use postrider_proto::v1;

use super::Context;
use crate::clock;
use crate::failure::{Doing as _, Result};
use crate::pages::{self, Limit};
use crate::time::{When, parse_when};
use crate::view::event::Event;
use crate::view::promised;

/// What to do with events.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Show one event with its data and deliveries
    Get {
        /// ID
        id: String,
    },
    /// List events, newest first, without data
    List {
        /// Only events of this type
        #[arg(long = "type", value_name = "TYPE", default_value = "")]
        event_type: String,
        #[command(flatten)]
        span: Span,
        #[command(flatten)]
        limit: Limit,
    },
}

/// A span of time.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Start of the time range: RFC 3339, or how long ago, such as 15m
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    pub(crate) since: Option<When>,
    /// End of the time range (exclusive): RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    pub(crate) until: Option<When>,
}

impl Span {
    /// Start and end, on the wire.
    pub(crate) fn to_wire(self) -> (Option<prost_types::Timestamp>, Option<prost_types::Timestamp>) {
        let now = clock::now();
        (self.since.map(|when| when.to_wire(now)), self.until.map(|when| when.to_wire(now)))
    }
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.events();
    match command {
        Command::Get { id } => {
            let step = format!("get the event '{id}'");
            let answer = api.get_event(v1::GetEventRequest { tenant, event: id }).await.doing(step)?;
            context.format.one(&Event::from(promised(answer.into_inner().event, "event")?))
        }
        Command::List { event_type, span, limit } => {
            let (start_time, end_time) = span.to_wire();
            let events = pages::collect(limit, "list events", async |page_size, page_token| {
                let (tenant, r#type) = (tenant.clone(), event_type.clone());
                let request =
                    v1::ListEventsRequest { tenant, r#type, start_time, end_time, page_size, page_token };
                api.list_events(request).await
            });
            events.await?.show::<Event>(context.format)
        }
    }
}

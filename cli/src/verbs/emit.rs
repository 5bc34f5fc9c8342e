//! `postrider emit`: hand over an event, or a stream of them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use postrider_domain::time::EventTime;
use postrider_proto::v1;

use super::follow::{self, End};
use super::{Context, emit_lines, input};
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::{Format, notice, print};
use crate::time::{parse_event_time, to_wire};
use crate::view::delivery::Delivery;
use crate::view::event::Accepted;

/// What to emit.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  postrider emit document.completed --data '{\"documentId\":\"doc_abc123\"}' --follow
  some-command | postrider emit batch.completed -
  postrider emit --lines --file events.ndjson      # {\"type\":…,\"data\":…} a line
  postrider emit audit.entry --lines < data.ndjson # the line is the data")]
pub(crate) struct Args {
    /// The event's type, such as document.completed
    #[arg(value_name = "TYPE", required_unless_present = "lines")]
    event_type: Option<String>,
    /// Read the data from stdin
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = ["data", "file"])]
    stdin: Option<String>,
    /// The data: JSON text
    #[arg(long, short, value_name = "JSON")]
    data: Option<String>,
    /// A file with the data; '-' is stdin
    #[arg(long, short, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    /// When it happened: RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_event_time)]
    timestamp: Option<EventTime>,
    /// The event's id, chosen by you; sent as webhook-id [default: the server makes one]
    #[arg(long, value_name = "ID", conflicts_with = "lines")]
    id: Option<String>,
    /// Makes a repeat of this emit return the first event for 24 hours
    #[arg(long, value_name = "KEY", conflicts_with = "lines")]
    idempotency_key: Option<String>,
    /// What the event is about: subscriptions ordered per key receive events with the same key in order
    #[arg(long, value_name = "KEY", conflicts_with = "lines")]
    ordering_key: Option<String>,
    /// A short text for filters, 'name=value'; may be repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = input::parse_attribute, conflicts_with = "lines")]
    attributes: Vec<(String, String)>,
    /// The trace that the event belongs to, a W3C traceparent; sent on to receivers
    #[arg(long, value_name = "TRACEPARENT", conflicts_with = "lines")]
    trace_parent: Option<String>,
    /// Its W3C tracestate
    #[arg(long, value_name = "TRACESTATE", requires = "trace_parent")]
    trace_state: Option<String>,
    /// Emit one event a line, pipelined over one stream. With TYPE each line is the data; without, an
    /// object: {"type":…, "data":…} and, optionally, "timestamp", "id", "idempotency_key",
    /// "ordering_key", "attributes", "trace_parent", "trace_state"
    #[arg(long, conflicts_with_all = ["data", "follow"])]
    lines: bool,
    /// Wait until every delivery has ended: exit 0 when all are delivered, 5 otherwise
    #[arg(long)]
    follow: bool,
}

/// Emits.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let tenant = context.tenant()?;
    if args.lines {
        let from = args.file.as_deref().unwrap_or(Path::new("-"));
        return emit_lines::run(context, tenant, args.event_type, args.timestamp, from).await;
    }
    let event = v1::NewEvent {
        data: args.read_data()?,
        r#type: args.event_type.unwrap_or_default(),
        timestamp: args.timestamp.map(to_wire),
        id: args.id.unwrap_or_default(),
        idempotency_key: args.idempotency_key.unwrap_or_default(),
        ordering_key: args.ordering_key.unwrap_or_default(),
        attributes: args.attributes.into_iter().collect(),
        trace_parent: args.trace_parent.unwrap_or_default(),
        trace_state: args.trace_state.unwrap_or_default(),
    };
    let step = format!("emit {}", event.r#type);
    let request = v1::EmitRequest { tenant: tenant.clone(), event: Some(event) };
    let accepted = Accepted::from(context.client.events().emit(request).await.doing(step)?.into_inner());
    for warning in &accepted.warnings {
        notice(format_args!("warning: {}", warning.message));
    }
    if args.follow {
        return follow_to_the_end(context, tenant, accepted).await;
    }
    match context.format {
        Format::Json => context.format.json(&accepted),
        Format::Table => {
            print(&format!("{}\n", accepted.line()))?;
            hint_when_unwanted(&accepted);
            Ok(())
        }
    }
}

fn hint_when_unwanted(accepted: &Accepted) {
    if accepted.deliveries == 0 {
        notice("No subscription of the tenant wants this event, so nothing is sent.");
    }
}

/// An emitted event with what became of it, for programs.
#[derive(serde::Serialize)]
struct Followed {
    #[serde(flatten)]
    accepted: Accepted,
    ended_deliveries: Vec<Delivery>,
}

async fn follow_to_the_end(context: &Context, tenant: String, accepted: Accepted) -> Result<()> {
    if context.format == Format::Table {
        print(&format!("{}\n", accepted.line()))?;
        hint_when_unwanted(&accepted);
    }
    let event = accepted.event_id.clone();
    let End { deliveries, all_delivered } = match accepted.deliveries {
        0 => End::nothing(),
        _ => follow::run(context, tenant, event).await?,
    };
    if context.format == Format::Json {
        context.format.json(&Followed { accepted, ended_deliveries: deliveries })?;
    }
    if all_delivered {
        return Ok(());
    }
    Err(Failure::new(Exit::DeliveryFailed, "not every delivery succeeded")
        .note("see why with `postrider deliveries show <DELIVERY>`, then `postrider retry <DELIVERY>`"))
}

impl Args {
    fn read_data(&self) -> Result<Bytes> {
        match (&self.data, &self.file, &self.stdin) {
            (Some(data), _, _) => Ok(data.clone().into()),
            (None, Some(file), _) => Ok(input::read(file)?.into()),
            (None, None, Some(_)) => Ok(input::read(Path::new("-"))?.into()),
            (None, None, None) => {
                Err(Failure::new(Exit::Usage, "the event has no data; give --data, --file or '-' for stdin"))
            }
        }
    }
}

//! `postrider tail`: what happens to deliveries, live.

use std::collections::HashSet;
use std::time::Duration;

use postrider_proto::v1::{self, DeliveryState, OutcomeClass};
use serde::Serialize;

use super::Context;
use crate::clock;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::{Format, notice, print};
use crate::time::{When, parse_when, to_wire};
use crate::view::delivery::Delivery;
use crate::view::parse_word;

/// Deliveries that it is remembered of to have been shown.
const MAX_TOLD: usize = 10_000;

/// Which updates.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only those of this subscription
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    subscription: String,
    /// Only deliveries of this event; exits when all of them have ended
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true, conflicts_with = "from")]
    event: String,
    /// Only deliveries of events of these types, such as `document.*`
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Only updates to these states: waiting, delivered, exhausted, cancelled
    #[arg(long = "state", value_name = "STATE,…", value_delimiter = ',', value_parser = parse_word::<DeliveryState>)]
    states: Vec<DeliveryState>,
    /// Only after attempts with these outcomes: success, http_status, timeout, dns, connect, tls, protocol,
    /// refused_by_policy, agent_lost, not_processed
    #[arg(long = "outcome", value_name = "OUTCOME,…", value_delimiter = ',', value_parser = parse_word::<OutcomeClass>)]
    outcomes: Vec<OutcomeClass>,
    /// Start with earlier updates: from the resume token of an earlier `tail`, a time, or how long ago (15m)
    #[arg(long, value_name = "TOKEN|TIME", value_parser = parse_from)]
    from: Option<From>,
}

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Token(String),
    Time(When),
}

fn parse_from(text: &str) -> std::result::Result<From, String> {
    let is_token = text.len() > 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_token {
        return Ok(From::Token(text.to_owned()));
    }
    parse_when(text).map(From::Time).map_err(|problem| format!("{problem}, or a resume token"))
}

/// Mirrors `postrider.v1.WatchDeliveriesResponse`.
#[derive(Serialize)]
struct Update {
    delivery: Option<Delivery>,
    missed: u64,
    resume_token: String,
    from_store: bool,
}

/// Prints updates until interrupted; when the stream breaks, it goes on where it was.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let (resume_token, from_time) = match args.from {
        Some(From::Token(token)) => (token, None),
        Some(From::Time(when)) => (String::new(), Some(when.to_wire(clock::now()))),
        None => (String::new(), None),
    };
    let mut request = v1::WatchDeliveriesRequest {
        tenant: context.tenant()?,
        subscription: args.subscription,
        event: args.event,
        resume_token,
        from_time,
        event_types: args.event_types,
        states: args.states.into_iter().map(i32::from).collect(),
        outcomes: args.outcomes.into_iter().map(i32::from).collect(),
    };
    let mut reconnect = Reconnect::default();
    let mut told = Told::default();
    loop {
        match watch(context, &mut request, &mut told, &mut reconnect).await {
            Ok(()) if !request.event.is_empty() => return Ok(()),
            Ok(()) => reconnect.wait(&Failure::new(Exit::Unavailable, "the server ended the stream")).await,
            Err(failure) if failure.exit == Exit::Unavailable && reconnect.worked_before() => {
                reconnect.wait(&failure).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

async fn watch(
    context: &Context,
    request: &mut v1::WatchDeliveriesRequest,
    told: &mut Told,
    reconnect: &mut Reconnect,
) -> Result<()> {
    let begun = context.client.deliveries().watch_deliveries(request.clone()).await;
    let mut updates = begun.doing("watch deliveries")?.into_inner();
    reconnect.connected();
    while let Some(update) = updates.message().await.doing("watch deliveries")? {
        if !update.resume_token.is_empty() {
            told.is_at(&update.resume_token);
            // From here on, when the stream breaks.
            request.resume_token.clone_from(&update.resume_token);
            request.from_time = None;
        }
        let repeated = update.delivery.as_ref().is_some_and(|delivery| !told.is_new(delivery));
        if !repeated {
            show(context, update)?;
        }
    }
    Ok(())
}

/// What was shown since the stream's resume token changed last: a stream that goes on there tells it again.
#[derive(Debug, Default)]
struct Told {
    resume_token: String,
    shown: HashSet<(String, u32, i32)>,
}

impl Told {
    fn is_at(&mut self, token: &str) {
        if self.resume_token != token {
            token.clone_into(&mut self.resume_token);
            self.shown.clear();
        }
    }

    fn is_new(&mut self, delivery: &v1::Delivery) -> bool {
        // It grows while a stream catches up: what is known to be shown is only to spare the reader repeats.
        if self.shown.len() >= MAX_TOLD {
            self.shown.clear();
        }
        self.shown.insert((delivery.id.clone(), delivery.attempt_count, delivery.state))
    }
}

fn show(context: &Context, update: v1::WatchDeliveriesResponse) -> Result<()> {
    let update = Update {
        delivery: update.delivery.map(Delivery::from),
        missed: update.missed,
        resume_token: update.resume_token,
        from_store: update.from_store,
    };
    if context.format == Format::Json {
        return context.format.json_line(&update);
    }
    if update.missed > 0 {
        notice(format_args!(
            "… {} updates were left out: this reader is too slow; see them by `postrider tail --from {}`",
            update.missed, update.resume_token
        ));
    }
    let Some(delivery) = update.delivery else { return Ok(()) };
    let now = crate::time::for_table(&to_wire(clock::now()));
    let when = if update.from_store { "earlier" } else { now.as_str() };
    print(&format!("{when:<width$}  {}\n", delivery.line_with_event(), width = now.len()))
}

/// When to open a broken stream again: soon at first, then less often, at most every five seconds.
#[derive(Debug, Default)]
pub(crate) struct Reconnect {
    failures: u32,
    worked: bool,
    lost: bool,
}

impl Reconnect {
    /// The stream is open.
    pub(crate) fn connected(&mut self) {
        if self.lost {
            notice("… connected again");
        }
        *self = Self { worked: true, ..Self::default() };
    }

    /// Whether the stream was open once.
    fn worked_before(&self) -> bool {
        self.worked
    }

    /// Says why and waits.
    pub(crate) async fn wait(&mut self, failure: &Failure) {
        if !self.lost {
            notice(format_args!("… {}; connecting again", failure.message()));
        }
        self.lost = true;
        tokio::time::sleep(delay(self.failures)).await;
        self.failures = self.failures.saturating_add(1);
    }
}

fn delay(failures: u32) -> Duration {
    Duration::from_millis(250).saturating_mul(1 << failures.min(5)).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_five_seconds() {
        let delays: Vec<u128> = [0, 1, 4, 5, 99].map(|n| delay(n).as_millis()).to_vec();
        assert_eq!(delays, [250, 500, 4000, 5000, 5000]);
    }

    #[test]
    fn a_stream_begins_at_a_resume_token_or_a_time() {
        assert_eq!(parse_from("1770028200123000"), Ok(From::Token("1770028200123000".into())));
        assert_eq!(parse_from("15m"), Ok(From::Time(When::Ago(Duration::from_secs(900)))));
        assert!(parse_from("yesterday").is_err());
    }

    #[test]
    fn what_is_told_again_is_not_shown_again() {
        let mut told = Told::default();
        let delivery = v1::Delivery { id: "dlv_1".into(), attempt_count: 1, ..Default::default() };
        told.is_at("1");
        assert!(told.is_new(&delivery) && !told.is_new(&delivery));
        assert!(told.is_new(&v1::Delivery { attempt_count: 2, ..delivery.clone() }));
        told.is_at("1");
        assert!(!told.is_new(&delivery));
        told.is_at("2");
        assert!(told.is_new(&delivery));
    }
}

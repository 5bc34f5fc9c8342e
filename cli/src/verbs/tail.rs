//! `postrider tail`: what happens to deliveries, live.

use std::time::Duration;

use postrider_proto::v1;
use serde::Serialize;

use super::Context;
use crate::clock;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::{Format, notice, print};
use crate::time::to_wire;
use crate::view::delivery::Delivery;

/// Whose deliveries.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only of this subscription
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    subscription: String,
    /// Only of this event; ends when all its deliveries have ended
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    event: String,
}

/// Mirrors `postrider.v1.WatchDeliveriesResponse`.
#[derive(Serialize)]
struct Update {
    delivery: Option<Delivery>,
    missed: u64,
}

/// Prints updates until interrupted; reconnects when the stream breaks.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let tenant = context.tenant()?;
    let request = v1::WatchDeliveriesRequest { tenant, subscription: args.subscription, event: args.event };
    let mut reconnect = Reconnect::default();
    loop {
        match watch(context, request.clone(), &mut reconnect).await {
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
    request: v1::WatchDeliveriesRequest,
    reconnect: &mut Reconnect,
) -> Result<()> {
    let mut updates =
        context.client.deliveries().watch_deliveries(request).await.doing("watch deliveries")?.into_inner();
    if reconnect.connected() {
        notice("… what happened meanwhile is not shown here: see `postrider deliveries list --since 5m`");
    }
    while let Some(update) = updates.message().await.doing("watch deliveries")? {
        show(context, update)?;
    }
    Ok(())
}

fn show(context: &Context, update: v1::WatchDeliveriesResponse) -> Result<()> {
    let update = Update { delivery: update.delivery.map(Delivery::from), missed: update.missed };
    if context.format == Format::Json {
        return context.format.json_line(&update);
    }
    if update.missed > 0 {
        notice(format_args!("… {} updates were left out: this reader is too slow", update.missed));
    }
    let Some(delivery) = update.delivery else { return Ok(()) };
    let now = crate::time::for_table(&to_wire(clock::now()));
    print(&format!("{now}  {}\n", delivery.line_with_event()))
}

/// When to open a broken stream again: soon at first, then less often, at most every five seconds.
#[derive(Debug, Default)]
pub(crate) struct Reconnect {
    failures: u32,
    worked: bool,
    lost: bool,
}

impl Reconnect {
    /// The stream is open. Returns whether it had been lost.
    pub(crate) fn connected(&mut self) -> bool {
        let lost = self.lost;
        if lost {
            notice("… connected again");
        }
        *self = Self { worked: true, ..Self::default() };
        lost
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
}

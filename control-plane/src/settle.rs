//! Writes the new states of deliveries, many at once, and says when they are stored.
//!
//! Nothing is dropped when the store is away: the same group is tried again until it is written, and meanwhile
//! the schedule stops handing out (see [`MAX_UNSETTLED`]).

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{DeliveryId, SubscriptionId};
use postrider_domain::lane::LowWater;
use postrider_domain::lane::health::Trouble;
use tokio::sync::mpsc;
use tracing::{Level, event, warn};

use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::schedule::{MAX_UNSETTLED, Reported, Ticket};
use crate::store::{Settle, Settlement, Store};
use crate::watch::{Update, Updates};

/// New states of one write.
const GROUP: usize = 2048;
/// How long to wait before a failed write is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Something to be written.
pub enum Item {
    /// A delivery's new state.
    Delivery {
        /// The state.
        settle: Box<Settle>,
        /// The outcome to acknowledge then.
        acknowledge: Option<Reported>,
        /// Who waits for it.
        answer: Option<Ticket>,
        /// What the audit log is told of it.
        audit: Option<Box<Entry>>,
    },
    /// How far a lane is settled.
    LowWater(SubscriptionId, LowWater),
    /// What is to be remembered of an endpoint's trouble.
    Trouble(SubscriptionId, Option<Trouble>),
}

/// What was written.
#[derive(Debug, Default)]
pub struct Stored {
    /// Which deliveries.
    pub ids: Vec<DeliveryId>,
    /// The outcomes to acknowledge.
    pub acknowledge: Vec<Reported>,
    /// Who waited for it.
    pub answers: Vec<Ticket>,
}

/// The queue of what is to be written. The schedule never lets more be unsettled than fits.
#[must_use]
pub fn queue() -> (mpsc::Sender<Item>, mpsc::Receiver<Item>) {
    mpsc::channel(2 * MAX_UNSETTLED)
}

/// Writes until the queue is closed and empty.
pub async fn run(
    mut queue: mpsc::Receiver<Item>,
    store: Arc<dyn Store>,
    lanes: Lanes,
    updates: Updates,
    metrics: Arc<Metrics>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut group, GROUP).await > 0 {
        group.iter().for_each(|item| count(item, &metrics));
        let (mut settlement, stored) = sort(&mut group);
        settlement.position = updates.next_position();
        while let Err(error) = store.settle(settlement.clone()).await {
            warn!(%error, deliveries = stored.ids.len(), "failed to store outcomes; retrying");
            tokio::time::sleep(RETRY).await;
        }
        publish(settlement, &updates);
        if !stored.ids.is_empty() {
            lanes.stored(stored).await;
        }
    }
}

/// An attempt is counted when its outcome is about to be written, an end with it; a retry by hand brings the attempt that
/// had ended its delivery, which was counted before.
fn count(item: &Item, metrics: &Metrics) {
    let Item::Delivery { settle, answer, .. } = item else { return };
    settle.attempt.iter().filter(|_| answer.is_none()).for_each(|attempt| metrics.attempted(attempt));
    metrics.settled(&settle.delivery);
}

/// Logs and shows what is on disk.
fn publish(settlement: Settlement, updates: &Updates) {
    if settlement.deliveries.is_empty() {
        return;
    }
    let position = settlement.position;
    let before = updates.written(position);
    for settle in settlement.deliveries {
        log(&settle);
        let id = settle.id;
        let update = || Update { id, delivery: settle.delivery, attempt: settle.attempt, position, before };
        updates.publish(id, update);
    }
}

fn sort(group: &mut Vec<Item>) -> (Settlement, Stored) {
    let (mut settlement, mut stored) = (Settlement::default(), Stored::default());
    for item in group.drain(..) {
        match item {
            Item::Delivery { settle, acknowledge, answer, audit } => {
                settlement.audit.extend(audit.map(|entry| *entry));
                stored.ids.push(settle.id);
                stored.acknowledge.extend(acknowledge);
                stored.answers.extend(answer);
                settlement.deliveries.push(*settle);
            }
            Item::LowWater(lane, number) => settlement.low_water.push((lane, number)),
            Item::Trouble(lane, trouble) => settlement.troubles.push((lane, trouble)),
        }
    }
    (settlement, stored)
}

/// Logs one line per attempt. Its target is a public name: operators filter on it.
fn log(settle: &Settle) {
    let Some(attempt) = &settle.attempt else { return };
    let outcome = &attempt.outcome;
    event!(
        target: "postrider::attempt",
        Level::INFO,
        delivery.id = %settle.id,
        attempt = attempt.number,
        outcome = outcome.class.as_str(),
        status = outcome.status().unwrap_or(0),
        duration_ms = outcome.timings.total.as_micros() as f64 / 1000.0,
        agent = %attempt.agent,
        next = next(&settle.delivery),
        "attempt"
    );
}

fn next(delivery: &Delivery) -> &'static str {
    match delivery.state {
        State::Pending | State::Waiting(_) => "retry",
        State::Delivered(_) => "delivered",
        State::Exhausted(_) => "exhausted",
        State::Cancelled(_) => "cancelled",
    }
}

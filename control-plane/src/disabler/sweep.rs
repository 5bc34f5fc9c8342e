//! Cancels what waits for a subscription that is disabled for its failures and whose owner wants nothing of that time.
//!
//! One delivery is kept, to probe the endpoint with. A sweep that was cut off by a restart is done again, from the
//! beginning: what it has cancelled is not found any more.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use postrider_domain::delivery::Delivery;
use postrider_domain::id::{DeliveryId, SubscriptionId};
use postrider_telemetry::tasks::caught;
use tracing::{error, info, warn};

use crate::api::Api;
use crate::schedule::{Answer, Refusal};
use crate::store::StoreError;

/// Deliveries read at once.
const PAGE: usize = 1000;
/// Cancellations under way at once: each waits for its write, and many share one.
const AT_ONCE: usize = 256;

/// How long attempts that are under way, and a store that fails, are left alone before the next walk.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until nothing waits but one, or the subscription drops nothing any more.
pub(super) async fn run(api: Api, id: SubscriptionId) -> SubscriptionId {
    loop {
        match caught(sweep(&api, id)).await {
            Ok(Ok(cancelled)) => {
                info!(subscription = %id, cancelled, "cancelled the pending deliveries of the endpoint");
                return id;
            }
            Ok(Err(error)) => {
                warn!(subscription = %id, %error, "failed to cancel all pending deliveries of the endpoint; retrying");
            }
            Err(error) => {
                error!(subscription = %id, %error, "cancelling pending deliveries panicked; retrying");
            }
        }
        tokio::time::sleep(AGAIN).await;
        if !drops(&api, id) {
            return id;
        }
    }
}

/// What waits, round by round, until nothing was under way that could not be cancelled.
async fn sweep(api: &Api, id: SubscriptionId) -> Result<usize, StoreError> {
    let (mut cancelled, mut kept) = (0, None);
    loop {
        let round = Round { api, id, kept };
        let (ended, busy, now_kept) = round.run().await?;
        (cancelled, kept) = (cancelled + ended, now_kept);
        if busy == 0 || !drops(api, id) {
            return Ok(cancelled);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn drops(api: &Api, id: SubscriptionId) -> bool {
    api.registry.get(id).is_some_and(|row| row.subscription.drops())
}

/// One walk through all that waits.
struct Round<'a> {
    api: &'a Api,
    id: SubscriptionId,
    /// The delivery that stays.
    kept: Option<u64>,
}

impl Round<'_> {
    /// How many were cancelled, how many could not be because an attempt is under way or being written, and which one
    /// stays.
    async fn run(mut self) -> Result<(usize, usize, Option<u64>), StoreError> {
        let lane = self.api.store.lane(self.id).await?;
        let (mut ended, mut busy) = (0, 0);
        // Waiting ones first: the one that failed last is among them, and is kept.
        loop {
            let due = self.api.store.due(self.id, PAGE).await?;
            let (cancelled, refused) = self.cancel(due.rows).await;
            (ended, busy) = (ended + cancelled, busy + refused);
            if due.complete || cancelled == 0 || !drops(self.api, self.id) {
                break;
            }
        }
        let mut next = lane.low_water.number;
        while next < lane.end && drops(self.api, self.id) {
            let fresh = self.api.store.fresh(self.id, next, PAGE).await?;
            if fresh.next == next {
                break;
            }
            next = fresh.next;
            let (cancelled, refused) = self.cancel(fresh.rows).await;
            (ended, busy) = (ended + cancelled, busy + refused);
        }
        Ok((ended, busy, self.kept))
    }

    /// Cancels these but for the one that is kept.
    async fn cancel(&mut self, rows: Vec<Delivery>) -> (usize, usize) {
        self.kept = self.kept.or(rows.first().map(|row| row.sequence));
        let others = rows.into_iter().filter(|row| Some(row.sequence) != self.kept);
        let id = |row: Delivery| DeliveryId { subscription: self.id, sequence: row.sequence };
        let cancels = others.map(|row| self.api.lanes.cancel(id(row), None));
        let answers = stream::iter(cancels).buffer_unordered(AT_ONCE);
        let count = |(ended, busy): (usize, usize), answer: Answer| match answer {
            Ok(()) => (ended + 1, busy),
            Err(Refusal::UnderWay | Refusal::Busy) => (ended, busy + 1),
            Err(_) => (ended, busy),
        };
        answers.fold((0, 0), |counts, answer| std::future::ready(count(counts, answer))).await
    }
}

//! Cancels what waits for a subscription that is disabled for its failures and whose owner wants nothing of that time.
//!
//! One delivery is kept, to probe the endpoint with. A sweep that was cut off by a restart is done again, from the
//! beginning: what it has cancelled is not found any more.

use futures::stream::{self, StreamExt as _};
use postrider_domain::delivery::Delivery;
use postrider_domain::id::{DeliveryId, SubscriptionId};
use tracing::{info, warn};

use crate::api::Api;
use crate::store::StoreError;

/// Deliveries read at once.
const PAGE: usize = 1000;
/// Cancellations under way at once: each waits for its write, and many share one.
const AT_ONCE: usize = 256;

/// Runs until nothing waits but one, or the subscription drops nothing any more.
pub(super) async fn run(api: Api, id: SubscriptionId) -> SubscriptionId {
    match sweep(&api, id).await {
        Ok(cancelled) => info!(subscription = %id, cancelled, "what waited for the endpoint is cancelled"),
        Err(error) => {
            warn!(subscription = %id, %error, "what waits for the endpoint is not all cancelled; a restart goes on with it");
        }
    }
    id
}

async fn sweep(api: &Api, id: SubscriptionId) -> Result<usize, StoreError> {
    let lane = api.store.lane(id).await?;
    let (mut cancelled, mut kept) = (0, None);
    // Waiting ones first: the one that failed last is among them, and is kept.
    loop {
        let due = api.store.due(id, PAGE).await?;
        let count = cancel(api, id, &mut kept, due.rows).await;
        cancelled += count;
        if due.complete || count == 0 {
            break;
        }
    }
    let mut next = lane.low_water.number;
    while next < lane.end {
        let fresh = api.store.fresh(id, next, PAGE).await?;
        if fresh.next == next || !api.registry.get(id).is_some_and(|row| row.subscription.drops()) {
            break;
        }
        next = fresh.next;
        cancelled += cancel(api, id, &mut kept, fresh.rows).await;
    }
    Ok(cancelled)
}

/// Cancels these but for the one that is kept, and says how many there were. One that is under way stays.
async fn cancel(api: &Api, id: SubscriptionId, kept: &mut Option<u64>, rows: Vec<Delivery>) -> usize {
    let kept = *kept.get_or_insert(rows.first().map_or(0, |row| row.sequence));
    let others = rows.into_iter().filter(|row| row.sequence != kept);
    let cancels =
        others.map(|row| api.lanes.cancel(DeliveryId { subscription: id, sequence: row.sequence }, None));
    stream::iter(cancels)
        .buffer_unordered(AT_ONCE)
        .filter(|answer| std::future::ready(answer.is_ok()))
        .count()
        .await
}

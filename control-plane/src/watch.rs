//! Live updates of deliveries, for those who watch. Nobody waits for a watcher: one that is too slow misses some
//! and is told how many.
//!
//! Every tenant that is watched has a channel of its own: how much others deliver neither pushes a watcher's updates out
//! nor shows in the count of those it missed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::HashMap;
use postrider_domain::delivery::Delivery;
use postrider_domain::id::{DeliveryId, TenantId};
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use tokio::sync::broadcast;

use crate::clock::Clock;
use crate::registry::Registry;

/// Updates that a watcher may lag behind: what one write of outcomes brings at the most.
const LAG: usize = 2048;

/// A delivery has a new state.
#[derive(Debug)]
pub struct Update {
    /// Which one.
    pub id: DeliveryId,
    /// Its state.
    pub delivery: Delivery,
    /// The attempt that led to it, if one did.
    pub attempt: Option<Attempt>,
    /// Where it is in the order of all that happens; several that were written together are at one place.
    pub position: u64,
    /// The place before that: whoever goes on there misses nothing of this one.
    pub before: u64,
}

/// The first position that what is written at a time can have.
#[must_use]
pub fn position_at(time: Timestamp) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(0) * 1000
}

/// When that position was reached, at the latest.
#[must_use]
pub fn time_of(position: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(position / 1000).unwrap_or(i64::MAX))
}

type Channel = broadcast::Sender<Arc<Update>>;

/// Hands updates to watchers.
#[derive(Clone)]
pub struct Updates(Arc<Channels>);

struct Channels {
    registry: Arc<Registry>,
    watched: Mutex<HashMap<TenantId, Channel>>,
    /// How many tenants are watched: nobody takes the lock for none.
    count: AtomicUsize,
    /// The position of what was written last.
    head: AtomicU64,
    clock: Clock,
}

impl Updates {
    /// Nobody watches yet. What was written last is at this position.
    #[must_use]
    pub fn new(registry: Arc<Registry>, last_position: u64, clock: Clock) -> Self {
        let (count, head) = (AtomicUsize::new(0), AtomicU64::new(last_position));
        Self(Arc::new(Channels { registry, watched: Mutex::default(), count, head, clock }))
    }

    /// Where what is written next shall be: by the clock, and behind all that was written, whatever the clock says. One
    /// place for all that is written together, so that it tells nobody how much of it is others'.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        position_at(self.0.clock.wall()).max(self.head() + 1)
    }

    /// All that is at this position is on disk, and is about to be published. Returns the position before.
    pub fn written(&self, position: u64) -> u64 {
        self.0.head.swap(position, Ordering::SeqCst)
    }

    /// The position of what was written last: what is not behind it can be read from the store by now.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.0.head.load(Ordering::SeqCst)
    }

    /// Tells the watchers of the delivery's tenant, if there are any. A deleted subscription's deliveries are not told.
    pub fn publish(&self, id: DeliveryId, update: impl FnOnce() -> Update) {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(row) = self.0.registry.get(id.subscription) else { return };
        let tenant = &row.subscription.tenant;
        let mut watched = self.watched();
        let Some(channel) = watched.get(tenant) else { return };
        if channel.receiver_count() > 0 {
            let _gone_meanwhile = channel.send(Arc::new(update()));
        } else {
            watched.remove(tenant);
            self.0.count.store(watched.len(), Ordering::Relaxed);
        }
    }

    /// Watches a tenant from now on.
    #[must_use]
    pub fn subscribe(&self, tenant: &TenantId) -> broadcast::Receiver<Arc<Update>> {
        let mut watched = self.watched();
        watched.retain(|_, channel| channel.receiver_count() > 0);
        let channel = watched.entry(tenant.clone()).or_insert_with(|| broadcast::channel(LAG).0);
        let receiver = channel.subscribe();
        self.0.count.store(watched.len(), Ordering::Relaxed);
        receiver
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<TenantId, Channel>> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

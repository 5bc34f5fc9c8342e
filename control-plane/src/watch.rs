//! Live updates of deliveries, for those who watch. Nobody waits for a watcher: one that is too slow misses some
//! and is told how many.
//!
//! Every tenant that is watched has a channel of its own: how much others deliver neither pushes a watcher's updates out
//! nor shows in the count of those it missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrider_domain::delivery::Delivery;
use postrider_domain::id::{DeliveryId, TenantId};
use postrider_domain::outcome::Attempt;
use tokio::sync::broadcast;

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
}

impl Updates {
    /// Nobody watches yet.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self(Arc::new(Channels { registry, watched: Mutex::default(), count: AtomicUsize::new(0) }))
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

//! Live updates of deliveries, for those who watch. Nobody waits for a watcher: one that is too slow misses some
//! and is told how many.

use std::sync::Arc;

use postrider_domain::delivery::Delivery;
use postrider_domain::id::DeliveryId;
use postrider_domain::outcome::Attempt;
use tokio::sync::broadcast;

/// Updates that a watcher may lag behind.
const LAG: usize = 4096;

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

/// Hands updates to watchers.
#[derive(Clone)]
pub struct Updates(broadcast::Sender<Arc<Update>>);

impl Default for Updates {
    fn default() -> Self {
        Self(broadcast::channel(LAG).0)
    }
}

impl Updates {
    /// Tells the watchers, if there are any.
    pub fn publish(&self, update: impl FnOnce() -> Update) {
        if self.0.receiver_count() > 0 {
            let _nobody_watches = self.0.send(Arc::new(update()));
        }
    }

    /// Watches from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Update>> {
        self.0.subscribe()
    }
}

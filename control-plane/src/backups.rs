//! One backup at a time; the metrics and the log tell what became of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{info, warn};

use crate::clock::Clock;
use crate::metrics::Metrics;

/// See the [module](self).
pub struct Backups {
    metrics: Arc<Metrics>,
    clock: Clock,
    running: AtomicBool,
}

/// A backup that is taken. Dropped before its end it has failed.
pub(crate) struct Running {
    backups: Arc<Backups>,
    actor: Arc<str>,
    bytes: u64,
    ended: bool,
}

impl Backups {
    /// None is taken; what becomes of them is counted there.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { metrics, clock, running: AtomicBool::new(false) }
    }

    /// Begins one, unless another is taken.
    pub(crate) fn begin(self: &Arc<Self>, actor: &Arc<str>) -> Option<Running> {
        let free = self.running.compare_exchange(false, true, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        free.then(|| Running { backups: self.clone(), actor: actor.clone(), bytes: 0, ended: false })
    }
}

impl Running {
    /// More of it was handed out.
    pub(crate) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// All of it was.
    pub(crate) fn succeed(&mut self) {
        self.ended = true;
        self.backups.metrics.backed_up(true, self.backups.clock.wall());
        info!(actor = %self.actor, bytes = self.bytes, "backup finished");
    }

    /// It cannot go on.
    pub(crate) fn fail(&mut self, problem: &str) {
        self.ended = true;
        self.backups.metrics.backed_up(false, self.backups.clock.wall());
        warn!(actor = %self.actor, bytes = self.bytes, "backup failed: {problem}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.fail("the client went away");
        }
        self.backups.running.store(false, Ordering::Relaxed);
    }
}

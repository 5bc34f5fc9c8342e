//! One backup at a time, and what became of those since the start: the metrics and the log tell of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use postrider_domain::time::Timestamp;
use tracing::{info, warn};

use crate::clock::Clock;

/// What became of backups.
pub struct Backups {
    clock: Clock,
    running: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// Milliseconds since 1970; 0: never.
    last_success: AtomicI64,
}

/// A backup that is taken. Dropped before its end it has failed.
pub(crate) struct Running {
    backups: Arc<Backups>,
    actor: Arc<str>,
    bytes: u64,
    ended: bool,
}

impl Backups {
    /// None was taken yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            running: AtomicBool::new(false),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_success: AtomicI64::new(0),
        }
    }

    /// How many were taken to their end since the start.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// How many were begun and not ended.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// When the last one came to its end, if one did since the start.
    #[must_use]
    pub fn last_success(&self) -> Option<Timestamp> {
        let millis = self.last_success.load(Ordering::Relaxed);
        (millis != 0).then(|| Timestamp::from_millis(millis))
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
        let now = self.backups.clock.wall();
        self.backups.succeeded.fetch_add(1, Ordering::Relaxed);
        self.backups.last_success.store(now.as_millis(), Ordering::Relaxed);
        info!(actor = %self.actor, bytes = self.bytes, "a backup was taken");
    }

    /// It cannot go on.
    pub(crate) fn fail(&mut self, problem: &str) {
        self.ended = true;
        self.backups.failed.fetch_add(1, Ordering::Relaxed);
        warn!(actor = %self.actor, bytes = self.bytes, "a backup has failed: {problem}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.fail("whoever took it went away");
        }
        self.backups.running.store(false, Ordering::Relaxed);
    }
}

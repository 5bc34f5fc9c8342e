//! Filters that gave no answer: how often, and why the last time. In memory only: it says what is wrong now.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::HashMap;
use postrider_domain::filter;
use postrider_domain::id::SubscriptionId;
use postrider_domain::time::Timestamp;

/// Of one subscription's filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// How many events.
    pub count: u64,
    /// Why, the last time.
    pub last: filter::Unanswered,
    /// When that was.
    pub time: Timestamp,
}

/// Of every subscription whose filter failed: at most one entry each.
#[derive(Default)]
pub(super) struct Unanswered(Mutex<HashMap<SubscriptionId, Failures>>);

impl Unanswered {
    pub(super) fn note(&self, id: SubscriptionId, last: filter::Unanswered, time: Timestamp) {
        let mut all = self.all();
        let count = all.get(&id).map_or(0, |failures| failures.count) + 1;
        all.insert(id, Failures { count, last, time });
    }

    pub(super) fn of(&self, id: SubscriptionId) -> Option<Failures> {
        self.all().get(&id).cloned()
    }

    pub(super) fn forget(&self, id: SubscriptionId) {
        self.all().remove(&id);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! How fast a tenant may start operations: each is a row, and work, however short.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ahash::HashMap;
use postrider_domain::id::TenantId;
use postrider_domain::pace::{Meter, Pace};

/// Starts of one tenant in a second, and at once.
const STARTS: (u32, u32) = (10, 50);
/// Meters that are kept before it is looked for those that may be forgotten.
const KEPT: usize = 1024;

/// What tenants have used of their rate.
pub(super) struct Starts {
    pace: Pace,
    meters: Mutex<HashMap<TenantId, Meter>>,
}

impl Starts {
    pub(super) fn new() -> Self {
        let (rate, burst) = STARTS;
        let [rate, burst] = [rate, burst].map(|number| NonZeroU32::new(number).expect("it is not zero"));
        Self { pace: Pace::new(rate, burst), meters: Mutex::default() }
    }

    /// Counts a start, if there may be one now; otherwise, when there may.
    pub(super) fn take(&self, tenant: &TenantId, now: Duration) -> Result<(), Duration> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        if meters.len() >= KEPT {
            meters.retain(|_, meter| !meter.is_idle(now));
        }
        self.pace.take(meters.entry(tenant.clone()).or_default(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_may_start_many_at_once_and_then_some_a_second_and_others_are_not_concerned() {
        let starts = Starts::new();
        let [one, other] = ["acme", "other"].map(|name| name.parse::<TenantId>().unwrap());
        let now = Duration::from_secs(100);
        let taken = (0..1000).filter(|_| starts.take(&one, now).is_ok()).count();
        assert_eq!(taken, 50);
        let wait = starts.take(&one, now).unwrap_err();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert!(starts.take(&other, now).is_ok());
        let later = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| starts.take(&one, later).is_ok()).count(), 10);
        let tenants = (0..3 * KEPT).map(|number| format!("t{number}").parse::<TenantId>().unwrap());
        tenants.enumerate().for_each(|(at, tenant)| {
            starts.take(&tenant, later + Duration::from_secs(at as u64)).unwrap();
        });
        assert!(starts.meters.lock().unwrap().len() <= KEPT);
    }
}

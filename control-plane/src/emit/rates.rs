//! How fast tenants emit, and how fast they may: events, and the deliveries that these make.
//!
//! An event counts as its deliveries, and as one when it has none. The rule is pure; [`super::Emitter`] holds it under its
//! lock and reads the clock.

use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::id::TenantId;
use postrider_domain::pace::{Meter, Pace};
use postrider_domain::quota::{Quota, Rate};

/// Tenants whose rates are remembered before those that have rested are looked for.
const METERS: usize = 1024;

/// See the [module](self).
pub(super) struct Rates {
    default: Paces,
    /// Of the tenants whose quota is not the default.
    own: HashMap<TenantId, Paces>,
    meters: HashMap<TenantId, Meters>,
}

/// Which rate is used up, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooFast {
    Events(Duration),
    Deliveries(Duration),
}

#[derive(Clone, Copy)]
struct Paces {
    events: Option<Pace>,
    deliveries: Option<Pace>,
}

#[derive(Clone, Copy, Default)]
struct Meters {
    events: Meter,
    deliveries: Meter,
}

impl Rates {
    /// Where every tenant has this quota.
    pub(super) fn new(default: &Quota) -> Self {
        Self { default: Paces::of(default), own: HashMap::new(), meters: HashMap::new() }
    }

    /// A tenant has this quota from now on; `None`: the default.
    pub(super) fn limit(&mut self, tenant: &TenantId, quota: Option<&Quota>, now: Duration) {
        match quota {
            Some(quota) => drop(self.own.insert(tenant.clone(), Paces::of(quota))),
            None => drop(self.own.remove(tenant)),
        }
        // What was used of the former rate may be more than is ever used of this one.
        let paces = self.paces(tenant);
        if let Some(meters) = self.meters.get_mut(tenant) {
            let lower = |pace: Option<Pace>, meter| pace.map_or(meter, |pace| pace.at_most_spent(meter, now));
            meters.events = lower(paces.events, meters.events);
            meters.deliveries = lower(paces.deliveries, meters.deliveries);
        }
    }

    /// Whether a tenant may emit an event now. What is asked before its deliveries are known.
    pub(super) fn admits(&self, tenant: &TenantId, now: Duration) -> Result<(), TooFast> {
        let (paces, meters) = (self.paces(tenant), self.meters.get(tenant).copied().unwrap_or_default());
        let free = |pace: Option<Pace>, meter| pace.map_or(Ok(()), |pace| pace.admits(meter, now));
        free(paces.events, meters.events).map_err(TooFast::Events)?;
        free(paces.deliveries, meters.deliveries).map_err(TooFast::Deliveries)
    }

    /// Counts an event with so many deliveries, if the tenant may emit it now.
    pub(super) fn take(
        &mut self,
        tenant: &TenantId,
        deliveries: usize,
        now: Duration,
    ) -> Result<(), TooFast> {
        self.admits(tenant, now)?;
        self.reserve(tenant, deliveries, now);
        Ok(())
    }

    /// Counts an event with so many deliveries: how long to wait with it.
    pub(super) fn reserve(&mut self, tenant: &TenantId, deliveries: usize, now: Duration) -> Duration {
        let paces = self.paces(tenant);
        if paces.events.is_none() && paces.deliveries.is_none() {
            return Duration::ZERO;
        }
        let meters = self.meters(tenant, now);
        let wait = |pace: Option<Pace>, meter: &mut Meter, count| {
            pace.map_or(Duration::ZERO, |pace| pace.reserve_many(meter, count, now))
        };
        let events = wait(paces.events, &mut meters.events, 1);
        events.max(wait(paces.deliveries, &mut meters.deliveries, weight(deliveries)))
    }

    /// Counts deliveries that are made again: how long to wait before more of them are, so that new events find room.
    pub(super) fn repeat(&mut self, tenant: &TenantId, deliveries: usize, now: Duration) -> Duration {
        let Some(pace) = self.paces(tenant).deliveries.filter(|_| deliveries > 0) else {
            return Duration::ZERO;
        };
        pace.yield_after(&mut self.meters(tenant, now).deliveries, weight(deliveries), now)
    }

    /// Postrider's own events are paced where they are made.
    fn paces(&self, tenant: &TenantId) -> Paces {
        let default = if tenant.is_postrider() { Paces::of(&Quota::default()) } else { self.default };
        self.own.get(tenant).copied().unwrap_or(default)
    }

    fn meters(&mut self, tenant: &TenantId, now: Duration) -> &mut Meters {
        if self.meters.len() >= METERS && self.meters.len() == self.meters.capacity() {
            self.meters.retain(|_, meters| !(meters.events.is_idle(now) && meters.deliveries.is_idle(now)));
        }
        self.meters.entry(tenant.clone()).or_default()
    }
}

impl Paces {
    fn of(quota: &Quota) -> Self {
        Self { events: quota.emit.map(Rate::pace), deliveries: quota.deliveries.map(Rate::pace) }
    }
}

fn weight(deliveries: usize) -> u32 {
    u32::try_from(deliveries).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tenant(id: &str) -> TenantId {
        id.parse().expect("an id")
    }

    fn quota(emit: Option<Rate>, deliveries: Option<Rate>) -> Quota {
        Quota { emit, deliveries, ..Quota::default() }
    }

    #[test]
    fn an_event_counts_as_what_it_causes() {
        let mut rates = Rates::new(&quota(None, Rate::new(100, 200)));
        let (acme, other) = (tenant("acme"), tenant("other"));
        assert_eq!(rates.take(&acme, 150, Duration::ZERO), Ok(()));
        // The last one may go beyond the burst, and everything after it waits for that.
        assert_eq!(rates.take(&acme, 150, Duration::ZERO), Ok(()));
        assert_eq!(rates.take(&acme, 0, Duration::ZERO), Err(TooFast::Deliveries(SECOND / 100 * 101)));
        assert_eq!(rates.admits(&acme, Duration::ZERO), Err(TooFast::Deliveries(SECOND / 100 * 101)));
        assert_eq!(rates.take(&other, 150, Duration::ZERO), Ok(()));
        assert_eq!(rates.take(&acme, 0, SECOND / 100 * 101), Ok(()));
        assert!(rates.take(&acme, 0, SECOND / 100 * 101).is_err(), "one without deliveries counts as one");
    }

    #[test]
    fn a_quota_of_its_own_takes_the_place_of_the_default_and_postrider_has_none() {
        let mut rates = Rates::new(&quota(Rate::new(1, 1), Rate::new(1, 1)));
        let (acme, now) = (tenant("acme"), Duration::ZERO);
        let refused =
            |rates: &mut Rates, tenant: &TenantId| (0..50).any(|_| rates.take(tenant, 9, now).is_err());
        assert!(refused(&mut rates, &acme) && !refused(&mut rates, &TenantId::postrider()));
        rates.limit(&acme, Some(&Quota::default()), now);
        assert!(!refused(&mut rates, &acme));
        rates.limit(&acme, Some(&quota(Rate::new(5, 5), None)), now);
        assert_eq!((0..50).filter(|_| rates.take(&acme, 9, now).is_ok()).count(), 0, "it had used its burst");
        assert!(rates.take(&acme, 9, SECOND).is_ok());
        rates.limit(&acme, None, now);
        assert!(refused(&mut rates, &acme));
    }

    #[test]
    fn a_stream_and_a_replay_wait_and_leave_room() {
        let mut rates = Rates::new(&quota(None, Rate::new(100, 100)));
        let acme = tenant("acme");
        assert_eq!(rates.reserve(&acme, 300, Duration::ZERO), Duration::ZERO);
        assert!(rates.reserve(&acme, 300, Duration::ZERO) > SECOND);
        let (replayed, mut now) = (tenant("replayed"), Duration::ZERO);
        for _ in 0..20 {
            now += rates.repeat(&replayed, 40, now);
            assert!(rates.admits(&replayed, now).is_ok());
        }
        assert!(now > 7 * SECOND, "{now:?}");
        assert_eq!(rates.repeat(&replayed, 0, now), Duration::ZERO);
    }
}

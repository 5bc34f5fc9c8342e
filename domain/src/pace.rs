//! How often something may happen: so often a second in the long run, and so many at once.
//!
//! The rule is the 'generic cell rate algorithm': a meter remembers one point in time, until which what has happened is
//! still being paid off. A meter in the past is as good as a new one, so whoever keeps many may forget those.

use std::num::NonZeroU32;
use std::time::Duration;

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// What one costs.
    each: Duration,
    /// How far ahead of the time the meter may be when another one comes.
    ahead: Duration,
}

/// What one party has used. Time is counted from any origin, always the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    paid_at: Duration,
}

impl Pace {
    /// So many a second, and so many at once.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::every(Duration::from_secs(1) / per_second.get(), burst.get())
    }

    /// One in every so much time, and so many at once, at least one.
    #[must_use]
    pub fn every(each: Duration, burst: u32) -> Self {
        Self { each, ahead: each.saturating_mul(burst.max(1) - 1) }
    }

    /// From when on another one may happen.
    #[must_use]
    pub fn opens(self, meter: Meter) -> Duration {
        meter.paid_at.saturating_sub(self.ahead)
    }

    /// The meter of one who has just used all that may be used at once.
    #[must_use]
    pub fn spent(self, now: Duration) -> Meter {
        Meter { paid_at: now + self.ahead + self.each }
    }

    /// A meter of another pace, which may be further ahead than this one ever is.
    #[must_use]
    pub fn at_most_spent(self, meter: Meter, now: Duration) -> Meter {
        Meter { paid_at: meter.paid_at.min(self.spent(now).paid_at) }
    }

    /// Whether one may happen now.
    ///
    /// # Errors
    /// How long to wait until it may.
    pub fn admits(self, meter: Meter, now: Duration) -> Result<(), Duration> {
        let ahead = meter.paid_at.saturating_sub(now);
        if ahead > self.ahead { Err(ahead - self.ahead) } else { Ok(()) }
    }

    /// Counts one, if it may happen now.
    ///
    /// # Errors
    /// How long to wait until it may.
    pub fn take(self, meter: &mut Meter, now: Duration) -> Result<(), Duration> {
        self.take_many(meter, 1, now)
    }

    /// Counts so many that happen together, if one of them may happen now. They may go beyond the burst: what is beyond is
    /// paid off before anything else happens. A number that is larger than the burst can happen at all this way.
    ///
    /// # Errors
    /// How long to wait until they may.
    pub fn take_many(self, meter: &mut Meter, count: u32, now: Duration) -> Result<(), Duration> {
        self.admits(*meter, now)?;
        self.spend(meter, count, now);
        Ok(())
    }

    /// Counts one in any case: how long to wait with it. Whoever waits so need not ask again, and many who wait come one
    /// after the other.
    pub fn reserve(self, meter: &mut Meter, now: Duration) -> Duration {
        self.reserve_many(meter, 1, now)
    }

    /// Counts so many that happen together in any case: how long to wait with them.
    pub fn reserve_many(self, meter: &mut Meter, count: u32, now: Duration) -> Duration {
        let wait = meter.paid_at.saturating_sub(now).saturating_sub(self.ahead);
        self.spend(meter, count, now);
        wait
    }

    /// Counts so many that have happened: how long to wait before the next ones, so that half of the burst is left to others
    /// who use the same meter and do not wait.
    pub fn yield_after(self, meter: &mut Meter, count: u32, now: Duration) -> Duration {
        self.spend(meter, count, now);
        meter.paid_at.saturating_sub(now).saturating_sub(self.ahead / 2)
    }

    fn spend(self, meter: &mut Meter, count: u32, now: Duration) {
        meter.paid_at = meter.paid_at.max(now).saturating_add(self.each.saturating_mul(count));
    }
}

impl Meter {
    /// Whether the meter is as good as a new one.
    #[must_use]
    pub fn is_idle(self, now: Duration) -> bool {
        self.paid_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(per_second: u32, burst: u32) -> Pace {
        Pace::new(NonZeroU32::new(per_second).unwrap(), NonZeroU32::new(burst).unwrap())
    }

    proptest! {
        #[test]
        fn no_span_of_time_has_more_than_its_burst_and_its_share(
            per_second in 1_u32..5000,
            burst in 1_u32..50,
            steps in prop::collection::vec(0_u64..20_000_000, 1..400),
        ) {
            let (pace, mut meter) = (pace(per_second, burst), Meter::default());
            let (mut now, mut taken) = (Duration::from_secs(7), Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                now += Duration::from_nanos(step);
                if number % 3 == 0 {
                    taken.push(now + pace.reserve(&mut meter, now));
                    continue;
                }
                match pace.take(&mut meter, now) {
                    Ok(()) => taken.push(now),
                    Err(wait) => {
                        let (mut early, mut later) = (meter, meter);
                        prop_assert!(wait > Duration::ZERO);
                        prop_assert!(pace.take(&mut early, now + wait - Duration::from_nanos(1)).is_err());
                        prop_assert!(pace.take(&mut later, now + wait).is_ok(), "the wait was too short");
                    }
                }
            }
            taken.sort_unstable();
            for (first, begin) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    // What one costs is in whole nanoseconds.
                    let share = (*end - *begin).as_secs_f64() * f64::from(per_second);
                    let count = (last - first + 1) as f64;
                    prop_assert!(count <= f64::from(burst) + share + 1e-3, "{count} in {:?}", *end - *begin);
                }
            }
        }
    }

    #[test]
    fn many_at_once_may_go_beyond_the_burst_and_are_paid_off_before_the_next() {
        let (pace, mut meter) = (pace(10, 3), Meter::default());
        let at = Duration::from_millis;
        assert_eq!(pace.take_many(&mut meter, 20, at(0)), Ok(()));
        assert_eq!(pace.take(&mut meter, at(0)), Err(at(1800)));
        assert_eq!(pace.take_many(&mut meter, 5, at(1799)), Err(at(1)));
        assert_eq!(pace.take_many(&mut meter, 5, at(1800)), Ok(()));
        assert_eq!(pace.reserve_many(&mut meter, 4, at(1800)), at(500));
        assert_eq!(pace.take_many(&mut meter, u32::MAX, at(100_000)), Ok(()));
        assert!(pace.admits(meter, at(100_000)).is_err());
    }

    proptest! {
        /// In the long run no more happens than the rate, whatever comes together, but for the last ones to be let in.
        #[test]
        fn a_rate_holds_for_things_that_come_together(
            per_second in 1_u32..2000, burst in 1_u32..100, steps in prop::collection::vec((0_u64..50, 1_u32..500), 1..200),
        ) {
            let (pace, mut meter) = (pace(per_second, burst), Meter::default());
            let (mut now, mut before, mut last) = (Duration::ZERO, 0_u64, 0_u64);
            for (millis, count) in steps {
                now += Duration::from_millis(millis);
                if pace.take_many(&mut meter, count, now).is_ok() {
                    before += last;
                    last = u64::from(count);
                }
                let allowed = f64::from(burst) + now.as_secs_f64() * f64::from(per_second) + 1e-3;
                prop_assert!(before as f64 <= allowed, "{before} of {allowed}");
            }
        }

        /// Who yields leaves room for others who do not wait.
        #[test]
        fn who_yields_leaves_half_of_the_burst(per_second in 1_u32..2000, burst in 4_u32..500, count in 1_u32..100) {
            let (pace, mut meter, mut now) = (pace(per_second, burst), Meter::default(), Duration::ZERO);
            for _ in 0..50 {
                now += pace.yield_after(&mut meter, count, now);
                let mut other = meter;
                for _ in 0..burst / 2 {
                    prop_assert!(pace.take(&mut other, now).is_ok());
                }
            }
        }
    }

    #[test]
    fn after_a_rest_the_whole_burst_may_happen_again() {
        let (pace, mut meter) = (pace(10, 3), Meter::default());
        let at = Duration::from_millis;
        let mut took = |now| pace.take(&mut meter, at(now));
        assert_eq!([took(0), took(0), took(0)], [Ok(()); 3]);
        assert_eq!(took(0), Err(at(100)));
        assert_eq!(took(100), Ok(()));
        assert_eq!([took(10_000), took(10_000), took(10_000)], [Ok(()); 3]);
        assert!(took(10_000).is_err() && meter.is_idle(at(10_300)) && !meter.is_idle(at(10_299)));
    }
}

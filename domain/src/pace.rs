//! How often something may happen: so often a second in the long run, and so many at once.
//!
//! The rule is the «generic cell rate algorithm»: a meter remembers one point in time, until which what has happened is
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

    /// Counts one, if it may happen now.
    ///
    /// # Errors
    /// How long to wait until it may.
    pub fn take(self, meter: &mut Meter, now: Duration) -> Result<(), Duration> {
        let paid_at = meter.paid_at.max(now);
        let ahead = paid_at - now;
        if ahead > self.ahead {
            return Err(ahead - self.ahead);
        }
        meter.paid_at = paid_at + self.each;
        Ok(())
    }

    /// Counts one in any case: how long to wait with it. Whoever waits so need not ask again, and many who wait come one
    /// after the other.
    pub fn reserve(self, meter: &mut Meter, now: Duration) -> Duration {
        let paid_at = meter.paid_at.max(now);
        meter.paid_at = paid_at + self.each;
        (paid_at - now).saturating_sub(self.ahead)
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

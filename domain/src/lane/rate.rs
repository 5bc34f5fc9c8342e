//! A subscription's rate limit: so many attempts a second in the long run, and so many at once.

use std::time::Duration;

use crate::pace::Pace;
use crate::violation::Violation;

/// The most that may be asked for, of either.
pub const MAX_RATE: u32 = 10_000;
const MIN_PER_SECOND: f64 = RateLimit::SLOWEST;

/// How fast a subscription's endpoint may be called. Retries count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Attempts a second.
    pub per_second: f64,
    /// Attempts at once, after a rest.
    pub burst: u32,
}

impl RateLimit {
    /// The fewest attempts a second that may be asked for.
    pub const SLOWEST: f64 = 0.1;

    /// With the burst of nobody's choice: what a second brings, and at least one.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        // A float becomes the nearest number that there is.
        Self { per_second, burst: (per_second.ceil() as u32).max(1) }
    }

    /// Says every field that is out of range.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        if !(MIN_PER_SECOND..=f64::from(MAX_RATE)).contains(&self.per_second) {
            let problem = "must be 0.1 to 10000 attempts a second; leave rate_limit unset for no limit";
            found.push(Violation::new("per_second", problem));
        } else if !(1..=MAX_RATE).contains(&self.burst) {
            found.push(Violation::new("burst", "must be 1 to 10000"));
        }
        found
    }

    /// The limit as a rule. What one costs is rounded up to a nanosecond, so the limit is never passed.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let nanos = (1e9 / self.per_second.clamp(MIN_PER_SECOND, f64::from(MAX_RATE))).ceil();
        Pace::every(Duration::from_nanos(nanos as u64), self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let fields = |limit: RateLimit| -> Vec<String> {
            limit.violations().into_iter().map(|violation| violation.field).collect()
        };
        for per_second in [0.1, 0.5, 7.25, 10_000.0] {
            assert_eq!(fields(RateLimit::new(per_second)), [""; 0], "{per_second}");
        }
        for per_second in [0.0, -1.0, 0.09, 10_000.1, f64::NAN, f64::INFINITY] {
            assert_eq!(fields(RateLimit { per_second, burst: 1 }), ["per_second"], "{per_second}");
        }
        for burst in [0, 10_001] {
            assert_eq!(fields(RateLimit { per_second: 1.0, burst }), ["burst"], "{burst}");
        }
        assert_eq!([0.1, 1.0, 2.5].map(|rate| RateLimit::new(rate).burst), [1, 1, 3]);
    }
}

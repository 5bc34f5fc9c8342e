//! How long to wait before the next connection: full jitter, doubling, with a memory.
//!
//! Pure: the session hands in how long the last connection was healthy and a random number. Full jitter
//! spreads the agents of a whole fleet that lost the same control plane at the same moment.

use std::time::Duration;

/// The first wait is at most this.
pub const FIRST: Duration = Duration::from_millis(500);
/// No wait is longer than this.
pub const LONGEST: Duration = Duration::from_secs(60);
/// A connection that was healthy for this long makes the next failure a first one again.
pub const HEALTHY: Duration = Duration::from_secs(30);

/// The failures in a row, and so the bound of the next wait.
#[derive(Debug, Default, Clone)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a connection that was healthy for `healthy`, which is zero if none came about.
    /// `random` is from 0 to 1.
    pub fn next(&mut self, healthy: Duration, random: f64) -> Duration {
        if healthy >= HEALTHY {
            self.failures = 0;
        }
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Forgets the failures: the other side ended the connection on purpose and said when to come back.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn bound(&self) -> Duration {
        // 2^7 × 0.5 s is past the longest already, so the exponent needs no more.
        FIRST.saturating_mul(1 << self.failures.min(7)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BRIEF: Duration = Duration::from_secs(29);

    #[test]
    fn the_bound_doubles_from_half_a_second_to_a_minute() {
        let mut backoff = Backoff::default();
        let bounds: Vec<_> = (0..10).map(|_| backoff.next(BRIEF, 1.0).as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn only_half_a_minute_of_health_starts_over() {
        let mut backoff = Backoff::default();
        backoff.next(BRIEF, 1.0);
        backoff.next(BRIEF, 1.0);
        assert_eq!(backoff.clone().next(BRIEF, 1.0), FIRST * 4);
        assert_eq!(backoff.next(HEALTHY, 1.0), FIRST);
        backoff.reset();
        assert_eq!(backoff.next(Duration::ZERO, 1.0), FIRST);
    }

    proptest! {
        #[test]
        fn a_wait_is_anywhere_below_its_bound(failures in 0u32..100, random in 0.0f64..=1.0) {
            let mut backoff = Backoff { failures };
            let bound = backoff.bound();
            let wait = backoff.next(Duration::ZERO, random);
            prop_assert!(wait <= bound && bound <= LONGEST);
            prop_assert!((wait.as_secs_f64() - bound.as_secs_f64() * random).abs() < 1e-6);
        }
    }
}

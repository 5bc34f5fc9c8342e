//! Percentiles and rates: plain arithmetic on what was measured.

use std::time::Duration;

/// Latencies, sorted.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Takes them in any order.
    pub(crate) fn new(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self(latencies)
    }

    /// All of them, sorted.
    pub(crate) fn into_inner(self) -> Vec<Duration> {
        self.0
    }

    /// The smallest latency that at least this share of all does not exceed, in milliseconds; zero without any.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let count = self.0.len();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length is a length"
        )]
        let rank = (count as f64 * share).ceil() as usize;
        let latency = self.0.get(rank.clamp(1, count.max(1)) - 1);
        latency.map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// How many a second; zero when no time has passed.
pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    ratio(count as f64, time.as_secs_f64())
}

/// A ratio; zero when it has none.
pub(crate) fn ratio(of: f64, to: f64) -> f64 {
    if to > 0.0 { of / to } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: impl IntoIterator<Item = u64>) -> Latencies {
        Latencies::new(values.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let cases: [(Latencies, f64, f64); 7] = [
            (ms([]), 0.5, 0.0),
            (ms([7]), 0.5, 7.0),
            (ms([7]), 0.99, 7.0),
            (ms([2, 1]), 0.5, 1.0),
            (ms((1..=100).rev()), 0.5, 50.0),
            (ms(1..=100), 0.99, 99.0),
            (ms(1..=100), 1.0, 100.0),
        ];
        for (latencies, share, expected) in cases {
            let found = latencies.percentile_ms(share);
            assert!((found - expected).abs() < 1e-9, "{share} of {latencies:?} is {found}, not {expected}");
        }
    }

    #[test]
    fn a_rate_needs_time() {
        assert!((per_second(50, Duration::from_millis(500)) - 100.0).abs() < 1e-9);
        assert!(per_second(50, Duration::ZERO).abs() < 1e-9);
    }
}

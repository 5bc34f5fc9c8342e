//! How long a job waits in the agent for what its machine lacks.

use std::time::Duration;

use crate::clock::Instant;

/// No job waits longer; then the control plane may give it to another agent.
const LONGEST: Duration = Duration::from_secs(3);
/// The pause is doubled from this to that.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));

/// One job's waiting.
#[derive(Debug)]
pub(super) struct Waiting {
    until: Instant,
    times: u32,
}

impl Waiting {
    /// Of a job that has `timeout` from `now`, and may not be sent after `end`. What it waits is taken from the time for
    /// the endpoint, so that is a small part.
    pub(super) fn new(now: Instant, timeout: Duration, end: Instant) -> Waiting {
        Waiting { until: (now + LONGEST.min(timeout / 4)).min(end), times: 0 }
    }

    /// How long to wait now. `None`: no longer. `random` is from 0 to 1.
    pub(super) fn next(&mut self, now: Instant, random: f64) -> Option<Duration> {
        let (first, longest) = PAUSE;
        let pause = first.saturating_mul(1 << self.times.min(10)).min(longest);
        let pause = pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
        self.times += 1;
        (now + pause < self.until).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    #[test]
    fn a_job_waits_longer_each_time_and_then_goes_back() {
        let start = now();
        let waits = |timeout, end| {
            let mut waiting =
                Waiting::new(start, Duration::from_millis(timeout), start + Duration::from_millis(end));
            let mut at = start;
            let mut pauses = Vec::new();
            while let Some(pause) = waiting.next(at, 1.0) {
                pauses.push(pause.as_millis());
                at += pause;
            }
            pauses
        };
        assert_eq!(waits(4000, 9000), [20, 40, 80, 160, 320, 320]);
        assert_eq!(waits(4000, 100), [20, 40]);
        assert_eq!(waits(60_000, 60_000).iter().sum::<u128>(), 2860);
        assert!(waits(40, 60_000).is_empty());
    }
}

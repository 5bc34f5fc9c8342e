//! When a certificate is renewed, and when streams follow. Pure.

use std::time::Duration;

use crate::clock::WallTime;

/// The longest time over which streams are opened again after a renewal.
const LONGEST_SPREAD: Duration = Duration::from_secs(300);

/// How long after a restart the certificate is to be renewed. It was obtained at `obtained` by the clock of that
/// time; now it is `now` by the clock of this time. A clock that was set back tells nothing: then at once. Never later
/// than if the certificate had come only now.
#[must_use]
pub(super) fn renewal_after_restart(obtained: WallTime, renew_after: Duration, now: WallTime) -> Duration {
    now.since(obtained).map_or(Duration::ZERO, |age| renew_after.saturating_sub(age))
}

/// Whether the certificate has ended, as far as this machine's clock can tell.
#[must_use]
pub(super) fn has_ended(obtained: WallTime, valid_for: Duration, now: WallTime) -> bool {
    now.since(obtained).is_some_and(|age| age >= valid_for)
}

/// Over how long a time the streams are opened again, each at a moment of its own. The control plane sees the new
/// certificate long before the old one ends, and not all agents that were started together at once.
#[must_use]
pub(super) fn spread(renew_after: Duration) -> Duration {
    (renew_after / 10).min(LONGEST_SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3600;

    #[test]
    fn a_restart_does_not_start_over() {
        let at = WallTime::from_unix_seconds;
        let half_a_day = Duration::from_secs(12 * HOUR);
        let wait = |now| renewal_after_restart(at(100 * HOUR), half_a_day, at(now)).as_secs();
        let table = [
            (100 * HOUR, 12 * HOUR),
            (105 * HOUR, 7 * HOUR),
            (112 * HOUR, 0),
            (900 * HOUR, 0),
            (100 * HOUR - 1, 0),
            (0, 0),
        ];
        for (now, expected) in table {
            assert_eq!(wait(now), expected, "{now}");
        }
        let ended = |now| has_ended(at(100 * HOUR), Duration::from_secs(24 * HOUR), at(now));
        assert!(!ended(0) && !ended(123 * HOUR) && ended(124 * HOUR));
    }

    #[test]
    fn streams_follow_within_a_tenth_and_five_minutes() {
        assert_eq!(spread(Duration::from_secs(12 * HOUR)), LONGEST_SPREAD);
        assert_eq!(spread(Duration::from_secs(10)), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn no_clock_makes_the_wait_longer(obtained: u64, now: u64, renew_after in 0u64..1_000_000) {
            let at = WallTime::from_unix_seconds;
            let renew_after = Duration::from_secs(renew_after);
            prop_assert!(renewal_after_restart(at(obtained), renew_after, at(now)) <= renew_after);
        }
    }
}

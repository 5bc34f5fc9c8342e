//! What a subscription's owner wants to follow when the endpoint fails continuously, for days.

use std::time::Duration;

use crate::violation::Violation;

/// How long an endpoint may fail continuously before its subscription is disabled, when nobody says otherwise.
pub const DEFAULT_DISABLE_AFTER: Duration = Duration::from_secs(5 * 86_400);
/// After how long people are told, each time once.
pub const WARNINGS: [Duration; 3] =
    [Duration::from_secs(3_600), Duration::from_secs(24 * 3_600), Duration::from_secs(72 * 3_600)];

const MIN: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(30 * 86_400);
/// How rarely a disabled subscription's endpoint is probed.
const PROBE_EVERY: Duration = Duration::from_secs(3_600);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePolicy {
    /// After how long of continuous failure the subscription is disabled; `None` for never.
    pub disable_after: Option<Duration>,
    /// What becomes of events meanwhile.
    pub while_disabled: WhileDisabled,
}

/// What becomes of events of the time in which a subscription is disabled for its failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhileDisabled {
    /// They wait, and are delivered when it is enabled again.
    #[default]
    Queue,
    /// They are not owed to it, and what waits is cancelled.
    Drop,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self { disable_after: Some(DEFAULT_DISABLE_AFTER), while_disabled: WhileDisabled::default() }
    }
}

impl FailurePolicy {
    /// Says every field that is out of range.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let good = self.disable_after.is_none_or(|after| (MIN..=MAX).contains(&after));
        let problem = "must be 1 s to 30 days, or 0 for never";
        (!good).then(|| Violation::new("disable_after", problem)).into_iter().collect()
    }

    /// How rarely the endpoint is probed while the subscription is disabled: every hour, and at least as often as it
    /// takes to disable it.
    #[must_use]
    pub fn probe_every(&self) -> Duration {
        self.disable_after.map_or(PROBE_EVERY, |after| after.clamp(MIN, PROBE_EVERY))
    }

    /// The longest of the warnings that such a time of failure deserves.
    #[must_use]
    pub fn warning(&self, failing_for: Duration) -> Option<Duration> {
        let deserved =
            |step: &&Duration| **step <= failing_for && self.disable_after.is_none_or(|after| **step < after);
        WARNINGS.iter().rev().find(deserved).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn warnings_come_before_the_end_and_probes_at_least_as_often_as_it_takes() {
        let after = |disable_after| FailurePolicy { disable_after, ..FailurePolicy::default() };
        let policy = FailurePolicy::default();
        let table = [
            (0, None),
            (1, Some(1)),
            (23, Some(1)),
            (24, Some(24)),
            (71, Some(24)),
            (72, Some(72)),
            (500, Some(72)),
        ];
        for (hours, warned) in table {
            assert_eq!(policy.warning(hours * HOUR), warned.map(|hours| hours * HOUR), "{hours}");
        }
        assert_eq!(after(Some(24 * HOUR)).warning(100 * HOUR), Some(HOUR));
        assert_eq!(after(Some(HOUR)).warning(100 * HOUR), None);
        assert_eq!(after(None).warning(100 * HOUR), Some(72 * HOUR));
        let every = [(None, HOUR), (Some(48 * HOUR), HOUR), (Some(HOUR / 2), HOUR / 2), (Some(MIN), MIN)];
        for (disable_after, every) in every {
            assert_eq!(after(disable_after).probe_every(), every);
        }
        for (disable_after, good) in
            [(None, true), (Some(MIN), true), (Some(MIN / 2), false), (Some(MAX + MIN), false)]
        {
            assert_eq!(after(disable_after).violations().is_empty(), good, "{disable_after:?}");
        }
    }
}

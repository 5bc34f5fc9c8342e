//! When a failed delivery is tried again.

use std::time::Duration;

use crate::time::Timestamp;
use crate::violation::Violation;

/// The longest `Retry-After` that is honoured.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How soon a delivery whose agent was lost is tried again.
pub const AGENT_LOST_DELAY: Duration = Duration::from_secs(1);

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const MAX_SCHEDULE: usize = 50;

/// How one subscription retries. Defaults: 5 s, 15 s, 45 s … up to 3 h, for 24 hours.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Delay after the first failure.
    pub initial_delay: Duration,
    /// Growth of the delay from one failure to the next.
    pub factor: f64,
    /// Longest delay.
    pub max_delay: Duration,
    /// How long after the first attempt retries go on.
    pub window: Duration,
    /// Explicit delays that replace all of the above; empty for none.
    pub schedule: Vec<Duration>,
    /// Share of a delay by which it varies at random, either way.
    pub jitter: f64,
    /// Whether retries go on when the window or the schedule is spent, at the longest delay or the last one: for a
    /// delivery that others must not overtake.
    pub endless: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            initial_delay: Duration::from_secs(5),
            factor: 3.0,
            max_delay: Duration::from_secs(3 * 3600),
            window: DAY,
            schedule: Vec::new(),
            jitter: 0.2,
            endless: false,
        }
    }
}

impl Policy {
    /// Says every field that is out of range.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut check = |good: bool, field: &str, problem: &str| {
            if !good {
                found.push(Violation::new(field, problem));
            }
        };
        check((SECOND..=DAY).contains(&self.initial_delay), "initial_delay", "must be 1 s to 24 h");
        check((1.0..=10.0).contains(&self.factor), "factor", "must be 1 to 10");
        check(
            (self.initial_delay..=DAY.max(self.initial_delay)).contains(&self.max_delay),
            "max_delay",
            "must be initial_delay to 24 h",
        );
        check(self.window <= WEEK, "window", "must be at most 7 days");
        check((0.0..=0.5).contains(&self.jitter), "jitter", "must be 0 to 0.5");
        check(self.schedule.len() <= MAX_SCHEDULE, "schedule", "must have at most 50 delays");
        check(
            self.schedule.iter().all(|delay| (SECOND..=WEEK).contains(delay)),
            "schedule",
            "must have delays of 1 s to 7 days",
        );
        found
    }

    /// When to try again after the `failures`-th failure (counted from 1), or `None` when the policy is
    /// spent. `random` in 0..1 places the delay within its jitter.
    #[must_use]
    pub fn next(
        &self,
        failures: u32,
        window_start: Timestamp,
        now: Timestamp,
        random: f64,
    ) -> Option<Timestamp> {
        if !self.schedule.is_empty() {
            let delay = self.schedule.get(failures.saturating_sub(1) as usize);
            let delay = delay.or(self.schedule.last().filter(|_| self.endless))?;
            return Some(now + self.jittered(*delay, random));
        }
        let due = now + self.jittered(self.delay(failures), random);
        self.within_window(due, window_start, now)
    }

    /// When to try again when the endpoint itself said how long to wait.
    #[must_use]
    pub fn next_after(
        &self,
        retry_after: Duration,
        failures: u32,
        window_start: Timestamp,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let due = now + retry_after.min(MAX_RETRY_AFTER);
        if self.schedule.is_empty() {
            return self.within_window(due, window_start, now);
        }
        (self.endless || (failures as usize) <= self.schedule.len()).then_some(due)
    }

    /// The delay after the `failures`-th failure, before jitter.
    fn delay(&self, failures: u32) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial_delay.as_secs_f64() * self.factor.powi(exponent);
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max_delay).min(self.max_delay)
    }

    fn jittered(&self, delay: Duration, random: f64) -> Duration {
        delay.mul_f64(1.0 + self.jitter * (2.0 * random - 1.0))
    }

    /// The last attempt is made at the window's end; after it there is none.
    fn within_window(&self, due: Timestamp, window_start: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.endless {
            return Some(due);
        }
        let end = window_start + self.window;
        if now + SECOND > end { None } else { Some(due.min(end)) }
    }
}

/// Reads a `Retry-After` header: seconds or an HTTP date (RFC 9110, section 10.2.3). Garbage, negative numbers,
/// zero and dates that have passed mean nothing; more than a day means a day.
#[must_use]
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let delay = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let time = httpdate::parse_http_date(value).ok()?;
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?).since(now)
    };
    (!delay.is_zero()).then(|| delay.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: i64 = 1_770_028_200_000; // 2026-02-02T10:30:00Z

    /// The times of all attempts after the first, in seconds from it, if each fails at once.
    fn schedule(policy: &Policy, random: f64) -> Vec<u64> {
        let start = Timestamp::from_millis(START);
        let (mut now, mut times) = (start, Vec::new());
        while let Some(due) = policy.next(times.len() as u32 + 1, start, now, random) {
            now = due;
            times.push(now.since(start).as_secs());
        }
        times
    }

    #[test]
    fn the_default_goes_on_for_a_day() {
        let expected =
            [5, 20, 65, 200, 605, 1820, 5465, 16265, 27065, 37865, 48665, 59465, 70265, 81065, 86400];
        assert_eq!(schedule(&Policy::default(), 0.5), expected);
    }

    #[test]
    fn an_explicit_list_is_followed_and_ends() {
        let seconds = |list: &[u64]| list.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        let policy = Policy { schedule: seconds(&[1, 60, 3600]), ..Policy::default() };
        assert_eq!(schedule(&policy, 0.5), [1, 61, 3661]);
        let (start, hour) = (Timestamp::from_millis(START), Duration::from_secs(3600));
        assert!(policy.next_after(hour, 3, start, start).is_some());
        assert_eq!(policy.next_after(hour, 4, start, start), None);
        assert_eq!(schedule(&Policy { window: Duration::ZERO, ..Policy::default() }, 0.5), [0_u64; 0]);
    }

    #[test]
    fn an_endless_one_goes_on_as_it_ended() {
        let (start, later) = (Timestamp::from_millis(START), Timestamp::from_millis(START) + WEEK);
        let after =
            |policy: &Policy| policy.next(99, start, later, 0.5).map(|due| due.since(later).as_secs());
        let endless = Policy { endless: true, ..Policy::default() };
        assert_eq!((after(&Policy::default()), after(&endless)), (None, Some(10_800)));
        let listed = Policy { schedule: vec![SECOND, DAY], ..endless };
        assert_eq!(after(&listed), Some(86_400));
        assert!(listed.next_after(SECOND, 99, start, later).is_some());
    }

    #[test]
    fn retry_after() {
        let now = Timestamp::from_millis(START);
        let table = [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("315360000", Some(86400)),
            ("99999999999999999999999999", Some(86400)),
            ("Mon, 02 Feb 2026 10:31:00 GMT", Some(60)),
            ("Mon, 02 Feb 2026 10:29:00 GMT", None),
            ("Sat, 02 Feb 2036 10:29:00 GMT", Some(86400)),
        ];
        for (value, seconds) in table {
            assert_eq!(parse_retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    fn policy() -> impl Strategy<Value = Policy> {
        (1_u64..86_400, 1.0_f64..=10.0, 0_u64..86_400, 0_u64..604_800, 0.0_f64..=0.5).prop_map(
            |(initial, factor, more, window, jitter)| Policy {
                initial_delay: Duration::from_secs(initial),
                factor,
                max_delay: Duration::from_secs((initial + more).min(86_400)),
                window: Duration::from_secs(window),
                jitter,
                ..Policy::default()
            },
        )
    }

    proptest! {
        #[test]
        fn every_policy_ends_within_its_window(policy in policy(), random in 0.0_f64..1.0) {
            prop_assert_eq!(policy.violations(), []);
            let start = Timestamp::from_millis(START);
            let (mut now, mut failures) = (start, 1);
            while let Some(due) = policy.next(failures, start, now, random) {
                prop_assert!(due <= start + policy.window, "after the window");
                let longest = policy.max_delay.mul_f64(1.0 + policy.jitter) + Duration::from_millis(1);
                prop_assert!(due.since(now) <= longest, "later than the longest delay");
                prop_assert!(due > now, "not later than the failure");
                (now, failures) = (due, failures + 1);
                prop_assert!(failures < 2_000_000);
            }
            prop_assert!(now + SECOND > start + policy.window, "gave up early");
        }

        #[test]
        fn no_header_panics(value: String) {
            if let Some(delay) = parse_retry_after(&value, Timestamp::from_millis(START)) {
                prop_assert!(delay <= MAX_RETRY_AFTER && !delay.is_zero());
            }
        }
    }
}

//! `Retry-After`, written by whoever runs an endpoint: honoured within a day and within the policy's window.
//!
//! The input is the header, a zero byte, and a policy.

#![no_main]

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use postrider_domain::retry::{MAX_RETRY_AFTER, Policy, parse_retry_after};
use postrider_domain::time::Timestamp;

const MILLISECOND: Duration = Duration::from_millis(1);

/// 2026-02-02T10:30:00Z
const NOW: i64 = 1_770_028_200_000;

#[derive(Debug, Arbitrary)]
struct Input {
    since_start_ms: u32,
    failures: u32,
    random: u8,
    initial_ms: u32,
    factor: f64,
    max_ms: u32,
    window_ms: u32,
    jitter: f64,
    schedule_ms: Vec<u32>,
}

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let Ok(header) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let now = Timestamp::from_millis(NOW);
    let parsed = parse_retry_after(header, now);
    honoured(header, parsed, now);
    let mut rest = Unstructured::new(parts.next().unwrap_or_default());
    let Ok(input) = Input::arbitrary(&mut rest) else { return };
    let policy = policy(&input);
    if !policy.violations().is_empty() {
        return;
    }
    let start = now - Duration::from_millis(input.since_start_ms.into());
    let random = f64::from(input.random) / 256.0;
    if let Some(due) = policy.next(input.failures, start, now, random) {
        let longest = policy.schedule.iter().copied().max().unwrap_or(policy.max_delay);
        within(&policy, due, start, now, longest.mul_f64(1.0 + policy.jitter) + MILLISECOND);
    }
    let Some(wait) = parsed else { return };
    if let Some(due) = policy.next_after(wait, input.failures, start, now) {
        within(&policy, due, start, now, MAX_RETRY_AFTER);
        let end = start + policy.window;
        let honoured = due >= now + wait || (policy.schedule.is_empty() && due == end);
        assert!(honoured, "sooner than the endpoint asked");
    }
});

fn honoured(header: &str, parsed: Option<Duration>, now: Timestamp) {
    if let Some(wait) = parsed {
        assert!(!wait.is_zero() && wait <= MAX_RETRY_AFTER, "{wait:?}");
    }
    let trimmed = header.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = trimmed.trim_start_matches('0');
        let day = MAX_RETRY_AFTER.as_secs();
        let seconds = if digits.len() > 5 { day } else { digits.parse().unwrap_or(0).min(day) };
        assert_eq!(parsed.map_or(0, |wait| wait.as_secs()), seconds);
        return;
    }
    // A date: the later it is asked, the shorter the wait.
    let later = parse_retry_after(header, now + Duration::from_secs(60));
    assert!(later.unwrap_or_default() <= parsed.unwrap_or_default());
    assert!(parse_retry_after(header, Timestamp::MAX).is_none(), "a date after 9999");
}

fn within(policy: &Policy, due: Timestamp, start: Timestamp, now: Timestamp, longest: Duration) {
    assert!(due > now, "the next attempt is not later than the failure");
    assert!(due <= now + longest, "later than the longest delay");
    assert!(!policy.schedule.is_empty() || due <= start + policy.window, "after the window");
}

fn policy(input: &Input) -> Policy {
    let millis = |ms: u32| Duration::from_millis(ms.into());
    // Most numbers are out of range: some are folded into it.
    let share = |number: f64| if number.abs() > 1e3 { number % 16.0 } else { number };
    Policy {
        initial_delay: millis(input.initial_ms),
        factor: share(input.factor),
        max_delay: millis(input.max_ms),
        window: millis(input.window_ms),
        schedule: input.schedule_ms.iter().copied().map(millis).collect(),
        jitter: share(input.jitter),
        ..Policy::default()
    }
}

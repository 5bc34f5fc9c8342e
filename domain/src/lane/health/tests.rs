//! What people are told of an endpoint, step by step, and what holds whatever comes.

use proptest::prelude::*;

use super::*;
use crate::outcome::Response;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn at(hours: u32) -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000) + hours * HOUR
}

fn answer(status: u16) -> Outcome {
    let response = Response { status, ..Response::default() };
    Outcome {
        response: Some(response),
        ..Outcome::failure(Class::of_status(status), "the endpoint answered")
    }
}

fn policy() -> FailurePolicy {
    FailurePolicy::default()
}

/// Fails every hour, and gives what was told when.
fn fail_hourly(health: &mut Health, hours: std::ops::RangeInclusive<u32>) -> Vec<(u32, Turn)> {
    let mut told = Vec::new();
    for hour in hours {
        let turn = health.heard(&answer(500), true, Breaker::Open, &policy(), at(hour));
        told.extend(turn.map(|turn| (hour, turn)));
    }
    told
}

#[test]
fn people_are_told_step_by_step_and_in_the_end_it_is_given_up_once() {
    let mut health = Health::default();
    assert_eq!(health.state(Breaker::Closed, None), State::Unknown);
    let told = fail_hourly(&mut health, 0..=200);
    let steps = [
        (1, Turn::Failing(HOUR)),
        (24, Turn::Failing(DAY)),
        (72, Turn::Failing(3 * DAY)),
        (120, Turn::GivenUp),
    ];
    assert_eq!(told, steps);
    assert_eq!((health.failing_since(), health.failures()), (Some(at(0)), 201));
    assert_eq!(health.last_failure().unwrap().status, Some(500));
    assert_eq!(
        health.heard(&answer(200), true, Breaker::HalfOpen, &policy(), at(201)),
        Some(Turn::Recovering)
    );
    assert_eq!(health.heard(&answer(200), true, Breaker::HalfOpen, &policy(), at(201)), None);
    assert_eq!(health.heard(&answer(200), true, Breaker::Closed, &policy(), at(202)), Some(Turn::Recovered));
    assert_eq!(health.heard(&answer(200), true, Breaker::Closed, &policy(), at(202)), None);
    assert_eq!((health.failing_since(), health.failures()), (None, 0));
    assert_eq!(health.state(Breaker::Closed, None), State::Healthy);
}

#[test]
fn who_comes_and_goes_is_said_to_recover_once() {
    let mut health = Health::default();
    fail_hourly(&mut health, 0..=2);
    assert_eq!(health.heard(&answer(204), true, Breaker::HalfOpen, &policy(), at(3)), Some(Turn::Recovering));
    assert_eq!(fail_hourly(&mut health, 4..=4), []);
    assert_eq!(health.heard(&answer(204), true, Breaker::HalfOpen, &policy(), at(4)), None);
    assert_eq!(fail_hourly(&mut health, 5..=6), [(6, Turn::Failing(HOUR))], "it fails for an hour again");
    assert_eq!(health.heard(&answer(204), true, Breaker::HalfOpen, &policy(), at(7)), Some(Turn::Recovering));
}

#[test]
fn a_trouble_that_nobody_was_told_of_ends_in_silence() {
    let mut health = Health::default();
    health.heard(&answer(500), true, Breaker::Open, &policy(), at(0));
    assert_eq!(health.heard(&answer(200), true, Breaker::HalfOpen, &policy(), at(0)), None);
    assert_eq!(health.heard(&answer(200), true, Breaker::Closed, &policy(), at(0)), None);
}

#[test]
fn failures_days_apart_and_what_a_person_has_repaired_begin_anew() {
    let mut health = Health::default();
    fail_hourly(&mut health, 0..=30);
    assert_eq!(fail_hourly(&mut health, 200..=201), [(201, Turn::Failing(HOUR))]);
    assert_eq!(health.failing_since(), Some(at(200)));
    assert_eq!(fail_hourly(&mut health, 202..=320).last(), Some(&(320, Turn::GivenUp)));
    health.forgive();
    assert_eq!(fail_hourly(&mut health, 321..=323), [(322, Turn::Failing(HOUR))]);
    health.forgive();
    assert_eq!(health.heard(&answer(200), true, Breaker::Closed, &policy(), at(324)), Some(Turn::Recovered));
    health.forgive();
    assert_eq!(health.unwritten(None), None, "a trouble that is over leaves nothing");
}

#[test]
fn what_was_to_be_disabled_when_it_was_killed_is_given_up_at_the_next_failure() {
    let trouble = Trouble { since: Some(at(0)), last: at(120), told: Told::GivenUp };
    let mut disabled = Health::restored(Some(trouble), true);
    assert_eq!(fail_hourly(&mut disabled, 121..=125), []);
    let mut not_yet = Health::restored(Some(trouble), false);
    assert_eq!(fail_hourly(&mut not_yet, 121..=125), [(121, Turn::GivenUp)]);
}

#[test]
fn what_says_nothing_of_the_endpoint_neither_begins_nor_ends_a_trouble() {
    let mut health = Health::default();
    for outcome in [answer(429), answer(410), Outcome::failure(Class::AgentLost, "")] {
        assert_eq!(health.heard(&outcome, true, Breaker::Closed, &policy(), at(0)), None);
        assert_eq!(health.failing_since(), None);
        fail_hourly(&mut health, 1..=1);
        health.heard(&outcome, true, Breaker::Closed, &policy(), at(2));
        assert_eq!(health.failing_since(), Some(at(1)));
        health.heard(&answer(422), true, Breaker::Closed, &policy(), at(2));
        assert_eq!(health.failing_since(), None, "it looked at the event and refused it: it works");
        assert_eq!(health.last_success(), None);
    }
}

#[test]
fn states_in_a_word() {
    let mut health = Health::default();
    fail_hourly(&mut health, 0..=0);
    let table = [
        (Breaker::Closed, None, State::Failing),
        (Breaker::Open, Some(Rest::Breaker), State::CircuitOpen),
        (Breaker::HalfOpen, None, State::Recovering),
        (Breaker::Open, Some(Rest::Asked), State::BackingOff),
        (Breaker::Closed, Some(Rest::Asked), State::BackingOff),
    ];
    for (breaker, rest, state) in table {
        assert_eq!(health.state(breaker, rest), state);
    }
}

proptest! {
    #[test]
    fn it_is_given_up_only_for_as_long_as_the_policy_says_and_restarts_change_nothing(
        steps in prop::collection::vec((0_u8..10, 0_u64..100_000), 1..300),
        disable_after in prop::option::of(1_u64..600_000),
    ) {
        let policy = FailurePolicy {
            disable_after: disable_after.map(Duration::from_secs),
            ..FailurePolicy::default()
        };
        let (mut health, mut now) = (Health::default(), at(0));
        let (mut written, mut worked, mut last) = (None, at(0), at(0));
        let mut given_up = false;
        for (step, passes) in steps {
            now = now + Duration::from_secs(passes);
            let turn = match step {
                0 => health.heard(&answer(200), true, Breaker::Closed, &policy, now),
                1 => health.heard(&answer(200), true, Breaker::HalfOpen, &policy, now),
                2 => health.heard(&answer(429), true, Breaker::Closed, &policy, now),
                3 => {
                    health = Health::restored(written, given_up);
                    None
                }
                _ => {
                    let turn = health.heard(&answer(503), true, Breaker::Open, &policy, now);
                    last = now;
                    turn
                }
            };
            if let Some(written_now) = health.unwritten(written) {
                written = written_now;
            }
            if matches!(step, 0 | 1) {
                (worked, given_up) = (now, false);
                prop_assert_eq!(health.failing_since(), None);
            }
            match turn {
                Some(Turn::GivenUp) => {
                    prop_assert!(!given_up, "twice for one trouble");
                    given_up = true;
                    let failing_for = now.since(health.failing_since().unwrap());
                    prop_assert!(failing_for >= policy.disable_after.unwrap());
                    prop_assert!(now.since(worked) >= failing_for);
                }
                Some(Turn::Failing(step)) => {
                    prop_assert!(!given_up);
                    prop_assert!(policy.disable_after.is_none_or(|after| step < after));
                    prop_assert!(now.since(health.failing_since().unwrap()) >= step);
                }
                Some(Turn::Recovering | Turn::Recovered) => prop_assert!(matches!(step, 0 | 1)),
                None => {}
            }
            let since = health.failing_since();
            prop_assert!(since.is_none_or(|since| since >= worked && since <= last));
            prop_assert_eq!(written.and_then(|trouble| trouble.since), since, "it is written");
        }
    }
}

#[test]
fn a_failure_that_is_no_news_is_shown_and_counts_for_nothing() {
    let mut health = Health::default();
    health.heard(&answer(200), true, Breaker::Closed, &policy(), at(0));
    assert_eq!(health.heard(&answer(500), false, Breaker::Closed, &policy(), at(1)), None);
    assert_eq!((health.failures(), health.failing_since()), (0, None));
    assert_eq!(health.state(Breaker::Closed, None), State::Healthy);
    assert!(health.last_failure().is_some());
    health.heard(&answer(500), true, Breaker::Closed, &policy(), at(2));
    (0..63).for_each(|_| _ = health.heard(&answer(500), false, Breaker::Closed, &policy(), at(2)));
    assert_eq!((health.failures(), health.failing_since()), (1, Some(at(2))));
}

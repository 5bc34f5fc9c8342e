//! A delivery: one event owed to one subscription, as a state machine.
//!
//! `pending → (attempting ⇄ waiting) → delivered / exhausted / cancelled`. 'Attempting' is not a state
//! here: that an agent holds a delivery is known to its lane and never written down.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::id::EventKey;
use crate::outcome::{Class, Outcome};
use crate::retry::{AGENT_LOST_DELAY, Policy, parse_retry_after};
use crate::time::Timestamp;

/// One event owed to one subscription. It is small: lanes keep many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its number in the lane.
    pub sequence: u64,
    /// What is owed.
    pub event: EventKey,
    /// The hash of the event's ordering key, if it has one.
    pub ordering: Option<NonZeroU64>,
    /// Where it stands.
    pub state: State,
    /// Attempts that have an outcome.
    pub attempts: u32,
    /// Attempts that count for the back-off: the endpoint's failures, not the agents'.
    pub failures: u32,
    /// The first attempt of the retry window, once there was one.
    pub window_start: Option<Timestamp>,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No attempt yet.
    Pending,
    /// To be tried (again) at this time.
    Waiting(Timestamp),
    /// The endpoint answered 2xx, at this time.
    Delivered(Timestamp),
    /// The retry policy was spent at this time.
    Exhausted(Timestamp),
    /// Ended by hand at this time.
    Cancelled(Timestamp),
}

impl State {
    /// Whether nothing more will be attempted.
    #[must_use]
    pub fn has_ended(self) -> bool {
        self.end().is_some()
    }

    /// When it ended.
    #[must_use]
    pub fn end(self) -> Option<Timestamp> {
        match self {
            Self::Pending | Self::Waiting(_) => None,
            Self::Delivered(time) | Self::Exhausted(time) | Self::Cancelled(time) => Some(time),
        }
    }

    /// When the next attempt is due, if it waits for a time.
    #[must_use]
    pub fn due(self) -> Option<Timestamp> {
        if let Self::Waiting(due) = self { Some(due) } else { None }
    }
}

/// What an outcome means for the subscription as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing.
    None,
    /// The endpoint says it is gone for good: no more POSTs.
    Disable,
}

impl Delivery {
    /// A delivery that was just accepted.
    #[must_use]
    pub fn new(sequence: u64, event: EventKey) -> Self {
        let state = State::Pending;
        Self { sequence, event, ordering: None, state, attempts: 0, failures: 0, window_start: None }
    }

    /// The same, of an event with this ordering key.
    #[must_use]
    pub fn ordered_by(self, ordering: Option<NonZeroU64>) -> Self {
        Self { ordering, ..self }
    }

    /// The number of the next attempt. It never wraps around, whatever an attempt's number was said to be.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        self.attempts.saturating_add(1)
    }

    /// Records the outcome of the next attempt, which was handed out at `started`. `random` in 0..1 is the
    /// jitter's.
    ///
    /// A 410 neither ends nor spends the delivery: the subscription is disabled, and the delivery is due when
    /// somebody enables it again.
    #[must_use]
    pub fn settle(
        mut self,
        outcome: &Outcome,
        policy: &Policy,
        started: Timestamp,
        now: Timestamp,
        random: f64,
    ) -> (Self, Consequence) {
        self.attempts = self.next_attempt();
        let window_start = *self.window_start.get_or_insert(started);
        match (outcome.class, outcome.status()) {
            (Class::Success, _) => {
                self.state = State::Delivered(now);
                (self, Consequence::None)
            }
            (Class::AgentLost, _) => {
                self.state = State::Waiting(now + AGENT_LOST_DELAY.mul_f64(0.5 + random));
                (self, Consequence::None)
            }
            (_, Some(410)) => {
                self.state = State::Waiting(now);
                (self, Consequence::Disable)
            }
            _ => {
                self.failures = self.failures.saturating_add(1);
                let next = match retry_after(outcome, now) {
                    Some(delay) => policy.next_after(delay, self.failures, window_start, now),
                    None => policy.next(self.failures, window_start, now, random),
                };
                self.state = next.map_or(State::Exhausted(now), State::Waiting);
                (self, Consequence::None)
            }
        }
    }

    /// Due at once, with a new retry window: somebody asked for another attempt.
    #[must_use]
    pub fn retried(mut self, now: Timestamp) -> Self {
        self.state = State::Waiting(now);
        self.failures = 0;
        self.window_start = None;
        self
    }

    /// Its latest attempt was a probe of an endpoint whose subscription is disabled: it has failed, and the delivery has
    /// spent nothing by it. It is due for the next one.
    #[must_use]
    pub fn kept(self, now: Timestamp) -> Self {
        self.retried(now)
    }

    /// Ended by hand.
    #[must_use]
    pub fn cancelled(mut self, now: Timestamp) -> Self {
        self.state = State::Cancelled(now);
        self
    }

    /// Delivered after all: an attempt that had been given up succeeded.
    #[must_use]
    pub fn delivered_late(mut self, attempt: u32, now: Timestamp) -> Self {
        self.attempts = self.attempts.max(attempt);
        self.state = State::Delivered(now);
        self
    }
}

fn retry_after(outcome: &Outcome, now: Timestamp) -> Option<Duration> {
    let value = outcome.response.as_ref()?.header("retry-after")?;
    parse_retry_after(value, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Response;
    use proptest::prelude::*;

    fn response(status: u16, retry_after: Option<&str>) -> Outcome {
        let headers = retry_after.map(|value| ("retry-after".to_owned(), value.to_owned()));
        Outcome {
            response: Some(Response {
                status,
                headers: headers.into_iter().collect(),
                ..Response::default()
            }),
            ..Outcome::failure(Class::of_status(status), "")
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
    }

    fn fresh() -> Delivery {
        Delivery::new(1, EventKey::new(at(0), 7))
    }

    #[test]
    fn what_follows_an_outcome() {
        let waiting = |seconds| State::Waiting(at(seconds));
        let table = [
            (response(200, None), State::Delivered(at(10)), Consequence::None, 0),
            (response(204, Some("60")), State::Delivered(at(10)), Consequence::None, 0),
            (response(301, None), waiting(15), Consequence::None, 1),
            (response(500, None), waiting(15), Consequence::None, 1),
            (response(410, None), waiting(10), Consequence::Disable, 0),
            (response(429, Some("60")), waiting(70), Consequence::None, 1),
            (response(503, Some("junk")), waiting(15), Consequence::None, 1),
            (response(503, Some("315360000")), waiting(86_400), Consequence::None, 1),
            (Outcome::failure(Class::Timeout, ""), waiting(15), Consequence::None, 1),
            (Outcome::failure(Class::RefusedByPolicy, ""), waiting(15), Consequence::None, 1),
            (Outcome::failure(Class::AgentLost, ""), waiting(11), Consequence::None, 0),
        ];
        for (outcome, state, consequence, failures) in table {
            let (settled, followed) = fresh().settle(&outcome, &Policy::default(), at(0), at(10), 0.5);
            assert_eq!((settled.state, followed), (state, consequence), "{outcome:?}");
            assert_eq!((settled.attempts, settled.failures), (1, failures), "{outcome:?}");
        }
    }

    #[test]
    fn a_retry_by_hand_opens_a_new_window() {
        let (spent, _) = Delivery { failures: 30, window_start: Some(at(0)), ..fresh() }.settle(
            &response(500, None),
            &Policy::default(),
            at(90_000),
            at(90_000),
            0.5,
        );
        assert_eq!(spent.state, State::Exhausted(at(90_000)));
        let (again, _) = spent.retried(at(100_000)).settle(
            &response(500, None),
            &Policy::default(),
            at(100_000),
            at(100_000),
            0.5,
        );
        assert_eq!(again.state, State::Waiting(at(100_005)));
        assert_eq!(again.attempts, 2);
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (200_u16..600, prop::option::of("[0-9]{1,6}|-1|x"))
                .prop_map(|(status, wait)| response(status, wait.as_deref())),
            prop::sample::select(vec![
                Class::Timeout,
                Class::Dns,
                Class::Connect,
                Class::Tls,
                Class::AgentLost
            ])
            .prop_map(|class| Outcome::failure(class, "")),
        ]
    }

    proptest! {
        /// Against a model that knows only what users are promised.
        #[test]
        fn a_delivery_ends_by_success_or_by_a_spent_policy(
            outcomes in prop::collection::vec((outcome(), 0.0_f64..1.0), 1..60),
        ) {
            let policy = Policy::default();
            let (mut delivery, mut now, mut first) = (fresh(), at(0), None);
            for (outcome, random) in outcomes {
                let started = now;
                let first = *first.get_or_insert(started);
                let (next, consequence) = delivery.settle(&outcome, &policy, started, now, random);
                prop_assert_eq!(next.attempts, delivery.attempts + 1);
                prop_assert_eq!(next.state.has_ended() && outcome.class != Class::Success,
                    matches!(next.state, State::Exhausted(_)));
                prop_assert_eq!(matches!(next.state, State::Delivered(_)), outcome.class == Class::Success);
                prop_assert_eq!(consequence == Consequence::Disable, outcome.status() == Some(410));
                if let State::Exhausted(_) = next.state {
                    prop_assert!(now + Duration::from_secs(1) > first + policy.window, "gave up early");
                }
                if next.state.has_ended() {
                    break;
                }
                let due = next.state.due().expect("what has not ended waits");
                prop_assert!(due >= now);
                (delivery, now) = (next, due);
            }
        }
    }
}

//! Whether a lane may hand out one more attempt, as far as its endpoint is concerned: the rate limit, what the
//! endpoint bears, what it asked for, and the breaker, together.

use std::time::Duration;

use super::adaptive::Adaptive;
use super::breaker::{Breaker, State};
use super::rate::RateLimit;
use super::verdict::{Verdict, asked_to_wait};
use crate::outcome::Outcome;
use crate::pace::{Meter, Pace};
use crate::time::Timestamp;

/// Why the endpoint is left alone now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It said for how long, by `Retry-After`.
    Asked,
    /// The breaker is open.
    Breaker,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flow {
    rate: Option<(Pace, Meter)>,
    adaptive: Adaptive,
    breaker: Breaker,
    /// Until when the endpoint asked to be left alone.
    asked_until: Timestamp,
}

impl Flow {
    pub(super) fn new(cap: usize) -> Self {
        let adaptive = Adaptive::new(cap);
        Self { rate: None, adaptive, breaker: Breaker::default(), asked_until: Timestamp::default() }
    }

    pub(super) fn set_cap(&mut self, cap: usize) {
        self.adaptive.set_cap(cap);
    }

    /// Changes the rate limit. What was used of a former one counts, but for no more than all of the new burst.
    pub(super) fn set_rate(&mut self, limit: Option<RateLimit>, now: Timestamp) {
        let meter = self.rate.map(|(_, meter)| meter).unwrap_or_default();
        self.rate = limit.map(|limit| (limit.pace(), limit.pace().at_most_spent(meter, elapsed(now))));
    }

    /// Takes the burst as used: nobody knows what was used before a restart.
    pub(super) fn spend_burst(&mut self, now: Timestamp) {
        if let Some((pace, meter)) = &mut self.rate {
            *meter = pace.spent(elapsed(now));
        }
    }

    /// From when on one more attempt may go out; `None` when an outcome must come first.
    pub(super) fn opens(&self, in_flight: usize) -> Option<Timestamp> {
        if in_flight >= self.adaptive.limit() {
            return None;
        }
        let by_rate = self.rate.map_or(Duration::ZERO, |(pace, meter)| pace.opens(meter));
        // A timestamp has whole milliseconds: the first at which it may.
        let millis = i64::try_from(by_rate.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        let by_rate = Timestamp::from_millis(millis);
        Some(self.breaker.opens(in_flight)?.max(self.asked_until).max(by_rate))
    }

    /// An attempt goes out.
    pub(super) fn took(&mut self, now: Timestamp) {
        if let Some((pace, meter)) = &mut self.rate {
            pace.reserve(meter, elapsed(now));
        }
    }

    /// An attempt that was begun at `started` has ended. Gives the breaker's new state if it is another one.
    pub(super) fn heard(
        &mut self,
        outcome: &Outcome,
        started: Timestamp,
        now: Timestamp,
        chance: f64,
    ) -> Option<State> {
        let verdict = Verdict::of(outcome);
        self.adaptive.heard(verdict, started, now);
        if let Some(wait) = asked_to_wait(outcome, now) {
            if self.asked_until <= now {
                self.adaptive.restart();
            }
            self.asked_until = self.asked_until.max(now + wait);
        }
        let turned = self.breaker.heard(verdict, started, now, chance);
        if turned == Some(State::Open) {
            self.adaptive.restart();
        }
        turned
    }

    /// Somebody has said that the endpoint works: what it asked for is forgotten, and it is probed at once.
    pub(super) fn hurry(&mut self) {
        self.asked_until = Timestamp::default();
        self.breaker.hurry();
    }

    pub(super) fn rest(&self, now: Timestamp) -> Option<Rest> {
        if self.asked_until > now {
            return Some(Rest::Asked);
        }
        (self.breaker.state() == State::Open).then_some(Rest::Breaker)
    }
}

/// A meter's time.
fn elapsed(now: Timestamp) -> Duration {
    now.since(Timestamp::default())
}

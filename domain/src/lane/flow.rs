//! Whether a lane may hand out one more attempt, as far as its endpoint is concerned: the rate limit, what the
//! endpoint bears, what it asked for, and the breaker, together.

use std::time::Duration;

use super::adaptive::Adaptive;
use super::breaker::{Breaker, Heard, State};
use super::moment::{Moment, Span};
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
    /// How many outcomes are known.
    moment: Moment,
    /// Until when the endpoint asked to be left alone.
    asked_until: Timestamp,
}

impl Flow {
    pub(super) fn new(cap: usize) -> Self {
        let adaptive = Adaptive::new(cap);
        Self {
            rate: None,
            adaptive,
            breaker: Breaker::default(),
            moment: Moment::default(),
            asked_until: Timestamp::default(),
        }
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
        if in_flight >= self.breaker.at_once(self.adaptive.limit()) {
            return None;
        }
        let by_rate = self.rate.map_or(Duration::ZERO, |(pace, meter)| pace.opens(meter));
        // A timestamp has whole milliseconds: the first at which it may.
        let millis = i64::try_from(by_rate.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        let by_rate = Timestamp::from_millis(millis);
        Some(self.breaker.opens(in_flight)?.max(self.asked_until).max(by_rate))
    }

    /// The present moment: an attempt that begins now knows of every outcome until now.
    pub(super) fn moment(&self) -> Moment {
        self.moment
    }

    /// An attempt goes out.
    pub(super) fn took(&mut self, now: Timestamp) {
        if let Some((pace, meter)) = &mut self.rate {
            pace.reserve(meter, elapsed(now));
        }
    }

    /// An attempt that was begun at that moment has ended.
    pub(super) fn heard(&mut self, outcome: &Outcome, begun: Moment, now: Timestamp, random: f64) -> Heard {
        let verdict = Verdict::of(outcome);
        self.moment = self.moment.next();
        let span = Span { begun, known: self.moment };
        self.adaptive.heard(verdict, span);
        if let Some(wait) = asked_to_wait(outcome, now) {
            if self.asked_until <= now {
                self.adaptive.restart();
            }
            self.asked_until = self.asked_until.max(now + wait);
        }
        let heard = self.breaker.heard(verdict, span, now, random);
        if heard.turned == Some(State::Open) {
            self.adaptive.restart();
        }
        heard
    }

    /// Somebody has said that the endpoint works: what it asked for is forgotten, and it is tried at once, with one
    /// attempt at first.
    pub(super) fn release(&mut self) {
        self.asked_until = Timestamp::default();
        self.breaker.hurry(self.moment);
        self.begin_anew();
    }

    /// The subscription is disabled for its failures: the endpoint is probed only every so often.
    pub(super) fn doze(&mut self, every: Duration, now: Timestamp, random: f64) {
        self.breaker.doze(every, self.moment, now, random);
        self.begin_anew();
    }

    /// What follows begins with one attempt, unless it does so already.
    fn begin_anew(&mut self) {
        if self.adaptive.limit() > 1 {
            self.adaptive.restart();
        }
    }

    /// Whether the endpoint is being probed, or lives up.
    pub(super) fn breaker(&self) -> State {
        self.breaker.state()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Class, Response};
    use proptest::prelude::*;

    fn outcome(kind: u8) -> Outcome {
        let response = |status: u16, wait: Option<&str>| {
            let headers = wait.map(|wait| ("retry-after".to_owned(), wait.to_owned())).into_iter().collect();
            let response = Response { status, headers, ..Response::default() };
            Outcome { response: Some(response), ..Outcome::failure(Class::of_status(status), "") }
        };
        match kind {
            0..3 => response(204, None),
            3 => response(429, Some("20")),
            4 => response(503, None),
            5 => Outcome::failure(Class::AgentLost, ""),
            6 => Outcome::failure(Class::Timeout, ""),
            _ => response(500, None),
        }
    }

    proptest! {
        #[test]
        fn the_rules_hold_together(
            per_second in 0.1_f64..20.0,
            burst in 1_u32..10,
            cap in 1_usize..20,
            steps in prop::collection::vec((0_u8..20, 0_u64..6_000, 0.0_f64..1.0), 1..400),
        ) {
            let mut flow = Flow::new(cap);
            let mut now = Timestamp::from_millis(1_770_028_200_000);
            flow.set_rate(Some(RateLimit { per_second, burst }), now);
            let (mut under_way, mut taken, mut quiet) = (Vec::new(), Vec::new(), now);
            for (step, passes, random) in steps {
                match step {
                    0..8 => {
                        let opens = flow.opens(under_way.len());
                        if opens.is_some_and(|opens| opens <= now) {
                            prop_assert!(under_way.len() < cap, "above the cap");
                            prop_assert!(quiet <= now, "it asked to be left alone");
                            let probing = flow.rest(now) == Some(Rest::Breaker);
                            prop_assert!(!probing || under_way.is_empty(), "two probes at once");
                            flow.took(now);
                            taken.push(now);
                            under_way.push(flow.moment());
                        } else if under_way.is_empty() {
                            let wait = opens.expect("nothing is under way").since(now);
                            prop_assert!(wait <= Duration::from_secs(361), "it waits for {wait:?}");
                        }
                    }
                    8..16 => {
                        if let Some(begun) = under_way.pop() {
                            let outcome = outcome(step - 8);
                            flow.heard(&outcome, begun, now, random);
                            if step == 11 {
                                quiet = quiet.max(now + Duration::from_secs(20));
                            }
                        }
                    }
                    _ => now = now + Duration::from_millis(passes),
                }
            }
            for (first, begin) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    let share = f64::from(burst) + end.since(*begin).as_secs_f64() * per_second;
                    prop_assert!((last - first + 1) as f64 <= share + 1e-6, "faster than its rate");
                }
            }
        }
    }

    #[test]
    fn released_or_woken_it_begins_with_one_attempt_and_doubles_each_round() {
        let now = Timestamp::from_millis(1_770_028_200_000);
        let (mut released, mut woken) = (Flow::new(64), Flow::new(64));
        released.release();
        woken.doze(Duration::from_secs(3_600), now, 0.5);
        assert!(woken.opens(0).unwrap() > now);
        woken.release();
        for mut flow in [released, woken] {
            let mut rounds = Vec::new();
            for _ in 0..7 {
                let at_once = (0..=64).find(|count| flow.opens(*count).is_none()).unwrap();
                rounds.push(at_once);
                (0..at_once).for_each(|_| _ = flow.heard(&outcome(0), flow.moment(), now, 0.5));
            }
            assert_eq!(rounds, [1, 2, 4, 8, 16, 32, 64]);
            assert_eq!(flow.breaker(), State::Closed);
        }
    }

    #[test]
    fn a_slower_rate_is_in_force_at_once_and_a_faster_one_owes_nothing_of_the_former() {
        let now = Timestamp::from_millis(1_770_028_200_000);
        let mut flow = Flow::new(10);
        flow.set_rate(Some(RateLimit { per_second: 0.1, burst: 10_000 }), now);
        (0..9_000).for_each(|_| flow.took(now));
        flow.set_rate(Some(RateLimit { per_second: 100.0, burst: 1 }), now);
        assert_eq!(flow.opens(0).unwrap().since(now), Duration::from_millis(10));
        flow.set_rate(None, now);
        assert!(flow.opens(0).unwrap() <= now);
    }
}

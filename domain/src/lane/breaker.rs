//! The breaker: while an endpoint does nothing but fail, its deliveries wait, and one at a time probes.
//!
//! Closed, it counts failures in a row; the tenth opens it. Open, it lets one attempt through after a delay, which
//! doubles with each that fails, from 5 seconds to 5 minutes. A success half-opens it: attempts go out, from one at once
//! on, and a failure opens it again. Five successes close it. Of a subscription that is disabled for its failures it stays
//! open and lets attempts through more rarely, until one succeeds or somebody wakes it.

use std::time::Duration;

use super::verdict::Verdict;
use crate::time::Timestamp;

/// Failures in a row that open it.
const FAILURES: u32 = 10;
/// Successes that close it.
const SUCCESSES: u32 = 5;
const FIRST_DELAY: Duration = Duration::from_secs(5);
const MAX_DELAY: Duration = Duration::from_secs(300);
/// Share of a delay by which it varies, either way.
const JITTER: f64 = 0.2;

/// Whether attempts go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They do.
    Closed,
    /// One at a time, to probe.
    Open,
    /// They do, from one at once on: it has just answered.
    HalfOpen,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Breaker {
    state: State,
    /// Failures in a row; half open: successes.
    count: u32,
    /// The delay before the latest probe, without jitter.
    delay: Duration,
    probe_at: Timestamp,
    /// What was begun before it opened says nothing new when it fails.
    opened: Timestamp,
    /// The subscription is disabled: the delay before every probe.
    every: Option<Duration>,
}

impl Default for Breaker {
    fn default() -> Self {
        let zero = Timestamp::default();
        Self { state: State::Closed, count: 0, delay: FIRST_DELAY, probe_at: zero, opened: zero, every: None }
    }
}

impl Breaker {
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// From when on an attempt may go out; `None` while a probe is under way.
    pub(super) fn opens(&self, in_flight: usize) -> Option<Timestamp> {
        match self.state {
            State::Closed | State::HalfOpen => Some(Timestamp::default()),
            State::Open => (in_flight == 0).then_some(self.probe_at),
        }
    }

    /// An attempt that was begun at `started` has ended. `chance` in 0..1 is the jitter's. Gives the new state if it is
    /// another one.
    pub(super) fn heard(
        &mut self,
        verdict: Verdict,
        started: Timestamp,
        now: Timestamp,
        chance: f64,
    ) -> Option<State> {
        let before = self.state;
        match (self.state, verdict) {
            (State::Closed, Verdict::Well) => self.count = 0,
            (State::Closed, Verdict::Failure { .. }) => {
                self.count += 1;
                if self.count >= FAILURES {
                    self.open(FIRST_DELAY, now, chance);
                }
            }
            (State::HalfOpen, Verdict::Well) => {
                self.count += 1;
                if self.count >= SUCCESSES {
                    *self = Self::default();
                }
            }
            (State::HalfOpen, Verdict::Failure { .. }) => self.open(2 * self.delay, now, chance),
            (State::Open, Verdict::Well) => (self.state, self.count, self.every) = (State::HalfOpen, 1, None),
            (State::Open, Verdict::Failure { .. }) if started >= self.opened => {
                self.open(2 * self.delay, now, chance);
            }
            (State::Open, Verdict::TooMany | Verdict::Nothing) if started >= self.opened => {
                self.open(self.delay, now, chance);
            }
            _ => {}
        }
        (self.state != before).then_some(self.state)
    }

    /// From now on an attempt goes out only every so often.
    pub(super) fn doze(&mut self, every: Duration, now: Timestamp, chance: f64) {
        if self.every != Some(every) {
            self.every = Some(every);
            self.open(every, now, chance);
        }
    }

    /// Probes at once: somebody has said that the endpoint works.
    pub(super) fn hurry(&mut self) {
        (self.probe_at, self.delay, self.every) = (Timestamp::default(), FIRST_DELAY, None);
    }

    fn open(&mut self, delay: Duration, now: Timestamp, chance: f64) {
        if self.state != State::Open {
            self.opened = now;
        }
        self.state = State::Open;
        self.delay = self.every.unwrap_or(delay.min(MAX_DELAY));
        self.probe_at = now + self.delay.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAILURE: Verdict = Verdict::Failure { overload: false };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
    }

    fn open(now: Timestamp) -> Breaker {
        let mut breaker = Breaker::default();
        (0..FAILURES).for_each(|_| _ = breaker.heard(FAILURE, now, now, 0.5));
        assert_eq!(breaker.state(), State::Open);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_nothing_else_does() {
        let mut breaker = Breaker::default();
        for verdict in [Verdict::Well, Verdict::TooMany, Verdict::Nothing] {
            (0..FAILURES - 1).for_each(|_| _ = breaker.heard(FAILURE, at(0), at(0), 0.5));
            assert_eq!(breaker.heard(Verdict::Well, at(0), at(0), 0.5), None);
            (0..50).for_each(|_| _ = breaker.heard(verdict, at(0), at(0), 0.5));
            assert_eq!(breaker.state(), State::Closed);
        }
    }

    #[test]
    fn probes_come_ever_more_rarely_up_to_a_bound() {
        let mut breaker = open(at(0));
        let (mut now, mut delays) = (at(0), Vec::new());
        for _ in 0..9 {
            assert_eq!(breaker.opens(1), None, "one at a time");
            let probe = breaker.opens(0).unwrap();
            delays.push(probe.since(now).as_secs());
            now = probe;
            breaker.heard(FAILURE, now, now, 0.5);
        }
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        breaker.hurry();
        assert!(breaker.opens(0).unwrap() <= now);
    }

    #[test]
    fn what_was_under_way_when_it_opened_delays_no_probe_and_may_half_open_it() {
        let mut breaker = open(at(10));
        let probe = breaker.opens(0);
        breaker.heard(FAILURE, at(3), at(14), 0.5);
        assert_eq!(breaker.opens(0), probe);
        assert_eq!(breaker.heard(Verdict::Well, at(3), at(14), 0.5), Some(State::HalfOpen));
    }

    #[test]
    fn half_open_it_opens_with_the_next_failure_and_closes_after_five_successes() {
        let mut breaker = open(at(0));
        assert_eq!(breaker.heard(Verdict::Well, at(5), at(5), 0.5), Some(State::HalfOpen));
        assert_eq!(breaker.heard(FAILURE, at(6), at(6), 0.5), Some(State::Open));
        assert_eq!(breaker.opens(0), Some(at(16)), "the delay goes on where it was");
        breaker.heard(Verdict::Well, at(16), at(16), 0.5);
        let states: Vec<_> = (0..4).map(|_| breaker.heard(Verdict::Well, at(17), at(17), 0.5)).collect();
        assert_eq!(states, [None, None, None, Some(State::Closed)]);
        (0..FAILURES - 1).for_each(|_| _ = breaker.heard(FAILURE, at(18), at(18), 0.5));
        assert_eq!(breaker.state(), State::Closed, "it counts anew");
    }

    #[test]
    fn dozing_it_probes_every_so_often_until_a_success_or_until_it_is_woken() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let mut breaker = Breaker::default();
        breaker.doze(HOUR, at(0), 0.5);
        breaker.doze(HOUR, at(9), 0.5);
        for hour in 1..9 {
            assert_eq!(breaker.opens(0), Some(at(0) + hour * HOUR));
            assert_eq!(breaker.opens(1), None, "one at a time");
            breaker.heard(
                if hour == 4 { Verdict::Nothing } else { FAILURE },
                at(1),
                at(0) + hour * HOUR,
                0.5,
            );
        }
        let mut woken = breaker;
        woken.hurry();
        assert!(woken.opens(0).unwrap() < at(0));
        woken.heard(FAILURE, at(40_000), at(40_000), 0.5);
        assert_eq!(woken.opens(0), Some(at(40_010)), "it is an open breaker like any other");
        assert_eq!(breaker.heard(Verdict::Well, at(40_000), at(40_000), 0.5), Some(State::HalfOpen));
        breaker.heard(FAILURE, at(40_001), at(40_001), 0.5);
        assert_eq!(breaker.opens(0), Some(at(40_301)), "no longer every hour");
    }

    proptest! {
        #[test]
        fn the_next_probe_is_never_further_than_its_bound(
            steps in prop::collection::vec((0_u8..5, 0.0_f64..1.0, 0_u64..400), 1..200),
        ) {
            let (mut breaker, mut now) = (Breaker::default(), at(0));
            for (step, chance, passes) in steps {
                now = now + Duration::from_secs(passes);
                let verdict = match step {
                    0 => Verdict::Well,
                    1 => Verdict::TooMany,
                    2 => Verdict::Nothing,
                    _ => FAILURE,
                };
                breaker.heard(verdict, now, now, chance);
                let wait = breaker.opens(0).expect("nothing is under way").since(now);
                prop_assert!(wait <= MAX_DELAY.mul_f64(1.0 + JITTER));
            }
        }
    }
}

//! The breaker: while an endpoint fails continuously, its deliveries wait, and one at a time probes.
//!
//! Closed, it counts failures in a row; the tenth opens it. Open, it lets one attempt through after a delay, which
//! doubles with each that fails, from 5 seconds to 5 minutes. A success half-opens it: attempts go out, from one at once
//! on, and a failure opens it again. Five successes close it. Of a subscription that is disabled for its failures it stays
//! open and lets attempts through more rarely, until one succeeds or somebody wakes it.
//!
//! A failure is in a row with the one before it only if its attempt began after that one was known: a connection that
//! breaks with many attempts under way is one failure. An attempt that began before the latest success was known says
//! nothing by its failure. Each failure in a row after the first one halves the number of attempts at once: an endpoint
//! that is down does not get ten rounds of full concurrency before the breaker opens.

use std::time::Duration;

use super::moment::{Moment, Span};
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
    /// Of attempts begun before this, a failure says nothing new: the latest outcome that changed anything here.
    settled: Moment,
    /// The subscription is disabled: the delay before every probe.
    every: Option<Duration>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            count: 0,
            delay: FIRST_DELAY,
            probe_at: Timestamp::default(),
            settled: Moment::default(),
            every: None,
        }
    }
}

/// What an outcome means for the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The breaker's new state, if it is another one.
    pub turned: Option<State>,
    /// Whether it says something new: a failure does not if its attempt began before an earlier failure, or a later
    /// success, was known.
    pub is_news: bool,
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

    /// How many attempts may be under way at once, of the number that the endpoint bears.
    pub(super) fn at_once(&self, limit: usize) -> usize {
        match self.state {
            State::Closed => (limit >> self.count.saturating_sub(1).min(usize::BITS - 1)).max(1),
            State::Open | State::HalfOpen => limit,
        }
    }

    /// An attempt has ended. `random` in 0..1 is the jitter's.
    pub(super) fn heard(&mut self, verdict: Verdict, span: Span, now: Timestamp, random: f64) -> Heard {
        let before = self.state;
        let is_news = match verdict {
            Verdict::Well => true,
            Verdict::Failure { .. } | Verdict::TooMany | Verdict::Nothing => span.begins_after(self.settled),
        };
        match verdict {
            Verdict::Well => self.worked(),
            Verdict::Failure { .. } if is_news => self.failed(now, random),
            Verdict::TooMany | Verdict::Nothing if is_news && self.state == State::Open => {
                self.open(self.delay, now, random);
            }
            _ => {}
        }
        if is_news && matches!(verdict, Verdict::Well | Verdict::Failure { .. }) {
            self.settled = span.known;
        }
        Heard { turned: (self.state != before).then_some(self.state), is_news }
    }

    fn worked(&mut self) {
        match self.state {
            State::Closed => self.count = 0,
            State::HalfOpen => {
                self.count += 1;
                if self.count >= SUCCESSES {
                    *self = Self::default();
                }
            }
            State::Open => (self.state, self.count, self.every) = (State::HalfOpen, 1, None),
        }
    }

    fn failed(&mut self, now: Timestamp, random: f64) {
        match self.state {
            State::Closed => {
                self.count += 1;
                if self.count >= FAILURES {
                    self.open(FIRST_DELAY, now, random);
                }
            }
            State::HalfOpen | State::Open => self.open(2 * self.delay, now, random),
        }
    }

    /// From now on an attempt goes out only every so often.
    pub(super) fn doze(&mut self, every: Duration, moment: Moment, now: Timestamp, random: f64) {
        if self.every != Some(every) {
            if self.state != State::Open {
                self.settled = moment;
            }
            self.every = Some(every);
            self.open(every, now, random);
        }
    }

    /// Probes at once: somebody has said that the endpoint works. Attempts begun before this moment do not disprove it.
    pub(super) fn hurry(&mut self, moment: Moment) {
        (self.probe_at, self.delay, self.every) = (Timestamp::default(), FIRST_DELAY, None);
        self.settled = moment;
        if self.state == State::Closed {
            self.count = 0;
        }
    }

    fn open(&mut self, delay: Duration, now: Timestamp, random: f64) {
        self.state = State::Open;
        self.delay = self.every.unwrap_or(delay.min(MAX_DELAY));
        self.probe_at = now + self.delay.mul_f64(1.0 + JITTER * (2.0 * random - 1.0));
    }
}

#[cfg(test)]
mod tests;

//! How an endpoint does: since when it fails continuously, what it did last, and what people are to be told of it.
//!
//! Only an attempt's outcome changes anything here: time that passes without attempts proves nothing. So a failure that
//! comes more than a day after the one before begins anew, and so does whatever a person says is repaired.

use std::fmt;
use std::time::Duration;

use super::Lane;
use super::backlog::Backlog;
use super::breaker::State as Breaker;
use super::failure::{FailurePolicy, WARNINGS};
use super::flow::Rest;
use super::verdict::Verdict;
use crate::outcome::{Class, Outcome};
use crate::time::Timestamp;

/// Failures further apart than this are not one time of failure.
pub const SILENCE: Duration = Duration::from_secs(86_400);
/// How much of a failure's reason is kept, in characters.
const DETAIL: usize = 200;

/// How an endpoint does, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was heard of it since the start.
    Unknown,
    /// Its latest attempts say that it works.
    Healthy,
    /// It has failed continuously since it last worked.
    Failing,
    /// The breaker is open: one attempt at a time probes it.
    CircuitOpen,
    /// The breaker is half-open: it has just answered a probe.
    Recovering,
    /// It has asked to be left alone, by `Retry-After`.
    BackingOff,
}

/// What people have been told of a trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// Nothing: there is none.
    #[default]
    Nothing,
    /// That it answers again.
    Recovering,
    /// That it has been failing for so long; zero when the time is counted anew.
    Failing(Duration),
    /// That its subscription is disabled for it.
    GivenUp,
}

/// What is remembered of a trouble over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// When it first failed, of continuous failure since.
    pub since: Option<Timestamp>,
    /// When it last failed; written down to about an hour.
    pub last: Timestamp,
    /// What people know.
    pub told: Told,
}

/// What an outcome makes people want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has failed continuously for this long.
    Failing(Duration),
    /// It has done so for as long as its policy bears: the subscription is to be disabled.
    GivenUp,
    /// After a trouble that was told: it answers again.
    Recovering,
    /// After a trouble that was told: it is well.
    Recovered,
}

/// An attempt that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When its outcome came.
    pub time: Timestamp,
    /// The kind of outcome.
    pub class: Class,
    /// The status, if there was a response.
    pub status: Option<u16>,
    /// A coarse sentence for people.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "status {status}"),
            None if self.detail.is_empty() => f.write_str(self.class.as_str()),
            None => write!(f, "{} ({})", self.class.as_str(), self.detail),
        }
    }
}

/// How an endpoint does, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// In a word.
    pub state: State,
    /// Since when it has failed continuously.
    pub failing_since: Option<Timestamp>,
    /// Failures since it last worked; those that were under way together count as one.
    pub failures: u32,
    /// When an attempt last succeeded.
    pub last_success: Option<Timestamp>,
    /// The latest attempt that did not succeed.
    pub last_failure: Option<Failure>,
    /// When it will be tried next, while it is left alone.
    pub next_probe: Option<Timestamp>,
    /// When its subscription will be disabled at the earliest, if it goes on to fail.
    pub disable_at: Option<Timestamp>,
    /// What waits for it.
    pub backlog: Backlog,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Health {
    trouble: Trouble,
    failures: u32,
    last_success: Option<Timestamp>,
    last_failure: Option<Failure>,
    /// Whether its last word was a good one.
    well: bool,
}

impl Health {
    /// What is known after a restart. If the subscription is not disabled though it was to be, the next failure says so
    /// again.
    #[must_use]
    pub fn restored(trouble: Option<Trouble>, disabled: bool) -> Self {
        let mut trouble = trouble.unwrap_or_default();
        if trouble.told == Told::GivenUp && !disabled {
            trouble.told = Told::Failing(Duration::MAX);
        }
        Self { trouble, ..Self::default() }
    }

    /// An attempt has ended; `breaker` is as it is after it. Says what people want to know of it. A failure that is not
    /// news ([`super::Heard::is_news`]) is shown as the last one, and counts for nothing else.
    pub fn heard(
        &mut self,
        outcome: &Outcome,
        is_news: bool,
        breaker: Breaker,
        policy: &FailurePolicy,
        now: Timestamp,
    ) -> Option<Turn> {
        if outcome.class == Class::Success {
            self.last_success = Some(now);
        } else {
            self.last_failure = Some(Failure {
                time: now,
                class: outcome.class,
                status: outcome.status(),
                detail: outcome.detail.chars().take(DETAIL).collect(),
            });
        }
        match Verdict::of(outcome) {
            Verdict::Well => self.worked(breaker),
            Verdict::Failure { .. } if is_news => self.failed(policy, now),
            Verdict::Failure { .. } | Verdict::TooMany | Verdict::Nothing => None,
        }
    }

    /// A person says that it is repaired, or has held it: the time of failure begins anew.
    pub fn forgive(&mut self) {
        self.trouble.since = None;
        self.failures = 0;
        if self.trouble.told > Told::Failing(Duration::ZERO) {
            self.trouble.told = Told::Failing(Duration::ZERO);
        }
    }

    /// As it is shown.
    #[must_use]
    pub fn view(&self, lane: &Lane, policy: &FailurePolicy, now: Timestamp) -> View {
        let rest = lane.rest(now);
        let disable_at = self.trouble.since.zip(policy.disable_after).map(|(since, after)| since + after);
        View {
            state: self.state(lane.breaker(), rest),
            failing_since: self.trouble.since,
            failures: self.failures,
            last_success: self.last_success,
            last_failure: self.last_failure.clone(),
            next_probe: rest.and_then(|_| lane.next_try()).map(|time| time.max(now)),
            disable_at: disable_at.filter(|_| self.trouble.told != Told::GivenUp),
            backlog: lane.backlog(),
        }
    }

    /// In a word.
    #[must_use]
    pub fn state(&self, breaker: Breaker, rest: Option<Rest>) -> State {
        match (rest, breaker) {
            (Some(Rest::Asked), _) => State::BackingOff,
            (_, Breaker::Open) => State::CircuitOpen,
            (_, Breaker::HalfOpen) => State::Recovering,
            _ if self.trouble.since.is_some() => State::Failing,
            _ if self.well => State::Healthy,
            _ => State::Unknown,
        }
    }

    /// Since when it has failed continuously.
    #[must_use]
    pub fn failing_since(&self) -> Option<Timestamp> {
        self.trouble.since
    }

    /// Failures since it last worked, of those that this run has heard of.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When an attempt last succeeded, of those that this run has heard of.
    #[must_use]
    pub fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }

    /// The latest attempt that did not succeed, of those that this run has heard of.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.last_failure.as_ref()
    }

    /// What is to be remembered over a restart, if it differs from what was written last.
    #[must_use]
    pub fn unwritten(&self, written: Option<Trouble>) -> Option<Option<Trouble>> {
        let now =
            (self.trouble.since.is_some() || self.trouble.told != Told::Nothing).then_some(self.trouble);
        let fresh_enough = match (now, written) {
            (None, None) => true,
            (Some(now), Some(written)) => {
                (now.since, now.told) == (written.since, written.told)
                    && now.last.since(written.last) < WARNINGS[0]
            }
            _ => false,
        };
        (!fresh_enough).then_some(now)
    }

    fn worked(&mut self, breaker: Breaker) -> Option<Turn> {
        (self.trouble.since, self.failures, self.well) = (None, 0, true);
        match (self.trouble.told, breaker) {
            (Told::Nothing, _) | (_, Breaker::Open) | (Told::Recovering, Breaker::HalfOpen) => None,
            (_, Breaker::HalfOpen) => {
                self.trouble.told = Told::Recovering;
                Some(Turn::Recovering)
            }
            (_, Breaker::Closed) => {
                self.trouble.told = Told::Nothing;
                Some(Turn::Recovered)
            }
        }
    }

    fn failed(&mut self, policy: &FailurePolicy, now: Timestamp) -> Option<Turn> {
        self.well = false;
        let trouble = &mut self.trouble;
        if trouble.told != Told::GivenUp && now.since(trouble.last) > SILENCE {
            (trouble.since, self.failures) = (None, 0);
            if let Told::Failing(told) = &mut trouble.told {
                *told = Duration::ZERO;
            }
        }
        let since = *trouble.since.get_or_insert(now);
        trouble.last = now;
        self.failures = self.failures.saturating_add(1);
        if trouble.told == Told::GivenUp {
            return None;
        }
        let failing_for = now.since(since);
        if policy.disable_after.is_some_and(|after| failing_for >= after) {
            trouble.told = Told::GivenUp;
            return Some(Turn::GivenUp);
        }
        let step = policy.warning(failing_for).filter(|step| trouble.told < Told::Failing(*step))?;
        trouble.told = Told::Failing(step);
        Some(Turn::Failing(step))
    }
}

#[cfg(test)]
mod tests;

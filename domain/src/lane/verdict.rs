//! What an attempt's outcome says of the endpoint as a whole, apart from the one delivery.

use std::time::Duration;

use crate::outcome::{Class, Outcome};
use crate::retry::parse_retry_after;
use crate::time::Timestamp;

/// What is known of the endpoint after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works: it took the event, or looked at it and refused that one event (400, 413, 422).
    Well,
    /// It fails. `overload` when fewer attempts at once may help: it was too slow, or said 503.
    Failure {
        /// Whether fewer at once may help.
        overload: bool,
    },
    /// It works, and wants to be asked less: 429, or an HTTP/2 stream that it did not process.
    TooMany,
    /// Nothing: the agent was lost, its policy refused, or the endpoint is gone for good (410), which has a rule of
    /// its own.
    Nothing,
}

impl Verdict {
    /// What this outcome says.
    #[must_use]
    pub(super) fn of(outcome: &Outcome) -> Self {
        match (outcome.class, outcome.status()) {
            (Class::AgentLost | Class::RefusedByPolicy, _) | (_, Some(410)) => Self::Nothing,
            (Class::Success, _) | (_, Some(400 | 413 | 422)) => Self::Well,
            (Class::NotProcessed, _) | (_, Some(429)) => Self::TooMany,
            (class, status) => Self::Failure { overload: class == Class::Timeout || status == Some(503) },
        }
    }
}

/// How long the endpoint asks to be left alone, by all: `Retry-After` of 429 and 503, at most a day.
#[must_use]
pub(super) fn asked_to_wait(outcome: &Outcome, now: Timestamp) -> Option<Duration> {
    outcome.status().filter(|status| matches!(status, 429 | 503))?;
    parse_retry_after(outcome.response.as_ref()?.header("retry-after")?, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Response;

    fn response(status: u16) -> Outcome {
        let headers = vec![("retry-after".to_owned(), "60".to_owned())];
        let response = Response { status, headers, ..Response::default() };
        Outcome { response: Some(response), ..Outcome::failure(Class::of_status(status), "") }
    }

    #[test]
    fn what_outcomes_say() {
        let failure = |overload| Verdict::Failure { overload };
        let statuses = [
            (200, Verdict::Well, false),
            (301, failure(false), false),
            (400, Verdict::Well, false),
            (401, failure(false), false),
            (404, failure(false), false),
            (410, Verdict::Nothing, false),
            (422, Verdict::Well, false),
            (429, Verdict::TooMany, true),
            (500, failure(false), false),
            (503, failure(true), true),
        ];
        for (status, verdict, waits) in statuses {
            let outcome = response(status);
            assert_eq!(Verdict::of(&outcome), verdict, "{status}");
            assert_eq!(asked_to_wait(&outcome, Timestamp::default()).is_some(), waits, "{status}");
        }
        let classes = [
            (Class::Timeout, failure(true)),
            (Class::Dns, failure(false)),
            (Class::Connect, failure(false)),
            (Class::Tls, failure(false)),
            (Class::Protocol, failure(false)),
            (Class::NotProcessed, Verdict::TooMany),
            (Class::RefusedByPolicy, Verdict::Nothing),
            (Class::AgentLost, Verdict::Nothing),
        ];
        for (class, verdict) in classes {
            assert_eq!(Verdict::of(&Outcome::failure(class, "")), verdict, "{class:?}");
        }
    }
}

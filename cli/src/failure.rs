//! What can go wrong, as people read it on stderr and as programs read it in the exit code.
//!
//! Every command returns a [`Failure`]; `run` prints it and exits with its code. A refused call becomes one by
//! [`Doing::doing`], which names the step and reads the server's `google.rpc` details.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::time::duration_for_people;

/// What a command returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why the command ends, for programs. `--help` lists the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Something that should not happen; or, of `egress check`, a URL that would be refused, and of `doctor`, a problem.
    Unexpected = 1,
    /// The command line is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// The server refused.
    Refused = 4,
    /// A followed delivery ended without being delivered, or a test event was not accepted.
    DeliveryFailed = 5,
    /// The server cannot be reached or is too busy.
    Unavailable = 6,
    /// A signature does not verify.
    BadSignature = 7,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For programs.
    pub(crate) exit: Exit,
    /// What failed. Empty: nothing is printed.
    message: String,
    /// Fields at fault, and what to do next; one line each.
    notes: Vec<String>,
}

impl Failure {
    /// A failure with a sentence for people.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), notes: Vec::new() }
    }

    /// The end of the command with nothing more to say.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// What failed, without the notes.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Adds a line: a detail, or what to do next.
    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.notes.iter().try_for_each(|note| write!(f, "\n  {note}"))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Unexpected, format!("{error:#}"))
    }
}

/// Names the step that failed.
pub(crate) trait Doing<T> {
    /// `step` completes 'cannot …'.
    fn doing(self, step: impl fmt::Display) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, Status> {
    fn doing(self, step: impl fmt::Display) -> Result<T> {
        self.map_err(|status| from_status(&step.to_string(), &status))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, step: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::new(Exit::Unexpected, format!("cannot {step}: {error}")))
    }
}

/// What a gRPC code means to a program that runs this command.
pub(crate) fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::NotFound => Exit::NotFound,
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated => Exit::Refused,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted => {
            Exit::Unavailable
        }
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented | Code::Cancelled => {
            Exit::Unexpected
        }
    }
}

fn from_status(step: &str, status: &Status) -> Failure {
    if let Some(failure) = without_answer(step, status) {
        return failure;
    }
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str()).filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(|| format!("{:?}", status.code()), str::to_owned);
    let fields = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    let said = match status.message() {
        "" => "the server gave no message".to_owned(),
        // A message that quotes several violations is harder to read than a line for each.
        message if fields.len() > 1 && fields.iter().all(|field| message.contains(&field.description)) => {
            format!("{} fields are not valid", fields.len())
        }
        message => message.to_owned(),
    };
    let mut failure = Failure::new(exit_of(status.code()), format!("cannot {step}: {said} [{reason}]"));
    let fields =
        fields.iter().map(|field| (&field.description, format!("{}: {}", field.field, field.description)));
    let states = details.precondition_failure().map_or(&[][..], |failed| &failed.violations);
    let states = states.iter().map(|state| (&state.description, state.description.clone()));
    for (description, line) in fields.chain(states) {
        if !said.contains(description.as_str()) {
            failure = failure.note(line);
        }
    }
    match details.retry_info().and_then(|retry| retry.retry_delay) {
        Some(delay) => failure.note(format!("try again in {}", delay_for_people(delay))),
        None if status.code() == Code::Unimplemented => {
            failure.note("the server does not know this call: is it older than this command?")
        }
        None => failure,
    }
}

/// A failure without a word from the server: nobody listens, the connection breaks, or the answer takes too
/// long. Only these have a cause on this side.
fn without_answer(step: &str, status: &Status) -> Option<Failure> {
    let cause = status.source()?;
    if chain(cause).any(|error| error.is::<tonic::TimeoutExpired>()) {
        let failure = Failure::new(Exit::Unavailable, format!("cannot {step}: no answer in time"));
        return Some(failure.note("wait longer with --timeout 60s"));
    }
    let deepest = chain(cause).last()?;
    let what = if status.code() == Code::Unavailable { "is not reachable" } else { "closed the connection" };
    let failure = Failure::new(Exit::Unavailable, format!("cannot {step}: the server {what}: {deepest}"));
    Some(
        failure.note(
            "is it running? `postrider dev` starts one; name another with --server or POSTRIDER_SERVER",
        ),
    )
}

/// The error and what caused it, down to the first cause.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

fn delay_for_people(delay: Duration) -> String {
    duration_for_people(delay.max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn told(status: Status) -> String {
        Err::<(), _>(status).doing("create the subscription").unwrap_err().to_string()
    }

    #[test]
    fn every_field_at_fault_has_its_line() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("INVALID_FIELD", "postrider", std::collections::HashMap::new())
            .add_bad_request_violation("subscription.url", "must be http or https")
            .add_bad_request_violation("subscription.event_types", "must not be empty");
        let status = Status::with_error_details(Code::InvalidArgument, "2 fields are not valid", details);
        assert_eq!(
            told(status),
            "cannot create the subscription: 2 fields are not valid [INVALID_FIELD]\n  \
             subscription.url: must be http or https\n  subscription.event_types: must not be empty"
        );
    }

    #[test]
    fn a_message_that_quotes_its_violation_is_not_repeated() {
        let details = ErrorDetails::with_bad_request_violation("event.data", "is not JSON");
        let status = Status::with_error_details(Code::InvalidArgument, "event.data: is not JSON", details);
        assert_eq!(told(status), "cannot create the subscription: event.data: is not JSON [InvalidArgument]");
    }

    #[test]
    fn a_retry_delay_says_when_to_come_back() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1500)));
        let status = Status::with_error_details(Code::ResourceExhausted, "the queue is full", details);
        assert_eq!(
            told(status),
            "cannot create the subscription: the queue is full [ResourceExhausted]\n  try again in 1.5s"
        );
    }

    #[test]
    fn codes_have_exits() {
        let table = [
            (Code::NotFound, Exit::NotFound),
            (Code::InvalidArgument, Exit::Refused),
            (Code::AlreadyExists, Exit::Refused),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::Unavailable, Exit::Unavailable),
            (Code::ResourceExhausted, Exit::Unavailable),
            (Code::DeadlineExceeded, Exit::Unavailable),
            (Code::Internal, Exit::Unexpected),
        ];
        for (code, exit) in table {
            assert_eq!(exit_of(code), exit, "{code:?}");
        }
        assert_eq!([Exit::Ok as u8, Exit::DeliveryFailed as u8, Exit::BadSignature as u8], [0, 5, 7]);
    }
}

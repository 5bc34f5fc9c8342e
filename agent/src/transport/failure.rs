//! Why a request got no response, in the coarse words that leave the agent.
//!
//! A tenant chooses the URL and reads the outcome, so a detail must not turn the agent into a scanner of its
//! owner's network: no address, no port state beyond the class, nothing of what a peer said.

use std::error::Error as _;
use std::io;

use postrider_domain::egress::{Code, Refusal};
use postrider_proto::agent::OutcomeKind;

use super::Phase;
use super::paced::TooMuchBeforeHead;

/// A request without a response. Its `detail` leaves the agent; `cause` is for the log only.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Failure {
    pub(crate) kind: OutcomeKind,
    pub(crate) detail: &'static str,
    pub(crate) refusal: Option<Box<Refusal>>,
    pub(crate) cause: Option<Box<str>>,
}

impl Failure {
    fn new(kind: OutcomeKind, detail: &'static str) -> Failure {
        Failure { kind, detail, refusal: None, cause: None }
    }

    /// With a sentence for the agent's owner, who alone can do something about it.
    pub(crate) fn because(self, cause: String) -> Failure {
        Failure { cause: Some(cause.into()), ..self }
    }

    pub(crate) fn refused(refusal: Refusal) -> Failure {
        let failure = if refusal.code() == Code::DnsEmpty {
            Failure::dns("the endpoint's name does not exist or has no address")
        } else {
            Failure::new(
                OutcomeKind::RefusedByPolicy,
                "the agent's egress policy does not allow this endpoint",
            )
        };
        Failure { refusal: Some(Box::new(refusal)), ..failure }
    }

    pub(crate) fn not_started(detail: &'static str) -> Failure {
        Failure::new(OutcomeKind::NotStarted, detail)
    }

    pub(crate) fn dns(detail: &'static str) -> Failure {
        Failure::new(OutcomeKind::Dns, detail)
    }

    /// Whether nobody listens, nobody is there or nothing leads there is not told apart: in a network that its owner
    /// has opened, this would be a map of it.
    pub(crate) fn no_connection() -> Failure {
        Failure::new(OutcomeKind::Connect, "no connection to the endpoint could be made")
    }

    /// A handshake that failed. The certificate's faults are told apart, because its owner can mend them.
    pub(crate) fn tls(error: &io::Error) -> Failure {
        use rustls::{CertificateError, Error};
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let detail = match cause {
            Some(Error::InvalidCertificate(why)) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the endpoint's certificate has expired"
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "the endpoint's certificate is for another name"
                }
                CertificateError::UnknownIssuer => "the endpoint's certificate is from an unknown authority",
                _ => "the endpoint's certificate is not valid",
            },
            _ => "no TLS session with the endpoint could be made",
        };
        Failure::new(OutcomeKind::Tls, detail)
    }

    pub(crate) fn protocol(detail: &'static str) -> Failure {
        Failure::new(OutcomeKind::Protocol, detail)
    }

    /// An exchange that broke off.
    pub(crate) fn http(error: &hyper::Error) -> Failure {
        Failure::protocol(if error.is_parse_too_large() || too_much_before_head(error) {
            "the response's headers are too large"
        } else if error.is_parse() {
            "the endpoint's response is not valid HTTP"
        } else {
            "the endpoint closed the connection without a response"
        })
    }

    /// The whole deadline passed.
    pub(crate) fn deadline(phase: Phase) -> Failure {
        Failure::new(
            OutcomeKind::Timeout,
            match phase {
                Phase::Dns => "the deadline passed while the endpoint's name was looked up",
                Phase::Connect => "the deadline passed before a connection was made",
                Phase::Tls => "the deadline passed during the TLS handshake",
                Phase::Response => "the deadline passed before the response's headers arrived",
            },
        )
    }

    /// The deadline for TCP connect passed.
    pub(crate) fn connect_deadline() -> Failure {
        Failure::new(OutcomeKind::Timeout, "no connection was made within the connect timeout")
    }

    /// The attempt began in time, but getting a connection took so long that it may not be sent any more.
    pub(crate) fn stale() -> Failure {
        Failure::new(OutcomeKind::Timeout, "a connection took so long that the request was not sent any more")
    }
}

fn too_much_before_head(error: &hyper::Error) -> bool {
    let cause =
        error.source().and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::get_ref);
    cause.is_some_and(|cause| cause.is::<TooMuchBeforeHead>())
}

//! Why a request got no response, in the coarse words that leave the agent.
//!
//! A tenant chooses the URL and reads the outcome, so a detail must not turn the agent into a scanner of its
//! owner's network: no address, no port state beyond the class, nothing of what a peer said.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;

use postrider_domain::egress::{Code, Refusal};
use postrider_proto::agent::OutcomeKind;

use super::http::repeats::NotProcessed;
use super::paced::TooMuchBeforeHead;
use super::{Phase, certificate};
use crate::shortage::Shortage;

/// A request without a response. Its `detail` leaves the agent; `cause` is for the log only.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Failure {
    pub(crate) kind: OutcomeKind,
    pub(crate) detail: &'static str,
    pub(crate) refusal: Option<Box<Refusal>>,
    pub(crate) cause: Option<Box<str>>,
    /// The endpoint has let know that it did not process the request.
    pub(crate) not_processed: bool,
    /// What the agent's machine lacks.
    pub(crate) shortage: Option<Shortage>,
}

impl Failure {
    fn new(kind: OutcomeKind, detail: &'static str) -> Failure {
        Failure { kind, detail, refusal: None, cause: None, not_processed: false, shortage: None }
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

    /// The agent's machine lacks something, so the request could not be started.
    pub(crate) fn short(shortage: Shortage) -> Failure {
        let detail = "the agent's machine is short of resources, so the request was not started";
        Failure { shortage: Some(shortage), ..Failure::not_started(detail) }
    }

    /// A TCP connection that did not come about.
    pub(crate) fn connecting(error: &io::Error, peer: SocketAddr) -> Failure {
        Shortage::of_connecting(error, peer).map_or_else(Failure::no_connection, Failure::short)
    }

    /// Whether nobody listens, nobody is there or nothing leads there is not told apart: in a network that its owner
    /// has opened, this would be a map of it.
    pub(crate) fn no_connection() -> Failure {
        Failure::new(OutcomeKind::Connect, "no connection to the endpoint could be made")
    }

    /// A handshake that failed. Certificate faults have a class each, because the certificate's owner can correct them.
    pub(crate) fn tls(error: &io::Error) -> Failure {
        if let Some((sentence, cause)) = certificate::explain(error) {
            return Failure::new(OutcomeKind::Tls, sentence).because(cause);
        }
        let ended = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        Failure::new(
            OutcomeKind::Tls,
            if ended {
                "the endpoint closed the connection during the TLS handshake"
            } else {
                certificate::NO_SESSION
            },
        )
    }

    pub(crate) fn protocol(detail: &'static str) -> Failure {
        Failure::new(OutcomeKind::Protocol, detail)
    }

    /// The endpoint sent so many frames that belong to no body that its connection was closed.
    pub(crate) fn flooded() -> Failure {
        Failure::protocol(
            "the endpoint sent too many HTTP/2 frames that carry no body (interim responses, settings, pings, priorities, \
             window updates, unknown or empty frames)",
        )
    }

    /// An exchange that did not come about, however often it was tried.
    pub(crate) fn not_processed(why: NotProcessed) -> Failure {
        let detail = match why {
            NotProcessed::Closed { .. } => {
                "the endpoint closed the connection, or sent something else than HTTP, before the request was sent"
            }
            NotProcessed::Refused => {
                "the endpoint refused the request without processing it (HTTP/2 REFUSED_STREAM), also when it was sent again"
            }
            NotProcessed::GoingAway => {
                "the endpoint closed the connection without processing the request (HTTP/2 GOAWAY), also when it was sent \
                 again"
            }
            NotProcessed::Http1Required => {
                "the endpoint requires HTTP/1.1 (HTTP_1_1_REQUIRED) for a request that was sent over HTTP/1.1"
            }
        };
        let not_processed = matches!(why, NotProcessed::Refused | NotProcessed::GoingAway);
        Failure { not_processed, ..Failure::protocol(detail) }
    }

    /// An exchange that broke off.
    pub(crate) fn http(error: &hyper::Error) -> Failure {
        // In TLS 1.3 an endpoint judges a client's certificate after the handshake, as the client sees it.
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        if let Some((sentence, cause)) = io.and_then(certificate::explain) {
            return Failure::new(OutcomeKind::Tls, sentence).because(cause);
        }
        Failure::protocol(if error.is_parse_too_large() || too_much_before_head(error) {
            "the response's headers are too large"
        } else if error.is_parse() || is_h2(error, |h2| h2.is_library()) {
            "the endpoint's response is not valid HTTP"
        } else if is_h2(error, |h2| h2.is_reset() && h2.is_remote()) {
            "the endpoint ended the request without a response (HTTP/2 RST_STREAM)"
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

fn is_h2(error: &hyper::Error, is: impl FnOnce(&h2::Error) -> bool) -> bool {
    error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(is)
}

//! The seam between a session and the world of endpoints: one request in, one report out.
//!
//! [`Transport`] is what a session knows of it; tests of the session put something simpler there.
//! [`http::HttpTransport`] is the real one, in the order in which a request meets its rooms:
//! [`guard`] judges the URL, [`credentials`] has what its owner gives the agent for that host, [`resolver`]
//! finds the addresses, the guard judges those, `pool` lends a connection to exactly those addresses or
//! `connector` dials one of them, perhaps through a [`proxy`], and `response` reads the answer within bounds.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method};
use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::egress::Refusal;
use postrider_proto::agent::OutcomeKind;
use rustls::pki_types::CertificateDer;

use crate::clock::Instant;
use crate::gate::Gate;
use crate::shortage::Shortage;

pub(crate) mod certificate;
pub(crate) mod connector;
pub mod credentials;
pub(crate) mod driver;
pub(crate) mod failure;
pub(crate) mod files;
pub(crate) mod frames;
pub mod guard;
pub mod http;
pub(crate) mod machine;
pub(crate) mod paced;
pub(crate) mod pool;
pub mod proxy;
pub mod resolver;
pub(crate) mod response;
pub(crate) mod socket;
pub mod tls;
pub mod traced;
pub(crate) mod witness;

/// Makes one POST. A failed one is a [`Report`] too.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends `request` at most once, and says what happened. Ends within a second after its deadline, which reading
    /// a response's body may take.
    async fn post(&self, request: Request) -> Report;

    /// Looks at an endpoint by a request without a body, on a new connection that is not kept. It is judged as a POST is.
    /// Ends at its deadline.
    async fn look(&self, look: Look) -> Sight;
}

/// A look, as the control plane wants it.
#[derive(Debug)]
pub struct Look {
    /// HEAD or OPTIONS.
    pub method: Method,
    /// At what, as it was received.
    pub url: String,
    /// All headers but `host`.
    pub headers: HeaderMap,
    /// For the TCP connection.
    pub connect_timeout: Duration,
    /// For everything up to the response's headers.
    pub timeout: Duration,
}

/// What came of a look.
#[derive(Debug)]
pub struct Sight {
    /// The class of it.
    pub kind: OutcomeKind,
    /// A coarse sentence; empty after a response.
    pub detail: &'static str,
    /// The rule that refused.
    pub refusal: Option<Box<Refusal>>,
    /// What is wrong on the agent's own side. For the log of the agent's owner only.
    pub cause: Option<Box<str>>,
    /// The response's status, if there was one.
    pub status: Option<u16>,
    /// The response's headers that answer a validation handshake.
    pub headers: Vec<(&'static str, String)>,
    /// How far it came, and how long that took.
    pub trace: Trace,
    /// What else was seen.
    pub seen: Seen,
}

/// What a look sees beside what every request does.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What the name resolved to, before it was judged.
    pub addresses: Vec<IpAddr>,
    /// Whether the owner's proxy was asked for the connection.
    pub through_proxy: bool,
    /// The chain that the endpoint showed, its own certificate first.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// An attempt, as the control plane wants it.
#[derive(Debug)]
pub struct Request {
    /// Where to POST, as it was received.
    pub url: String,
    /// All headers but `host` and `content-length`.
    pub headers: HeaderMap,
    /// Exactly these bytes.
    pub body: Bytes,
    /// Not to be started after this.
    pub start_by: Instant,
    /// For the TCP connection.
    pub connect_timeout: Duration,
    /// For everything up to the response's headers.
    pub timeout: Duration,
    /// How much of the response's body to keep.
    pub keep_response_bytes: usize,
    /// To be passed before anything is sent.
    pub gate: Arc<Gate>,
    /// The span that this belongs to, as a `traceparent`; empty for none.
    pub trace_parent: String,
}

/// What happened to a request.
#[derive(Debug)]
pub struct Report {
    /// The class of it.
    pub kind: OutcomeKind,
    /// A coarse sentence for whoever owns the subscription; empty after a response.
    pub detail: Cow<'static, str>,
    /// The answer, if there was one.
    pub response: Option<Response>,
    /// How far it came, and how long that took.
    pub trace: Trace,
    /// The rule that refused: to call the endpoint, or to follow where it leads. For the log of the agent's owner, and its code for the operator.
    pub refusal: Option<Box<Refusal>>,
    /// What is wrong on the agent's own side. For the log of the agent's owner only.
    pub cause: Option<Box<str>>,
    /// The endpoint has let know that it did not process the request, each time it was sent.
    pub not_processed: bool,
    /// What the agent's machine lacks, so that the request was not started.
    pub shortage: Option<Shortage>,
}

/// What was kept of an answer.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// The few headers that are of use.
    pub headers: Vec<(&'static str, String)>,
    /// The first bytes of its body.
    pub body: Bytes,
}

/// How far a request came, and how long each phase took. `None`: the phase was not needed or not reached.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Name lookup.
    pub dns: Option<Duration>,
    /// TCP connect.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// From sending the request to the response's headers.
    pub first_byte: Option<Duration>,
    /// All of it.
    pub total: Duration,
    /// Whether any byte of the request may have been sent.
    pub request_sent: bool,
    /// `HTTP/1.1`, `HTTP/2`, or empty.
    pub http_version: &'static str,
    /// `TLSv1.2`, `TLSv1.3`, or empty.
    pub tls_version: &'static str,
    /// The other end. For the log of the agent's owner only.
    pub peer: Option<SocketAddr>,
    /// What is being done; names what a deadline cut off.
    pub(crate) phase: Phase,
    /// For a look; jobs have none.
    pub(crate) seen: Option<Box<Seen>>,
}

/// What a request is waiting for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The name's addresses.
    #[default]
    Dns,
    /// A TCP connection.
    Connect,
    /// A TLS session.
    Tls,
    /// The response's headers.
    Response,
}

impl Report {
    /// The report on a job that was not started.
    #[must_use]
    pub fn not_started(why: &'static str) -> Report {
        Report::failed(OutcomeKind::NotStarted, why)
    }

    /// The report on a job that failed before the transport saw it.
    #[must_use]
    pub fn failed(kind: OutcomeKind, detail: &'static str) -> Report {
        Report {
            kind,
            detail: detail.into(),
            response: None,
            trace: Trace::default(),
            refusal: None,
            cause: None,
            not_processed: false,
            shortage: None,
        }
    }
}

//! What happened to an attempt. A failed POST is data, not an error of ours.

use std::time::Duration;

use bytes::Bytes;

use crate::id::AgentId;
use crate::time::Timestamp;

/// One POST of one delivery, with its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// 1, 2, 3 …
    pub number: u32,
    /// When it was handed to the agent.
    pub started: Timestamp,
    /// Who made it.
    pub agent: AgentId,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The kind of outcome, which decides what follows.
    pub class: Class,
    /// A coarse sentence for people: never an address, never content.
    pub detail: String,
    /// What the endpoint answered, if it did.
    pub response: Option<Response>,
    /// Whether the endpoint may have seen the request.
    pub request_sent: bool,
    /// How long each phase took.
    pub timings: Timings,
    /// `HTTP/1.1`, `HTTP/2`, or empty.
    pub http_version: String,
    /// `TLSv1.2`, `TLSv1.3`, or empty.
    pub tls_version: String,
}

impl Outcome {
    /// An outcome without a response.
    #[must_use]
    pub fn failure(class: Class, detail: impl Into<String>) -> Self {
        Self {
            class,
            detail: detail.into(),
            response: None,
            request_sent: false,
            timings: Timings::default(),
            http_version: String::new(),
            tls_version: String::new(),
        }
    }

    /// The response's status, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.response.as_ref().map(|response| response.status)
    }
}

/// The kind of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 2xx.
    Success,
    /// Any other status. 3xx too: redirects are not followed.
    HttpStatus,
    /// A deadline passed.
    Timeout,
    /// The name did not resolve.
    Dns,
    /// No TCP connection.
    Connect,
    /// No TLS session.
    Tls,
    /// The peer did not speak HTTP as it should, or closed the connection.
    Protocol,
    /// The endpoint said, each time it was sent the request, that it did not process it.
    NotProcessed,
    /// The agent's egress policy forbids it.
    RefusedByPolicy,
    /// The agent was lost.
    AgentLost,
}

impl Class {
    /// The class of a response with this status.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        if (200..300).contains(&status) { Self::Success } else { Self::HttpStatus }
    }

    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::HttpStatus => "http_status",
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::NotProcessed => "not_processed",
            Self::RefusedByPolicy => "refused_by_policy",
            Self::AgentLost => "agent_lost",
        }
    }
}

/// What the endpoint answered, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Some headers: lower-case name and value.
    pub headers: Vec<(String, String)>,
    /// The first bytes of the body.
    pub body: Bytes,
}

impl Response {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// The phases of an attempt. A phase that did not happen is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Waiting in the agent.
    pub queue: Duration,
    /// Name lookup.
    pub dns: Option<Duration>,
    /// TCP connect.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// From sending the request to the response's headers.
    pub first_byte: Option<Duration>,
    /// All of it, after the queue.
    pub total: Duration,
}

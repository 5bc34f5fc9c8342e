//! The link to agents: `postrider.agent.v1` outcomes → [`Outcome`], and the names of jobs.

use std::time::Duration;

use bytes::Bytes;
use postrider_domain::id::DeliveryId;
use postrider_domain::outcome::{Class, Outcome, Response, Timings};

use crate::agent::{self, OutcomeKind};

/// The newest protocol version of the link.
pub const PROTOCOL: u32 = 1;
/// What an agent can do that POSTs test events, by its name in Hello.
pub const TEST_POST_CAPABILITY: &str = "test_post";
/// The most bytes of a response's body that a job may ask for.
pub const MAX_KEPT_RESPONSE: usize = 64 * 1024;
/// The most bytes of a response's headers that are kept, names and values together; agents send half of it.
pub const MAX_KEPT_HEADERS: usize = 8 * 1024;
/// The most bytes of an outcome's sentence that are kept.
pub const MAX_KEPT_DETAIL: usize = 512;
/// The most jobs that one stream of an agent can have. It may ask for more, and gets no more.
pub const MAX_CREDIT: u32 = 8_192;
/// The most outcomes of one message.
pub const MAX_OUTCOMES: usize = 256;
/// The largest message of an agent: a Hello that names as many jobs as one can, or a message of outcomes.
pub const MAX_AGENT_MESSAGE: usize = 1280 * 1024;
/// As `HTTP/1.1` or `TLSv1.3`.
const MAX_VERSION: usize = 16;
/// Headers of a response that are kept; agents send eight at most.
const MAX_HEADERS: usize = 32;

/// The most outcomes that a stream with this credit may have sent and not seen acknowledged: further ones stay in the agent,
/// and with them their jobs' credit.
#[must_use]
pub const fn max_unacknowledged(credit: u32) -> u32 {
    let several = credit.saturating_mul(4);
    if several < 1_024 {
        1_024
    } else if several > 4_096 {
        4_096
    } else {
        several
    }
}

/// The most jobs that a Hello with this credit may name: those that have not ended, and those whose outcome is not
/// acknowledged.
#[must_use]
pub const fn max_claims(credit: u32) -> usize {
    let credit = if credit > MAX_CREDIT { MAX_CREDIT } else { credit };
    credit as usize + max_unacknowledged(credit) as usize
}

/// A job's identity: a delivery, an attempt's number, and the epoch it was dispatched in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobKey {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The epoch.
    pub epoch: u64,
}

impl JobKey {
    /// The key, written with the tag that shows to whom the job was given.
    #[must_use]
    pub fn write(&self, tag: Bytes) -> agent::JobKey {
        let delivery_id = self.delivery.to_string();
        agent::JobKey { delivery_id, attempt: self.attempt, epoch: self.epoch, tag }
    }

    /// The key, read; `None` when it names no delivery.
    #[must_use]
    pub fn read(wire: &agent::JobKey) -> Option<Self> {
        let delivery = wire.delivery_id.parse().ok()?;
        Some(Self { delivery, attempt: wire.attempt, epoch: wire.epoch })
    }
}

/// What an agent says of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The attempt was made, and this happened.
    Made(Box<Outcome>),
    /// The attempt was not made: it does not count.
    NotStarted,
}

/// An agent's report, read; `None` when it does not say what happened.
///
/// An agent runs in somebody else's network and may be anybody's by now, and what it says is stored with every attempt:
/// what is longer than any agent says it is cut.
#[must_use]
pub fn read_report(wire: agent::Outcome) -> Option<Report> {
    let response = (wire.http_status != 0).then(|| Response {
        status: u16::try_from(wire.http_status).unwrap_or(u16::MAX),
        headers: kept_headers(wire.headers),
        // Copied: a slice would keep the whole message in memory.
        body: Bytes::copy_from_slice(&wire.body[..wire.body.len().min(MAX_KEPT_RESPONSE)]),
    });
    let class = match OutcomeKind::try_from(wire.kind).ok()? {
        OutcomeKind::Unspecified => return None,
        OutcomeKind::NotStarted => return Some(Report::NotStarted),
        OutcomeKind::Response => Class::of_status(response.as_ref()?.status),
        OutcomeKind::Timeout => Class::Timeout,
        OutcomeKind::Dns => Class::Dns,
        OutcomeKind::Connect => Class::Connect,
        OutcomeKind::Tls => Class::Tls,
        OutcomeKind::Protocol if wire.not_processed => Class::NotProcessed,
        OutcomeKind::Protocol => Class::Protocol,
        OutcomeKind::RefusedByPolicy => Class::RefusedByPolicy,
    };
    let micros = |micros: u32| Duration::from_micros(micros.into());
    Some(Report::Made(Box::new(Outcome {
        class,
        detail: cut(wire.detail, MAX_KEPT_DETAIL),
        response,
        request_sent: wire.request_sent,
        timings: Timings {
            queue: micros(wire.queue_us),
            dns: wire.dns_us.map(micros),
            connect: wire.connect_us.map(micros),
            tls: wire.tls_us.map(micros),
            first_byte: wire.first_byte_us.map(micros),
            total: micros(wire.total_us),
        },
        http_version: cut(wire.http_version, MAX_VERSION),
        tls_version: cut(wire.tls_version, MAX_VERSION),
    })))
}

fn kept_headers(headers: Vec<agent::Header>) -> Vec<(String, String)> {
    let mut left = MAX_KEPT_HEADERS;
    let fits = |header: &agent::Header| {
        let rest = left.checked_sub(header.name.len() + header.value.len());
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    headers.into_iter().take(MAX_HEADERS).take_while(fits).map(|header| (header.name, header.value)).collect()
}

/// The beginning of a text, at most so many bytes of it.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn the_largest_hello_fits_into_a_message() {
        let key = agent::JobKey {
            delivery_id: format!("dlv_{}-{}", "0".repeat(26), u64::MAX),
            attempt: u32::MAX,
            epoch: u64::MAX,
            tag: vec![1; 16].into(),
        };
        let hello = agent::Hello {
            agent_version: "v".repeat(128),
            capabilities: vec!["c".repeat(64); 16],
            agent_id: "a".repeat(64),
            pool: "p".repeat(64),
            instance_id: "i".repeat(128),
            egress_policy_hash: "e".repeat(128),
            max_in_flight: u32::MAX,
            max_in_flight_bytes: u64::MAX,
            in_flight: vec![key; max_claims(u32::MAX)],
            next_outcome_sequence: u64::MAX,
            ..agent::Hello::default()
        };
        assert!(hello.encoded_len() + 16 <= MAX_AGENT_MESSAGE, "{}", hello.encoded_len());
        assert_eq!([1, 300, 8_192, u32::MAX].map(max_claims), [1_025, 1_500, 12_288, 12_288]);
    }

    #[test]
    fn reports() {
        let wire = |kind: OutcomeKind, http_status| agent::Outcome {
            kind: kind.into(),
            http_status,
            ..agent::Outcome::default()
        };
        let class = |report| match report {
            Some(Report::Made(outcome)) => Some(outcome.class),
            _ => None,
        };
        assert_eq!(class(read_report(wire(OutcomeKind::Response, 204))), Some(Class::Success));
        assert_eq!(class(read_report(wire(OutcomeKind::Response, 302))), Some(Class::HttpStatus));
        assert_eq!(class(read_report(wire(OutcomeKind::Tls, 0))), Some(Class::Tls));
        assert_eq!(class(read_report(wire(OutcomeKind::Protocol, 0))), Some(Class::Protocol));
        let unprocessed = agent::Outcome { not_processed: true, ..wire(OutcomeKind::Protocol, 0) };
        assert_eq!(class(read_report(unprocessed)), Some(Class::NotProcessed));
        let answered = agent::Outcome { not_processed: true, ..wire(OutcomeKind::Response, 500) };
        assert_eq!(class(read_report(answered)), Some(Class::HttpStatus));
        assert_eq!(read_report(wire(OutcomeKind::NotStarted, 0)), Some(Report::NotStarted));
        assert_eq!(read_report(wire(OutcomeKind::Response, 0)), None);
        assert_eq!(read_report(wire(OutcomeKind::Unspecified, 200)), None);
    }
    #[test]
    fn what_an_agent_says_at_length_is_cut() {
        let header = |value: String| agent::Header { name: "server".to_owned(), value };
        let wire = agent::Outcome {
            kind: OutcomeKind::Response.into(),
            http_status: 200,
            detail: "é".repeat(MAX_KEPT_DETAIL),
            headers: vec![header("a".into()), header("b".repeat(MAX_KEPT_HEADERS)), header("c".into())],
            body: vec![0; MAX_KEPT_RESPONSE + 1].into(),
            http_version: "h".repeat(99),
            tls_version: "TLSv1.3".to_owned(),
            ..agent::Outcome::default()
        };
        let Some(Report::Made(outcome)) = read_report(wire) else { panic!("it says what happened") };
        assert_eq!(outcome.detail, "é".repeat(MAX_KEPT_DETAIL / 2));
        assert_eq!((outcome.http_version.len(), outcome.tls_version.as_str()), (MAX_VERSION, "TLSv1.3"));
        let response = outcome.response.unwrap();
        assert_eq!(response.headers, [("server".to_owned(), "a".to_owned())]);
        assert_eq!(response.body.len(), MAX_KEPT_RESPONSE);
        let many = vec![header("a".into()); MAX_HEADERS + 1];
        assert_eq!(kept_headers(many).len(), MAX_HEADERS);
    }
}

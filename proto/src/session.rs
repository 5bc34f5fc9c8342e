//! The link to agents: `postrider.agent.v1` outcomes → [`Outcome`], and the names of jobs.

use std::time::Duration;

use postrider_domain::id::DeliveryId;
use postrider_domain::outcome::{Class, Outcome, Response, Timings};

use crate::agent::{self, OutcomeKind};

/// The newest protocol version of the link.
pub const PROTOCOL: u32 = 1;
/// The most bytes of a response's body that a job may ask for.
pub const MAX_KEPT_RESPONSE: usize = 64 * 1024;

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
    /// The key, written.
    #[must_use]
    pub fn write(&self) -> agent::JobKey {
        agent::JobKey { delivery_id: self.delivery.to_string(), attempt: self.attempt, epoch: self.epoch }
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
#[must_use]
pub fn read_report(wire: agent::Outcome) -> Option<Report> {
    let response = (wire.http_status != 0).then(|| Response {
        status: u16::try_from(wire.http_status).unwrap_or(u16::MAX),
        headers: wire.headers.into_iter().map(|header| (header.name, header.value)).collect(),
        body: wire.body.slice(..wire.body.len().min(MAX_KEPT_RESPONSE)),
    });
    let class = match OutcomeKind::try_from(wire.kind).ok()? {
        OutcomeKind::Unspecified => return None,
        OutcomeKind::NotStarted => return Some(Report::NotStarted),
        OutcomeKind::Response => Class::of_status(response.as_ref()?.status),
        OutcomeKind::Timeout => Class::Timeout,
        OutcomeKind::Dns => Class::Dns,
        OutcomeKind::Connect => Class::Connect,
        OutcomeKind::Tls => Class::Tls,
        OutcomeKind::Protocol => Class::Protocol,
        OutcomeKind::RefusedByPolicy => Class::RefusedByPolicy,
    };
    let micros = |micros: u32| Duration::from_micros(micros.into());
    Some(Report::Made(Box::new(Outcome {
        class,
        detail: wire.detail,
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
        http_version: wire.http_version,
        tls_version: wire.tls_version,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(read_report(wire(OutcomeKind::NotStarted, 0)), Some(Report::NotStarted));
        assert_eq!(read_report(wire(OutcomeKind::Response, 0)), None);
        assert_eq!(read_report(wire(OutcomeKind::Unspecified, 200)), None);
    }
}

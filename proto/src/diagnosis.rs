//! Looks at endpoints: `postrider.agent.v1.Diagnosis` → `postrider.v1.Diagnosis`.

use std::time::Duration;

use postrider_domain::outcome::{Class, Timings};
use postrider_domain::time::Timestamp;

use crate::agent::{self, OutcomeKind};
use crate::attempt::{write_class, write_timings};
use crate::session::{MAX_KEPT_DETAIL, cut};
use crate::{time, v1};

/// What an agent can do that is asked for a diagnosis, by its name in Hello.
pub const CAPABILITY: &str = "diagnose";
/// Certificates and addresses that are kept, and names of a certificate.
const MAX_CERTIFICATES: usize = 8;
const MAX_ADDRESSES: usize = 64;
const MAX_NAMES: usize = 20;
/// The longest name, address or version that is kept.
const MAX_NAME: usize = 256;
/// Headers that answer a handshake, and the longest that is kept.
const MAX_HEADERS: usize = 4;

/// What became of a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The agent looked.
    Looked(Box<Looked>),
    /// It could not: it is busy, or stopping.
    NotStarted,
}

/// What an agent saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    /// As it is shown; who looked, when and at what is not in it.
    pub shown: v1::Diagnosis,
    /// The headers that answer a handshake, by name in lower case.
    pub headers: Vec<(String, String)>,
}

impl Looked {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What an agent says it found, read; `None` when it does not say how it ended. As with outcomes, what is longer than any
/// agent says it is cut.
#[must_use]
pub fn read(wire: agent::Diagnosis) -> Option<Found> {
    let class = match OutcomeKind::try_from(wire.kind).ok()? {
        OutcomeKind::Unspecified => return None,
        OutcomeKind::NotStarted => return Some(Found::NotStarted),
        OutcomeKind::Response => {
            Class::of_status(u16::try_from(wire.http_status).ok().filter(|status| *status > 0)?)
        }
        OutcomeKind::Timeout => Class::Timeout,
        OutcomeKind::Dns => Class::Dns,
        OutcomeKind::Connect => Class::Connect,
        OutcomeKind::Tls => Class::Tls,
        OutcomeKind::Protocol => Class::Protocol,
        OutcomeKind::RefusedByPolicy => Class::RefusedByPolicy,
    };
    let micros = |micros: u32| Duration::from_micros(micros.into());
    let timings = Timings {
        queue: Duration::ZERO,
        dns: wire.dns_us.map(micros),
        connect: wire.connect_us.map(micros),
        tls: wire.tls_us.map(micros),
        first_byte: wire.first_byte_us.map(micros),
        total: micros(wire.total_us),
    };
    let name = |text| cut(text, MAX_NAME);
    let shown = v1::Diagnosis {
        outcome: write_class(class).into(),
        detail: cut(wire.detail, MAX_KEPT_DETAIL),
        refusal_code: name(wire.refusal_code),
        refusal: cut(wire.refusal, 2 * MAX_KEPT_DETAIL),
        addresses: wire.addresses.into_iter().take(MAX_ADDRESSES).map(name).collect(),
        peer: name(wire.peer),
        through_proxy: wire.through_proxy,
        tls_version: name(wire.tls_version),
        certificates: wire.certificates.into_iter().take(MAX_CERTIFICATES).map(certificate).collect(),
        http_version: name(wire.http_version),
        http_status: wire.http_status,
        timings: Some(write_timings(&timings)),
        ..v1::Diagnosis::default()
    };
    let headers = wire.headers.into_iter().take(MAX_HEADERS);
    let headers = headers.map(|header| (name(header.name).to_ascii_lowercase(), name(header.value)));
    Some(Found::Looked(Box::new(Looked { shown, headers: headers.collect() })))
}

/// Takes out of a diagnosis what only the operator of the platform may see: a tenant chooses the URL, and must not learn of
/// the network that the agent is in.
pub fn confine(diagnosis: &mut v1::Diagnosis) {
    diagnosis.refusal_code.clear();
    diagnosis.refusal.clear();
    diagnosis.addresses.clear();
    diagnosis.peer.clear();
}

fn certificate(seen: agent::SeenCertificate) -> v1::EndpointCertificate {
    let time = |seconds: i64| {
        let last = Timestamp::MAX.as_seconds();
        Some(time::write(Timestamp::from_millis(seconds.clamp(0, last) * 1000)))
    };
    v1::EndpointCertificate {
        subject: cut(seen.subject, MAX_NAME),
        issuer: cut(seen.issuer, MAX_NAME),
        not_before: time(seen.not_before),
        not_after: time(seen.not_after),
        names: seen.names.into_iter().take(MAX_NAMES).map(|name| cut(name, MAX_NAME)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_is_read_and_cut() {
        let wire = |kind: OutcomeKind| agent::Diagnosis { kind: kind.into(), ..agent::Diagnosis::default() };
        assert_eq!(read(wire(OutcomeKind::Unspecified)), None);
        assert_eq!(read(wire(OutcomeKind::Response)), None, "a response has a status");
        assert_eq!(read(wire(OutcomeKind::NotStarted)), Some(Found::NotStarted));
        let long = "é".repeat(1000);
        let seen = agent::SeenCertificate {
            subject: long.clone(),
            not_after: i64::MAX,
            not_before: -1,
            names: vec![long.clone(); 100],
            ..agent::SeenCertificate::default()
        };
        let header = agent::Header { name: "WebHook-Allowed-Origin".into(), value: "*".into() };
        let wire = agent::Diagnosis {
            kind: OutcomeKind::Response.into(),
            http_status: 404,
            addresses: vec![long.clone(); 100],
            refusal: long,
            certificates: vec![seen; 100],
            headers: vec![header; 100],
            ..agent::Diagnosis::default()
        };
        let Some(Found::Looked(looked)) = read(wire) else { panic!("it looked") };
        assert_eq!(looked.header("webhook-allowed-origin"), Some("*"));
        assert_eq!(looked.headers.len(), MAX_HEADERS);
        let mut shown = looked.shown;
        assert_eq!(shown.outcome(), v1::OutcomeClass::HttpStatus);
        assert_eq!((shown.addresses.len(), shown.certificates.len()), (MAX_ADDRESSES, MAX_CERTIFICATES));
        let first = &shown.certificates[0];
        assert!(first.subject.len() <= MAX_NAME && first.names.len() == MAX_NAMES);
        assert!(first.not_after.is_some_and(|end| end.seconds == Timestamp::MAX.as_seconds()));
        confine(&mut shown);
        assert!(shown.addresses.is_empty() && shown.refusal.is_empty() && !shown.certificates.is_empty());
    }
}

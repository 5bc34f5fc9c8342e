//! Attempts: `postrider.v1.Attempt` ⇄ [`Attempt`].

use std::time::Duration;

use postrider_domain::outcome::{Attempt, Class, Outcome, Response, Timings};

use crate::time;
use crate::v1;

/// An attempt, written.
#[must_use]
pub fn write(attempt: &Attempt) -> v1::Attempt {
    let outcome = &attempt.outcome;
    let response = outcome.response.as_ref();
    v1::Attempt {
        number: attempt.number,
        start_time: Some(time::write(attempt.started)),
        agent: attempt.agent.to_string(),
        outcome: write_class(outcome.class).into(),
        detail: outcome.detail.clone(),
        http_status: outcome.status().map_or(0, u32::from),
        response_headers: response.map(write_headers).unwrap_or_default(),
        response_body: response.map(|response| response.body.clone()).unwrap_or_default(),
        timings: Some(write_timings(&outcome.timings)),
        http_version: outcome.http_version.clone(),
        tls_version: outcome.tls_version.clone(),
        request_sent: outcome.request_sent,
    }
}

/// An attempt, read back from a store; `None` when it is not one that [`write()`] wrote.
#[must_use]
pub fn read(wire: v1::Attempt) -> Option<Attempt> {
    let class = read_class(wire.outcome())?;
    let response = (wire.http_status != 0).then(|| Response {
        status: u16::try_from(wire.http_status).unwrap_or(u16::MAX),
        headers: wire.response_headers.into_iter().map(|header| (header.name, header.value)).collect(),
        body: wire.response_body,
    });
    Some(Attempt {
        number: wire.number,
        started: time::read("start_time", &wire.start_time?).ok()?,
        agent: wire.agent.parse().ok()?,
        outcome: Outcome {
            class,
            detail: wire.detail,
            response,
            request_sent: wire.request_sent,
            timings: wire.timings.map(|timings| read_timings(&timings)).unwrap_or_default(),
            http_version: wire.http_version,
            tls_version: wire.tls_version,
        },
    })
}

fn write_headers(response: &Response) -> Vec<v1::Header> {
    let header = |(name, value): &(String, String)| v1::Header { name: name.clone(), value: value.clone() };
    response.headers.iter().map(header).collect()
}

pub(crate) fn write_timings(timings: &Timings) -> v1::Timings {
    v1::Timings {
        queue: Some(time::write_duration(timings.queue)),
        dns: timings.dns.map(time::write_duration),
        connect: timings.connect.map(time::write_duration),
        tls: timings.tls.map(time::write_duration),
        first_byte: timings.first_byte.map(time::write_duration),
        total: Some(time::write_duration(timings.total)),
    }
}

fn read_timings(wire: &v1::Timings) -> Timings {
    let phase =
        |wire: Option<&prost_types::Duration>| wire.and_then(|wire| time::read_duration("", wire).ok());
    Timings {
        queue: phase(wire.queue.as_ref()).unwrap_or(Duration::ZERO),
        dns: phase(wire.dns.as_ref()),
        connect: phase(wire.connect.as_ref()),
        tls: phase(wire.tls.as_ref()),
        first_byte: phase(wire.first_byte.as_ref()),
        total: phase(wire.total.as_ref()).unwrap_or(Duration::ZERO),
    }
}

/// The kind of an outcome, written.
#[must_use]
pub fn write_class(class: Class) -> v1::OutcomeClass {
    match class {
        Class::Success => v1::OutcomeClass::Success,
        Class::HttpStatus => v1::OutcomeClass::HttpStatus,
        Class::Timeout => v1::OutcomeClass::Timeout,
        Class::Dns => v1::OutcomeClass::Dns,
        Class::Connect => v1::OutcomeClass::Connect,
        Class::Tls => v1::OutcomeClass::Tls,
        Class::Protocol => v1::OutcomeClass::Protocol,
        Class::NotProcessed => v1::OutcomeClass::NotProcessed,
        Class::RefusedByPolicy => v1::OutcomeClass::RefusedByPolicy,
        Class::AgentLost => v1::OutcomeClass::AgentLost,
    }
}

fn read_class(wire: v1::OutcomeClass) -> Option<Class> {
    match wire {
        v1::OutcomeClass::Unspecified => None,
        v1::OutcomeClass::Success => Some(Class::Success),
        v1::OutcomeClass::HttpStatus => Some(Class::HttpStatus),
        v1::OutcomeClass::Timeout => Some(Class::Timeout),
        v1::OutcomeClass::Dns => Some(Class::Dns),
        v1::OutcomeClass::Connect => Some(Class::Connect),
        v1::OutcomeClass::Tls => Some(Class::Tls),
        v1::OutcomeClass::Protocol => Some(Class::Protocol),
        v1::OutcomeClass::NotProcessed => Some(Class::NotProcessed),
        v1::OutcomeClass::RefusedByPolicy => Some(Class::RefusedByPolicy),
        v1::OutcomeClass::AgentLost => Some(Class::AgentLost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::time::Timestamp;

    #[test]
    fn attempts_read_back() {
        let response =
            Response { status: 503, headers: vec![("retry-after".into(), "5".into())], body: "busy".into() };
        let timings = Timings { tls: Some(Duration::from_micros(900)), ..Timings::default() };
        let outcome = Outcome {
            response: Some(response),
            timings,
            request_sent: true,
            ..Outcome::failure(Class::HttpStatus, "the endpoint answered 503")
        };
        for outcome in [outcome, Outcome::failure(Class::AgentLost, "")] {
            let started = Timestamp::from_millis(1_770_028_200_123);
            let attempt = Attempt { number: 3, started, agent: "a-1".parse().unwrap(), outcome };
            assert_eq!(read(write(&attempt)), Some(attempt));
        }
        assert_eq!(read(v1::Attempt::default()), None);
    }
}

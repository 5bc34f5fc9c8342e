//! Attempts, shown: what happened, how long each phase took, and the head of the response.

use std::fmt::Write as _;

use postrider_proto::v1;
use serde::Serialize;

use super::{duration, time, word};
use crate::time::{duration_for_people, duration_from_wire};

/// Mirrors `postrider.v1.Attempt`.
#[derive(Debug, Serialize)]
pub(crate) struct Attempt {
    number: u32,
    start_time: Option<String>,
    agent: String,
    outcome: String,
    detail: String,
    http_status: u32,
    response_headers: Vec<Header>,
    response_body: String,
    timings: Option<Timings>,
    http_version: String,
    tls_version: String,
    request_sent: bool,
    #[serde(skip)]
    phases: Vec<(&'static str, String)>,
}

/// Mirrors `postrider.v1.Header`.
#[derive(Debug, Serialize)]
struct Header {
    name: String,
    value: String,
}

/// Mirrors `postrider.v1.Timings`.
#[derive(Debug, Serialize)]
pub(crate) struct Timings {
    queue: Option<String>,
    dns: Option<String>,
    connect: Option<String>,
    tls: Option<String>,
    first_byte: Option<String>,
    total: Option<String>,
}

impl From<v1::Attempt> for Attempt {
    fn from(attempt: v1::Attempt) -> Self {
        let headers = attempt.response_headers.into_iter();
        Self {
            number: attempt.number,
            start_time: time(attempt.start_time.as_ref()),
            outcome: word::<v1::OutcomeClass>(attempt.outcome),
            detail: attempt.detail,
            http_status: attempt.http_status,
            response_headers: headers.map(|line| Header { name: line.name, value: line.value }).collect(),
            response_body: String::from_utf8_lossy(&attempt.response_body).into_owned(),
            phases: attempt.timings.as_ref().map(phases).unwrap_or_default(),
            timings: attempt.timings.as_ref().map(timings),
            agent: attempt.agent,
            http_version: attempt.http_version,
            tls_version: attempt.tls_version,
            request_sent: attempt.request_sent,
        }
    }
}

pub(crate) fn timings(timings: &v1::Timings) -> Timings {
    Timings {
        queue: duration(timings.queue.as_ref()),
        dns: duration(timings.dns.as_ref()),
        connect: duration(timings.connect.as_ref()),
        tls: duration(timings.tls.as_ref()),
        first_byte: duration(timings.first_byte.as_ref()),
        total: duration(timings.total.as_ref()),
    }
}

pub(crate) fn phases(timings: &v1::Timings) -> Vec<(&'static str, String)> {
    let phases = [
        ("queue", &timings.queue),
        ("dns", &timings.dns),
        ("connect", &timings.connect),
        ("tls", &timings.tls),
        ("first byte", &timings.first_byte),
        ("total", &timings.total),
    ];
    let took = |duration: &prost_types::Duration| duration_for_people(duration_from_wire(duration));
    phases.iter().filter_map(|(name, phase)| phase.as_ref().map(|phase| (*name, took(phase)))).collect()
}

impl Attempt {
    /// What happened, in a few words: `204 in 3.2ms`, `timeout in 15s`.
    pub(crate) fn summary(&self) -> String {
        let what = match self.outcome.as_str() {
            "success" | "http_status" => self.http_status.to_string(),
            outcome => outcome.to_owned(),
        };
        match self.phases.iter().find(|(name, _)| *name == "total") {
            Some((_, total)) => format!("{what} in {total}"),
            None => what,
        }
    }

    /// Whether the endpoint answered 2xx.
    pub(crate) fn is_success(&self) -> bool {
        self.outcome == "success"
    }

    /// Every detail, in lines below a title.
    pub(crate) fn for_people(&self) -> String {
        let time = self.start_time.clone().unwrap_or_default();
        let mut text = format!("Attempt {}  {time}  {}\n", self.number, self.summary());
        let phases: Vec<String> = self.phases.iter().map(|(name, took)| format!("{name} {took}")).collect();
        let sent = if self.request_sent { "yes" } else { "no, the endpoint has not seen it" };
        let protocol = [self.http_version.as_str(), self.tls_version.as_str()];
        let headers = self.response_headers.iter().map(|line| format!("{}: {}", line.name, line.value));
        let pairs = [
            ("Outcome", self.outcome.clone()),
            ("Detail", self.detail.clone()),
            ("Agent", self.agent.clone()),
            ("Timings", phases.join(", ")),
            ("Protocol", protocol.join(" ").trim().to_owned()),
            ("Request sent", sent.to_owned()),
            ("Response", headers.collect::<Vec<_>>().join("\n")),
            ("Body", self.response_body.trim_end().to_owned()),
        ];
        for line in crate::output::details(&pairs).lines() {
            writeln!(text, "  {line}").expect("writing to a string succeeds");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> Attempt {
        let millis = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
        Attempt::from(v1::Attempt {
            number: 2,
            start_time: Some(prost_types::Timestamp { seconds: 1_770_028_200, nanos: 0 }),
            agent: "agent-1".into(),
            outcome: v1::OutcomeClass::HttpStatus.into(),
            detail: "the endpoint answered 503".into(),
            http_status: 503,
            response_headers: vec![v1::Header { name: "retry-after".into(), value: "5".into() }],
            response_body: "busy\r\n\x1b[31m".into(),
            timings: Some(v1::Timings { connect: millis(1), total: millis(12), ..Default::default() }),
            http_version: "HTTP/1.1".into(),
            request_sent: true,
            ..Default::default()
        })
    }

    #[test]
    fn an_attempt_reads_well() {
        let expected = "\
Attempt 2  2026-02-02T10:30:00Z  503 in 12.0ms
  Outcome       http_status
  Detail        the endpoint answered 503
  Agent         agent-1
  Timings       connect 1.00ms, total 12.0ms
  Protocol      HTTP/1.1
  Request sent  yes
  Response      retry-after: 5
  Body          busy
                \u{fffd}[31m
";
        assert_eq!(attempt().for_people(), expected);
    }

    #[test]
    fn json_has_every_field() {
        let json = serde_json::to_value(attempt()).unwrap();
        assert_eq!(json["outcome"], "http_status");
        assert_eq!(json["timings"]["total"], "0.012s");
        assert_eq!(json["timings"]["tls"], serde_json::Value::Null);
        assert_eq!(json["response_headers"][0]["name"], "retry-after");
        assert_eq!(json.as_object().unwrap().len(), 12);
    }
}

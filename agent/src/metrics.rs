//! The agent's metrics: their names and meanings, and where what happens is counted.

use std::time::Duration;

use postrider_domain::outcome::Class;
use postrider_proto::agent::{Outcome, OutcomeKind};
use postrider_telemetry::metrics::{Catalogue, Counters, Histograms, IntGauge, Known, Label};

use crate::shortage::{Shortage, WORDS};

const CONNECT: [Label; 1] = [Label { name: "result", values: &["welcomed", "rejected", "failed"] }];
const OUTCOME: [Label; 1] = [Label {
    name: "outcome",
    values: &[
        "success",
        "http_status",
        "timeout",
        "dns",
        "connect",
        "tls",
        "protocol",
        "refused_by_policy",
        "not_processed",
        NOT_STARTED,
    ],
}];
const NOT_STARTED: &str = "not_started";
const SHORTAGE: [Label; 1] = [Label { name: "shortage", values: &WORDS }];
const TASK: [Label; 1] = [Label { name: "task", values: &crate::tasks::ALL }];
const PHASE: [Label; 1] =
    [Label { name: "phase", values: &["queue", "dns", "connect", "tls", "first_byte", "total"] }];

/// See the [module](self).
pub struct Metrics {
    catalogue: Catalogue,
    /// Streams that are open.
    pub(crate) streams: IntGauge,
    connects: Counters,
    /// Whether the agent has been told to stop.
    pub(crate) draining: IntGauge,
    /// Jobs that have not ended.
    pub(crate) jobs: IntGauge,
    /// Jobs that the agent can hold.
    pub(crate) places: IntGauge,
    attempts: Counters,
    phases: Histograms,
    shortages: Counters,
    /// Outcomes that are not acknowledged.
    pub(crate) outbox: IntGauge,
    /// Outcomes that may be sent and not acknowledged.
    pub(crate) capacity: IntGauge,
    /// When the certificate ends.
    pub(crate) expiry: Known,
    /// Failures of tasks.
    pub(crate) task_failures: Counters,
}

/// What came of an attempt to open a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connect {
    Welcomed,
    Rejected,
    Failed,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All of them, at nothing.
    #[must_use]
    pub fn new() -> Metrics {
        let mut all = Catalogue::new();
        all.build("postrider_agent_build_info", env!("CARGO_PKG_VERSION"));
        let connects = "Attempts to open a stream to the control plane, by what came of them: a session; a refusal in words; \
            or no session, for any other reason.";
        let attempts = "Jobs that have ended, by outcome; those that are not_started go back to the control plane, and are \
            no attempts.";
        let phases = "How long each phase of an attempt took: waiting in the agent, name lookup, TCP, TLS, from the request to \
            the first byte of the answer, and all of it but the waiting. A phase that did not happen is not counted.";
        let shortages = "How often something was lacking on the agent's machine when an attempt was to be started. Such attempts \
            wait, or go back to the control plane as not_started.";
        let capacity = "Outcomes that may be sent and not acknowledged; beyond it no more are sent, and their places stay taken.";
        let expiry = "When the agent's certificate ends; not there while it has none.";
        let task_failures = "Tasks of the program that panicked or ended too early, by task. The process ends with the first \
            one, so this is seen only while it winds up.";
        Metrics {
            streams: all.gauge("postrider_agent_streams", "Streams to the control plane that are open."),
            connects: all.counters("postrider_agent_stream_connects_total", connects, &CONNECT),
            draining: all.gauge("postrider_agent_draining", "1 while the agent is stopping, else 0."),
            jobs: all.gauge("postrider_agent_jobs_in_flight", "Jobs that have not ended."),
            places: all.gauge(
                "postrider_agent_max_jobs_in_flight",
                "Maximum number of jobs in flight, over all streams.",
            ),
            attempts: all.counters("postrider_agent_attempts_total", attempts, &OUTCOME),
            phases: all.histograms("postrider_agent_attempt_duration_seconds", phases, &PHASE),
            shortages: all.counters("postrider_agent_shortages_total", shortages, &SHORTAGE),
            outbox: all.gauge("postrider_agent_outbox_outcomes", "Outcomes that are not acknowledged."),
            capacity: all.gauge("postrider_agent_outbox_capacity", capacity),
            expiry: all.known("postrider_agent_certificate_expiry_timestamp_seconds", expiry),
            task_failures: all.counters("postrider_agent_task_failures_total", task_failures, &TASK),
            catalogue: all,
        }
    }

    /// All of them as they are now, in Prometheus' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        self.catalogue.encode()
    }

    /// A table of them for the reference page, in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        self.catalogue.table()
    }

    pub(crate) fn connected(&self, connect: Connect) {
        self.connects.inc(match connect {
            Connect::Welcomed => "welcomed",
            Connect::Rejected => "rejected",
            Connect::Failed => "failed",
        });
    }

    /// Something was lacking.
    pub(crate) fn lacked(&self, shortage: Shortage) {
        self.shortages.inc(shortage.as_str());
    }

    /// A job has ended.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        let word = word(outcome);
        self.attempts.inc(word);
        if word == NOT_STARTED {
            return;
        }
        let phases = [
            ("queue", Some(outcome.queue_us)),
            ("dns", outcome.dns_us),
            ("connect", outcome.connect_us),
            ("tls", outcome.tls_us),
            ("first_byte", outcome.first_byte_us),
            ("total", Some(outcome.total_us)),
        ];
        for (phase, took) in phases {
            took.into_iter()
                .for_each(|micros| self.phases.observe(phase, Duration::from_micros(micros.into())));
        }
    }
}

/// The words that the control plane has for the same.
fn word(outcome: &Outcome) -> &'static str {
    let class = match outcome.kind() {
        OutcomeKind::NotStarted | OutcomeKind::Unspecified => return NOT_STARTED,
        OutcomeKind::Response => Class::of_status(u16::try_from(outcome.http_status).unwrap_or(u16::MAX)),
        OutcomeKind::Timeout => Class::Timeout,
        OutcomeKind::Dns => Class::Dns,
        OutcomeKind::Connect => Class::Connect,
        OutcomeKind::Tls => Class::Tls,
        OutcomeKind::Protocol if outcome.not_processed => Class::NotProcessed,
        OutcomeKind::Protocol => Class::Protocol,
        OutcomeKind::RefusedByPolicy => Class::RefusedByPolicy,
    };
    class.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_and_what_was_not_started_took_no_time() {
        let metrics = Metrics::new();
        let kinds = [
            OutcomeKind::Timeout,
            OutcomeKind::Dns,
            OutcomeKind::Connect,
            OutcomeKind::Tls,
            OutcomeKind::Protocol,
            OutcomeKind::RefusedByPolicy,
            OutcomeKind::NotStarted,
        ];
        for kind in kinds {
            metrics.ended(&Outcome { kind: kind.into(), ..Outcome::default() });
        }
        let kind = OutcomeKind::Protocol.into();
        metrics.ended(&Outcome { kind, not_processed: true, ..Outcome::default() });
        for http_status in [204, 302] {
            let kind = OutcomeKind::Response.into();
            metrics.ended(&Outcome { kind, http_status, dns_us: Some(1500), ..Outcome::default() });
        }
        let text = metrics.encode();
        let shows = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        for outcome in OUTCOME[0].values {
            shows(&format!("postrider_agent_attempts_total{{outcome=\"{outcome}\"}} 1"));
        }
        shows("postrider_agent_attempt_duration_seconds_count{phase=\"total\"} 9");
        shows("postrider_agent_attempt_duration_seconds_count{phase=\"dns\"} 2");
        shows("postrider_agent_attempt_duration_seconds_sum{phase=\"dns\"} 0.003");
    }
}

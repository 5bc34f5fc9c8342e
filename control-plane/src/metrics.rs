//! The control plane's metrics: their names and meanings, and where what happens is counted.
//!
//! What happens is counted where it happens, in atomics. How things are is asked for at each scrape ([`levels`]), of those
//! who keep sums of it anyway: a scrape reads neither the store nor every lane. What takes longer is looked at from time to
//! time ([`upkeep`]).

pub mod compute;
pub mod levels;
pub(crate) mod limits;
pub mod reads;
pub mod upkeep;

use std::time::Duration;

use postrider_domain::delivery::{Delivery, State};
use postrider_domain::outcome::{Attempt, Class};
use postrider_domain::time::Timestamp;
use postrider_telemetry::metrics::{
    Catalogue, Counters, Histogram, Histograms, IntCounter, IntGauge, IntGaugeVec, Known, Label,
};

use self::levels::{Levels, Sources};
use self::limits::Limits;
use self::reads::ReadCounts;
use self::upkeep::Kept;
use crate::listen::SlotMetrics;
use crate::schedule::Assignment;

const EMITTED: [Label; 1] = [Label { name: "result", values: &["accepted", "duplicate", "refused"] }];
const STATE: [Label; 1] = [Label { name: "state", values: &["delivered", "exhausted", "cancelled"] }];
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
        "agent_lost",
        "not_processed",
    ],
}];
const PHASE: [Label; 1] =
    [Label { name: "phase", values: &["queue", "dns", "connect", "tls", "first_byte", "total"] }];
const WELCOME: [Label; 1] = [Label { name: "result", values: &["welcomed", "rejected"] }];
const MISCONDUCT: [Label; 1] =
    [Label { name: "kind", values: &["identity", "claim", "outcome", "flood", "protocol"] }];
const PORT: [Label; 1] = [Label { name: "port", values: &["api", "agents"] }];
const BACKUP: [Label; 1] = [Label { name: "result", values: &["success", "failure"] }];
const TASK: [Label; 1] = [Label { name: "task", values: &crate::tasks::ALL }];

const FLOODS: &str = "Connections that were closed because their client sent too many HTTP/2 frames that carry no body: pings, \
    settings, priorities, window updates, unknown, empty or tiny frames. No client of Postrider does.";
const AUDIT_HEAD: &str = "The number of the last audit record, exported every minute. It never falls: a lower number than before \
    means that records were removed.";

/// See the [module](self).
pub struct Metrics {
    catalogue: Catalogue,
    emits: Emits,
    deliveries: Deliveries,
    agents: Agents,
    writes: Writes,
    connections: IntGaugeVec,
    floods: Counters,
    pub(crate) limits: Limits,
    backups: Backups,
    audit_head: IntGauge,
    audit_stream: AuditStream,
    reads: ReadCounts,
    levels: Levels,
    kept: Kept,
    task_failures: Counters,
    /// The threads that judge events by schemas and filters.
    pub compute: compute::Compute,
}

struct Emits {
    results: Counters,
    took: Histogram,
}

struct Deliveries {
    ended: Counters,
    attempts: Counters,
    phases: Histograms,
    delay: Histogram,
    lag: Histogram,
}

struct Agents {
    connects: Counters,
    lost: IntCounter,
    misconduct: Counters,
    duplicates: IntCounter,
}

/// How writes of the store go.
#[derive(Clone)]
pub struct Writes {
    took: Histogram,
    failed: IntCounter,
}

struct AuditStream {
    lag: Known,
    failures: IntCounter,
}

struct Backups {
    results: Counters,
    last: Known,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut all = Catalogue::new();
        all.build("postrider_build_info", env!("CARGO_PKG_VERSION"));
        let task_failures = "Tasks of the program that panicked or ended too early, by task. The process ends with the first \
            one, so this is seen only while it winds up.";
        Self {
            emits: Emits::new(&mut all),
            deliveries: Deliveries::new(&mut all),
            agents: Agents::new(&mut all),
            writes: Writes::new(&mut all),
            connections: all.gauges("postrider_connections", "Connections that are open.", &PORT),
            floods: all.counters("postrider_flooding_connections_total", FLOODS, &PORT),
            limits: Limits::new(&mut all),
            backups: Backups::new(&mut all),
            audit_head: all.gauge("postrider_audit_head_sequence", AUDIT_HEAD),
            audit_stream: AuditStream::new(&mut all),
            reads: ReadCounts::new(&mut all),
            levels: Levels::new(&mut all),
            kept: Kept::new(&mut all),
            task_failures: all.counters("postrider_task_failures_total", task_failures, &TASK),
            compute: compute::Compute::new(&mut all),
            catalogue: all,
        }
    }

    /// All of them as they are now, in Prometheus' text format. Before there are sources, without what is asked of them.
    pub async fn show(&self, sources: Option<&Sources>) -> String {
        let _until_it_is_shown = match sources {
            Some(sources) => Some(self.levels.ask(sources).await),
            None => None,
        };
        self.catalogue.encode()
    }

    /// A table of them for the reference page, in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        self.catalogue.table()
    }

    /// An event is on disk, so long after it was handed in.
    pub fn accepted(&self, duplicate: bool, took: Duration) {
        self.emits.results.inc(if duplicate { "duplicate" } else { "accepted" });
        self.emits.took.observe(took.as_secs_f64());
    }

    /// An event was not accepted.
    pub fn refused(&self) {
        self.emits.results.inc("refused");
    }

    /// Deliveries are given to an agent.
    pub fn given(&self, jobs: &[Assignment], now: Timestamp) {
        for delivery in jobs.iter().map(|job| &job.delivery).filter(|delivery| delivery.attempts == 0) {
            let due = delivery.state.due().unwrap_or_else(|| delivery.event.created());
            self.deliveries.delay.observe(now.since(due).as_secs_f64());
        }
    }

    /// An attempt has ended.
    pub fn attempted(&self, attempt: &Attempt) {
        let (class, timings) = (attempt.outcome.class, &attempt.outcome.timings);
        self.deliveries.attempts.inc(class.as_str());
        if class == Class::AgentLost {
            // Nobody reported how long it took.
            return;
        }
        let phases = &self.deliveries.phases;
        phases.observe("queue", timings.queue);
        phases.observe("total", timings.total);
        let others = [
            ("dns", timings.dns),
            ("connect", timings.connect),
            ("tls", timings.tls),
            ("first_byte", timings.first_byte),
        ];
        for (phase, took) in others {
            took.into_iter().for_each(|took| phases.observe(phase, took));
        }
    }

    /// A delivery's new state is on disk.
    pub fn settled(&self, delivery: &Delivery) {
        match delivery.state {
            State::Pending | State::Waiting(_) => {}
            State::Delivered(_) => self.deliveries.ended.inc("delivered"),
            State::Exhausted(_) => self.deliveries.ended.inc("exhausted"),
            State::Cancelled(_) => self.deliveries.ended.inc("cancelled"),
        }
    }

    /// A message of outcomes is on disk, so long after it came.
    pub fn acknowledged(&self, after: Duration) {
        self.deliveries.lag.observe(after.as_secs_f64());
    }

    /// An agent's stream was let in, or not.
    pub fn connected(&self, welcomed: bool) {
        self.agents.connects.inc(if welcomed { "welcomed" } else { "rejected" });
    }

    /// Two processes were seen with one agent's identity.
    pub fn duplicate(&self) {
        self.agents.duplicates.inc();
    }

    /// An agent's stream has ended without a goodbye.
    pub fn lost(&self) {
        self.agents.lost.inc();
    }

    /// An agent did what no honest agent does.
    pub fn misconduct(&self, kind: &'static str) {
        self.agents.misconduct.inc(kind);
    }

    /// The audit log ends with this record.
    pub fn audit_head(&self, sequence: u64) {
        self.audit_head.set(i64::try_from(sequence).unwrap_or(i64::MAX));
    }

    /// Where the store says how its writes go.
    #[must_use]
    pub fn writes(&self) -> Writes {
        self.writes.clone()
    }

    /// So many audit records have not arrived where they are streamed.
    pub fn audit_stream_lag(&self, records: u64) {
        self.audit_stream.lag.set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// The stream of audit records was interrupted.
    pub fn audit_stream_failed(&self) {
        self.audit_stream.failures.inc();
    }

    /// Where reads and streams that watch are counted.
    #[must_use]
    pub fn reads(&self) -> ReadCounts {
        self.reads.clone()
    }

    /// Where failures of tasks are counted.
    #[must_use]
    pub fn task_failures(&self) -> Counters {
        self.task_failures.clone()
    }

    /// How many connections there are to a port, `api` or `agents`, and who had to make room.
    #[must_use]
    pub fn connections(&self, port: &'static str) -> SlotMetrics {
        let connections = self.connections.with_label_values(&[port]);
        SlotMetrics { connections, decisions: self.limits.decisions.clone() }
    }

    /// Where connections are counted that were closed for their frames, by port.
    #[must_use]
    pub fn floods(&self) -> Counters {
        self.floods.clone()
    }

    /// A backup was made at this time, or failed.
    pub fn backed_up(&self, good: bool, now: Timestamp) {
        self.backups.results.inc(if good { "success" } else { "failure" });
        if good {
            self.backups.last.set(now.as_millis() / 1000);
        }
    }
}

impl AuditStream {
    fn new(all: &mut Catalogue) -> Self {
        let lag = "Audit records that have not arrived at `audit_stream`; absent without that setting. They wait in the log.";
        let failures = "Times that the stream of audit records was interrupted: the receiver was not reached, or took nothing.";
        Self {
            lag: all.known("postrider_audit_stream_lag_records", lag),
            failures: all.counter("postrider_audit_stream_failures_total", failures),
        }
    }
}

impl Emits {
    fn new(all: &mut Catalogue) -> Self {
        let results = "Events that were emitted, by what became of them: accepted; the same as one before, under its \
            idempotency key or id; or refused, for whatever reason.";
        let took = "From an event that is handed in to its being on disk: what its emitter waits for, beside the network.";
        Self {
            results: all.counters("postrider_emits_total", results, &EMITTED),
            took: all.histogram("postrider_emit_duration_seconds", took),
        }
    }
}

impl Deliveries {
    fn new(all: &mut Catalogue) -> Self {
        let phases = "How long each phase of an attempt took, as agents report: waiting in the agent, name lookup, TCP, TLS, \
            from the request to the first byte of the answer, and all of it but the waiting. A phase that did not happen is \
            not counted.";
        let delay = "From a delivery that is due to its being given to an agent; first attempts only.";
        let lag =
            "From agents' outcomes that come in to their being on disk; one for each message of outcomes.";
        Self {
            ended: all.counters(
                "postrider_deliveries_ended_total",
                "Deliveries that have ended, by how.",
                &STATE,
            ),
            attempts: all.counters(
                "postrider_attempts_total",
                "Attempts that have ended, by outcome.",
                &OUTCOME,
            ),
            phases: all.histograms("postrider_attempt_duration_seconds", phases, &PHASE),
            delay: all.histogram("postrider_dispatch_delay_seconds", delay),
            lag: all.histogram("postrider_settle_lag_seconds", lag),
        }
    }
}

impl Agents {
    fn new(all: &mut Catalogue) -> Self {
        let connects = "Streams that agents opened, by whether they were let in. Connections whose certificate was refused \
            are not among them.";
        let duplicates = "Times that a second process was seen with an agent's identity, or a key of an agent that a newer \
            one has replaced.";
        let lost = "Streams of agents that ended without a goodbye.";
        let misconduct = "Sessions ended for something that no agent of Postrider does, by kind: another identity than its \
            certificate's, a claim to a job that was not given to the agent, an outcome of such a job, a flood of messages, or \
            a message that makes no sense.";
        Self {
            connects: all.counters("postrider_agent_connects_total", connects, &WELCOME),
            lost: all.counter("postrider_agents_lost_total", lost),
            misconduct: all.counters("postrider_agent_misconduct_total", misconduct, &MISCONDUCT),
            duplicates: all.counter("postrider_agent_duplicates_total", duplicates),
        }
    }
}

impl Writes {
    fn new(all: &mut Catalogue) -> Self {
        let took = "One write of the store with its flush; many changes share one.";
        Self {
            took: all.histogram("postrider_store_write_duration_seconds", took),
            failed: all.counter("postrider_store_write_errors_total", "Writes of the store that failed."),
        }
    }

    /// A write took so long.
    pub fn done(&self, good: bool, took: Duration) {
        self.took.observe(took.as_secs_f64());
        if !good {
            self.failed.inc();
        }
    }
}

impl Backups {
    fn new(all: &mut Catalogue) -> Self {
        let last = "When the last backup since the start was made; not there when there was none.";
        Self {
            results: all.counters(
                "postrider_backups_total",
                "Backups that were made, by how that went.",
                &BACKUP,
            ),
            last: all.known("postrider_backup_last_success_timestamp_seconds", last),
        }
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::outcome::Outcome;

    use super::*;

    /// Every class of the domain's is in the label's list: otherwise it would not be counted.
    #[tokio::test]
    async fn every_outcome_and_end_is_counted() {
        let classes = [
            Class::Success,
            Class::HttpStatus,
            Class::Timeout,
            Class::Dns,
            Class::Connect,
            Class::Tls,
            Class::Protocol,
            Class::RefusedByPolicy,
            Class::AgentLost,
            Class::NotProcessed,
        ];
        let metrics = Metrics::new();
        for class in classes {
            let outcome = Outcome::failure(class, "");
            metrics.attempted(&Attempt {
                number: 1,
                started: Timestamp::default(),
                agent: "a".parse().unwrap(),
                outcome,
            });
        }
        let now = Timestamp::from_millis(1_770_028_200_123);
        let delivery = Delivery::new(1, postrider_domain::id::EventKey::new(now, 1));
        for state in [State::Pending, State::Waiting(now)] {
            metrics.settled(&Delivery { state, ..delivery });
        }
        for state in [State::Delivered(now), State::Exhausted(now), State::Cancelled(now)] {
            metrics.settled(&Delivery { state, ..delivery });
        }
        metrics.backed_up(false, now);
        metrics.backed_up(true, now);
        let text = metrics.show(None).await;
        let shows = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        for class in classes {
            shows(&format!("postrider_attempts_total{{outcome=\"{}\"}} 1", class.as_str()));
        }
        for state in ["delivered", "exhausted", "cancelled"] {
            shows(&format!("postrider_deliveries_ended_total{{state=\"{state}\"}} 1"));
        }
        shows("postrider_attempt_duration_seconds_count{phase=\"total\"} 9");
        shows("postrider_attempt_duration_seconds_count{phase=\"dns\"} 0");
        shows("postrider_backups_total{result=\"failure\"} 1");
        shows("postrider_backup_last_success_timestamp_seconds 1770028200");
    }
}

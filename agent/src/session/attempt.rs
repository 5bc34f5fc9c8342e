//! One job from its start to its outcome: a task of its own, which always ends with an outcome.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use postrider_proto::agent::{Job, JobKey, Outcome, OutcomeKind};
use postrider_telemetry::Untrusted;

use crate::clock::{Instant, now};
use crate::gate::Gate;
use crate::transport::{Report, Transport};
use crate::wire;

/// A job that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    /// The job.
    pub(super) key: JobKey,
    /// What happened, without a sequence yet.
    pub(super) outcome: Outcome,
    /// About how many bytes the outcome takes.
    pub(super) bytes: usize,
}

impl Finished {
    /// A job that was not started.
    pub(super) fn not_started(key: JobKey, why: &'static str) -> Finished {
        Finished::new(key, Report::not_started(why), Duration::ZERO)
    }

    fn new(key: JobKey, report: Report, queue: Duration) -> Finished {
        let (outcome, bytes) = wire::outcome(key.clone(), report, queue);
        Finished { key, outcome, bytes }
    }
}

/// Makes the attempt. `received` is when its message arrived.
pub(super) async fn attempt(
    transport: Arc<dyn Transport>,
    key: JobKey,
    job: Job,
    gate: Arc<Gate>,
    start_by: Instant,
    received: Instant,
) -> Finished {
    let queue = now() - received;
    let report = match wire::request(job, gate, start_by) {
        // A fault of ours must not take the session and its other jobs with it.
        Ok(request) => {
            AssertUnwindSafe(transport.post(request)).catch_unwind().await.unwrap_or_else(|_| panicked())
        }
        Err(wire::Unsendable) => {
            Report::failed(OutcomeKind::Protocol, "one of the job's headers cannot be sent")
        }
    };
    log(&key, &report);
    Finished::new(key, report, queue)
}

fn panicked() -> Report {
    let mut report = Report::failed(OutcomeKind::Protocol, "the agent failed while it made the request");
    // Nobody knows.
    report.trace.request_sent = true;
    report
}

/// The control plane logs every attempt; here it is for whoever looks closer. A refusal is the business of
/// the agent's owner, who finds the whole reason only here.
fn log(key: &JobKey, report: &Report) {
    if let Some(refusal) = &report.refusal {
        tracing::warn!(
            delivery.id = %Untrusted(&key.delivery_id),
            attempt = key.attempt,
            refusal.code = refusal.code().as_str(),
            "refused by the egress policy: {}",
            Untrusted(&refusal.to_string())
        );
    }
    if let Some(cause) = &report.cause {
        tracing::warn!(delivery.id = %Untrusted(&key.delivery_id), attempt = key.attempt, "{}", Untrusted(cause));
    }
    tracing::debug!(
        delivery.id = %Untrusted(&key.delivery_id),
        attempt = key.attempt,
        outcome = report.kind.as_str_name(),
        status = report.response.as_ref().map(|response| response.status),
        duration_ms = report.trace.total.as_secs_f64() * 1000.0,
        connected = report.trace.peer.map(tracing::field::display),
        "attempt ended: {}",
        report.detail
    );
}

//! What the control plane asks an agent directly, beside jobs: to look at an endpoint, or to POST a
//! test event. A few at once, each a task that always ends with an answer. They end with the
//! connection on which they were asked for, since nobody would hear of them on another.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::{Diagnose, Diagnosis, Job, JobKey, OutcomeKind, TestPostOutcome};
use postrider_telemetry::Untrusted;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::attempt;
use crate::clock::Instant;
use crate::transport::{Report, Sight, Transport};
use crate::wire;

/// Looks at once, of one stream.
const LOOKS_AT_ONCE: usize = 4;
/// Test events at once, of one stream.
const POSTS_AT_ONCE: usize = 16;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Looks {
    looks: JoinSet<Diagnosis>,
    posts: JoinSet<TestPostOutcome>,
}

impl Looks {
    /// Begins a look. The answer at once, if it may not.
    pub(super) fn begin(&mut self, transport: Arc<dyn Transport>, diagnose: Diagnose) -> Option<Said> {
        if self.looks.len() >= LOOKS_AT_ONCE {
            return Some(not_looked(diagnose.id));
        }
        self.looks.spawn(look(transport, diagnose).in_current_span());
        None
    }

    /// Begins to POST a test event, which must not start after `start_by`. The answer at once, if
    /// it may not.
    pub(super) fn post(
        &mut self,
        transport: Arc<dyn Transport>,
        id: u64,
        job: Job,
        start_by: Instant,
        received: Instant,
    ) -> Option<Said> {
        if self.posts.len() >= POSTS_AT_ONCE {
            return Some(not_posted(id, "the agent is busy with other test events"));
        }
        self.posts.spawn(post(transport, id, job, start_by, received));
        None
    }

    /// The next answer. Never, if nothing is under way.
    pub(super) async fn next(&mut self) -> Said {
        const ENDS: &str = "the task of a look or a test event catches panics and is never aborted";
        tokio::select! {
            Some(looked) = self.looks.join_next() => Said::Diagnosis(looked.expect(ENDS)),
            Some(posted) = self.posts.join_next() => Said::TestPostOutcome(posted.expect(ENDS)),
            else => std::future::pending().await,
        }
    }
}

/// The answer to what is not looked at.
pub(super) fn not_looked(id: u64) -> Said {
    Said::Diagnosis(Diagnosis { id, kind: OutcomeKind::NotStarted.into(), ..Diagnosis::default() })
}

/// The answer to a test event that is not sent.
pub(super) fn not_posted(id: u64, why: &'static str) -> Said {
    let (outcome, _) = wire::outcome(JobKey::default(), Report::not_started(why), std::time::Duration::ZERO);
    Said::TestPostOutcome(TestPostOutcome { id, outcome: Some(outcome) })
}

async fn look(transport: Arc<dyn Transport>, diagnose: Diagnose) -> Diagnosis {
    let id = diagnose.id;
    let seen = async {
        match wire::look(diagnose) {
            Ok(look) => {
                let sight = transport.look(look).await;
                log(id, &sight);
                wire::diagnosis(id, sight)
            }
            Err(wire::Unsendable) => failed(id, "one of the request's headers cannot be sent"),
        }
    };
    let seen = AssertUnwindSafe(seen).catch_unwind().await;
    seen.unwrap_or_else(|_| failed(id, "the agent failed while it looked"))
}

/// As an attempt of a delivery is made, but for nobody's delivery.
async fn post(
    transport: Arc<dyn Transport>,
    id: u64,
    job: Job,
    start_by: Instant,
    received: Instant,
) -> TestPostOutcome {
    let key = JobKey { delivery_id: format!("test event {id}"), ..JobKey::default() };
    let finished = attempt::attempt(transport, key, job, Arc::default(), start_by, received).await;
    TestPostOutcome { id, outcome: Some(finished.outcome) }
}

fn failed(id: u64, detail: &str) -> Diagnosis {
    let kind = OutcomeKind::Protocol.into();
    Diagnosis { id, kind, detail: detail.to_owned(), ..Diagnosis::default() }
}

/// The agent's owner can see what was looked at, and why not.
fn log(id: u64, sight: &Sight) {
    if let Some(refusal) = &sight.refusal {
        tracing::warn!(
            look = id,
            refusal.code = refusal.code().as_str(),
            "refused by the egress policy: {}",
            Untrusted(&refusal.to_string())
        );
    }
    if let Some(cause) = &sight.cause {
        tracing::warn!(look = id, "{}", Untrusted(cause));
    }
    tracing::info!(
        look = id,
        outcome = sight.kind.as_str_name(),
        status = sight.status,
        duration_ms = sight.trace.total.as_secs_f64() * 1000.0,
        "diagnosed an endpoint for the control plane: {}",
        sight.detail
    );
}

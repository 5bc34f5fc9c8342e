//! Looks at endpoints that the control plane has asked for: a few at once, each a task that always ends with an answer. They
//! end with the connection on which they were asked for, since nobody would hear of them on another.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use postrider_proto::agent::{Diagnose, Diagnosis, OutcomeKind};
use tokio::task::JoinSet;

use crate::transport::{Sight, Transport};
use crate::wire;

/// Looks at once, of one stream.
const AT_ONCE: usize = 4;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Looks {
    tasks: JoinSet<Diagnosis>,
}

impl Looks {
    /// Begins a look. The answer at once, if it may not.
    pub(super) fn begin(&mut self, transport: Arc<dyn Transport>, diagnose: Diagnose) -> Option<Diagnosis> {
        if self.tasks.len() >= AT_ONCE {
            return Some(not_started(diagnose.id));
        }
        self.tasks.spawn(look(transport, diagnose));
        None
    }

    /// The next answer. Never, if nothing is looked at.
    pub(super) async fn next(&mut self) -> Diagnosis {
        match self.tasks.join_next().await {
            Some(joined) => joined.expect("a look's task catches panics and is never aborted"),
            None => std::future::pending().await,
        }
    }
}

/// The answer to what is not looked at.
pub(super) fn not_started(id: u64) -> Diagnosis {
    Diagnosis { id, kind: OutcomeKind::NotStarted.into(), ..Diagnosis::default() }
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
            "refused by the egress rules: {refusal}"
        );
    }
    if let Some(cause) = &sight.cause {
        tracing::warn!(look = id, "{cause}");
    }
    tracing::info!(
        look = id,
        outcome = sight.kind.as_str_name(),
        status = sight.status,
        duration_ms = sight.trace.total.as_secs_f64() * 1000.0,
        "the control plane had this agent look at an endpoint: {}",
        sight.detail
    );
}

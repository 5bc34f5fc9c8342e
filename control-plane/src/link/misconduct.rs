//! What no honest agent does: it is counted, and it goes on record, at most once a minute for an agent and kind.

use std::sync::Arc;

use postrider_domain::audit::Entry;
use postrider_domain::id::AgentId;
use postrider_domain::time::Timestamp;

use crate::identities::{Identities, own_entry};
use crate::metrics::Metrics;

/// What an agent did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its Hello names another agent or pool than its certificate.
    Identity,
    /// Its Hello names a job that was not given to it.
    Claim,
    /// It reports of a job that it does not have, or in another order than it should.
    Outcome,
    /// It says more than it may.
    Flood,
    /// It says what makes no sense.
    Protocol,
}

impl Kind {
    /// Its name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Claim => "claim",
            Self::Outcome => "outcome",
            Self::Flood => "flood",
            Self::Protocol => "protocol",
        }
    }
}

/// See the module.
pub struct Misconduct {
    identities: Arc<Identities>,
    metrics: Arc<Metrics>,
}

impl Misconduct {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(identities: Arc<Identities>, metrics: Arc<Metrics>) -> Self {
        Self { identities, metrics }
    }

    /// An agent did what no honest agent does. `target` is what it spoke of.
    pub(super) async fn note(&self, agent: &AgentId, kind: Kind, target: &str, detail: &str, now: Timestamp) {
        self.metrics.misconduct(kind.as_str());
        let entry = Entry {
            actor: agent.to_string(),
            detail: format!("{}: {detail}", kind.as_str()),
            ..own_entry("RejectAgent", target, now)
        };
        self.identities.note_rejection(agent, kind.as_str(), entry).await;
    }
}

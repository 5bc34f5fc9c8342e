//! Whether an agent that has said Hello is let in.

use postrider_domain::id::AgentId;
use postrider_domain::time::Timestamp;
use postrider_proto::agent::{Hello, Reject, RejectCode};
use tracing::warn;

use super::{Outbound, replaced};
use crate::link::Links;
use crate::link::hello::{self, Accepted, temporary};
use crate::link::misconduct::Kind;
use crate::link::trust::Trust;
use crate::listen::AgentCertificate;

/// An agent that is let in.
pub(super) struct Admitted {
    pub(super) accepted: Accepted,
    pub(super) trust: Trust,
}

/// Why an agent is not let in.
pub(super) struct Refused {
    /// What it is told.
    reject: Reject,
    /// What it did, and of what it spoke, if no honest agent does that.
    misconduct: Option<(Kind, Option<String>)>,
}

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        let misconduct = (reject.code() == RejectCode::IdentityMismatch).then_some((Kind::Identity, None));
        Self { reject, misconduct }
    }
}

impl Admitted {
    pub(super) fn agent(&self) -> &AgentId {
        &self.accepted.connected.station.agent
    }
}

pub(super) fn admit(
    links: &Links,
    certificate: Option<&AgentCertificate>,
    hello: Hello,
    now: Timestamp,
) -> Result<Admitted, Refused> {
    let accepted = hello::judge(hello, now)?;
    let station = &accepted.connected.station;
    hello::compare(&accepted, certificate)?;
    let trust = Trust::of(certificate, &station.agent, &links.identities, now)?;
    if let Some(job) = hello::false_claim(&accepted, &links.tags) {
        let why =
            "Hello names a job that was not given to this agent; restart the agent to drop what it holds";
        let misconduct = Some((Kind::Claim, Some(job.delivery.to_string())));
        return Err(Refused { reject: temporary(RejectCode::ProtocolError, why), misconduct });
    }
    if links.agents.is_replaced(&station.agent, &station.instance) {
        return Err(replaced(true).into());
    }
    Ok(Admitted { accepted, trust })
}

/// Says why there is no session, to the agent and to those who watch over it. Without a certificate its name is not known.
pub(super) async fn refuse(
    links: &Links,
    agent: Option<&AgentId>,
    refused: Refused,
    now: Timestamp,
    outbound: &Outbound,
) {
    let Refused { reject, misconduct } = refused;
    warn!(reason = reject.message, "agent rejected");
    links.metrics.connected(false);
    if let Some(agent) = agent {
        if reject.code() == RejectCode::DuplicateAgent {
            links.metrics.duplicate();
            links.identities.note_duplicate(agent, now).await;
        }
        if let Some((kind, target)) = misconduct {
            let target = target.unwrap_or_else(|| agent.to_string());
            links.misconduct.note(agent, kind, &target, &reject.message, now).await;
        }
    }
    super::reject(outbound, reject).await;
}

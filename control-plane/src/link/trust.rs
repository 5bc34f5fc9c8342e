//! What a session may go on by: its agent's certificate, as long as it lasts and the agent is not revoked.

use postrider_domain::id::AgentId;
use postrider_domain::time::Timestamp;
use postrider_proto::agent::{Reject, RejectCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Links;
use super::hello::{permanent, temporary};
use super::session::{from_now, revoked};
use crate::identities::{Identities, Refusal};
use crate::listen::{AgentCertificate, Peer};

/// Judges the key of an agent's certificate before anything that the agent says: it must be the agent's newest, or good
/// for a reason that `postrider_domain::identity::keys` names.
pub(super) async fn use_key(links: &Links, shown: &AgentCertificate, peer: &Peer) -> Result<(), Reject> {
    let (agent, address) = (&shown.identity.agent, peer.address.ip().to_string());
    let used = links.identities.use_key(agent, shown.key, &address, links.dispatcher.clock.wall()).await;
    used.map_err(|refusal| {
        links.metrics.connected(false);
        warn!(%agent, address, %refusal, "agent rejected");
        match refusal {
        Refusal::Revoked => revoked(),
        Refusal::JustReplaced => temporary(
            RejectCode::Replaced,
            "a newer key of this agent has just come into use; connect with the newest certificate",
        ),
        Refusal::Replaced => {
            links.metrics.duplicate();
            permanent(
                RejectCode::DuplicateAgent,
                "this certificate's key was replaced by a newer one, so another process uses the same identity; remove \
                 this copy, or revoke the agent and enroll again with a new join token",
            )
        }
        }
    })
}

/// How long the session may go on.
pub(super) struct Trust {
    /// Cancelled when it may not.
    pub(super) ended: CancellationToken,
    /// When the certificate ends.
    pub(super) expires: Option<Instant>,
}

impl Trust {
    pub(super) fn of(
        certificate: Option<&AgentCertificate>,
        agent: &AgentId,
        identities: &Identities,
        now: Timestamp,
    ) -> Result<Self, Reject> {
        let Some(certificate) = certificate else {
            return Ok(Self { ended: CancellationToken::new(), expires: None });
        };
        // Judged in the handshake already; it may have been revoked since.
        let admitted = identities.admits(&certificate.identity);
        let ended = identities.ended(agent).filter(|_| admitted);
        let ended = ended.ok_or_else(revoked)?;
        Ok(Self { ended, expires: Some(from_now(certificate.expires.since(now))) })
    }
}

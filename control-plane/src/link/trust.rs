//! What a session may go on by: its agent's certificate, as long as it lasts and the agent is not revoked.

use postrider_domain::id::AgentId;
use postrider_domain::time::Timestamp;
use postrider_proto::agent::Reject;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::session::{from_now, revoked};
use crate::identities::Identities;
use crate::listen::AgentCertificate;

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

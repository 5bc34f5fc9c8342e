//! The part of `AgentService` that is about the authorities of agents' certificates.

use postrider_domain::audit::Entry;
use postrider_proto::{time, v1};
use tonic::Status;

use super::{Api, status};
use crate::authority::{Authority, AuthorityError, MAX_OVERLAP};

impl Api {
    pub(super) fn all_authorities(&self) -> v1::ListAuthoritiesResponse {
        let trusted = self.authorities.trusted();
        v1::ListAuthoritiesResponse {
            authorities: trusted.iter().map(|authority| write(authority)).collect(),
        }
    }

    pub(super) async fn new_authority(
        &self,
        request: &v1::RotateAuthorityRequest,
    ) -> Result<v1::RotateAuthorityResponse, Status> {
        let overlap = request.overlap.as_ref().map(|overlap| time::read_duration("overlap", overlap));
        let overlap = overlap.transpose().map_err(|violation| status::invalid(&[violation]))?;
        let overlap = overlap.unwrap_or_else(|| self.authorities.default_overlap());
        if overlap > MAX_OVERLAP {
            return Err(status::invalid_field("overlap", "must be at most 90 days"));
        }
        let detail = format!("former ones retire after {}s", overlap.as_secs());
        let audit = Entry { detail, ..self.entry("RotateAuthority", None, "") };
        let rotated = self.authorities.rotate(overlap, audit, self.clock.wall()).await;
        let authority = rotated.map_err(|error| match error {
            AuthorityError::Store(error) => status::store(&error),
            AuthorityError::External => status::precondition("EXTERNAL_AUTHORITY", error.to_string()),
            AuthorityError::TooMany => status::precondition("TOO_MANY_AUTHORITIES", error.to_string()),
            other => {
                tracing::error!(error = %other, "failed to create an authority");
                status::not_issued()
            }
        })?;
        Ok(v1::RotateAuthorityResponse { authority: Some(write(&authority)) })
    }
}

fn write(authority: &Authority) -> v1::Authority {
    v1::Authority {
        id: authority.pin.to_string(),
        certificate: authority.pem(),
        external: authority.external,
        create_time: Some(time::write(authority.created)),
        expire_time: Some(time::write(authority.expires)),
        retire_time: authority.retire.map(time::write),
    }
}

//! Request ids: a repeated call returns what the first one made.

use std::time::Duration;

use postrider_domain::id::TenantId;
use prost::Message;
use tonic::Status;
use zeroize::Zeroizing;

use super::{Api, status};
use crate::store::{RequestKey, RequestRow};

/// How long a request id is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
const MAX_LENGTH: usize = 128;

/// A request that carries an id.
pub(super) struct Request {
    pub(super) key: RequestKey,
    digest: [u8; 16],
}

impl Api {
    /// The request's identity; `None` when it has no id. `content` is the whole request.
    pub(super) fn request(
        &self,
        method: &'static str,
        tenant: &TenantId,
        request_id: &str,
        content: &impl Message,
    ) -> Result<Option<Request>, Status> {
        if request_id.is_empty() {
            return Ok(None);
        }
        if request_id.len() > MAX_LENGTH {
            return Err(status::invalid_field("request_id", "must have at most 128 bytes"));
        }
        let digest = self.sealer.digest(&Zeroizing::new(content.encode_to_vec()));
        let (tenant, actor) = (tenant.clone(), self.caller.actor.to_string());
        let key = RequestKey { tenant, actor, method, request_id: request_id.to_owned() };
        Ok(Some(Request { key, digest }))
    }

    /// What the first call made, if this is a repeat. Must be called while changes are held off.
    pub(super) async fn repeated(&self, request: Option<&Request>) -> Result<Option<String>, Status> {
        let Some(request) = request else { return Ok(None) };
        let row = self.store.request(&request.key).await.map_err(|error| status::store(&error))?;
        match row.filter(|row| row.expires > self.clock.wall()) {
            Some(row) if row.digest != request.digest => Err(status::request_id_reused()),
            row => Ok(row.map(|row| row.result)),
        }
    }

    /// The row that remembers what this call made.
    pub(super) fn remember(
        &self,
        request: Option<Request>,
        result: &str,
    ) -> Option<(RequestKey, RequestRow)> {
        let Request { key, digest } = request?;
        let row = RequestRow { result: result.to_owned(), digest, expires: self.clock.wall() + REMEMBERED };
        Some((key, row))
    }
}

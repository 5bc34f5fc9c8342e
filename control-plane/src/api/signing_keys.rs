//! `SigningKeyService`.

use postrider_domain::audit::Entry;
use postrider_domain::id::KeyId;
use postrider_domain::signing::DEFAULT_OVERLAP;
use postrider_proto::v1;
use postrider_proto::v1::signing_key_service_server::SigningKeyService;
use postrider_proto::{signing_key, time};
use tonic::{Request, Response, Status};

use super::subscriptions::new_key;
use super::{Api, changes, status, views};
use crate::secrets::KeyedSubscription;

#[tonic::async_trait]
impl SigningKeyService for Api {
    async fn list_signing_keys(
        &self,
        request: Request<v1::ListSigningKeysRequest>,
    ) -> Result<Response<v1::ListSigningKeysResponse>, Status> {
        let (api, request) = self.call(request);
        let row = api.subscription(&request.tenant, &request.subscription)?;
        let now = api.clock.wall();
        let key = |key| signing_key::write(key, row.subscription.id, now);
        let signing_keys = row.keys.keys().iter().map(key).collect();
        Ok(Response::new(v1::ListSigningKeysResponse { signing_keys }))
    }

    async fn rotate_signing_key(
        &self,
        request: Request<v1::RotateSigningKeyRequest>,
    ) -> Result<Response<v1::RotateSigningKeyResponse>, Status> {
        let (api, request) = self.call(request);
        let overlap = request.overlap.as_ref().map(|overlap| time::read_duration("overlap", overlap));
        let overlap = overlap.transpose().map_err(|violation| status::invalid(&[violation]))?;
        let tenant = api.tenant(&request.tenant)?;
        let id = api.request("RotateSigningKey", &tenant, &request.request_id, &request)?;
        let _change = api.registry.change().await;
        let row = api.subscription(&request.tenant, &request.subscription)?;
        if let Some(made) = api.repeated(id.as_ref()).await? {
            let entry = api.entry("RotateSigningKey", Some(&tenant), row.subscription.id);
            api.record(changes::repeated(entry, &request.request_id)).await?;
            return api.rotated(&row, Some(status::parse("signing_key", &made)?));
        }
        let now = api.clock.wall();
        let key = new_key(&request.secret, "secret", now)?;
        let key_id = key.id;
        let mut row = (*row).clone();
        let overlap = overlap.unwrap_or(DEFAULT_OVERLAP);
        row.keys.rotate(key, overlap, now).map_err(|error| views::key_error(&error))?;
        let remembered = api.remember(id, &key_id.to_string());
        let detail = format!("{key_id}, and the former key signs for {overlap:?} more");
        let row = api.save(row, remembered, "RotateSigningKey", &detail).await?;
        api.rotated(&row, Some(key_id))
    }

    async fn revoke_signing_key(
        &self,
        request: Request<v1::RevokeSigningKeyRequest>,
    ) -> Result<Response<v1::RevokeSigningKeyResponse>, Status> {
        let (api, request) = self.call(request);
        let key: KeyId = status::parse("signing_key", &request.signing_key)?;
        let _change = api.registry.change().await;
        let row = api.subscription(&request.tenant, &request.subscription)?;
        let mut row = (*row).clone();
        let now = api.clock.wall();
        let revoked = row.keys.revoke(key, now).map_err(|error| views::key_error(&error))?;
        let signing_key = Some(signing_key::write(revoked, row.subscription.id, now));
        api.save(row, None, "RevokeSigningKey", &key.to_string()).await?;
        Ok(Response::new(v1::RevokeSigningKeyResponse { signing_key }))
    }

    async fn reveal_signing_key(
        &self,
        request: Request<v1::RevealSigningKeyRequest>,
    ) -> Result<Response<v1::RevealSigningKeyResponse>, Status> {
        let (api, request) = self.call(request);
        let row = api.subscription(&request.tenant, &request.subscription)?;
        let key = match request.signing_key.as_str() {
            "" => None,
            key => Some(status::parse("signing_key", key)?),
        };
        let rotated = api.rotated(&row, key)?.into_inner();
        let revealed = rotated.signing_key.as_ref().map(|key| key.id.clone()).unwrap_or_default();
        let entry = api.entry("RevealSigningKey", Some(&row.subscription.tenant), row.subscription.id);
        api.record(Entry { detail: revealed, ..entry }).await?;
        Ok(Response::new(v1::RevealSigningKeyResponse {
            signing_key: rotated.signing_key,
            secret: rotated.secret,
        }))
    }
}

impl Api {
    fn rotated(
        &self,
        row: &KeyedSubscription,
        key: Option<KeyId>,
    ) -> Result<Response<v1::RotateSigningKeyResponse>, Status> {
        let now = self.clock.wall();
        let (key, secret) = row.keys.reveal(key, now).map_err(|error| views::key_error(&error))?;
        let signing_key = Some(signing_key::write(key, row.subscription.id, now));
        Ok(Response::new(v1::RotateSigningKeyResponse {
            signing_key,
            secret: secret.expose_text().to_string(),
        }))
    }
}

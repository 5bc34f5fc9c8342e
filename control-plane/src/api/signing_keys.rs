//! `SigningKeyService`.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::{KeyId, OperationId, SubscriptionId, TenantId};
use postrider_domain::signing::{
    Advice, DEFAULT_OVERLAP, GENERATED_SECRET_BYTES, Scheme, Secret, SigningKey,
};
use postrider_domain::time::Timestamp;
use postrider_proto::v1;
use postrider_proto::v1::signing_key_service_server::SigningKeyService;
use postrider_proto::{signing_key, time};
use tonic::{Request, Response, Status};

use super::{Api, changes, status, views};
use crate::secrets::KeyedSubscription;
use crate::store::{RequestKey, RequestRow};

#[tonic::async_trait]
impl SigningKeyService for Api {
    async fn list_signing_keys(
        &self,
        request: Request<v1::ListSigningKeysRequest>,
    ) -> Result<Response<v1::ListSigningKeysResponse>, Status> {
        let (api, request) = self.call(request);
        let row = api.subscription(&request.tenant, &request.subscription)?;
        let now = api.clock.wall();
        let signing_keys = row.keys.keys().iter().map(|key| api.show_key(&row, key, now)).collect();
        Ok(Response::new(v1::ListSigningKeysResponse { signing_keys }))
    }

    async fn rotate_signing_key(
        &self,
        request: Request<v1::RotateSigningKeyRequest>,
    ) -> Result<Response<v1::RotateSigningKeyResponse>, Status> {
        let (api, request) = self.call(request);
        let overlap = read_overlap(request.overlap.as_ref())?;
        let tenant = api.tenant(&request.tenant)?;
        let id = api.request("RotateSigningKey", &tenant, &request.request_id, &request)?;
        let _change = api.registry.change().await;
        let row = api.subscription(&request.tenant, &request.subscription)?;
        if let Some(made) = api.repeated(id.as_ref()).await? {
            return api
                .made_before("RotateSigningKey", &row, &made, &request.request_id)
                .await
                .map(Response::new);
        }
        let key = new_key(&request.secret, &request.scheme, api.clock.wall())?;
        let key_id = key.id;
        let remembered = api.remember(id, &key_id.to_string());
        let row = api.rotate_one(&row, key, overlap, remembered).await?;
        api.with_secret(&row, Some(key_id)).map(Response::new)
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
        row.keys.revoke(key, api.clock.wall()).map_err(|error| views::key_error(&error))?;
        check_keys(&row)?;
        let row = api.save(row, None, "RevokeSigningKey", &key.to_string()).await?;
        let signing_key = Some(api.shown(&row, key)?);
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
        let v1::RotateSigningKeyResponse { signing_key, secret } = api.with_secret(&row, key)?;
        let revealed = signing_key.as_ref().map(|key| key.id.clone()).unwrap_or_default();
        let entry = api.entry(changes::REVEAL, Some(&row.subscription.tenant), row.subscription.id);
        api.record(Entry { detail: revealed, ..entry }).await?;
        Ok(Response::new(v1::RevealSigningKeyResponse { signing_key, secret }))
    }

    async fn create_signing_key(
        &self,
        request: Request<v1::CreateSigningKeyRequest>,
    ) -> Result<Response<v1::CreateSigningKeyResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant(&request.tenant)?;
        let id = api.request("CreateSigningKey", &tenant, &request.request_id, &request)?;
        let _change = api.registry.change().await;
        let mut row = api.subscription(&request.tenant, &request.subscription)?;
        let answer = if let Some(made) = api.repeated(id.as_ref()).await? {
            api.made_before("CreateSigningKey", &row, &made, &request.request_id).await?
        } else {
            let now = api.clock.wall();
            let key = new_key(&request.secret, &request.scheme, now)?;
            let (key_id, scheme) = (key.id, key.scheme);
            let mut changed = (*row).clone();
            changed.keys.add(key, now).map_err(|error| views::key_error(&error))?;
            let remembered = api.remember(id, &key_id.to_string());
            let detail = format!("{key_id} of scheme {scheme}, pending");
            row = api.save(changed, remembered, "CreateSigningKey", &detail).await?;
            api.with_secret(&row, Some(key_id))?
        };
        let v1::RotateSigningKeyResponse { signing_key, secret } = answer;
        Ok(Response::new(v1::CreateSigningKeyResponse { signing_key, secret }))
    }

    async fn activate_signing_key(
        &self,
        request: Request<v1::ActivateSigningKeyRequest>,
    ) -> Result<Response<v1::ActivateSigningKeyResponse>, Status> {
        let (api, request) = self.call(request);
        let key: KeyId = status::parse("signing_key", &request.signing_key)?;
        let overlap = read_overlap(request.overlap.as_ref())?;
        let tenant = api.tenant(&request.tenant)?;
        let id = api.request("ActivateSigningKey", &tenant, &request.request_id, &request)?;
        let _change = api.registry.change().await;
        let mut row = api.subscription(&request.tenant, &request.subscription)?;
        if api.repeated(id.as_ref()).await?.is_some() {
            let entry = api.entry("ActivateSigningKey", Some(&tenant), row.subscription.id);
            api.record(changes::repeated(entry, &request.request_id)).await?;
        } else {
            let mut changed = (*row).clone();
            changed
                .keys
                .activate(key, overlap, api.clock.wall())
                .map_err(|error| views::key_error(&error))?;
            if changed.keys == row.keys {
                let signing_key = Some(api.shown(&row, key)?);
                return Ok(Response::new(v1::ActivateSigningKeyResponse { signing_key }));
            }
            check_keys(&changed)?;
            let remembered = api.remember(id, &key.to_string());
            let detail = format!("{key}, and the former key signs for {overlap:?} more");
            row = api.save(changed, remembered, "ActivateSigningKey", &detail).await?;
        }
        let signing_key = Some(api.shown(&row, key)?);
        Ok(Response::new(v1::ActivateSigningKeyResponse { signing_key }))
    }

    async fn test_signing_key(
        &self,
        request: Request<v1::TestSigningKeyRequest>,
    ) -> Result<Response<v1::TestSigningKeyResponse>, Status> {
        let (api, request) = self.call(request);
        api.test_key(request).await.map(Response::new)
    }
}

impl Api {
    /// Makes a new active key for one subscription. The caller holds off other changes, and has read the row since.
    pub(super) async fn rotate_one(
        &self,
        row: &KeyedSubscription,
        key: SigningKey,
        overlap: Duration,
        remembered: Option<(RequestKey, RequestRow)>,
    ) -> Result<Arc<KeyedSubscription>, Status> {
        let (mut row, key_id) = (row.clone(), key.id);
        row.keys.rotate(key, overlap, self.clock.wall()).map_err(|error| views::key_error(&error))?;
        check_keys(&row)?;
        let detail = format!("{key_id}, and the former key signs for {overlap:?} more");
        self.save(row, remembered, "RotateSigningKey", &detail).await
    }

    /// Rotates the key of one subscription for an operation; once, however often it is asked.
    ///
    /// # Errors
    /// Why there is no new key.
    pub(crate) async fn rotate_for(
        &self,
        operation: OperationId,
        tenant: &TenantId,
        subscription: SubscriptionId,
        scheme: Scheme,
        overlap: Duration,
    ) -> Result<(), Status> {
        let request_id = format!("{operation}/{subscription}");
        let id = self.request("RotateSigningKeys", tenant, &request_id, &())?;
        let _change = self.registry.change().await;
        if self.repeated(id.as_ref()).await?.is_some() {
            return Ok(());
        }
        let row = self.registry.get_of(tenant, subscription);
        let row = row.ok_or_else(|| status::not_found("subscription", &subscription.to_string()))?;
        let key = new_key("", scheme.as_str(), self.clock.wall())?;
        let remembered = self.remember(id, &key.id.to_string());
        self.rotate_one(&row, key, overlap, remembered).await.map(drop)
    }

    /// Answers a repeated call with the key that the first one made, never another. The secret is shown once more,
    /// which is recorded as a reveal.
    async fn made_before(
        &self,
        action: &str,
        row: &KeyedSubscription,
        made: &str,
        request_id: &str,
    ) -> Result<v1::RotateSigningKeyResponse, Status> {
        let key: KeyId = status::parse("signing_key", made)?;
        let answer = self.with_secret(row, Some(key))?;
        let entry = self.entry(action, Some(&row.subscription.tenant), row.subscription.id);
        self.record(changes::revealed_again(entry, key, request_id)).await?;
        Ok(answer)
    }

    fn with_secret(
        &self,
        row: &KeyedSubscription,
        key: Option<KeyId>,
    ) -> Result<v1::RotateSigningKeyResponse, Status> {
        let now = self.clock.wall();
        let (key, secret) = row.keys.reveal(key, now).map_err(|error| views::key_error(&error))?;
        let signing_key = Some(self.show_key(row, key, now));
        Ok(v1::RotateSigningKeyResponse { signing_key, secret: secret.expose_text().to_string() })
    }

    fn shown(&self, row: &KeyedSubscription, key: KeyId) -> Result<v1::SigningKey, Status> {
        let found = row.keys.get(Some(key)).ok_or_else(|| status::not_found("signing key", "of that id"))?;
        Ok(self.show_key(row, found, self.clock.wall()))
    }

    /// A key with how it was used, and what to do about it.
    pub(super) fn show_key(
        &self,
        row: &KeyedSubscription,
        key: &SigningKey,
        now: Timestamp,
    ) -> v1::SigningKey {
        let subscription = row.subscription.id;
        let used = |key: &SigningKey| self.uses.get(subscription, key.id);
        let advice = Advice::of(key, &row.keys, &row.subscription.profiles, used, now);
        let shown = signing_key::write(key, subscription, now);
        v1::SigningKey {
            last_sign_time: used(key).signed.map(time::write),
            last_accept_time: used(key).accepted.map(time::write),
            safe_to_revoke: advice.is_safe(),
            advice: advice.as_str().to_owned(),
            ..shown
        }
    }
}

/// Refuses keys and profiles that do not fit each other.
pub(super) fn check_keys(row: &KeyedSubscription) -> Result<(), Status> {
    row.subscription.profiles.check_keys(&row.keys).map_err(|error| views::key_error(&error))
}

/// A new key: from the caller's secret, or from random bytes.
pub(super) fn new_key(secret: &str, scheme: &str, now: Timestamp) -> Result<SigningKey, Status> {
    let wanted: Option<Scheme> =
        if scheme.is_empty() { None } else { Some(status::parse("scheme", scheme)?) };
    let secret = if secret.is_empty() {
        let random: [u8; GENERATED_SECRET_BYTES] = rand::random();
        Secret::generate(wanted.unwrap_or_default(), &random)
    } else {
        Secret::parse(secret).map_err(|error| status::invalid_field("secret", error.to_string()))?
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != secret.scheme()) {
        let problem =
            format!("is one of scheme {}, and scheme says {wanted}; give one of them", secret.scheme());
        return Err(status::invalid_field("secret", problem));
    }
    Ok(SigningKey::new(KeyId::new(now, rand::random()), secret, now))
}

pub(super) fn read_overlap(wire: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let overlap = wire.map(|overlap| time::read_duration("overlap", overlap)).transpose();
    Ok(overlap.map_err(|violation| status::invalid(&[violation]))?.unwrap_or(DEFAULT_OVERLAP))
}

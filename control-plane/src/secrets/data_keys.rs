//! The data keys of a store, from wrapped to ready.

use postrider_domain::audit::Entry;
use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::{Context, DataKey, KeyBytes};
use postrider_domain::time::Timestamp;
use subtle::ConstantTimeEq as _;
use tracing::{info, warn};

use super::{Keks, Sealer, SecretsError};
use crate::store::{DataKeyRow, Store};

/// Unwraps the data keys of a store, and makes the first one for a store that has none.
///
/// # Errors
/// [`SecretsError`]: above all, when the keys of the settings are not those that the store needs.
pub async fn open(store: &dyn Store, keks: &Keks, now: Timestamp) -> Result<Sealer, SecretsError> {
    let mut sealer: Option<Sealer> = None;
    for row in store.data_keys().await? {
        let (data_key, digest_key) = unwrap(keks, &row).await?;
        match &sealer {
            None => sealer = Some(Sealer::new(data_key, digest_key)),
            Some(sealer) if is_equal(sealer.digest_key(), &digest_key) => sealer.add(data_key),
            Some(_) => return Err(canary(keks, &row)),
        }
    }
    let Some(sealer) = sealer else { return make_first(store, keks, now).await };
    let current = keks.current().id();
    if sealer.has_former() {
        info!("resuming an interrupted rewrap");
    } else if sealer.kek() != *current {
        warn!(%current, wraps = %sealer.kek(), "secrets are still encrypted under a previous key-encryption key; run `postrider secrets rewrap` to move them to the current one");
    }
    Ok(sealer)
}

/// Makes a data key under the current key-encryption key, which from now on seals what `sealer` seals.
///
/// # Errors
/// [`SecretsError::Kek`], or that of the store. Then nothing has changed.
pub async fn add(
    store: &dyn Store,
    keks: &Keks,
    sealer: &Sealer,
    audit: Entry,
) -> Result<DataKeyId, SecretsError> {
    let data_key = new(keks, audit.time);
    let row = wrap(keks, &data_key, sealer.digest_key()).await?;
    store.put_data_key(&row, Entry { target: row.id.to_string(), detail: under(&row), ..audit }).await?;
    sealer.add(data_key);
    Ok(row.id)
}

async fn make_first(store: &dyn Store, keks: &Keks, now: Timestamp) -> Result<Sealer, SecretsError> {
    let (data_key, digest_key) = (new(keks, now), KeyBytes::new(rand::random()));
    let row = wrap(keks, &data_key, &digest_key).await?;
    let audit = Entry {
        time: now,
        actor: "postrider".to_owned(),
        address: String::new(),
        action: "CreateDataKey".to_owned(),
        target: row.id.to_string(),
        tenant: None,
        request_id: String::new(),
        detail: under(&row),
    };
    store.put_data_key(&row, audit).await?;
    info!(data_key = %row.id, kek = %row.kek, "created the data key that encrypts secrets");
    Ok(Sealer::new(data_key, digest_key))
}

fn new(keks: &Keks, now: Timestamp) -> DataKey {
    let id = DataKeyId::new(now, rand::random());
    DataKey::new(id, keks.current().id().clone(), KeyBytes::new(rand::random()))
}

fn under(row: &DataKeyRow) -> String {
    format!("under {}", row.kek)
}

async fn wrap(keks: &Keks, data_key: &DataKey, digest_key: &KeyBytes) -> Result<DataKeyRow, SecretsError> {
    let kek = keks.current();
    let row = DataKeyRow {
        id: data_key.id(),
        kek: kek.id().clone(),
        wrapped: kek.wrap(data_key).await?,
        canary: data_key.seal(&Context::DigestKey, rand::random(), digest_key.expose()),
    };
    // What cannot be unwrapped again must not seal anything.
    let (unwrapped, _) = unwrap(keks, &row).await?;
    if is_equal(unwrapped.key(), data_key.key()) { Ok(row) } else { Err(canary(keks, &row)) }
}

async fn unwrap(keks: &Keks, row: &DataKeyRow) -> Result<(DataKey, KeyBytes), SecretsError> {
    let kek = keks.get(&row.kek).ok_or_else(|| SecretsError::KekMissing {
        data_key: row.id,
        wanted: row.kek.clone(),
        given: keks.to_string(),
    })?;
    let data_key = kek.unwrap(row.id, &row.wrapped).await?;
    let opened = data_key.open(&Context::DigestKey, &row.canary).map_err(|_| canary(keks, row))?;
    let digest_key = KeyBytes::from_slice(&opened).ok_or_else(|| canary(keks, row))?;
    Ok((data_key, digest_key))
}

fn canary(keks: &Keks, row: &DataKeyRow) -> SecretsError {
    let kek = keks.get(&row.kek).map_or_else(|| row.kek.to_string(), |kek| kek.source().to_owned());
    SecretsError::Canary { data_key: row.id, kek }
}

fn is_equal(left: &KeyBytes, right: &KeyBytes) -> bool {
    left.expose().ct_eq(right.expose()).into()
}

//! Subscriptions: in memory with their secrets, in the store with those sealed.

use postrider_domain::headers::CustomHeaders;
use postrider_domain::id::KeyId;
use postrider_domain::sealed::{Context, Sealed};
use postrider_domain::signing::{KeyRing, Scheme, Secret, SigningKey};
use postrider_domain::subscription::Subscription;
use postrider_proto::store as records;
use prost::Message as _;
use zeroize::Zeroizing;

use super::{Sealer, SecretsError};
use crate::store::{SigningKeyRow, SubscriptionRow};

/// A subscription with its custom headers and its keys, as it is in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyedSubscription {
    /// The subscription.
    pub subscription: Subscription,
    /// Its keys.
    pub keys: KeyRing,
}

impl KeyedSubscription {
    /// How many sealed values it has in the store.
    #[must_use]
    pub fn secrets(&self) -> u64 {
        let keys = self.keys.keys().iter().filter(|key| key.secret.is_some()).count();
        u64::from(!self.subscription.headers.is_empty()) + u64::try_from(keys).unwrap_or(u64::MAX)
    }
}

/// What the store keeps of a subscription.
#[must_use]
pub fn seal_subscription(sealer: &Sealer, open: &KeyedSubscription) -> SubscriptionRow {
    let subscription = &open.subscription;
    let key = |key: &SigningKey| SigningKeyRow {
        id: key.id,
        scheme: key.scheme,
        secret: key
            .secret
            .as_ref()
            .map(|secret| sealer.seal(&key_context(subscription, key.id, key.scheme), secret.expose_bytes())),
        created: key.created,
        pending: key.pending,
        retire: key.retire,
    };
    let headers = (!subscription.headers.is_empty())
        .then(|| sealer.seal(&headers_context(subscription), &write_headers(&subscription.headers)));
    SubscriptionRow {
        keys: open.keys.keys().iter().map(key).collect(),
        subscription: Subscription { headers: CustomHeaders::default(), ..subscription.clone() },
        headers,
        deleted: None,
    }
}

/// What it was that the store has kept.
///
/// # Errors
/// [`SecretsError::Shut`], [`SecretsError::Senseless`].
pub fn open_subscription(sealer: &Sealer, row: SubscriptionRow) -> Result<KeyedSubscription, SecretsError> {
    let SubscriptionRow { mut subscription, headers, keys, .. } = row;
    if let Some(sealed) = &headers {
        subscription.headers = open(sealer, headers_context(&subscription), sealed, read_headers)?;
    }
    let key = |row: SigningKeyRow| {
        let read = |bytes: &[u8]| Secret::restore(row.scheme, bytes).map_err(|error| error.to_string());
        let context = key_context(&subscription, row.id, row.scheme);
        let secret = row.secret.as_ref().map(|sealed| open(sealer, context, sealed, read)).transpose()?;
        let SigningKeyRow { id, scheme, created, pending, retire, .. } = row;
        Ok(SigningKey { id, scheme, secret, created, pending, retire })
    };
    let keys: Result<Vec<SigningKey>, SecretsError> = keys.into_iter().map(key).collect();
    Ok(KeyedSubscription { keys: KeyRing::restore(keys?), subscription })
}

/// The same row, with everything in it sealed with the current data key. Nothing is looked at but the bytes.
///
/// # Errors
/// [`SecretsError::Shut`].
pub(super) fn reseal_subscription(
    sealer: &Sealer,
    mut row: SubscriptionRow,
) -> Result<SubscriptionRow, SecretsError> {
    let subscription = &row.subscription;
    if let Some(sealed) = &mut row.headers {
        *sealed = reseal(sealer, headers_context(subscription), sealed)?;
    }
    for key in &mut row.keys {
        let context = key_context(subscription, key.id, key.scheme);
        if let Some(sealed) = &mut key.secret {
            *sealed = reseal(sealer, context, sealed)?;
        }
    }
    Ok(row)
}

/// The same value, sealed with the current data key.
///
/// # Errors
/// [`SecretsError::Shut`].
pub fn reseal(sealer: &Sealer, context: Context, sealed: &Sealed) -> Result<Sealed, SecretsError> {
    if sealer.is_current(sealed) {
        return Ok(sealed.clone());
    }
    match sealer.open(&context, sealed) {
        Ok(value) => Ok(sealer.seal(&context, &value)),
        Err(problem) => Err(SecretsError::Shut { context: Box::new(context), problem }),
    }
}

fn open<T>(
    sealer: &Sealer,
    context: Context,
    sealed: &Sealed,
    read: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, SecretsError> {
    let value = match sealer.open(&context, sealed) {
        Ok(value) => value,
        Err(problem) => return Err(SecretsError::Shut { context: Box::new(context), problem }),
    };
    read(&value).map_err(|problem| SecretsError::Senseless { context: Box::new(context), problem })
}

fn key_context(subscription: &Subscription, key: KeyId, scheme: Scheme) -> Context {
    Context::SigningKey {
        tenant: subscription.tenant.clone(),
        subscription: subscription.id,
        key,
        scheme: scheme.as_str(),
    }
}

fn headers_context(subscription: &Subscription) -> Context {
    Context::SubscriptionHeaders { tenant: subscription.tenant.clone(), subscription: subscription.id }
}

fn write_headers(headers: &CustomHeaders) -> Zeroizing<Vec<u8>> {
    let header = |(name, value): (&str, &str)| records::HeaderRecord {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let record = records::HeadersRecord { headers: headers.iter().map(header).collect() };
    Zeroizing::new(record.encode_to_vec())
}

fn read_headers(bytes: &[u8]) -> Result<CustomHeaders, String> {
    let record = records::HeadersRecord::decode(bytes).map_err(|error| error.to_string())?;
    let headers = record.headers.into_iter().map(|header| (header.name, header.value));
    CustomHeaders::new(headers).map_err(|error| error.to_string())
}

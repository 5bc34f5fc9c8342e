//! Rows that hold secrets. Every secret in them is sealed: no store sees one open.

use postrider_domain::id::{DataKeyId, KeyId, SubscriptionId};
use postrider_domain::join::Pin;
use postrider_domain::sealed::{KekId, Sealed};
use postrider_domain::signing::{KeyUse, Scheme};
use postrider_domain::subscription::Subscription;
use postrider_domain::time::Timestamp;

/// A subscription with its keys, as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionRow {
    /// The subscription, without its custom headers.
    pub subscription: Subscription,
    /// Its custom headers, if it has any.
    pub headers: Option<Sealed>,
    /// Its keys, newest first.
    pub keys: Vec<SigningKeyRow>,
    /// When it was deleted, if it was.
    pub deleted: Option<Timestamp>,
}

impl SubscriptionRow {
    /// Every sealed value in it.
    pub fn sealed(&self) -> impl Iterator<Item = &Sealed> {
        self.headers.iter().chain(self.keys.iter().filter_map(|key| key.secret.as_ref()))
    }
}

/// A signing key, as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningKeyRow {
    /// Which key.
    pub id: KeyId,
    /// By what it signs.
    pub scheme: Scheme,
    /// Absent once it is revoked and erased.
    pub secret: Option<Sealed>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it waits to be made active.
    pub pending: bool,
    /// Until when a retiring key signs; absent while pending or active.
    pub retire: Option<Timestamp>,
}

/// How the keys of a subscription were used, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUsesRow {
    /// Whose keys.
    pub subscription: SubscriptionId,
    /// Those that were used. None: there is no row.
    pub keys: Vec<(KeyId, KeyUse)>,
}

/// An authority of agents' certificates, made by the control plane. It has no `Debug`: it holds a key, though a sealed one.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityRow {
    /// The SHA-256 of its public key.
    pub pin: Pin,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Its private key, sealed.
    pub sealed_key: Sealed,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it is trusted beside its successor.
    pub retire: Option<Timestamp>,
}

/// A data key, as stored: wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKeyRow {
    /// Its id.
    pub id: DataKeyId,
    /// The key-encryption key that wraps it.
    pub kek: KekId,
    /// What that made of it.
    pub wrapped: Vec<u8>,
    /// A value sealed with it, which shows at the start that it was unwrapped right.
    pub canary: Sealed,
}

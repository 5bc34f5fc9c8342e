//! Signatures and the keys that make them: Standard Webhooks `v1`, HMAC-SHA256.
//!
//! Source: the Standard Webhooks specification 1.0.0, «Signature scheme». Receivers force details that
//! the text leaves open: one `webhook-signature` line, entries separated by exactly one space, plain
//! digits for the timestamp, an id without a dot.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::{EventId, KeyId};
use crate::time::Timestamp;

/// The name of what keys sign by.
pub const SCHEME: &str = "v1";
/// How many bytes a generated secret has.
pub const GENERATED_SECRET_BYTES: usize = 32;
/// How long a former key signs beside its successor when nobody says otherwise.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// How long a former key may sign beside its successor.
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many keys may be retiring at once.
pub const MAX_RETIRING: usize = 3;
/// How many keys of a subscription are remembered, revoked ones included.
pub const MAX_KEYS: usize = 20;

const PREFIX: &str = "whsec_";

/// The raw bytes of a secret, erased from memory when dropped. It is never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a text is not a secret. It never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The prefix is missing.
    #[error("must begin with whsec_")]
    Prefix,
    /// What follows the prefix is not base64.
    #[error("must be whsec_ followed by standard base64")]
    Base64,
    /// Too short or too long.
    #[error("must hold 24 to 64 bytes, base64 coded after whsec_; this one holds {0}")]
    Length(usize),
}

impl Secret {
    /// The secret made of these bytes: 24 to 64 of them.
    ///
    /// # Errors
    /// [`SecretError::Length`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretError> {
        if (24..=64).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(SecretError::Length(bytes.len())) }
    }

    /// Reads `whsec_` and base64.
    ///
    /// # Errors
    /// Which part is wrong.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let coded = text.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        Self::from_bytes(BASE64.decode(coded).map_err(|_| SecretError::Base64)?)
    }

    /// The raw bytes, to be stored or signed with.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `whsec_` and base64, to be shown to whoever may see it.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", BASE64.encode(&self.0)))
    }

    /// One entry of the signature list: `v1,` and base64.
    #[must_use]
    pub fn sign(&self, id: &EventId, timestamp: Timestamp, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(id.as_str().as_bytes());
        mac.update(b".");
        mac.update(timestamp.as_seconds().to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }

    /// Whether a signature list holds this secret's signature. Compared in constant time.
    #[must_use]
    pub fn verifies(&self, signatures: &str, id: &EventId, timestamp: Timestamp, body: &[u8]) -> bool {
        let expected = self.sign(id, timestamp, body);
        signatures.split(' ').any(|entry| entry.as_bytes().ct_eq(expected.as_bytes()).into())
    }
}

/// A secret of one subscription, and when it signs.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningKey {
    /// Which key.
    pub id: KeyId,
    /// Absent once the key is revoked and its secret erased.
    pub secret: Option<Secret>,
    /// When it was made.
    pub created: Timestamp,
    /// Until when a retiring key signs; absent while active.
    pub retire: Option<Timestamp>,
}

/// Whether a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Signs.
    Active,
    /// Signs until its time.
    Retiring,
    /// Signs no more.
    Revoked,
}

impl SigningKey {
    /// Whether the key signs at `now`. The end of an overlap needs no sweeper: it is judged here.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        match (&self.secret, self.retire) {
            (Some(_), None) => KeyState::Active,
            (Some(_), Some(retire)) if now < retire => KeyState::Retiring,
            _ => KeyState::Revoked,
        }
    }
}

/// The keys of one subscription, newest first. Exactly one is active.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRing(Vec<SigningKey>);

/// Why a change of keys is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Rotation would leave too many keys signing.
    #[error(
        "{MAX_RETIRING} keys are retiring already; revoke one of them first, or rotate with an overlap of 0"
    )]
    TooManyRetiring,
    /// The overlap is too long.
    #[error("the overlap is at most 7 days")]
    OverlapTooLong,
    /// No such key.
    #[error("the subscription has no such key")]
    NotFound,
    /// The active key cannot be revoked.
    #[error("this is the active key; rotate with an overlap of 0 to replace and revoke it")]
    Active,
    /// The secret is erased.
    #[error("the key is revoked and its secret is erased")]
    Revoked,
}

impl KeyRing {
    /// The ring of a new subscription.
    #[must_use]
    pub fn new(first: SigningKey) -> Self {
        Self(vec![first])
    }

    /// The ring as it was stored, newest first.
    #[must_use]
    pub fn restore(keys: Vec<SigningKey>) -> Self {
        Self(keys)
    }

    /// All keys, newest first.
    #[must_use]
    pub fn keys(&self) -> &[SigningKey] {
        &self.0
    }

    /// The key of that id, or the active one when `id` is `None`.
    #[must_use]
    pub fn get(&self, id: Option<KeyId>) -> Option<&SigningKey> {
        self.0.iter().find(|key| id.map_or(key.retire.is_none() && key.secret.is_some(), |id| key.id == id))
    }

    /// The secret of a key that signs.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], or [`KeyError::Revoked`].
    pub fn reveal(&self, id: Option<KeyId>, now: Timestamp) -> Result<(&SigningKey, &Secret), KeyError> {
        let key = self.get(id).ok_or(KeyError::NotFound)?;
        match &key.secret {
            Some(secret) if key.state(now) != KeyState::Revoked => Ok((key, secret)),
            _ => Err(KeyError::Revoked),
        }
    }

    /// Makes `new` the active key. The former one retires after `overlap`, at once when it is zero.
    ///
    /// # Errors
    /// [`KeyError::OverlapTooLong`], [`KeyError::TooManyRetiring`].
    pub fn rotate(&mut self, new: SigningKey, overlap: Duration, now: Timestamp) -> Result<(), KeyError> {
        if overlap > MAX_OVERLAP {
            return Err(KeyError::OverlapTooLong);
        }
        self.erase_expired(now);
        let retiring = self.0.iter().filter(|key| key.state(now) == KeyState::Retiring).count();
        if !overlap.is_zero() && retiring >= MAX_RETIRING {
            return Err(KeyError::TooManyRetiring);
        }
        for key in &mut self.0 {
            if key.state(now) == KeyState::Active {
                key.retire = Some(now + overlap);
            }
        }
        self.0.insert(0, new);
        self.erase_expired(now);
        self.0.truncate(MAX_KEYS);
        Ok(())
    }

    /// Revokes a retiring key and erases its secret. Revoking a revoked key changes nothing.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Active`].
    pub fn revoke(&mut self, id: KeyId, now: Timestamp) -> Result<&SigningKey, KeyError> {
        let key = self.0.iter_mut().find(|key| key.id == id).ok_or(KeyError::NotFound)?;
        if key.state(now) == KeyState::Active {
            return Err(KeyError::Active);
        }
        key.retire = Some(key.retire.map_or(now, |retire| retire.min(now)));
        key.secret = None;
        Ok(key)
    }

    /// Erases every secret: the subscription is deleted.
    pub fn erase(&mut self) {
        for key in &mut self.0 {
            key.secret = None;
        }
    }

    /// The value of `webhook-signature`: the active key's entry, then those of the retiring ones.
    #[must_use]
    pub fn sign(&self, id: &EventId, now: Timestamp, body: &[u8]) -> String {
        let signing = self.0.iter().filter(|key| key.state(now) != KeyState::Revoked);
        let entries: Vec<String> =
            signing.filter_map(|key| key.secret.as_ref()).map(|secret| secret.sign(id, now, body)).collect();
        entries.join(" ")
    }

    fn erase_expired(&mut self, now: Timestamp) {
        for key in &mut self.0 {
            if key.state(now) == KeyState::Revoked {
                key.secret = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Vectors {
        standard_webhooks: Vec<Vector>,
        refused_secrets: Vec<String>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        secret: String,
        id: String,
        timestamp: i64,
        body: String,
        signature: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../tests/vectors/signatures.json")).unwrap()
    }

    #[test]
    fn known_answers() {
        let known: Vec<Vector> = vectors()
            .standard_webhooks
            .into_iter()
            .filter(|vector| vector.signature.starts_with("v1,"))
            .collect();
        assert!(known.len() >= 2);
        for vector in known {
            let secret = Secret::parse(&vector.secret).unwrap();
            let (id, time) = (vector.id.parse().unwrap(), Timestamp::from_millis(vector.timestamp * 1000));
            assert_eq!(secret.sign(&id, time, vector.body.as_bytes()), vector.signature);
            let list = format!("v1a,xx v1,AAAA {}", vector.signature);
            assert!(secret.verifies(&list, &id, time, vector.body.as_bytes()));
            assert!(!secret.verifies(&list, &id, time, b"other"));
            assert_eq!(*secret.expose_text(), vector.secret);
        }
    }

    #[test]
    fn refused_secrets() {
        for text in vectors().refused_secrets {
            let error = Secret::parse(&text).unwrap_err().to_string();
            assert!(text.len() < 8 || !error.contains(&text), "an error quotes the secret");
        }
    }

    fn key(number: u128, now: Timestamp) -> SigningKey {
        let secret = Secret::from_bytes(vec![u8::try_from(number).unwrap(); 32]).unwrap();
        SigningKey { id: KeyId::new(now, number), secret: Some(secret), created: now, retire: None }
    }

    #[test]
    fn a_fourth_overlapping_rotation_is_refused() {
        let now = Timestamp::from_millis(1_000_000);
        let mut ring = KeyRing::new(key(0, now));
        for number in 1..=3 {
            ring.rotate(key(number, now), DEFAULT_OVERLAP, now).unwrap();
        }
        assert_eq!(ring.rotate(key(4, now), DEFAULT_OVERLAP, now), Err(KeyError::TooManyRetiring));
        assert_eq!(
            ring.rotate(key(4, now), Duration::from_secs(8 * 86400), now),
            Err(KeyError::OverlapTooLong)
        );
        let oldest = KeyId::new(now, 0);
        ring.revoke(oldest, now).unwrap();
        assert_eq!(ring.reveal(Some(oldest), now).unwrap_err(), KeyError::Revoked);
        ring.rotate(key(4, now), DEFAULT_OVERLAP, now).unwrap();
        assert_eq!(ring.revoke(KeyId::new(now, 4), now).unwrap_err(), KeyError::Active);
        assert_eq!(ring.revoke(KeyId::new(now, 9), now).unwrap_err(), KeyError::NotFound);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Rotate(u64),
        Revoke(usize),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop_oneof![Just(0), 1_u64..200_000].prop_map(Step::Rotate),
            (0_usize..5).prop_map(Step::Revoke),
            (0_u64..100_000).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn a_ring_always_signs_with_one_active_and_at_most_three_retiring_keys(
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let mut now = Timestamp::from_millis(1_000_000);
            let mut ring = KeyRing::new(key(0, now));
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Rotate(seconds) => {
                        let new = key(number as u128 + 1, now);
                        let _refused = ring.rotate(new, Duration::from_secs(seconds), now);
                    }
                    Step::Revoke(place) => {
                        let id = ring.keys().get(place).map(|key| key.id);
                        drop(id.map(|id| ring.revoke(id, now).cloned()));
                    }
                    Step::Pass(seconds) => now = now + Duration::from_secs(seconds),
                }
                let count = |state| ring.keys().iter().filter(|key| key.state(now) == state).count();
                prop_assert_eq!(count(KeyState::Active), 1);
                prop_assert!(count(KeyState::Retiring) <= MAX_RETIRING);
                prop_assert!(ring.keys().len() <= MAX_KEYS);
                let list = ring.sign(&"evt".parse().unwrap(), now, b"{}");
                prop_assert_eq!(list.split(' ').count(), 1 + count(KeyState::Retiring));
                prop_assert!(list.split(' ').all(|entry| entry.matches(',').count() == 1));
            }
        }
    }
}

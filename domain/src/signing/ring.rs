//! The keys of one subscription: pending → active → retiring → revoked.
//!
//! Each scheme has at most one pending and one active key, and some scheme always has an active one. A time is an
//! argument everywhere: the end of an overlap is judged when a POST is signed, and needs no sweeper.

use std::time::Duration;

use super::secret::{Scheme, Secret};
use crate::id::KeyId;
use crate::time::Timestamp;

/// How long a former key signs beside its successor when nobody says otherwise.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// How long a former key may sign beside its successor.
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many keys may be retiring at once, of all schemes.
pub const MAX_RETIRING: usize = 3;
/// How many keys of a subscription are remembered, revoked ones included.
pub const MAX_KEYS: usize = 20;

/// A key of one subscription, and when it signs.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningKey {
    /// Which key.
    pub id: KeyId,
    /// By what it signs.
    pub scheme: Scheme,
    /// Absent once the key is revoked and its secret erased.
    pub secret: Option<Secret>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it waits to be made active, and signs only key tests.
    pub pending: bool,
    /// Until when a retiring key signs; absent while pending or active.
    pub retire: Option<Timestamp>,
}

/// Whether a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Signs only key tests until it is made active.
    Pending,
    /// Signs.
    Active,
    /// Signs until its time.
    Retiring,
    /// Signs no more.
    Revoked,
}

impl SigningKey {
    /// A key that was never used, made active by being put into a ring.
    #[must_use]
    pub fn new(id: KeyId, secret: Secret, created: Timestamp) -> Self {
        Self { id, scheme: secret.scheme(), secret: Some(secret), created, pending: false, retire: None }
    }

    /// Whether the key signs at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        match (&self.secret, self.retire) {
            (Some(_), None) if self.pending => KeyState::Pending,
            (Some(_), None) => KeyState::Active,
            (Some(_), Some(retire)) if now < retire => KeyState::Retiring,
            _ => KeyState::Revoked,
        }
    }

    /// Whether the key signs every POST at `now`.
    #[must_use]
    pub fn signs(&self, now: Timestamp) -> bool {
        matches!(self.state(now), KeyState::Active | KeyState::Retiring)
    }

    fn is_active(&self) -> bool {
        self.secret.is_some() && self.retire.is_none() && !self.pending
    }
}

/// The keys of one subscription, newest first. Each scheme has at most one active key, and one has.
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
    #[error("this is the only active key; rotate with an overlap of 0 to replace and revoke it")]
    Active,
    /// The secret is erased.
    #[error("the key is revoked and its secret is erased")]
    Revoked,
    /// The key was active once, and is on its way out.
    #[error("the key is retiring; make a new one with the same secret once this one is revoked")]
    Retiring,
    /// A second key would be pending.
    #[error("a key of this scheme is pending already; activate or revoke it first")]
    Pending,
    /// The key is in the ring already.
    #[error(
        "a key of this subscription has this secret already; revoke that one first, or give another secret"
    )]
    KnownSecret,
    /// A profile would have nothing to sign with.
    #[error(
        "a signature profile other than standard_webhooks needs an active key of scheme v1; create one first, or use only standard_webhooks"
    )]
    ProfileWithoutKey,
    /// The key's signatures would stand nowhere.
    #[error(
        "only the profile standard_webhooks shows signatures of scheme v1a; give the subscription that profile, or revoke its v1a key"
    )]
    KeyWithoutProfile,
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

    /// The first key, while the subscription has never had another one. A revoked key counts.
    #[must_use]
    pub fn sole(&self) -> Option<&SigningKey> {
        match self.0.as_slice() {
            [sole] => Some(sole),
            _ => None,
        }
    }

    /// The key of that id, or when `id` is `None` the active one; of those, that of the older scheme.
    #[must_use]
    pub fn get(&self, id: Option<KeyId>) -> Option<&SigningKey> {
        match id {
            Some(id) => self.0.iter().find(|key| key.id == id),
            None => self.0.iter().filter(|key| key.is_active()).min_by_key(|key| key.scheme),
        }
    }

    /// The active key of a scheme.
    #[must_use]
    pub fn active(&self, scheme: Scheme) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.scheme == scheme && key.is_active())
    }

    /// The keys that sign at `now`: by scheme, and of each the active one first, then those that retire, newest first.
    #[must_use]
    pub fn signing(&self, now: Timestamp) -> Vec<&SigningKey> {
        let mut keys: Vec<_> = self.0.iter().filter(|key| key.signs(now)).collect();
        keys.sort_by_key(|key| (key.scheme, key.retire.is_some()));
        keys
    }

    /// The secret of a key that is not revoked.
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

    /// Adds a key that signs only key tests until it is activated.
    ///
    /// # Errors
    /// [`KeyError::Pending`], [`KeyError::KnownSecret`].
    pub fn add(&mut self, new: SigningKey, now: Timestamp) -> Result<(), KeyError> {
        self.erase_expired(now);
        if self.0.iter().any(|key| key.scheme == new.scheme && key.state(now) == KeyState::Pending) {
            return Err(KeyError::Pending);
        }
        self.check_secret(&new)?;
        self.insert(SigningKey { pending: true, ..new });
        Ok(())
    }

    /// Makes a pending key the active one of its scheme. The former one retires after `overlap`, at once when it is
    /// zero. Activating the active key changes nothing.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Revoked`], [`KeyError::Retiring`], [`KeyError::OverlapTooLong`],
    /// [`KeyError::TooManyRetiring`].
    pub fn activate(&mut self, id: KeyId, overlap: Duration, now: Timestamp) -> Result<(), KeyError> {
        let key = self.get(Some(id)).ok_or(KeyError::NotFound)?;
        let scheme = key.scheme;
        match key.state(now) {
            KeyState::Pending => {}
            KeyState::Active => return Ok(()),
            KeyState::Retiring => return Err(KeyError::Retiring),
            KeyState::Revoked => return Err(KeyError::Revoked),
        }
        self.retire(scheme, overlap, now)?;
        self.0.iter_mut().filter(|key| key.id == id).for_each(|key| key.pending = false);
        Ok(())
    }

    /// Makes `new` the active key of its scheme. The former one retires after `overlap`, at once when it is zero.
    ///
    /// # Errors
    /// [`KeyError::OverlapTooLong`], [`KeyError::TooManyRetiring`], [`KeyError::KnownSecret`].
    pub fn rotate(&mut self, new: SigningKey, overlap: Duration, now: Timestamp) -> Result<(), KeyError> {
        self.erase_expired(now);
        self.check_secret(&new)?;
        self.retire(new.scheme, overlap, now)?;
        self.insert(SigningKey { pending: false, ..new });
        Ok(())
    }

    /// Revokes a key and erases its secret. Revoking a revoked key changes nothing. The active key of a scheme can be
    /// revoked when another scheme has one.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Active`].
    pub fn revoke(&mut self, id: KeyId, now: Timestamp) -> Result<&SigningKey, KeyError> {
        let active = self.0.iter().filter(|key| key.is_active()).count();
        let key = self.0.iter_mut().find(|key| key.id == id).ok_or(KeyError::NotFound)?;
        if key.is_active() && active == 1 {
            return Err(KeyError::Active);
        }
        key.retire = Some(key.retire.map_or(now, |retire| retire.min(now)));
        key.pending = false;
        key.secret = None;
        Ok(key)
    }

    /// Erases every secret: the subscription is deleted.
    pub fn erase(&mut self) {
        for key in &mut self.0 {
            key.secret = None;
        }
    }

    /// The active key of the scheme retires, if there is one.
    fn retire(&mut self, scheme: Scheme, overlap: Duration, now: Timestamp) -> Result<(), KeyError> {
        if overlap > MAX_OVERLAP {
            return Err(KeyError::OverlapTooLong);
        }
        let retiring = self.0.iter().filter(|key| key.state(now) == KeyState::Retiring).count();
        if self.active(scheme).is_some() && !overlap.is_zero() && retiring >= MAX_RETIRING {
            return Err(KeyError::TooManyRetiring);
        }
        let former = self.0.iter_mut().filter(|key| key.scheme == scheme && key.is_active());
        former.for_each(|key| key.retire = Some(now + overlap));
        self.erase_expired(now);
        Ok(())
    }

    /// Two keys with one secret could not be told apart by what they sign.
    fn check_secret(&self, new: &SigningKey) -> Result<(), KeyError> {
        let known = new.secret.is_some() && self.0.iter().any(|key| key.secret == new.secret);
        if known { Err(KeyError::KnownSecret) } else { Ok(()) }
    }

    /// Puts a key in front, and forgets the oldest revoked ones.
    fn insert(&mut self, key: SigningKey) {
        self.0.insert(0, key);
        while self.0.len() > MAX_KEYS {
            let Some(oldest) = self.0.iter().rposition(|key| key.secret.is_none()) else { return };
            self.0.remove(oldest);
        }
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
mod tests;

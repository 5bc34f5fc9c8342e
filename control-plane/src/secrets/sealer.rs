//! Seals and opens values with the data keys that are open.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hmac::{Hmac, Mac as _};
use postrider_domain::audit::AuditKey;
use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::{Context, DataKey, KekId, KeyBytes, OpenError, Sealed};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Seals and opens values. Clones share their keys, so that a new data key is everybody's at once.
#[derive(Clone)]
pub struct Sealer(Arc<Shared>);

struct Shared {
    /// Oldest first; the last one seals. Never empty.
    keys: RwLock<Vec<DataKey>>,
    digest_key: KeyBytes,
}

impl Sealer {
    /// A sealer with one data key. `digest_key` is the key of [`Sealer::digest`].
    #[must_use]
    pub fn new(data_key: DataKey, digest_key: KeyBytes) -> Self {
        Self(Arc::new(Shared { keys: RwLock::new(vec![data_key]), digest_key }))
    }

    /// Seals a value with the current data key.
    #[must_use]
    pub fn seal(&self, context: &Context, plaintext: &[u8]) -> Sealed {
        let keys = self.read();
        let current = keys.last().expect("there is always a data key");
        current.seal(context, rand::random(), plaintext)
    }

    /// Opens a value, as this and nothing else.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, context: &Context, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let keys = self.read();
        let key = keys.iter().find(|key| key.id() == sealed.data_key());
        key.ok_or_else(|| OpenError::OtherKey(sealed.data_key()))?.open(context, sealed)
    }

    /// Whether a value is sealed with the current data key.
    #[must_use]
    pub fn is_current(&self, sealed: &Sealed) -> bool {
        self.current() == sealed.data_key()
    }

    /// The data key that seals.
    #[must_use]
    pub fn current(&self) -> DataKeyId {
        self.read().last().expect("there is always a data key").id()
    }

    /// The key-encryption key that wraps it.
    #[must_use]
    pub fn kek(&self) -> KekId {
        self.read().last().expect("there is always a data key").kek().clone()
    }

    /// Whether former data keys are open too: a rewrap is not at its end.
    #[must_use]
    pub fn has_former(&self) -> bool {
        self.read().len() > 1
    }

    /// A digest by which a repeated request is recognised. It is keyed, because requests hold secrets, and not all of
    /// those are too long to be guessed.
    #[must_use]
    pub fn digest(&self, content: &[u8]) -> [u8; 16] {
        let mac = Hmac::<Sha256>::new_from_slice(self.0.digest_key.expose());
        let digest =
            mac.expect("HMAC takes keys of any length").chain_update(content).finalize().into_bytes();
        *digest.first_chunk().expect("it has 32 bytes")
    }

    /// The key of [`crate::job_tags`]. It is derived, so that it is the same after a restart and a rewrap. No request's
    /// content begins with the byte that begins its label, so that it is no digest of a request either.
    #[must_use]
    pub fn job_tag_key(&self) -> Zeroizing<[u8; 32]> {
        let mac = Hmac::<Sha256>::new_from_slice(self.0.digest_key.expose());
        let mac = mac.expect("HMAC takes keys of any length").chain_update(b"\xffpostrider job tags");
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    /// What authenticates the audit log: made of the key of [`Sealer::digest`], so it is sealed as that is and outlives
    /// every rewrap.
    #[must_use]
    pub fn audit_key(&self) -> AuditKey {
        let mac = Hmac::<Sha256>::new_from_slice(self.0.digest_key.expose());
        let mac = mac.expect("HMAC takes keys of any length");
        AuditKey::new(mac.chain_update(b"\xffpostrider audit key").finalize().into_bytes().into())
    }

    /// The key of [`Sealer::digest`], to be sealed beside a new data key.
    pub(super) fn digest_key(&self) -> &KeyBytes {
        &self.0.digest_key
    }

    /// From now on this key seals.
    pub(super) fn add(&self, key: DataKey) {
        self.write().push(key);
    }

    /// Forgets all keys but the current one: nothing is sealed with them any more.
    pub(super) fn forget_former(&self) {
        let mut keys = self.write();
        let former = keys.len() - 1;
        keys.drain(..former);
    }

    // A panic elsewhere while the lock was held leaves nothing half done: every change is one call.
    fn read(&self) -> RwLockReadGuard<'_, Vec<DataKey>> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<DataKey>> {
        self.0.keys.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::time::Timestamp;

    use super::*;

    fn data_key(number: u128) -> DataKey {
        let id = DataKeyId::new(Timestamp::default(), number);
        DataKey::new(id, "kek_1".parse().unwrap(), KeyBytes::new(rand::random()))
    }

    #[test]
    fn the_latest_key_seals_and_former_ones_open_until_they_are_forgotten() {
        let sealer = Sealer::new(data_key(1), KeyBytes::new([1; 32]));
        let context = Context::AuthorityKey { authority: "a".into() };
        let old = sealer.seal(&context, b"secret");
        assert!(sealer.is_current(&old));
        sealer.clone().add(data_key(2));
        assert!(!sealer.is_current(&old));
        let new = sealer.seal(&context, b"secret");
        assert!(sealer.is_current(&new));
        for sealed in [&old, &new] {
            assert_eq!(sealer.open(&context, sealed).unwrap().as_slice(), b"secret");
        }
        sealer.forget_former();
        assert!(sealer.open(&context, &new).is_ok());
        assert_eq!(sealer.open(&context, &old).unwrap_err(), OpenError::OtherKey(old.data_key()));
    }

    #[test]
    fn digests_are_keyed_and_equal_for_equal_content() {
        let one = Sealer::new(data_key(1), KeyBytes::new([1; 32]));
        let other = Sealer::new(data_key(1), KeyBytes::new([2; 32]));
        assert_eq!(one.digest(b"x"), one.digest(b"x"));
        assert_ne!(one.digest(b"x"), one.digest(b"y"));
        assert_ne!(one.digest(b"x"), other.digest(b"x"));
    }

    #[test]
    fn no_two_values_are_sealed_alike() {
        let sealer = Sealer::new(data_key(1), KeyBytes::new([1; 32]));
        assert_ne!(sealer.seal(&Context::DigestKey, b"x"), sealer.seal(&Context::DigestKey, b"x"));
    }
}

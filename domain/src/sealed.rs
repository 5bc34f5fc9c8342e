//! Sealed values: what a secret is while it lies in a store.
//!
//! XChaCha20-Poly1305 under a *data key*. Which value it is ([`Context`]), the format's version, the data key and the
//! key-encryption key that wraps it are bound to it as associated data: moved to another row, or altered, a value does
//! not open. A data key is itself sealed in the same way, under a key-encryption key that is not in the store.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use sha2::{Digest as _, Sha256};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::id::{DataKeyId, KeyId, SubscriptionId, TenantId};

/// Bytes of a data key or a key-encryption key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a nonce: so many that random ones do not meet.
pub const NONCE_BYTES: usize = 24;

const VERSION: u8 = 1;
const ID_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + ID_BYTES + NONCE_BYTES;
const MAX_KEK_ID: usize = 200;

/// Which value is sealed, and whose. It opens as nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Context {
    /// The secret of a signing key.
    SigningKey {
        /// Whose.
        tenant: TenantId,
        /// Of which subscription.
        subscription: SubscriptionId,
        /// Which key.
        key: KeyId,
        /// What it signs by, by its name in [`crate::signing::Scheme`].
        scheme: &'static str,
    },
    /// The custom headers of a subscription.
    SubscriptionHeaders {
        /// Whose.
        tenant: TenantId,
        /// Of which subscription.
        subscription: SubscriptionId,
    },
    /// The private key of an authority for agents.
    AuthorityKey {
        /// Which authority.
        authority: String,
    },
    /// The key of the digests of requests. One lies beside each data key, and shows at the start that it is the right
    /// one.
    DigestKey,
}

impl Context {
    /// The name of its kind, for people and for what is bound.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SigningKey { .. } => "signing-key",
            Self::SubscriptionHeaders { .. } => "subscription-headers",
            Self::AuthorityKey { .. } => "authority-key",
            Self::DigestKey => "digest-key",
        }
    }

    /// What is bound to the value.
    fn bind(&self, bound: &mut Bound) {
        bound.part(self.kind().as_bytes());
        match self {
            Self::SigningKey { tenant, subscription, key, scheme } => {
                bound.part(tenant.as_str().as_bytes());
                bound.part(&subscription.to_bytes());
                bound.part(&key.to_bytes());
                bound.part(scheme.as_bytes());
            }
            Self::SubscriptionHeaders { tenant, subscription } => {
                bound.part(tenant.as_str().as_bytes());
                bound.part(&subscription.to_bytes());
            }
            Self::AuthorityKey { authority } => bound.part(authority.as_bytes()),
            Self::DigestKey => {}
        }
    }
}

/// A context as people read it: `signing-key key_… of sub_…`.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SigningKey { subscription, key, .. } => {
                write!(f, "{} {key} of {subscription}", self.kind())
            }
            Self::SubscriptionHeaders { subscription, .. } => write!(f, "{} of {subscription}", self.kind()),
            Self::AuthorityKey { authority } => write!(f, "{} {authority}", self.kind()),
            Self::DigestKey => f.write_str(self.kind()),
        }
    }
}

/// Associated data: parts with their lengths, so that no two sequences of parts read the same.
struct Bound(Vec<u8>);

impl Bound {
    fn new(purpose: &str) -> Self {
        let mut bound = Self(Vec::with_capacity(192));
        bound.part(purpose.as_bytes());
        bound.part(&[VERSION]);
        bound
    }

    fn part(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
        self.0.extend_from_slice(part);
    }
}

/// The name of a key-encryption key: what is stored beside the data keys that it wraps.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId(Arc<str>);

impl KekId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KekId {
    type Err = KekIdError;

    fn from_str(text: &str) -> Result<Self, KekIdError> {
        let good = (1..=MAX_KEK_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(Self(text.into())) } else { Err(KekIdError) }
    }
}

/// Why a text does not name a key-encryption key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a key-encryption key has 1 to {MAX_KEK_ID} visible ASCII characters")]
pub struct KekIdError;

/// Why a sealed value does not open. It never tells of the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes have not the form of a sealed value.
    #[error("it does not have the form of a sealed value")]
    Form,
    /// A newer program sealed it.
    #[error("it is sealed in format {0}, this program knows {VERSION}; run the newer program that wrote it")]
    Version(u8),
    /// It is sealed with another data key.
    #[error("it is sealed with {0}, a data key that the store does not have (any more)")]
    OtherKey(DataKeyId),
    /// It was altered, moved here from elsewhere, or its key is not the one that it was sealed with.
    #[error("it was altered, or moved here from elsewhere, or its key is another one")]
    Altered,
}

/// A value that is sealed: format version, data key, nonce, ciphertext.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Reads what a store has kept.
    ///
    /// # Errors
    /// [`OpenError::Form`], [`OpenError::Version`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, OpenError> {
        match bytes.first() {
            Some(&VERSION) if bytes.len() >= HEADER_BYTES + TAG_BYTES => Ok(Self(bytes)),
            Some(&VERSION) | None => Err(OpenError::Form),
            Some(&other) => Err(OpenError::Version(other)),
        }
    }

    /// What a store keeps.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The data key that it is sealed with.
    #[must_use]
    pub fn data_key(&self) -> DataKeyId {
        let id = self.0[1..].first_chunk().expect("the length was checked");
        DataKeyId::from_bytes(*id)
    }

    /// What every value that is sealed with this data key begins with, by which one is found.
    #[must_use]
    pub fn beginning(data_key: DataKeyId) -> [u8; 1 + ID_BYTES] {
        let mut beginning = [VERSION; 1 + ID_BYTES];
        beginning[1..].copy_from_slice(&data_key.to_bytes());
        beginning
    }

    fn new(id: [u8; ID_BYTES], nonce: [u8; NONCE_BYTES], ciphertext: &[u8]) -> Self {
        Self([&[VERSION], id.as_slice(), nonce.as_slice(), ciphertext].concat())
    }

    fn nonce(&self) -> &[u8] {
        &self.0[1 + ID_BYTES..HEADER_BYTES]
    }

    fn ciphertext(&self) -> &[u8] {
        &self.0[HEADER_BYTES..]
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}, {} bytes)", self.data_key(), self.0.len())
    }
}

/// Raw bytes of a key, erased from memory when dropped. They are never printed.
#[derive(Clone, ZeroizeOnDrop)]
pub struct KeyBytes([u8; KEY_BYTES]);

impl KeyBytes {
    /// A key made of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A key read from exactly as many bytes as it has.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, to be wrapped or written to the key's own file.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The name of a key-encryption key that is made of these bytes: a digest, so that it says nothing of them.
    #[must_use]
    pub fn kek_id(&self) -> KekId {
        let digest = Sha256::new().chain_update(b"postrider key-encryption key\0").chain_update(self.0);
        let digest = digest.finalize();
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        KekId(format!("kek_{name}").into())
    }

    /// Seals a data key under this key-encryption key.
    #[must_use]
    pub fn wrap(&self, data_key: &DataKey, nonce: [u8; NONCE_BYTES]) -> Sealed {
        let bound = data_key.bound();
        let ciphertext = self.seal(nonce, data_key.key.expose(), &bound);
        Sealed::new(data_key.id.to_bytes(), nonce, &ciphertext)
    }

    /// Opens a data key that was sealed under this key-encryption key.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn unwrap(&self, id: DataKeyId, kek: &KekId, wrapped: &Sealed) -> Result<DataKey, OpenError> {
        if wrapped.data_key() != id {
            return Err(OpenError::OtherKey(wrapped.data_key()));
        }
        let bound = wrap_bound(id, kek);
        let key = self.open(wrapped.nonce(), wrapped.ciphertext(), &bound)?;
        let key = Self::from_slice(&key).ok_or(OpenError::Form)?;
        Ok(DataKey::new(id, kek.clone(), key))
    }

    fn seal(&self, nonce: [u8; NONCE_BYTES], plaintext: &[u8], bound: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: plaintext, aad: bound };
        let sealed = XChaCha20Poly1305::new(&self.0.into()).encrypt(&nonce.into(), payload);
        sealed.expect("it fails only beyond 256 GiB")
    }

    fn open(&self, nonce: &[u8], ciphertext: &[u8], bound: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let payload = Payload { msg: ciphertext, aad: bound };
        let opened = XChaCha20Poly1305::new(&self.0.into()).decrypt(nonce.into(), payload);
        opened.map(Zeroizing::new).map_err(|_| OpenError::Altered)
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(…)")
    }
}

/// What is bound to a wrapped data key.
#[must_use]
pub fn wrap_bound(id: DataKeyId, kek: &KekId) -> Vec<u8> {
    let mut bound = Bound::new("postrider data key");
    bound.part(&id.to_bytes());
    bound.part(kek.as_str().as_bytes());
    bound.0
}

/// A key that seals values. It lies in the store, wrapped by a key-encryption key.
#[derive(Clone, Debug)]
pub struct DataKey {
    id: DataKeyId,
    kek: KekId,
    key: KeyBytes,
}

impl DataKey {
    /// A data key, to be wrapped by this key-encryption key or unwrapped by it.
    #[must_use]
    pub fn new(id: DataKeyId, kek: KekId, key: KeyBytes) -> Self {
        Self { id, kek, key }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> DataKeyId {
        self.id
    }

    /// The key-encryption key that wraps it.
    #[must_use]
    pub fn kek(&self) -> &KekId {
        &self.kek
    }

    /// Its bytes, to be wrapped.
    #[must_use]
    pub fn key(&self) -> &KeyBytes {
        &self.key
    }

    /// What is bound to it when it is wrapped.
    #[must_use]
    pub fn bound(&self) -> Vec<u8> {
        wrap_bound(self.id, &self.kek)
    }

    /// Seals a value. The nonce is random, and used once.
    #[must_use]
    pub fn seal(&self, context: &Context, nonce: [u8; NONCE_BYTES], plaintext: &[u8]) -> Sealed {
        let ciphertext = self.key.seal(nonce, plaintext, &self.bound_to(context));
        Sealed::new(self.id.to_bytes(), nonce, &ciphertext)
    }

    /// Opens a value that was sealed with this key, as this and nothing else.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, context: &Context, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if sealed.data_key() != self.id {
            return Err(OpenError::OtherKey(sealed.data_key()));
        }
        self.key.open(sealed.nonce(), sealed.ciphertext(), &self.bound_to(context))
    }

    fn bound_to(&self, context: &Context) -> Vec<u8> {
        let mut bound = Bound::new("postrider sealed value");
        bound.part(&self.id.to_bytes());
        bound.part(self.kek.as_str().as_bytes());
        context.bind(&mut bound);
        bound.0
    }
}

#[cfg(test)]
mod tests;

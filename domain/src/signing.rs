//! Signatures and the keys that make them.
//!
//! A [`Secret`] signs by its [`Scheme`]: Standard Webhooks `v1` (HMAC-SHA256) or `v1a` (Ed25519). The keys of a
//! subscription are a [`KeyRing`], which says which of them sign now. [`Profiles`] say in which headers of a POST the
//! signatures stand, and over what they are made.

mod evidence;
mod expiry;
mod profile;
mod ring;
mod secret;
mod verdict;

pub use self::evidence::{Advice, KeyUse};
pub use self::expiry::expiry_warning;
pub use self::profile::{
    Encoding, MAX_PROFILES, Profile, ProfileError, Profiles, Request, TimestampedHeaders,
};
pub use self::ring::{
    DEFAULT_OVERLAP, KeyError, KeyRing, KeyState, MAX_KEYS, MAX_OVERLAP, MAX_RETIRING, SigningKey,
};
pub use self::secret::{GENERATED_SECRET_BYTES, PublicKey, Scheme, Secret, SecretError};
pub use self::verdict::{key_test_verdict, test_verdict};

//! Secrets, and what they sign by Standard Webhooks: `v1`, HMAC-SHA256, and `v1a`, Ed25519.
//!
//! Source: the Standard Webhooks specification 1.0.0, 'Signature scheme'. Receivers force details that
//! the text leaves open: one `webhook-signature` line, entries separated by exactly one space, plain
//! digits for the timestamp, an id without a dot.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::id::EventId;
use crate::time::Timestamp;

/// How many random bytes a secret is made of, of either scheme.
pub const GENERATED_SECRET_BYTES: usize = 32;

const HMAC_PREFIX: &str = "whsec_";
const ED25519_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const SEED_BYTES: usize = 32;
/// What is given as text may lack its padding, as the libraries of Standard Webhooks allow.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// By what a key signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// HMAC-SHA256, with a secret that sender and receiver share.
    #[default]
    V1,
    /// Ed25519: the receiver has the public key, and cannot sign.
    V1a,
}

impl Scheme {
    /// Every scheme, the one that more receivers know first.
    pub const ALL: [Self; 2] = [Self::V1, Self::V1a];

    /// Its name, as it stands in a signature list.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1a => "v1a",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scheme {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scheme| scheme.as_str() == text);
        found.ok_or("must be v1 (HMAC-SHA256) or v1a (Ed25519)")
    }
}

/// A secret of one scheme, erased from memory when dropped. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Material);

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Hmac(Zeroizing<Vec<u8>>),
    // It erases itself.
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a text is not a secret or a public key. It never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The prefix is missing.
    #[error("must begin with whsec_ (v1), or whsk_ (v1a)")]
    Prefix,
    /// What follows the prefix is not base64.
    #[error("must be whsec_ or whsk_ followed by standard base64")]
    Base64,
    /// Too short or too long.
    #[error("must hold 24 to 64 bytes, base64 coded after whsec_; this one holds {0}")]
    Length(usize),
    /// Not a seed and its public key.
    #[error("must hold 64 bytes, base64 coded after whsk_: the seed and its own public key")]
    KeyPair,
    /// Not a public key.
    #[error("must be whpk_ followed by the base64 of the 32 bytes of an Ed25519 public key")]
    Public,
}

impl Secret {
    /// The secret for `v1` made of these bytes: 24 to 64 of them.
    ///
    /// # Errors
    /// [`SecretError::Length`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            24..=64 => Ok(Self(Material::Hmac(bytes))),
            other => Err(SecretError::Length(other)),
        }
    }

    /// The secret for `v1a` that grows from this seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; SEED_BYTES]) -> Self {
        Self(Material::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed))))
    }

    /// The secret of a scheme made of random bytes.
    #[must_use]
    pub fn generate(scheme: Scheme, random: &[u8; GENERATED_SECRET_BYTES]) -> Self {
        match scheme {
            Scheme::V1 => Self(Material::Hmac(Zeroizing::new(random.to_vec()))),
            Scheme::V1a => Self::from_seed(random),
        }
    }

    /// What [`Secret::expose_bytes`] gave.
    ///
    /// # Errors
    /// [`SecretError::Length`], [`SecretError::KeyPair`].
    pub fn restore(scheme: Scheme, bytes: &[u8]) -> Result<Self, SecretError> {
        match scheme {
            Scheme::V1 => Self::from_bytes(bytes.to_vec()),
            Scheme::V1a => {
                bytes.try_into().map(|seed| Self::from_seed(&seed)).map_err(|_| SecretError::KeyPair)
            }
        }
    }

    /// Reads `whsec_` and base64, with or without its padding, or `whsk_` and the base64 of seed and public key.
    ///
    /// # Errors
    /// Which part is wrong.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let decode = |coded: &str| LENIENT.decode(coded).map(Zeroizing::new).map_err(|_| SecretError::Base64);
        if let Some(coded) = text.strip_prefix(HMAC_PREFIX) {
            return Self::from_bytes(decode(coded)?.to_vec());
        }
        let coded = text.strip_prefix(ED25519_PREFIX).ok_or(SecretError::Prefix)?;
        let pair = Zeroizing::new(
            <[u8; 64]>::try_from(decode(coded)?.as_slice()).map_err(|_| SecretError::KeyPair)?,
        );
        let key = ed25519_dalek::SigningKey::from_keypair_bytes(&pair).map_err(|_| SecretError::KeyPair)?;
        Ok(Self(Material::Ed25519(Box::new(key))))
    }

    /// By what it signs.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self.0 {
            Material::Hmac(_) => Scheme::V1,
            Material::Ed25519(_) => Scheme::V1a,
        }
    }

    /// The raw bytes, to be stored: of the secret, or of the seed.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        match &self.0 {
            Material::Hmac(bytes) => bytes,
            Material::Ed25519(key) => key.as_bytes(),
        }
    }

    /// As it is handed out: `whsec_…` or `whsk_…`, to be shown to whoever may see it.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        Zeroizing::new(match &self.0 {
            Material::Hmac(bytes) => format!("{HMAC_PREFIX}{}", BASE64.encode(bytes.as_slice())),
            Material::Ed25519(key) => {
                let pair = Zeroizing::new(key.to_keypair_bytes());
                format!("{ED25519_PREFIX}{}", BASE64.encode(pair.as_slice()))
            }
        })
    }

    /// What receivers verify with, if it is no secret.
    #[must_use]
    pub fn public(&self) -> Option<PublicKey> {
        match &self.0 {
            Material::Hmac(_) => None,
            Material::Ed25519(key) => Some(PublicKey(key.verifying_key())),
        }
    }

    /// One entry of the signature list of Standard Webhooks: the scheme, a comma, and base64.
    #[must_use]
    pub fn sign(&self, id: &EventId, timestamp: Timestamp, body: &[u8]) -> String {
        let signature = match &self.0 {
            Material::Hmac(bytes) => BASE64
                .encode(hmac_sha256(bytes, &[id.as_str().as_bytes(), b".", &seconds(timestamp), b".", body])),
            Material::Ed25519(key) => BASE64.encode(key.sign(&signed(id, timestamp, body)).to_bytes()),
        };
        format!("{},{signature}", self.scheme())
    }

    /// Whether a signature list holds this secret's signature. Compared in constant time.
    #[must_use]
    pub fn verifies(&self, signatures: &str, id: &EventId, timestamp: Timestamp, body: &[u8]) -> bool {
        let expected = self.sign(id, timestamp, body);
        signatures.split(' ').any(|entry| entry.as_bytes().ct_eq(expected.as_bytes()).into())
    }
}

/// What receivers verify signatures of `v1a` with: `whpk_` and base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Whether a signature list holds a signature of the secret that belongs to this key.
    #[must_use]
    pub fn verifies(&self, signatures: &str, id: &EventId, timestamp: Timestamp, body: &[u8]) -> bool {
        let message = signed(id, timestamp, body);
        let entries = signatures.split(' ').filter_map(|entry| entry.strip_prefix("v1a,"));
        let decoded = entries.filter_map(|coded| Signature::from_slice(&BASE64.decode(coded).ok()?).ok());
        decoded.into_iter().any(|signature| self.0.verify_strict(&message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", BASE64.encode(self.0.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let coded = text.strip_prefix(PUBLIC_PREFIX).ok_or(SecretError::Public)?;
        let bytes = LENIENT.decode(coded).map_err(|_| SecretError::Public)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| SecretError::Public)?;
        VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| SecretError::Public)
    }
}

/// What Standard Webhooks signs.
fn signed(id: &EventId, timestamp: Timestamp, body: &[u8]) -> Vec<u8> {
    [id.as_str().as_bytes(), b".", &seconds(timestamp), b".", body].concat()
}

/// A time as signatures have it.
pub(super) fn seconds(timestamp: Timestamp) -> Vec<u8> {
    timestamp.as_seconds().to_string().into_bytes()
}

/// HMAC-SHA256 of these parts, one after the other.
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
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
        #[serde(default)]
        public: String,
        id: String,
        timestamp: i64,
        body: String,
        signature: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../tests/vectors/signatures.json")).unwrap()
    }

    #[test]
    fn known_answers() {
        let known = vectors().standard_webhooks;
        assert!(known.iter().any(|vector| !vector.public.is_empty()) && known.len() >= 3);
        for vector in known {
            let secret = Secret::parse(&vector.secret).unwrap();
            let (id, time) = (vector.id.parse().unwrap(), Timestamp::from_millis(vector.timestamp * 1000));
            let body = vector.body.as_bytes();
            assert_eq!(secret.sign(&id, time, body), vector.signature);
            let list = format!("v1a,xx v1,AAAA {}", vector.signature);
            assert!(secret.verifies(&list, &id, time, body));
            assert!(!secret.verifies(&list, &id, time, b"other"));
            assert_eq!(*secret.expose_text(), vector.secret);
            assert_eq!(Secret::restore(secret.scheme(), secret.expose_bytes()), Ok(secret.clone()));
            assert_eq!(secret.public().map(|key| key.to_string()).unwrap_or_default(), vector.public);
            if let Ok(public) = vector.public.parse::<PublicKey>() {
                assert!(public.verifies(&list, &id, time, body));
                assert!(!public.verifies(&list, &id, time, b"other"));
            }
        }
    }

    #[test]
    fn padding_may_be_left_out() {
        for text in [
            "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned(),
            format!("whsec_{}", BASE64.encode([7; 25])),
            format!("whsec_{}", BASE64.encode([7; 24])),
            Secret::from_seed(&[7; 32]).expose_text().to_string(),
        ] {
            let bare = text.trim_end_matches('=');
            let secret = Secret::parse(bare).unwrap();
            assert_eq!(Ok(secret.clone()), Secret::parse(&text));
            assert_eq!(*secret.expose_text(), text);
            if let Some(public) = secret.public() {
                assert_eq!(public.to_string().trim_end_matches('=').parse(), Ok(public));
            }
        }
        assert!(
            Secret::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWZ=").is_err(),
            "loose last bits"
        );
    }

    #[test]
    fn refused_secrets() {
        for text in vectors().refused_secrets {
            let error = Secret::parse(&text).unwrap_err().to_string();
            assert!(text.len() < 8 || !error.contains(&text), "an error quotes the secret");
        }
    }

    #[test]
    fn a_pair_whose_halves_do_not_belong_together_is_refused() {
        let [one, other] = [1, 2].map(|byte| Secret::from_seed(&[byte; 32]));
        let mut pair = other.public().unwrap().0.to_bytes().to_vec();
        pair.splice(0..0, one.expose_bytes().iter().copied());
        let text = format!("whsk_{}", BASE64.encode(pair));
        assert_eq!(Secret::parse(&text), Err(SecretError::KeyPair));
        for text in ["whpk_", "whsk_AAAA", "whpk_AAAA", "x"] {
            assert_eq!(text.parse::<PublicKey>(), Err(SecretError::Public));
        }
    }

    proptest! {
        #[test]
        fn secrets_of_either_scheme_read_back_and_verify_only_what_they_signed(
            random: [u8; 32], other: [u8; 32], body: Vec<u8>,
        ) {
            prop_assume!(random != other);
            let (id, time) = ("evt".parse().unwrap(), Timestamp::from_millis(1_770_028_200_000));
            for scheme in Scheme::ALL {
                let [secret, stranger] = [random, other].map(|random| Secret::generate(scheme, &random));
                prop_assert_eq!(Secret::parse(&secret.expose_text()), Ok(secret.clone()));
                prop_assert_eq!(scheme.as_str().parse(), Ok(secret.scheme()));
                let signature = secret.sign(&id, time, &body);
                prop_assert!(secret.verifies(&signature, &id, time, &body));
                prop_assert!(!stranger.verifies(&signature, &id, time, &body));
                if let (Some(own), Some(strange)) = (secret.public(), stranger.public()) {
                    prop_assert_eq!(own.to_string().parse(), Ok(own));
                    prop_assert!(own.verifies(&signature, &id, time, &body));
                    prop_assert!(!strange.verifies(&signature, &id, time, &body));
                }
            }
        }
    }
}

//! Signature profiles: in which headers of a POST the signatures stand, and over what they are made.
//!
//! A subscription has one or several, so that receivers written for another sender verify without a change, and can
//! move on in their own time. Profiles other than Standard Webhooks sign with keys of `v1`, and take the whole text
//! `whsec_…` as the key, as those senders do. Where a profile has room for one signature it is the active key's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::ring::{KeyError, KeyRing, SigningKey};
use super::secret::{Scheme, Secret, hmac_sha256, seconds};
use crate::headers::{CustomHeaders, HeaderError};
use crate::id::{EventId, KeyId};
use crate::time::Timestamp;

/// How many profiles a subscription may have.
pub const MAX_PROFILES: usize = 4;

/// The header that has the event's id in every POST, whatever the profiles.
const ID_HEADER: &str = "webhook-id";
const TIMESTAMP_HEADER: &str = "webhook-timestamp";
const SIGNATURE_HEADER: &str = "webhook-signature";

/// A way to show signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `webhook-id`, `webhook-timestamp` and `webhook-signature`, with a signature of every key that signs.
    StandardWebhooks,
    /// One signature, of `{timestamp}.{body}`, with timestamp and event id in headers of their own.
    Timestamped(TimestampedHeaders),
    /// `t=…,v1=…` with a `v1` for every key that signs, of `{timestamp}.{body}`, in hexadecimal.
    Stripe {
        /// The header's name.
        header: String,
    },
    /// `sha256=…`: one signature, of the body alone, in hexadecimal.
    GitHub {
        /// The header's name.
        header: String,
    },
}

/// The headers of [`Profile::Timestamped`], by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampedHeaders {
    /// How the signature is written.
    pub encoding: Encoding,
    /// Has the signature.
    pub signature: String,
    /// Has the attempt's time, in seconds since 1970.
    pub timestamp: String,
    /// Has the event's id.
    pub event_id: String,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal, in lower case.
    #[default]
    Hex,
    /// Standard base64, padded.
    Base64,
}

impl Encoding {
    fn write(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => hex(bytes),
            Self::Base64 => BASE64.encode(bytes),
        }
    }
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The event's id: the same on every attempt.
    pub id: &'a EventId,
    /// The attempt's time.
    pub timestamp: Timestamp,
    /// The bytes that are sent.
    pub body: &'a [u8],
}

/// The profiles of one subscription: at least one, and no header twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles(Vec<Profile>);

/// Why profiles were not taken, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// None, or more than [`MAX_PROFILES`].
    #[error("give 1 to {MAX_PROFILES} signature profiles")]
    Count,
    /// A name that cannot be a header's, is reserved, or stands in two profiles.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// Standard Webhooks twice.
    #[error("the profile standard_webhooks is given twice; give it once")]
    Twice,
    /// A header is both a signature's and the tenant's own.
    #[error("the header `{0}` is a signature profile's and among the custom headers; rename or remove one")]
    Custom(String),
}

impl Default for Profiles {
    fn default() -> Self {
        Self(vec![Profile::StandardWebhooks])
    }
}

impl Profiles {
    /// Checks the profiles, and lower-cases their headers' names.
    ///
    /// # Errors
    /// The first [`ProfileError`].
    pub fn new(mut profiles: Vec<Profile>) -> Result<Self, ProfileError> {
        if profiles.is_empty() || profiles.len() > MAX_PROFILES {
            return Err(ProfileError::Count);
        }
        if profiles.iter().filter(|profile| **profile == Profile::StandardWebhooks).count() > 1 {
            return Err(ProfileError::Twice);
        }
        profiles.iter_mut().flat_map(Profile::names_mut).for_each(|name| name.make_ascii_lowercase());
        // What a tenant may not set itself, a profile may not set for it.
        CustomHeaders::new(
            profiles.iter().flat_map(Profile::names).map(|name| (name.to_owned(), String::new())),
        )?;
        Ok(Self(profiles))
    }

    /// The profiles, in the order given.
    #[must_use]
    pub fn as_slice(&self) -> &[Profile] {
        &self.0
    }

    /// Checks that no custom header is a profile's.
    ///
    /// # Errors
    /// [`ProfileError::Custom`].
    pub fn check_custom(&self, custom: &CustomHeaders) -> Result<(), ProfileError> {
        let both = self.0.iter().flat_map(Profile::names).find(|name| custom.contains(name));
        both.map_or(Ok(()), |name| Err(ProfileError::Custom(name.to_owned())))
    }

    /// Checks that every profile has an active key to sign with, and every active key a profile that shows it.
    ///
    /// # Errors
    /// [`KeyError::ProfileWithoutKey`], [`KeyError::KeyWithoutProfile`].
    pub fn check_keys(&self, ring: &KeyRing) -> Result<(), KeyError> {
        if self.need(Scheme::V1) && ring.active(Scheme::V1).is_none() {
            return Err(KeyError::ProfileWithoutKey);
        }
        match ring.active(Scheme::V1a) {
            Some(_) if !self.shows(Scheme::V1a) => Err(KeyError::KeyWithoutProfile),
            _ => Ok(()),
        }
    }

    /// Whether a profile has nothing to sign with unless there is a key of this scheme.
    #[must_use]
    pub fn need(&self, scheme: Scheme) -> bool {
        scheme == Scheme::V1 && self.0.iter().any(|profile| *profile != Profile::StandardWebhooks)
    }

    /// Whether a signature of the scheme stands anywhere.
    #[must_use]
    pub fn shows(&self, scheme: Scheme) -> bool {
        scheme == Scheme::V1 || self.0.contains(&Profile::StandardWebhooks)
    }

    /// The headers of a POST that is signed with these keys, the most important first, and the keys that have signed.
    #[must_use]
    pub fn sign(&self, keys: &[&SigningKey], request: Request<'_>) -> (Vec<(String, String)>, Vec<KeyId>) {
        let mut headers = vec![(ID_HEADER.to_owned(), request.id.to_string())];
        let mut signers = Vec::with_capacity(keys.len());
        for profile in &self.0 {
            let used = profile.signers(keys);
            if used.is_empty() {
                continue;
            }
            let secrets: Vec<&Secret> = used.iter().filter_map(|key| key.secret.as_ref()).collect();
            profile.write(&secrets, request, &mut headers);
            signers.extend(used.iter().map(|key| key.id));
        }
        signers.sort_unstable();
        signers.dedup();
        (headers, signers)
    }
}

impl Profile {
    /// Those of the keys that sign in this profile.
    fn signers<'a>(&self, keys: &[&'a SigningKey]) -> Vec<&'a SigningKey> {
        let with_secret = keys.iter().copied().filter(|key| key.secret.is_some());
        let v1 = || keys.iter().copied().filter(|key| key.scheme == Scheme::V1 && key.secret.is_some());
        match self {
            Self::StandardWebhooks => with_secret.collect(),
            Self::Stripe { .. } => v1().collect(),
            Self::Timestamped(_) | Self::GitHub { .. } => v1().take(1).collect(),
        }
    }

    fn write(&self, secrets: &[&Secret], request: Request<'_>, headers: &mut Vec<(String, String)>) {
        let Request { id, timestamp, body } = request;
        let time = timestamp.as_seconds().to_string();
        let mut header = |name: &str, value: String| headers.push((name.to_owned(), value));
        match self {
            Self::StandardWebhooks => {
                let entries: Vec<_> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
                header(TIMESTAMP_HEADER, time);
                header(SIGNATURE_HEADER, entries.join(" "));
            }
            Self::Timestamped(names) => {
                let digest = secrets.iter().map(|secret| timestamped(text(secret), timestamp, body)).next();
                header(&names.signature, names.encoding.write(&digest.unwrap_or_default()));
                header(&names.timestamp, time);
                header(&names.event_id, id.to_string());
            }
            Self::Stripe { header: name } => {
                let entry =
                    |secret: &&Secret| format!(",v1={}", hex(&timestamped(text(secret), timestamp, body)));
                header(name, format!("t={time}{}", secrets.iter().map(entry).collect::<String>()));
            }
            Self::GitHub { header: name } => {
                let signature = secrets.iter().map(|secret| github(text(secret).as_bytes(), body)).next();
                header(name, signature.unwrap_or_default());
            }
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names: Vec<&str> = match self {
            Self::StandardWebhooks => vec![],
            Self::Timestamped(names) => vec![&names.signature, &names.timestamp, &names.event_id],
            Self::Stripe { header } | Self::GitHub { header } => vec![header],
        };
        names.into_iter()
    }

    fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let names: Vec<&mut String> = match self {
            Self::StandardWebhooks => vec![],
            Self::Timestamped(names) => vec![&mut names.signature, &mut names.timestamp, &mut names.event_id],
            Self::Stripe { header } | Self::GitHub { header } => vec![header],
        };
        names.into_iter()
    }
}

/// Its name, for people.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StandardWebhooks => "standard_webhooks",
            Self::Timestamped(_) => "timestamped",
            Self::Stripe { .. } => "stripe",
            Self::GitHub { .. } => "github",
        })
    }
}

fn text(secret: &Secret) -> zeroize::Zeroizing<String> {
    secret.expose_text()
}

fn timestamped(key: impl AsRef<str>, timestamp: Timestamp, body: &[u8]) -> [u8; 32] {
    hmac_sha256(key.as_ref().as_bytes(), &[&seconds(timestamp), b".", body])
}

fn github(key: &[u8], body: &[u8]) -> String {
    format!("sha256={}", hex(&hmac_sha256(key, &[body])))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;

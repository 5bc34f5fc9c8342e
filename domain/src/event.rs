//! An event: one accepted fact, and the rules by which it is accepted.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::id::{EventId, EventKey, KeyId, TenantId};
use crate::time::Timestamp;
use crate::violation::Violation;

/// How deep JSON may be nested.
pub const MAX_DEPTH: usize = 100;
/// How long an idempotency key makes a repeat return the first event.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// How many bytes an idempotency key may have.
pub const MAX_IDEMPOTENCY_KEY: usize = 128;

/// One accepted fact. It never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// How the store and the lanes know it.
    pub key: EventKey,
    /// How users and receivers know it.
    pub id: EventId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What kind of fact.
    pub event_type: EventTypeName,
    /// When it happened.
    pub timestamp: Timestamp,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// JSON text, as emitted.
    pub data: Bytes,
    /// The signing key that alone signs its deliveries, for it is there to show whether the receiver has that key.
    pub probed_key: Option<KeyId>,
}

/// The name of an event type: words joined by dots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTypeName(Arc<str>);

impl EventTypeName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventTypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventTypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not the name of an event type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to 128 characters: words of a-z, A-Z, 0-9, '_' and '-' joined by single dots, as in document.completed"
)]
pub struct EventTypeNameError;

impl FromStr for EventTypeName {
    type Err = EventTypeNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if text.len() <= 128 && text.split('.').all(word) {
            Ok(Self(text.into()))
        } else {
            Err(EventTypeNameError)
        }
    }
}

/// Checks an event's data: JSON text in UTF-8, at most `max_bytes` long and [`MAX_DEPTH`] deep.
///
/// # Errors
/// A violation of `data` that says which rule, and where in the text.
pub fn check_data(data: &[u8], max_bytes: usize) -> Result<(), Violation> {
    let refuse = |problem: String| Err(Violation::new("data", problem));
    if data.is_empty() {
        return refuse("must hold JSON text; for an event without data send null or {}".into());
    }
    if data.len() > max_bytes {
        return refuse(format!(
            "has {} bytes, the limit is {max_bytes}; send a reference to large content instead of the content",
            data.len()
        ));
    }
    let text = match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => return refuse(format!("is not UTF-8 (byte {})", error.valid_up_to())),
    };
    if depth(data) > MAX_DEPTH {
        return refuse(format!("is nested deeper than {MAX_DEPTH}"));
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => refuse(format!("is not JSON: {error}")),
    }
}

/// How deep arrays and objects are nested, counted without recursion so that no input can exhaust the stack.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A digest of what an emit says: two emits with one idempotency key must agree in it.
///
/// `timestamp` is the client's, when it gave one: the time of arrival does not make content differ.
#[must_use]
pub fn content_digest(
    event_type: &EventTypeName,
    timestamp: Option<Timestamp>,
    client_id: Option<&EventId>,
    data: &[u8],
) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    field(event_type.as_str().as_bytes());
    field(&timestamp.map_or([0xff; 8], |time| time.as_millis().to_be_bytes()));
    field(client_id.map_or("", EventId::as_str).as_bytes());
    field(data);
    short(&hash.finalize())
}

/// The digest under which an idempotency key is kept.
#[must_use]
pub fn idempotency_digest(tenant: &TenantId, key: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(tenant.as_str().as_bytes());
    hash.update([0]);
    hash.update(key.as_bytes());
    short(&hash.finalize())
}

fn short(digest: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_json_of_bounded_size_and_depth() {
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        let table: [(&[u8], Option<&str>); 14] = [
            (b"{}", None),
            (b"null", None),
            (br#"{"a":"[[[[","b":"\"[{"}"#, None),
            (" {\"é\": 1}\n".as_bytes(), None),
            (&deep(100), None),
            (&deep(101), Some("deeper than 100")),
            (&deep(10_000), Some("deeper than 100")),
            (b"", Some("must hold JSON")),
            (b"{", Some("is not JSON: EOF")),
            (b"{} {}", Some("trailing characters")),
            (b"{\"a\":NaN}", Some("is not JSON")),
            (b"\"\xff\"", Some("is not UTF-8 (byte 1)")),
            (b"'a'", Some("is not JSON")),
            (&[b'1'; 20_001], Some("the limit is 20000")),
        ];
        for (data, expected) in table {
            let found = check_data(data, 20_000).err().map(|violation| violation.problem);
            match (expected, &found) {
                (None, None) => {}
                (Some(part), Some(problem)) if problem.contains(part) => {}
                _ => panic!("{:?}: {found:?}", String::from_utf8_lossy(&data[..data.len().min(40)])),
            }
        }
    }

    #[test]
    fn content_differs_in_every_field() {
        let name = |text: &str| text.parse::<EventTypeName>().unwrap();
        let id: EventId = "a".parse().unwrap();
        let time = Some(Timestamp::from_millis(5));
        let base = content_digest(&name("a.b"), time, Some(&id), b"{}");
        assert_eq!(base, content_digest(&name("a.b"), time, Some(&id), b"{}"));
        assert_ne!(base, content_digest(&name("a.c"), time, Some(&id), b"{}"));
        assert_ne!(base, content_digest(&name("a.b"), None, Some(&id), b"{}"));
        assert_ne!(base, content_digest(&name("a.b"), time, None, b"{}"));
        assert_ne!(base, content_digest(&name("a.b"), time, Some(&id), b"[]"));
    }

    #[test]
    fn type_names() {
        for good in ["a", "document.completed", "api_key.revoked", "a-b.C9"] {
            assert!(good.parse::<EventTypeName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "*", "é", &"a".repeat(129)] {
            assert!(bad.parse::<EventTypeName>().is_err(), "{bad}");
        }
    }
}

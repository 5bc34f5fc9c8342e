//! An event: one accepted fact, and the rules by which it is accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::id::{EventId, EventKey, TenantId};
use crate::order::OrderingKey;
use crate::time::{EventTime, Timestamp};
use crate::trace::TraceContext;
use crate::violation::Violation;

/// How deep JSON may be nested.
pub const MAX_DEPTH: usize = 100;
/// How long an idempotency key makes a repeat return the first event.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// How many attributes an event may have.
pub const MAX_ATTRIBUTES: usize = 16;
/// How many bytes the name of an attribute may have.
pub const MAX_ATTRIBUTE_NAME: usize = 64;
/// How many bytes the value of an attribute may have.
pub const MAX_ATTRIBUTE: usize = 256;
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
    pub timestamp: EventTime,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// JSON text, as emitted.
    pub data: Bytes,
    /// What filters can ask beside the data. Not delivered.
    pub attributes: Attributes,
    /// What it must follow, and be followed by, in order, where subscriptions ask for it.
    pub ordering_key: Option<OrderingKey>,
    /// The trace that it belongs to, told to receivers.
    pub trace: Option<TraceContext>,
}

/// Short texts by name, beside an event's data: for filters, so that they need not look into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// Attributes as an emitter gives them.
    ///
    /// # Errors
    /// A violation of `attributes`: too many, a name or a value that is not allowed.
    pub fn new(given: impl IntoIterator<Item = (String, String)>) -> Result<Self, Violation> {
        let given: BTreeMap<_, _> = given.into_iter().collect();
        let refuse = |problem: String| Err(Violation::new("attributes", problem));
        if given.len() > MAX_ATTRIBUTES {
            return refuse(format!("has {} entries, the limit is {MAX_ATTRIBUTES}", given.len()));
        }
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        for (name, value) in &given {
            let shown: String = name.chars().take(80).collect();
            if !(1..=MAX_ATTRIBUTE_NAME).contains(&name.len()) || !name.bytes().all(named) {
                return refuse(format!(
                    "has the name '{shown}'; a name has 1 to {MAX_ATTRIBUTE_NAME} characters of a-z, A-Z, 0-9, '_', '-' and '.'"
                ));
            }
            if value.len() > MAX_ATTRIBUTE || value.chars().any(char::is_control) {
                return refuse(format!(
                    "'{shown}' must have at most {MAX_ATTRIBUTE} bytes and no control characters"
                ));
            }
        }
        Ok(Self(given))
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
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
pub(crate) fn depth(json: &[u8]) -> usize {
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
/// `timestamp` is the client's, when it gave one: the time of arrival does not make content differ. Nor does a trace: a
/// repeat has its own.
#[must_use]
pub fn content_digest(
    event_type: &EventTypeName,
    timestamp: Option<EventTime>,
    client_id: Option<&EventId>,
    data: &[u8],
    attributes: &Attributes,
    ordering_key: Option<&OrderingKey>,
) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    field(event_type.as_str().as_bytes());
    field(&timestamp.map_or([0xff; 8], |time| time.cut().as_millis().to_be_bytes()));
    field(client_id.map_or("", EventId::as_str).as_bytes());
    field(data);
    for (name, value) in attributes.iter() {
        field(name.as_bytes());
        field(value.as_bytes());
    }
    // Digests of events without either are those of versions that knew neither.
    if let Some(rest) = timestamp.map(EventTime::rest).filter(|rest| *rest > 0) {
        field(b"nanoseconds");
        field(&rest.to_be_bytes());
    }
    if let Some(key) = ordering_key {
        field(b"ordering key");
        field(key.as_str().as_bytes());
    }
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
        let time = Some(EventTime::from(Timestamp::from_millis(5)));
        let finer = Some(EventTime::new(Timestamp::from_millis(5), 1));
        let attributes = |list: &[(&str, &str)]| {
            let owned = list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Attributes::new(owned).unwrap()
        };
        let none = attributes(&[]);
        let one = attributes(&[("a", "b")]);
        let base = content_digest(&name("a.b"), time, Some(&id), b"{}", &none, None);
        assert_eq!(base, content_digest(&name("a.b"), time, Some(&id), b"{}", &none, None));
        assert_ne!(base, content_digest(&name("a.c"), time, Some(&id), b"{}", &none, None));
        assert_ne!(base, content_digest(&name("a.b"), None, Some(&id), b"{}", &none, None));
        assert_ne!(base, content_digest(&name("a.b"), finer, Some(&id), b"{}", &none, None));
        assert_ne!(base, content_digest(&name("a.b"), time, None, b"{}", &none, None));
        assert_ne!(base, content_digest(&name("a.b"), time, Some(&id), b"[]", &none, None));
        assert_ne!(base, content_digest(&name("a.b"), time, Some(&id), b"{}", &one, None));
        let key = OrderingKey::new("7").unwrap();
        assert_ne!(base, content_digest(&name("a.b"), time, Some(&id), b"{}", &none, key.as_ref()));
    }

    #[test]
    fn attributes_are_few_and_short() {
        let check = |name: &str, value: &str| Attributes::new([(name.to_owned(), value.to_owned())]);
        for (name, value) in
            [("region", "eu"), ("a.b-C_9", ""), ("a", &"é".repeat(128)), (&"n".repeat(64), "x")]
        {
            assert!(check(name, value).is_ok(), "{name}");
        }
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("é", "x"),
            (&"n".repeat(65), "x"),
            ("a", "\n"),
            ("a", &"x".repeat(257)),
        ] {
            assert_eq!(check(name, value).expect_err(name).field, "attributes");
        }
        let many = |count: usize| (0..count).map(|number| (number.to_string(), String::new()));
        assert!(Attributes::new(many(16)).is_ok());
        assert!(Attributes::new(many(17)).unwrap_err().problem.contains("has 17 entries, the limit is 16"));
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

//! In which order a subscription's deliveries go out: what subscribers choose, and the keys that emitters give.

use std::num::NonZeroU64;

use sha2::{Digest, Sha256};

use crate::delivery::Delivery;
use crate::violation::Violation;

/// How many bytes an ordering key may have.
pub const MAX_ORDERING_KEY: usize = 256;

/// Which deliveries of a subscription wait for one another: of two that do, the later accepted is not attempted before the earlier has
/// ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// None: each goes out as soon as it may.
    #[default]
    None,
    /// Those whose events have the same ordering key. Events without a key wait for nothing.
    PerKey,
    /// All.
    Strict,
}

/// What becomes of those behind a delivery that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadOfLine {
    /// They go on when it is exhausted: the retry policy's window has passed, or its schedule is spent.
    #[default]
    Skip,
    /// They wait for as long as it fails: it is tried again, however long, until it succeeds or is cancelled.
    Block,
}

/// Which deliveries follow each other, in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(u64);

impl Order {
    /// The queue that a delivery stands in, if it stands in any.
    #[must_use]
    pub fn queue(self, delivery: &Delivery) -> Option<QueueId> {
        match self {
            Self::None => None,
            Self::PerKey => delivery.ordering.map(|hash| QueueId(hash.get())),
            Self::Strict => Some(QueueId(0)),
        }
    }
}

/// What events must follow each other by, such as the id of the document they are about. Not empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrderingKey(String);

impl OrderingKey {
    /// A key as an emitter gives it; an empty text is none.
    ///
    /// # Errors
    /// A violation of `ordering_key`: too long, or with control characters.
    pub fn new(given: &str) -> Result<Option<Self>, Violation> {
        if given.len() > MAX_ORDERING_KEY || given.chars().any(char::is_control) {
            let problem = format!("must have at most {MAX_ORDERING_KEY} bytes and no control characters");
            return Err(Violation::new("ordering_key", problem));
        }
        Ok((!given.is_empty()).then(|| Self(given.to_owned())))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What deliveries know of it. Keys that share a hash are delivered in one order; nothing else comes of it.
    #[must_use]
    pub fn hash(&self) -> NonZeroU64 {
        let digest = Sha256::digest(self.0.as_bytes());
        let first = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        NonZeroU64::new(first).unwrap_or(NonZeroU64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_texts_and_no_key_is_none() {
        assert_eq!(OrderingKey::new(""), Ok(None));
        let key = OrderingKey::new("document 7").unwrap().unwrap();
        assert_eq!(key.as_str(), "document 7");
        assert!(OrderingKey::new(&"k".repeat(256)).unwrap().is_some());
        for bad in ["k".repeat(257), "a\nb".to_owned()] {
            assert_eq!(OrderingKey::new(&bad).unwrap_err().field, "ordering_key");
        }
    }

    #[test]
    fn the_hash_never_changes_for_it_is_stored() {
        let hash = |text| OrderingKey::new(text).unwrap().unwrap().hash().get();
        assert_eq!(hash("document-7"), 0xfb33_65e2_9cba_79bd, "sha256, its first 8 bytes");
        assert_ne!(hash("a"), hash("b"));
    }
}

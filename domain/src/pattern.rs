//! Which event types a subscription wants, and the index that finds subscriptions by event type and by what filters need.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use crate::event::EventTypeName;
use crate::filter::bucket::Bucket;
use crate::filter::{Anchor, Facts};

/// An exact type, everything below a prefix, or everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// `*`
    All,
    /// `document.*`: every type that begins with `document.`; the prefix is kept without its dot.
    Below(String),
    /// `document.completed`
    Exactly(EventTypeName),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' must be an event type (document.completed), a prefix (document.*) or *")]
pub struct PatternError(String);

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let name = |text: &str| text.parse::<EventTypeName>().map_err(|_| ());
        let parsed = match (text, text.strip_suffix(".*")) {
            ("*", _) => Ok(Self::All),
            (_, Some(prefix)) => name(prefix).map(|_| Self::Below(prefix.to_owned())),
            (_, None) => name(text).map(Self::Exactly),
        };
        parsed.map_err(|()| PatternError(text.chars().take(140).collect()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Below(prefix) => write!(f, "{prefix}.*"),
            Self::Exactly(name) => f.write_str(name.as_str()),
        }
    }
}

impl Pattern {
    /// Whether an event of this type is wanted.
    #[must_use]
    pub fn matches(&self, name: &EventTypeName) -> bool {
        match self {
            Self::All => true,
            Self::Below(prefix) => {
                name.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }
            Self::Exactly(wanted) => wanted == name,
        }
    }
}

/// Finds who wants an event in time that depends on the matches, not on how many are registered.
#[derive(Clone, Debug)]
pub struct Index<S> {
    all: Bucket<S>,
    below: HashMap<String, Bucket<S>>,
    exactly: HashMap<EventTypeName, Bucket<S>>,
}

impl<S> Default for Index<S> {
    fn default() -> Self {
        Self { all: Bucket::default(), below: HashMap::new(), exactly: HashMap::new() }
    }
}

impl<S: Copy + Ord + Hash> Index<S> {
    /// Registers a subscriber for each of its patterns, with what its filter needs.
    pub fn insert(&mut self, patterns: &[Pattern], anchor: Option<&Anchor>, subscriber: S) {
        for pattern in patterns {
            let bucket = match pattern {
                Pattern::All => &mut self.all,
                Pattern::Below(prefix) => self.below.entry(prefix.clone()).or_default(),
                Pattern::Exactly(name) => self.exactly.entry(name.clone()).or_default(),
            };
            bucket.insert(anchor, subscriber);
        }
    }

    /// Forgets a subscriber that was registered with these patterns and this need.
    pub fn remove(&mut self, patterns: &[Pattern], anchor: Option<&Anchor>, subscriber: S) {
        let drop_from = |bucket: &mut Bucket<S>| {
            bucket.remove(anchor, subscriber);
            bucket.is_empty()
        };
        for pattern in patterns {
            match pattern {
                Pattern::All => {
                    drop_from(&mut self.all);
                }
                Pattern::Below(prefix) => {
                    if self.below.get_mut(prefix).is_some_and(drop_from) {
                        self.below.remove(prefix);
                    }
                }
                Pattern::Exactly(name) => {
                    if self.exactly.get_mut(name).is_some_and(drop_from) {
                        self.exactly.remove(name);
                    }
                }
            }
        }
    }

    /// Everyone who wants this type and whose filter the event can pass, once each, in order. Filters have the last word.
    #[must_use]
    pub fn find(&self, facts: &Facts<'_>) -> Vec<S> {
        let mut found = Vec::new();
        self.all.find(facts, &mut found);
        let name = facts.event_type();
        let exactly = self.exactly.get(name).into_iter();
        let text = name.as_str();
        let below = text.match_indices('.').filter_map(|(dot, _)| self.below.get(&text[..dot]));
        exactly.chain(below).for_each(|bucket| bucket.find(facts, &mut found));
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Attributes;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    fn name(text: &str) -> EventTypeName {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_match_by_words() {
        let table = [
            ("*", "a", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", true),
            ("a.*", "a", false),
            ("a.*", "ab.c", false),
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b", "A.b", false),
        ];
        for (pattern, text, expected) in table {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&name(text)), expected, "{pattern} {text}");
        }
        for bad in ["", "**", "*.a", "a*", "a.*.b", ".*", "a..*"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        prop_oneof![Just("*".to_owned()), "[ab](\\.[ab]){0,2}(\\.\\*)?"]
            .prop_map(|text| text.parse().expect("the strategy makes patterns"))
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_scan_finds(
            subscribers in prop::collection::vec(prop::collection::vec(pattern(), 1..4), 0..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            event in "[ab](\\.[ab]){0,3}",
        ) {
            let event = name(&event);
            let mut index = Index::default();
            for (number, patterns) in subscribers.iter().enumerate() {
                index.insert(patterns, None, number);
            }
            for (number, patterns) in subscribers.iter().enumerate() {
                if removed[number] {
                    index.remove(patterns, None, number);
                }
            }
            let scanned: Vec<usize> = (0..subscribers.len())
                .filter(|number| !removed[*number])
                .filter(|number| subscribers[*number].iter().any(|pattern| pattern.matches(&event)))
                .collect();
            let attributes = Attributes::default();
            let facts = Facts::new(&event, Timestamp::default(), &attributes, b"{}");
            prop_assert_eq!(index.find(&facts), scanned);
        }

        #[test]
        fn patterns_read_back(pattern in pattern()) {
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
    }
}

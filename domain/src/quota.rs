//! What a tenant may use, and what its stored events count for.

use std::num::{NonZeroU32, NonZeroU64};

use crate::pace::Pace;
use crate::violation::Violation;

/// The most events a second, and at once, that a quota may name.
pub const MAX_RATE: u32 = 1_000_000;
/// What an event counts for beside its content.
const EVENT: u64 = 256;
/// What a delivery counts for.
const DELIVERY: u64 = 128;

/// What a tenant may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// How many subscriptions.
    pub max_subscriptions: Option<NonZeroU32>,
    /// How fast it may emit.
    pub emit: Option<EmitQuota>,
    /// What its stored events may count for.
    pub max_stored: Option<NonZeroU64>,
}

/// How fast a tenant may emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmitQuota {
    /// Events a second.
    pub per_second: NonZeroU32,
    /// Events at once.
    pub burst: NonZeroU32,
}

impl EmitQuota {
    /// The rule that holds emitters to it.
    #[must_use]
    pub fn pace(self) -> Pace {
        Pace::new(self.per_second, self.burst)
    }
}

impl Quota {
    /// Reads numbers of which 0 means none.
    ///
    /// # Errors
    /// Every one that is out of range.
    pub fn new(
        max_subscriptions: u32,
        emit_rate: u32,
        emit_burst: u32,
        max_stored: u64,
    ) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        for (field, value) in [("emit_rate", emit_rate), ("emit_burst", emit_burst)] {
            if value > MAX_RATE {
                violations.push(Violation::new(field, "must be at most 1000000; 0 means that it is not set"));
            }
        }
        if emit_rate == 0 && emit_burst > 0 {
            violations.push(Violation::new("emit_burst", "needs emit_rate"));
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        let emit = NonZeroU32::new(emit_rate).map(|per_second| EmitQuota {
            per_second,
            burst: NonZeroU32::new(emit_burst).unwrap_or(per_second),
        });
        Ok(Self {
            max_subscriptions: NonZeroU32::new(max_subscriptions),
            emit,
            max_stored: NonZeroU64::new(max_stored),
        })
    }

    /// Whether a tenant that has so many subscriptions may have one more.
    #[must_use]
    pub fn admits_subscription(&self, has: usize) -> bool {
        self.max_subscriptions.is_none_or(|max| has < max.get() as usize)
    }
}

/// Whether so much may be stored beside what is stored.
#[must_use]
pub fn admits(max_stored: Option<NonZeroU64>, stored: u64, more: u64) -> bool {
    max_stored.is_none_or(|max| stored.saturating_add(more) <= max.get())
}

/// What an event's content counts for: its data and attributes. It is freed when retention erases them.
#[must_use]
pub fn content(data: usize, attributes: impl Iterator<Item = usize>) -> u64 {
    (data + attributes.sum::<usize>()) as u64
}

/// What an event counts for beside its content, with the deliveries that it is owed as. It is freed when the event is
/// removed.
#[must_use]
pub fn frame(deliveries: usize) -> u64 {
    EVENT + DELIVERY * deliveries as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_a_quota_or_say_what_is_wrong() {
        assert_eq!(Quota::new(0, 0, 0, 0), Ok(Quota::default()));
        let quota = Quota::new(3, 5, 0, 9).unwrap();
        assert_eq!(quota.emit.map(|emit| (emit.per_second.get(), emit.burst.get())), Some((5, 5)));
        let fields = |quota: Result<Quota, Vec<Violation>>| -> Vec<String> {
            quota.unwrap_err().into_iter().map(|violation| violation.field).collect()
        };
        assert_eq!(fields(Quota::new(0, MAX_RATE + 1, MAX_RATE + 1, 0)), ["emit_rate", "emit_burst"]);
        assert_eq!(fields(Quota::new(0, 0, 1, 0)), ["emit_burst"]);
    }

    #[test]
    fn a_quota_admits_up_to_it_and_not_beyond() {
        let quota = Quota::new(2, 0, 0, 100).unwrap();
        assert_eq!([0, 1, 2, 3].map(|has| quota.admits_subscription(has)), [true, true, false, false]);
        assert!(Quota::default().admits_subscription(usize::MAX));
        for (stored, more, expected) in
            [(0, 100, true), (0, 101, false), (99, 1, true), (100, 1, false), (u64::MAX, 1, false)]
        {
            assert_eq!(admits(quota.max_stored, stored, more), expected, "{stored} {more}");
        }
        assert!(admits(None, u64::MAX, u64::MAX));
    }

    proptest! {
        /// However events come, are erased and removed: what is stored is what they count for, and never above the quota.
        #[test]
        fn what_is_stored_adds_up_and_stays_within(
            max in 1_u64..20_000,
            events in prop::collection::vec((0_usize..2000, 0_usize..5, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let (mut stored, mut kept) = (0, Vec::new());
            for (data, deliveries, erases, removes) in events {
                let more = content(data, std::iter::empty()) + frame(deliveries);
                if admits(NonZeroU64::new(max), stored, more) {
                    stored += more;
                    kept.push((data, deliveries, false));
                }
                prop_assert!(stored <= max);
                if erases && let Some(event) = kept.iter_mut().find(|(.., erased)| !erased) {
                    stored -= content(event.0, std::iter::empty());
                    event.2 = true;
                }
                if removes && !kept.is_empty() {
                    let (data, deliveries, erased) = kept.remove(0);
                    stored -= frame(deliveries);
                    if !erased {
                        stored -= content(data, std::iter::empty());
                    }
                }
                let sum: u64 = kept
                    .iter()
                    .map(|(data, deliveries, erased)| frame(*deliveries) + if *erased { 0 } else { *data as u64 })
                    .sum();
                prop_assert_eq!(stored, sum);
            }
        }
    }
}

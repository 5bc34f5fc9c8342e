//! Which key an agent may show: the newest on record and, until that is first used, the one before.
//!
//! Each renewal makes a new key, so a copy of an identity falls behind the real agent, or the agent behind the copy.
//! Either way somebody shows a key that was replaced, and that is noticed. Keys are compared by their fingerprints.
//! The generation counts an agent's keys and stands in each certificate: a certificate of a later generation than the
//! record's can only be genuine, and the record old, which is so after a restore from a backup.

use std::time::Duration;

use crate::join::Pin;
use crate::time::Timestamp;

/// How long after the first use of a key the one before is refused without an alarm: a connection that began just
/// before may still arrive.
pub const SETTLING: Duration = Duration::from_secs(60);

/// What a certificate says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownKey {
    /// The key's fingerprint.
    pub key: Pin,
    /// The key's number among the agent's keys; 0 when the certificate does not say.
    pub generation: u64,
}

/// An agent's keys on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The newest.
    pub newest: ShownKey,
    /// The one before.
    pub former: Option<Pin>,
    /// When the newest was first used.
    pub first_use: Option<Timestamp>,
}

/// What a shown key is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The newest key. `first` when it was never used before.
    Newest {
        /// Whether this use is its first.
        first: bool,
    },
    /// The key before the newest, which was never used: the answer with its certificate may have been lost.
    Former,
    /// A key of a later generation than the record: the store was restored from a backup.
    Later,
    /// The key before the newest, whose first use was moments ago. Refused without an alarm.
    JustReplaced,
    /// A key that was replaced: two processes use the identity. Refused with an alarm.
    Replaced,
}

impl Verdict {
    /// Whether the key is good.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Newest { .. } | Self::Former | Self::Later)
    }
}

impl KeyRecord {
    /// Judges a key that an agent shows at `now`.
    #[must_use]
    pub fn judge(&self, shown: ShownKey, now: Timestamp) -> Verdict {
        if shown.key == self.newest.key {
            return Verdict::Newest { first: self.first_use.is_none() };
        }
        match self.first_use {
            _ if shown.generation > self.newest.generation => Verdict::Later,
            None if self.former == Some(shown.key) => Verdict::Former,
            Some(used) if self.former == Some(shown.key) && now.since(used) < SETTLING => {
                Verdict::JustReplaced
            }
            _ => Verdict::Replaced,
        }
    }

    /// Whether an agent that shows `shown` may have a certificate for `wanted`. With the key before the newest it may
    /// ask for the newest again at any time: it has signed the request with it, and may have lost the answer.
    #[must_use]
    pub fn judge_renewal(&self, shown: ShownKey, wanted: Pin, now: Timestamp) -> Verdict {
        match self.judge(shown, now) {
            Verdict::JustReplaced | Verdict::Replaced
                if wanted == self.newest.key && self.former == Some(shown.key) =>
            {
                Verdict::Former
            }
            verdict => verdict,
        }
    }

    /// The record after `wanted` was granted to an agent that showed `shown`, which is good.
    #[must_use]
    pub fn renewed(&self, shown: ShownKey, wanted: Pin) -> Self {
        if wanted == self.newest.key {
            return *self;
        }
        let generation = self.newest.generation.max(shown.generation).saturating_add(1);
        Self { newest: ShownKey { key: wanted, generation }, former: Some(shown.key), first_use: None }
    }

    /// The record after a good key was shown to open a session, if that changes it.
    #[must_use]
    pub fn used(&self, shown: ShownKey, verdict: Verdict, now: Timestamp) -> Option<Self> {
        match verdict {
            Verdict::Newest { first: true } => Some(Self { first_use: Some(now), ..*self }),
            Verdict::Later => {
                Some(Self { newest: shown, former: Some(self.newest.key), first_use: Some(now) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
    }

    fn key(number: u64) -> ShownKey {
        ShownKey { key: Pin::of(&number.to_be_bytes()), generation: number }
    }

    fn record(first_use: Option<Timestamp>) -> KeyRecord {
        KeyRecord { newest: key(5), former: Some(key(4).key), first_use }
    }

    #[test]
    fn the_newest_key_is_good_and_the_one_before_until_that_is_used() {
        let (unused, used) = (record(None), record(Some(at(100))));
        let table = [
            (unused, key(5), 0, Verdict::Newest { first: true }),
            (unused, key(4), 0, Verdict::Former),
            (unused, key(3), 0, Verdict::Replaced),
            (used, key(5), 101, Verdict::Newest { first: false }),
            (used, key(4), 101, Verdict::JustReplaced),
            (used, key(4), 160, Verdict::Replaced),
            (used, key(4), 90_000, Verdict::Replaced),
            (used, key(3), 101, Verdict::Replaced),
            (used, key(6), 101, Verdict::Later),
            // The same generation with another key: after a restore, somebody has renewed with a copy.
            (used, ShownKey { generation: 5, ..key(7) }, 101, Verdict::Replaced),
            (used, ShownKey { generation: 0, ..key(7) }, 101, Verdict::Replaced),
        ];
        for (number, (record, shown, now, expected)) in table.into_iter().enumerate() {
            assert_eq!(record.judge(shown, at(now)), expected, "{number}");
        }
    }

    #[test]
    fn a_lost_answer_can_be_asked_for_again_with_the_same_key_alone() {
        let used = record(Some(at(100)));
        let wanted = |number: u64| key(number).key;
        assert_eq!(used.judge_renewal(key(4), wanted(5), at(90_000)), Verdict::Former);
        assert_eq!(used.renewed(key(4), wanted(5)), used, "asked again, nothing changes");
        assert_eq!(used.judge_renewal(key(4), wanted(9), at(90_000)), Verdict::Replaced);
        assert_eq!(used.judge_renewal(key(3), wanted(5), at(90_000)), Verdict::Replaced);
        let other = record(None).renewed(key(4), wanted(9));
        assert_eq!(other.newest, ShownKey { key: wanted(9), generation: 6 });
        assert_eq!(other.judge(key(5), at(0)), Verdict::Replaced, "the certificate that was lost");
    }

    #[test]
    fn after_a_restore_a_later_certificate_is_adopted() {
        let restored = record(Some(at(100)));
        let adopted = restored.used(key(8), Verdict::Later, at(200)).unwrap();
        assert_eq!(adopted.judge(key(8), at(201)), Verdict::Newest { first: false });
        assert_eq!(adopted.judge(key(5), at(400)), Verdict::Replaced, "what the backup had");
        assert_eq!(restored.renewed(key(8), key(20).key).newest.generation, 9);
    }

    proptest! {
        /// An agent and a thief with a copy of its key, who renew and connect in any order: as long as nobody was
        /// refused, at most one of their keys stays good once the newest is used.
        #[test]
        fn two_lines_of_keys_never_live_side_by_side(steps in prop::collection::vec((any::<bool>(), any::<bool>()), 1..40)) {
            let mut record = KeyRecord { newest: key(1), former: None, first_use: Some(at(0)) };
            let mut held = [key(1), key(1)];
            let (mut next, mut noticed) = (1000_u64, false);
            for (round, (thief, renews)) in steps.into_iter().enumerate() {
                let (who, now) = (usize::from(thief), at(100 + 1000 * round as u64));
                let verdict = record.judge(held[who], now);
                if !verdict.is_good() {
                    noticed = true;
                    continue;
                }
                if let Some(used) = record.used(held[who], verdict, now) {
                    record = used;
                }
                if renews {
                    next += 1;
                    record = record.renewed(held[who], Pin::of(&next.to_be_bytes()));
                    held[who] = record.newest;
                }
                if held[0] != held[1] && !noticed {
                    let good = held.iter().filter(|shown| record.judge(**shown, now + SETTLING).is_good()).count();
                    prop_assert!(good <= 1 || record.first_use.is_none());
                }
            }
        }
    }
}

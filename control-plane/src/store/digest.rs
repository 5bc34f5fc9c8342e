//! A digest of all rows: for each kind of row (the first byte of its key) how many there are, and a sum over their contents.
//!
//! It is carried from one commit to the next and written with each of them ([`super::journal`]), so that what an engine has
//! after a start can be compared with what was committed. It finds accidental damage; it is no protection against a person
//! who changes rows on purpose (the audit log has a chain for that).

use std::collections::BTreeMap;

/// The rows of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    /// How many there are.
    pub(super) rows: u64,
    /// The wrapping sum of the checksums of their contents.
    pub(super) sum: u64,
}

/// The rows of all kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest(BTreeMap<u8, Total>);

/// The rows of one kind, as they should be and as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) kind: u8,
    pub(super) expected: Total,
    pub(super) found: Total,
}

impl Digest {
    /// Counts a row that changes; `None` is a row that is not there.
    pub(super) fn change(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        let total = self.0.entry(kind(key)).or_default();
        if let Some(old) = old {
            total.rows = total.rows.wrapping_sub(1);
            total.sum = total.sum.wrapping_sub(checksum(key, old));
        }
        if let Some(new) = new {
            total.rows = total.rows.wrapping_add(1);
            total.sum = total.sum.wrapping_add(checksum(key, new));
        }
    }

    /// The totals of these kinds.
    pub(super) fn totals(&self, kinds: impl IntoIterator<Item = u8>) -> Vec<(u8, Total)> {
        kinds.into_iter().map(|kind| (kind, self.0.get(&kind).copied().unwrap_or_default())).collect()
    }

    /// The totals of all kinds.
    pub(super) fn all(&self) -> Vec<(u8, Total)> {
        self.0.iter().map(|(kind, total)| (*kind, *total)).collect()
    }

    /// Takes over the totals of some kinds.
    pub(super) fn set(&mut self, totals: &[(u8, Total)]) {
        self.0.extend(totals.iter().copied());
    }

    /// Whether there are no rows at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.values().all(|total| total.rows == 0)
    }

    /// The kinds in which `found` is not what is expected.
    pub(super) fn differences(&self, found: &Self) -> Vec<Difference> {
        let mut kinds: Vec<u8> = self.0.keys().chain(found.0.keys()).copied().collect();
        kinds.sort_unstable();
        kinds.dedup();
        let difference = |kind: u8| {
            let of = |digest: &Self| digest.0.get(&kind).copied().unwrap_or_default();
            Difference { kind, expected: of(self), found: of(found) }
        };
        kinds.into_iter().map(difference).filter(|found| found.expected != found.found).collect()
    }
}

/// The kind of the row with this key.
pub(super) fn kind(key: &[u8]) -> u8 {
    key.first().copied().unwrap_or_default()
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(&[u8], &[u8])]) -> Digest {
        let mut digest = Digest::default();
        rows.iter().for_each(|(key, value)| digest.change(key, None, Some(value)));
        digest
    }

    #[test]
    fn the_order_of_changes_does_not_count() {
        let mut changed = of(&[(b"Da", b"1"), (b"Ea", b"x"), (b"Db", b"2")]);
        changed.change(b"Da", Some(b"1"), Some(b"3"));
        changed.change(b"Ea", Some(b"x"), None);
        let same = of(&[(b"Db", b"2"), (b"Da", b"3")]);
        assert_eq!(same.differences(&changed), []);
        assert!(!changed.is_empty());
        changed.change(b"Da", Some(b"3"), None);
        changed.change(b"Db", Some(b"2"), None);
        assert!(changed.is_empty());
    }

    #[test]
    fn differences_name_the_kind_and_both_totals() {
        let expected = of(&[(b"Da", b"1"), (b"Db", b"2"), (b"Ta", b"t")]);
        let missing = of(&[(b"Da", b"1"), (b"Ta", b"t")]);
        let altered = of(&[(b"Da", b"1"), (b"Db", b"x"), (b"Ta", b"t")]);
        let rows = |found: &Digest| {
            let differences = expected.differences(found);
            differences.iter().map(|one| (one.kind, one.expected.rows, one.found.rows)).collect::<Vec<_>>()
        };
        assert_eq!(rows(&missing), [(b'D', 2, 1)]);
        assert_eq!(rows(&altered), [(b'D', 2, 2)]);
        assert_eq!(rows(&expected.clone()), []);
        // A key's end is not its value's beginning.
        assert_ne!(of(&[(b"Dab", b"c")]), of(&[(b"Da", b"bc")]));
    }

    #[test]
    fn totals_carry_a_digest_over() {
        let digest = of(&[(b"Da", b"1"), (b"Ta", b"t")]);
        let mut other = Digest::default();
        other.set(&digest.all());
        assert_eq!(other, digest);
        assert_eq!(digest.totals([b'Z']), [(b'Z', Total::default())]);
    }
}

//! Following the chain: whether a log is what was written, and where it is not.

use super::{AuditKey, Entry, Head, Record};
use crate::time::Timestamp;

/// What the log is told when its oldest records age out.
pub const CUT: &str = "CutAuditLog";

/// What a restored log is told, by a program that has no key.
pub const RESTORE: &str = "Restore";

/// The entry that vouches for a log that does not begin with record 1 any more.
#[must_use]
pub fn cut_entry(last: &Head, now: Timestamp) -> Entry {
    Entry { detail: vouching(last), ..Entry::by_postrider(CUT, last.sequence, now) }
}

fn vouching(last: &Head) -> String {
    let hash: String = last.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("records up to {} have aged out; the last one's hash is {hash}", last.sequence)
}

/// A check of a log, record by record.
#[derive(Clone, Debug)]
pub struct Check {
    start: Head,
    head: Head,
    end: Head,
    known: Option<Head>,
    /// Whether a record says that what is before the start has aged out.
    vouched: bool,
    /// What authenticates records, and since which.
    key: Option<(AuditKey, u64)>,
}

impl Check {
    /// Of a log that, by its own rows, begins after `start` and ends with `end`. `known` is a record that was seen before.
    #[must_use]
    pub fn new(start: Head, end: Head, known: Option<Head>) -> Self {
        Self { start, head: start, end, known, vouched: start.sequence == 0, key: None }
    }

    /// The same, which demands that the records since this number have the authentication codes of this key.
    #[must_use]
    pub fn authenticated(self, key: AuditKey, since: u64) -> Self {
        Self { key: Some((key, since)), ..self }
    }

    /// The last record that was found to be as it was written.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// How many records were found to be as they were written.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.head.sequence - self.start.sequence
    }

    /// Whether all records up to the end were looked at.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.head.sequence >= self.end.sequence
    }

    /// Looks at the next record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn follow(&mut self, record: &Record) -> Result<(), String> {
        let (number, expected) = (record.sequence, self.head.sequence + 1);
        if number != expected {
            return Err(format!("record {expected} is missing"));
        }
        self.head = self.head.follow(record).ok_or_else(|| {
            format!("record {number} is not what was written, or what came before it was altered")
        })?;
        if self.known.is_some_and(|known| known.sequence == number && known != self.head) {
            return Err(format!("record {number} is not the one that was seen before"));
        }
        self.authenticate(record)?;
        let cut = &record.entry;
        self.vouched |= cut.action == CUT
            && cut.target == self.start.sequence.to_string()
            && cut.detail == vouching(&self.start);
        Ok(())
    }

    /// Whether the record, which follows, was written with the key.
    fn authenticate(&self, record: &Record) -> Result<(), String> {
        let Some((key, since)) = &self.key else { return Ok(()) };
        let number = record.sequence;
        let why = match &record.code {
            Some(code) if key.is_code(&self.head, code) => return Ok(()),
            Some(_) => "its authentication code is wrong",
            None if number < *since || record.entry.action == RESTORE => return Ok(()),
            None => "it has no authentication code",
        };
        Err(format!("record {number} was not written by Postrider: {why}"))
    }

    /// Judges the whole, when no record follows.
    ///
    /// # Errors
    /// What is wrong with the log's beginning or end.
    pub fn finish(&self) -> Result<(), String> {
        let (last, start) = (self.head.sequence, self.start.sequence);
        if last < self.end.sequence {
            return Err(format!(
                "the records after {last} are missing: the log ended with {}",
                self.end.sequence
            ));
        }
        if self.head != self.end {
            return Err(format!("record {last}, the last one, was replaced"));
        }
        if !self.vouched {
            return Err(format!(
                "the records up to {start} are missing, and no record says that they have aged out"
            ));
        }
        match self.known {
            Some(known) if known.sequence > last => {
                Err(format!("the log ends with record {last}, and {} was seen before", known.sequence))
            }
            Some(known) if known.sequence == start && known != self.start => {
                Err(format!("record {start} was not the one that was seen before"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{entry, log};
    use super::*;
    use proptest::prelude::*;

    fn head_of(record: &Record) -> Head {
        Head { sequence: record.sequence, hash: record.hash }
    }

    /// What is said of a log whose rows say that it goes from `start` to `end`.
    fn check(start: Head, end: Head, known: Option<Head>, log: &[Record]) -> Result<(), String> {
        let mut check = Check::new(start, end, known);
        log.iter().try_for_each(|record| check.follow(record))?;
        check.finish()
    }

    proptest! {
        #[test]
        fn what_is_wrong_is_named(at in 0_usize..10, field in 0_usize..8, later in 1_usize..9) {
            let whole = log(10);
            let end = head_of(&whole[9]);
            let problem = |log: &[Record]| check(Head::default(), end, None, log).unwrap_err();
            prop_assert_eq!(check(Head::default(), end, None, &whole), Ok(()));

            let mut removed = whole.clone();
            removed.remove(at);
            let said = problem(&removed);
            let expected = if at == 9 { "the records after 9 are missing".into() } else { format!("record {} is missing", at + 1) };
            prop_assert!(said.contains(&expected), "{said}");

            let cut = &whole[..at];
            let missing = format!("the records after {at} are missing");
            prop_assert!(problem(cut).contains(&missing));

            let mut altered = whole.clone();
            alter(&mut altered[at].entry, field);
            let said = problem(&altered);
            let place = format!("record {} is not what was written", at + 1);
            prop_assert!(said.contains(&place), "{said}");

            let mut swapped = whole.clone();
            let other = (at + later) % 10;
            swapped.swap(at, other);
            for (number, record) in swapped.iter_mut().enumerate() {
                record.sequence = number as u64 + 1;
            }
            let said = problem(&swapped);
            let place = format!("record {} is not what was written", at.min(other) + 1);
            prop_assert!(said.contains(&place), "{said}");

            // Whoever can write the store can make a whole new chain; a head kept elsewhere shows it.
            let mut forged = Vec::new();
            let mut head = Head::default();
            for record in &altered {
                let (record, next) = head.append(record.entry.clone());
                head = next;
                forged.push(record);
            }
            prop_assert_eq!(check(Head::default(), head, None, &forged), Ok(()));
            let said = check(Head::default(), head, Some(head_of(&whole[9])), &forged).unwrap_err();
            prop_assert!(said.contains("is not the one that was seen before"), "{said}");
            let shorter = &forged[..at];
            let end = shorter.last().map(head_of).unwrap_or_default();
            let said = check(Head::default(), end, Some(head_of(&whole[9])), shorter).unwrap_err();
            prop_assert!(said.contains("and 10 was seen before"), "{said}");
        }

        #[test]
        fn a_log_may_begin_later_only_when_it_says_so_itself(cut in 1_usize..9) {
            let mut whole = log(10);
            let start = head_of(&whole[cut - 1]);
            let (record, end) = head_of(&whole[9]).append(cut_entry(&start, Timestamp::from_millis(99)));
            let unvouched = check(start, head_of(&whole[9]), None, &whole[cut..]).unwrap_err();
            let missing = format!("up to {cut} are missing");
            prop_assert!(unvouched.contains(&missing), "{unvouched}");
            whole.push(record);
            prop_assert_eq!(check(start, end, None, &whole[cut..]), Ok(()));
            prop_assert_eq!(check(start, end, Some(start), &whole[cut..]), Ok(()));
            let forged = Head { hash: [7; 32], ..start };
            prop_assert!(check(forged, end, None, &whole[cut..]).is_err());
            prop_assert!(check(start, end, Some(forged), &whole[cut..]).is_err());
            let later = head_of(&whole[cut]);
            prop_assert!(check(later, end, None, &whole[cut + 1..]).is_err(), "one more than was said");
        }
    }

    /// Somebody who can write the store makes a new chain, but has no key.
    #[test]
    fn a_chain_without_the_key_is_refused() {
        let key = AuditKey::new([1; 32]);
        let codes = |key: &AuditKey, since: usize| -> Vec<Record> {
            let code = |mut record: Record| {
                record.code = (record.sequence >= since as u64).then(|| key.code(&head_of(&record)));
                record
            };
            log(10).into_iter().map(code).collect()
        };
        let check = |log: &[Record], since: u64| {
            let mut check =
                Check::new(Head::default(), head_of(&log[9]), None).authenticated(key.clone(), since);
            log.iter().try_for_each(|record| check.follow(record))?;
            check.finish()
        };
        let whole = codes(&key, 1);
        assert_eq!(check(&whole, 1), Ok(()));
        assert_eq!(check(&codes(&key, 4), 4), Ok(()), "a log of before there were codes");
        let stripped = check(&codes(&key, 4), 1).unwrap_err();
        assert_eq!(stripped, "record 1 was not written by Postrider: it has no authentication code");
        let forged = check(&codes(&AuditKey::new([2; 32]), 1), 1).unwrap_err();
        assert_eq!(forged, "record 1 was not written by Postrider: its authentication code is wrong");
        let mut moved = whole.clone();
        moved[6].code = whole[5].code;
        assert!(check(&moved, 1).unwrap_err().starts_with("record 7 was not written"));
    }

    fn alter(altered: &mut Entry, field: usize) {
        match field {
            0 => altered.actor.push('x'),
            1 => altered.address.clear(),
            2 => altered.action.push('x'),
            3 => altered.target.push('x'),
            4 => altered.tenant = None,
            5 => altered.request_id.push('x'),
            6 => altered.detail.push('x'),
            _ => altered.time = Timestamp::from_millis(77),
        }
        assert_ne!(altered, &entry(0));
    }
}

//! Cleaning of sled's log, so that it takes less than three bytes on disk for a byte of rows.
//!
//! sled writes a change of a page to the end of its log, and uses a segment of the log again after it has moved what is still
//! needed of it. It moves one page whenever it writes another one whole. With rows of a few hundred bytes that does
//! not keep up: the log comes to hold three times as much as it needs. sled has no call for more of it, but each of its
//! pages is written whole at every eleventh change. So a row of no meaning is written eleven times for each page that is
//! to be moved: that is one [`step`].

use sled::Db;

use super::engine::guarded;
use super::{failure, key};
use crate::store::StoreError;

/// Changes of a page until sled writes it whole.
const CHANGES: u8 = 11;
/// Rows whose writing leaves one page to be moved, measured with events of 400 bytes.
const ROWS_A_PAGE: u64 = 3;
/// The most pages that are remembered to be moved.
const MOST: u64 = 1 << 22;

/// How much cleaning is left to do.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    rows: u64,
}

impl Cleaning {
    /// Notes that so many rows were written or removed.
    pub(super) fn written(&mut self, rows: usize) {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        self.rows = self.rows.saturating_add(rows).min(MOST * ROWS_A_PAGE);
    }

    /// Takes one step of what is left, if there is one.
    pub(super) fn take(&mut self) -> bool {
        let left = self.rows.checked_sub(ROWS_A_PAGE);
        left.inspect(|left| self.rows = *left).is_some()
    }

    pub(super) fn is_due(&self) -> bool {
        self.rows >= ROWS_A_PAGE
    }
}

/// Has sled move one page, if it knows of one that is to be moved.
pub(super) fn step(db: &Db) -> Result<(), StoreError> {
    guarded(|| {
        // In a tree of its own: the rows of the store are counted and compared.
        let tree = db.open_tree(key::CLEANING).map_err(failure)?;
        (0..CHANGES).try_for_each(|number| tree.insert(b"", &[number]).map(drop).map_err(failure))
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::sled::commits::Commits;
    use crate::store::sled::engine::Opening;

    /// Data of an event, and how many there are.
    const BYTES: usize = 400;
    const EVENTS: u64 = 20_000;

    /// What the log takes for the rows of events of 400 bytes that have an idempotency key and were delivered once.
    fn log_of_events(clean: bool) -> u64 {
        let folder = TempDir::new().unwrap();
        let opening =
            Opening { path: folder.path().to_owned(), cache_bytes: 32 << 20, compared_up_to: u64::MAX };
        let mut commits = Commits::open(opening).unwrap();
        let row = |kind: u8, key: u64, bytes: usize| {
            let key = [&[kind; 14][..], &key.to_be_bytes()].concat();
            (key, Some(vec![kind; bytes]))
        };
        let mut commit = |rows: Vec<_>| {
            commits.commit(&rows).unwrap();
            if clean {
                commits.clean(usize::MAX);
            }
        };
        for first in (0..EVENTS).step_by(200) {
            let of_event = |number: u64| {
                let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                [row(b'E', number, BYTES + 50), row(b'D', number, 30), row(b'I', spread, 36)]
            };
            commit((first..first + 200).flat_map(of_event).collect());
            commit((first..first + 200).map(|number| row(b'D', number, 66)).collect());
        }
        commits.close().unwrap();
        std::fs::metadata(folder.path().join("db")).unwrap().len()
    }

    #[test]
    fn with_it_small_events_take_less_than_three_bytes_for_a_byte_and_without_it_more() {
        let limit = 3 * EVENTS * u64::try_from(BYTES).unwrap();
        let (cleaned, left) = (log_of_events(true), log_of_events(false));
        assert!(cleaned < limit, "{cleaned} bytes of log, the limit is {limit}");
        assert!(left > limit, "{left} bytes of log: the events do not need cleaning");
    }

    #[test]
    fn a_step_is_due_for_every_few_rows_and_what_is_remembered_is_bounded() {
        let mut cleaning = Cleaning::default();
        assert!(!cleaning.is_due() && !cleaning.take());
        cleaning.written(8);
        assert!(cleaning.is_due() && cleaning.take() && cleaning.take() && !cleaning.take());
        cleaning.written(1);
        assert!(cleaning.take() && !cleaning.is_due());
        cleaning.written(usize::MAX);
        cleaning.written(usize::MAX);
        assert_eq!(cleaning.rows, MOST * ROWS_A_PAGE);
    }
}

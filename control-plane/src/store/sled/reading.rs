//! A read under way: what it has looked at, and whether anybody still waits for it.
//!
//! Blocking work goes on when its caller has gone, unless it looks for that. So whatever looks at
//! many rows counts each of them here, and fails at the next row once the read is abandoned.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sled::Tree;

use crate::store::StoreError;

/// The tree, as one read sees it.
pub(super) struct Reading {
    tree: Tree,
    abandoned: Arc<AtomicBool>,
    rows: Cell<usize>,
    bytes: Cell<usize>,
    total: Arc<AtomicU64>,
}

/// Abandons a read when it is dropped.
pub(super) struct Waiting(Arc<AtomicBool>);

impl Reading {
    /// A read that lasts until what is returned beside it is dropped. `total` counts the bytes of
    /// all reads.
    pub(super) fn begin(tree: Tree, total: Arc<AtomicU64>) -> (Self, Waiting) {
        let abandoned = Arc::new(AtomicBool::new(false));
        let waiting = Waiting(abandoned.clone());
        (Self { tree, abandoned, rows: Cell::new(0), bytes: Cell::new(0), total }, waiting)
    }

    /// Counts a row of so many bytes.
    ///
    /// # Errors
    /// When nobody waits for the read any more.
    pub(super) fn look(&self, bytes: usize) -> Result<(), StoreError> {
        self.rows.set(self.rows.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        self.check()
    }

    /// # Errors
    /// When nobody waits for the read any more.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("nobody waits for the read any more".to_owned()));
        }
        Ok(())
    }

    /// Rows that were counted.
    pub(super) fn rows(&self) -> usize {
        self.rows.get()
    }

    /// Bytes that were counted.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

impl Deref for Reading {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.total.fetch_add(self.bytes.get() as u64, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_nobody_waits_for_fails_at_its_next_row() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let total = Arc::new(AtomicU64::new(0));
        let (reading, waiting) = Reading::begin((*db).clone(), total.clone());
        reading.look(7).unwrap();
        reading.look(5).unwrap();
        assert_eq!((reading.rows(), reading.bytes()), (2, 12));
        drop(waiting);
        assert!(reading.check().is_err() && reading.look(1).is_err());
        drop(reading);
        assert_eq!(total.load(Ordering::Relaxed), 13);
    }
}

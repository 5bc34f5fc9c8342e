//! The one way in which rows change: a commit goes to the journal, which syncs it, and then to sled.
//!
//! sled syncs on its own schedule. What it does not have after a crash it is given again when the store is opened
//! ([`super::recovery`]). When sled fails, which it does for good after one failed write, the journal already has the commit; sled
//! is then closed, and opened again as soon as the disk allows it.

use std::path::PathBuf;

use sled::Db;

use super::cleaning::{self, Cleaning};
use super::engine::{Database, Engine, Opening, guarded};
use super::opening::again;
use super::recovery::{self, Recovered};
use super::writer::free_replaced;
use super::{failure, key};
use crate::store::StoreError;
use crate::store::digest::{Digest, kind};
use crate::store::journal::{self, Journal, Prepared, Row};
use crate::store::space::Disk;

/// The store, open for writing.
pub(super) struct Commits {
    opening: Opening,
    engine: Engine,
    /// `None` after sled has failed, until it is opened again.
    db: Option<Database>,
    journal: Journal,
    /// The digest of all rows after the last commit.
    digest: Digest,
    cleaning: Cleaning,
}

impl Commits {
    /// Opens the store, and makes it when there is none.
    pub(super) fn open(opening: Opening) -> Result<Self, StoreError> {
        let Recovered { db, history, position, digest } = recovery::recover(&opening)?;
        let disk = Disk::of(&opening.path).map_or(u64::MAX, |disk| disk.total);
        let folder = opening.path.join(journal::FOLDER);
        let journal = Journal::begin(&folder, &history, position, &digest, journal::capacity(disk));
        let journal = journal.map_err(|error| failure(error.into()))?;
        if position == 0 {
            // From now on sled says that there is a journal: without one it is damaged, and not new.
            apply(&db, 0, &[])?;
            flush(&db)?;
        }
        let engine = Engine::default();
        engine.set(&db);
        Ok(Self { opening, engine, db: Some(db), journal, digest, cleaning: Cleaning::default() })
    }

    /// The position of the last commit.
    pub(super) fn position(&self) -> u64 {
        self.journal.position()
    }

    /// What readers use.
    pub(super) fn engine(&self) -> Engine {
        self.engine.clone()
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.opening.path.clone()
    }

    pub(super) fn is_open(&self) -> bool {
        self.db.is_some()
    }

    /// The rows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while sled is closed.
    pub(super) fn db(&self) -> Result<&Db, StoreError> {
        self.db.as_deref().ok_or_else(|| self.engine.problem())
    }

    /// Commits rows together. When this returns, they are on disk.
    ///
    /// # Errors
    /// Then nothing is committed, but what the disk did with it is not known: it may be there after the next start.
    pub(super) fn commit(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return self.db().map(drop);
        }
        let changed = self.digest_with(rows);
        let changed = changed.inspect_err(|error| self.fail(error))?;
        let mut kinds: Vec<u8> = rows.iter().map(|(key, _)| kind(key)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let record = self.journal.prepare(&changed.totals(kinds), rows);
        if !self.journal.has_room(&record) {
            self.checkpoint(Some(&record))?;
        }
        self.journal.write(&record, &self.digest).map_err(|error| failure(error.into()))?;
        self.digest = changed;
        // Committed. If sled fails from here on, it is given the commit when it is opened again.
        let applied = self.db().and_then(|db| apply(db, self.journal.position(), rows));
        if let Err(error) = applied {
            self.fail(&error);
        }
        self.cleaning.written(rows.len());
        Ok(())
    }

    /// Whether sled's log is to be cleaned.
    pub(super) fn needs_cleaning(&self) -> bool {
        self.is_open() && self.cleaning.is_due()
    }

    /// Cleans sled's log a little.
    pub(super) fn clean(&mut self, steps: usize) {
        let steps = (0..steps).take_while(|_| self.cleaning.take()).count();
        let cleaned = self.db().and_then(|db| (0..steps).try_for_each(|_| cleaning::step(db)));
        free_replaced(steps);
        if let Err(error) = cleaned {
            self.fail(&error);
        }
    }

    /// Reads what the rows replace: the digest counts that too.
    fn digest_with(&self, rows: &[Row]) -> Result<Digest, StoreError> {
        let db = self.db()?;
        guarded(|| {
            let mut digest = self.digest.clone();
            for (key, value) in rows {
                let old = db.get(key).map_err(failure)?;
                digest.change(key, old.as_deref(), value.as_deref());
            }
            Ok(digest)
        })
    }

    /// Makes sled sync everything, and begins a segment of the journal.
    fn checkpoint(&mut self, record: Option<&Prepared>) -> Result<(), StoreError> {
        let synced = self.db().and_then(flush);
        synced.inspect_err(|error| self.fail(error))?;
        let begun = self.journal.checkpoint(&self.digest, record);
        let begun = begun.or_else(|_| {
            // Perhaps for want of space, which the older segment takes without being needed.
            self.journal.remove_older();
            self.journal.checkpoint(&self.digest, record)
        });
        begun.map_err(|error| failure(error.into()))
    }

    /// Gives back space that the journal takes without needing it.
    pub(super) fn make_room(&mut self) {
        if self.journal.used() == 0 {
            self.journal.remove_older();
            return;
        }
        match self.checkpoint(None) {
            Ok(()) => self.journal.remove_older(),
            Err(error) => tracing::warn!(%error, "failed to free space in the journal"),
        }
    }

    /// Looks whether sled still takes writes, after a read has failed.
    pub(super) fn probe(&mut self) {
        let position = self.journal.position();
        let taken = self.db().and_then(|db| apply(db, position, &[])).and_then(|()| flush(self.db()?));
        match taken {
            Ok(()) => self.engine.is_no_longer_suspect(),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &StoreError) {
        if self.db.is_none() {
            return;
        }
        tracing::error!(%error, "the embedded store failed; it is reopened as soon as the disk allows it");
        self.engine.close(Some(again(error)));
        self.db = None;
    }

    /// Opens sled again and gives it what it lacks.
    ///
    /// # Errors
    /// Why not now. [`StoreError::Lost`] does not go away.
    pub(super) fn reopen(&mut self) -> Result<(), StoreError> {
        let folder = self.opening.path.join(journal::FOLDER);
        let position = self.journal.position();
        let db = recovery::catch_up(&self.opening, &folder, position)?;
        self.engine.set(&db);
        self.db = Some(db);
        tracing::info!(position, "the embedded store is open again");
        Ok(())
    }

    /// Leaves everything in sled, and a note that it is there.
    pub(super) fn close(&mut self) -> Result<(), StoreError> {
        let db = self.db()?;
        guarded(|| {
            let note = recovery::write_note(self.journal.position(), Some(&self.digest));
            db.insert(key::commit(), note).map(drop).map_err(failure)
        })?;
        flush(db)?;
        self.opening.sync()?;
        self.engine.close(None);
        self.db = None;
        Ok(())
    }
}

/// Gives a commit to sled, all or nothing.
pub(super) fn apply(db: &Db, position: u64, rows: &[Row]) -> Result<(), StoreError> {
    let mut batch = sled::Batch::default();
    for (key, value) in rows {
        match value {
            Some(value) => batch.insert(key.as_slice(), value.as_slice()),
            None => batch.remove(key.as_slice()),
        }
    }
    batch.insert(key::commit(), recovery::write_note(position, None));
    let applied = guarded(|| db.apply_batch(batch).map_err(failure));
    free_replaced(rows.len());
    applied
}

/// Makes sled sync everything that it has.
pub(super) fn flush(db: &Db) -> Result<(), StoreError> {
    guarded(|| db.flush().map(drop).map_err(failure))
}

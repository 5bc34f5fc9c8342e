//! The journal: every commit of the store, as a record that is on disk before anybody is told that it happened.
//!
//! It is what makes the store durable, whatever engine holds its rows. A commit is appended and synced here first and given to
//! the engine then; the engine may write it to its own files whenever it likes. When the store is opened, the commits that the
//! engine does not have are given to it again. From time to time the engine is made to sync all that it has (a checkpoint); then
//! a new segment begins, and of the older ones only the last is kept, so that a damaged tail of the engine's files can be made
//! good too.
//!
//! Commits have positions 1, 2, 3 …, each record is linked to the one before by its checksum, and each carries the digest of
//! all rows after it ([`super::digest`]).

mod history;
mod record;
mod segment;

use std::io;
use std::path::{Path, PathBuf};

pub(super) use self::history::History;
pub(super) use self::segment::sync_folder;
use self::segment::{Header, Segment};
use super::digest::{Digest, Total};

/// The journal's folder, in the store's.
pub(super) const FOLDER: &str = "journal";
/// Bytes of a segment on a large disk.
const CAPACITY: u64 = 16 * 1024 * 1024;
/// Bytes of a segment on the smallest one.
const MIN_CAPACITY: u64 = 256 * 1024;
/// The part of a disk that a segment may take.
const PART_OF_DISK: u64 = 64;

/// A row to write, or, without a value, to remove.
pub(super) type Row = (Vec<u8>, Option<Vec<u8>>);

/// A commit that is encoded and not written yet.
pub(super) struct Prepared {
    record: Vec<u8>,
    crc: u32,
}

/// The journal, open for writing.
pub(super) struct Journal {
    folder: PathBuf,
    capacity: u64,
    serial: u64,
    segment: Segment,
    /// Older segments, oldest first.
    older: Vec<PathBuf>,
    /// The position of the last commit, and its crc.
    position: u64,
    crc: u32,
    /// Whether it is unknown what of the current segment is on disk.
    suspect: bool,
}

/// Bytes of a segment on a disk of so many bytes.
pub(super) fn capacity(disk: u64) -> u64 {
    (disk / PART_OF_DISK).clamp(MIN_CAPACITY, CAPACITY)
}

impl Journal {
    /// Begins a segment behind a position that the engine has synced, and keeps one older segment.
    ///
    /// # Errors
    /// What the disk says. Nothing is removed then.
    pub(super) fn begin(
        folder: &Path,
        history: &History,
        position: u64,
        digest: &Digest,
        capacity: u64,
    ) -> io::Result<Self> {
        make_folder(folder)?;
        let serial = history.serial() + 1;
        let crc = history.crc_at(position);
        let header = Header { first: position + 1, previous: crc, capacity, totals: digest.all() };
        let segment = Segment::create(folder, serial, &header)?;
        let (incomplete, older): (Vec<PathBuf>, Vec<PathBuf>) = history.files();
        incomplete.into_iter().for_each(remove);
        older.last().into_iter().for_each(|last| note_next(last, position + 1));
        let folder = folder.to_owned();
        let mut journal = Self { folder, capacity, serial, segment, older, position, crc, suspect: false };
        journal.remove_all_but_one();
        Ok(journal)
    }

    /// The position of the last commit.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Encodes the next commit. `totals` are those after it, of the kinds of rows that it changes.
    pub(super) fn prepare(&self, totals: &[(u8, Total)], rows: &[Row]) -> Prepared {
        let (record, crc) = record::encode(self.position + 1, self.crc, totals, rows);
        Prepared { record, crc }
    }

    /// Whether the commit can be written before the next checkpoint.
    pub(super) fn has_room(&self, commit: &Prepared) -> bool {
        self.segment.has_room(&commit.record)
    }

    /// Bytes that were written since the last checkpoint.
    pub(super) fn used(&self) -> u64 {
        self.segment.used()
    }

    /// Writes a commit. When this returns, it is on disk. `before` is the digest before the commit.
    ///
    /// # Errors
    /// What the disk says. The commit may be there after the next start; if the next one succeeds, it is not.
    pub(super) fn write(&mut self, commit: &Prepared, before: &Digest) -> io::Result<()> {
        if self.suspect {
            self.begin_segment(before, 0)?;
        }
        let position = self.position + 1;
        if let Err(error) = self.segment.append(&commit.record, position) {
            self.suspect = true;
            return Err(error);
        }
        (self.position, self.crc) = (position, commit.crc);
        Ok(())
    }

    /// Begins another segment with room for a commit. The engine has synced everything up to now.
    ///
    /// # Errors
    /// What the disk says: the current segment stays in use.
    pub(super) fn checkpoint(&mut self, digest: &Digest, commit: Option<&Prepared>) -> io::Result<()> {
        self.begin_segment(digest, commit.map_or(0, |commit| segment::needed(&commit.record)))?;
        self.remove_all_but_one();
        Ok(())
    }

    /// Gives back what is kept only to make damage good, because the disk is nearly full.
    pub(super) fn remove_older(&mut self) {
        self.older.drain(..).for_each(remove);
    }

    fn begin_segment(&mut self, digest: &Digest, room: u64) -> io::Result<()> {
        let capacity = self.capacity.max(segment::BLOCK as u64 + room);
        let header = Header { first: self.position + 1, previous: self.crc, capacity, totals: digest.all() };
        let segment = Segment::create(&self.folder, self.serial + 1, &header)?;
        self.serial += 1;
        let former = std::mem::replace(&mut self.segment, segment);
        note_next(former.path(), self.position + 1);
        self.older.push(former.path().to_owned());
        self.suspect = false;
        Ok(())
    }

    fn remove_all_but_one(&mut self) {
        let kept = self.older.pop();
        self.older.drain(..).for_each(remove);
        self.older.extend(kept);
    }
}

/// Notes in a segment which one comes next: it tells a later start that a segment is missing, should the new one get lost.
fn note_next(segment: &Path, first: u64) {
    if let Err(error) = segment::note_next(segment, first) {
        tracing::warn!(%error, segment = %segment.display(), "failed to finish a segment of the journal");
    }
}

/// Makes the folder, if it is not there, so that it stays after a power cut.
fn make_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn remove(path: PathBuf) {
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, segment = %path.display(), "failed to remove an old segment of the journal");
    }
}

#[cfg(test)]
mod tests;

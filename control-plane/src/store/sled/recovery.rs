//! Opening the store: what sled has and what the journal has become one state again, or it is said what is lost.
//!
//! sled stores the position of the last commit that it was given, in the same batch. After a crash it lacks the newest commits,
//! which the journal has. Every other difference is damage. Damage of which the journal or sled has the other half is made good
//! and logged; the rest is refused in words: nothing that was acknowledged disappears silently.

use std::path::Path;

use sled::Db;

use super::commits::{apply, flush};
use super::data_keys::DataKeys;
use super::engine::{Database, Opening, guarded};
use super::opening::lost;
use super::{failure, key};
use crate::store::StoreError;
use crate::store::digest::{Difference, Digest, Total};
use crate::store::journal::{self, History};

/// Bytes of sled's log up to which all rows are read and compared whenever the store is opened.
pub(super) const COMPARED_UP_TO: u64 = 64 * 1024 * 1024;

/// A store that is open.
pub(super) struct Recovered {
    pub(super) db: Database,
    pub(super) history: History,
    /// The position of the last commit, which sled has synced with all others.
    pub(super) position: u64,
    pub(super) digest: Digest,
}

/// What sled says of what it has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Note {
    position: u64,
    /// The digest of its rows, if it was closed after this commit.
    closed: Option<Digest>,
}

/// Opens the store.
pub(super) fn recover(opening: &Opening) -> Result<Recovered, StoreError> {
    let folder = opening.path.join(journal::FOLDER);
    let history = History::read(&folder).map_err(|error| failure(error.into()))?;
    for problem in &history.problems {
        tracing::warn!(%problem, "the journal is damaged");
    }
    refuse_a_new_store_in_place_of_one(opening, &history)?;
    let recovered = match opening.open() {
        Ok(db) => with(db, &history, opening.compared_up_to),
        Err(error) => Err(error),
    };
    match recovered {
        Ok((db, position, digest)) => {
            opening.sync()?;
            Ok(Recovered { db, history, position, digest })
        }
        Err(error @ (StoreError::Lost(_) | StoreError::Damaged { .. }))
            if history.reaches_back_to_the_beginning() =>
        {
            rebuild(opening, history, &error)
        }
        Err(StoreError::Damaged { place, problem }) => Err(lost(&format!("{place}: {problem}"))),
        Err(error) => Err(error),
    }
}

/// Where there was a store, there must be one.
fn refuse_a_new_store_in_place_of_one(opening: &Opening, history: &History) -> Result<(), StoreError> {
    if opening.has_log() || !history.is_empty() {
        return Ok(());
    }
    if DataKeys::is_there(&opening.path) {
        return Err(lost(
            "there are data keys, so there was a store, but its log (db) and its journal are missing or empty",
        ));
    }
    Ok(())
}

/// Brings an opened sled to where the journal is, and compares.
fn with(db: Database, history: &History, compared_up_to: u64) -> Result<(Database, u64, Digest), StoreError> {
    let note = guarded(|| read_note(&db))?;
    if note.is_none() && history.is_empty() {
        // A new store, or one of before there was a journal.
        let digest = guarded(|| digest_of(&db))?;
        return Ok((db, 0, digest));
    }
    let note = note.unwrap_or_default();
    check(&note, history)?;
    let position = give(&db, history, note.position, u64::MAX)?;
    flush(&db)?;
    let expected = match note.closed {
        Some(digest) if position == note.position => Some(digest),
        _ => history.digest_at(position).map_err(|error| failure(error.into()))?,
    };
    let digest = compare(&db, expected, compared_up_to)?;
    Ok((db, position, digest))
}

/// Whether everything that was acknowledged is in sled or in the journal.
fn check(note: &Note, history: &History) -> Result<(), StoreError> {
    let is_closed = note.closed.is_some() && note.position >= history.acknowledged;
    if let Err(missing) = history.follows(note.position) {
        let last = history.acknowledged.max(history.last().unwrap_or_default());
        return Err(lost(&format!(
            "the store has the commits up to {}, and of those up to {last} the journal lacks {missing}",
            note.position
        )));
    }
    if is_closed {
        return Ok(());
    }
    if history.is_empty() {
        return Err(lost(&format!(
            "the journal is missing; commits after {} may be lost, which were not in the store's other files yet",
            note.position
        )));
    }
    if history.cut_off {
        let last = history.last().unwrap_or_default().max(note.position);
        return Err(lost(&format!("the journal was cut off; commits after {last} may be lost")));
    }
    Ok(())
}

/// Gives sled the commits behind a position, up to another; returns the last one's position.
fn give(db: &Db, history: &History, from: u64, to: u64) -> Result<u64, StoreError> {
    let mut last = from;
    for commit in history.commits_after(from) {
        let (position, rows) = commit.map_err(|error| failure(error.into()))?;
        if position > to {
            break;
        }
        apply(db, position, &rows)?;
        last = position;
    }
    if last > from {
        tracing::info!(
            from,
            to = last,
            "recovered commits from the journal that the embedded store had not synced"
        );
    }
    Ok(last)
}

/// Compares all rows with what they should be, unless they are too many to read at each start.
fn compare(db: &Db, expected: Option<Digest>, up_to: u64) -> Result<Digest, StoreError> {
    let size = guarded(|| db.size_on_disk().map_err(failure))?;
    match expected {
        Some(expected) if size > up_to => Ok(expected),
        Some(expected) => {
            let found = guarded(|| digest_of(db))?;
            let differences = expected.differences(&found);
            if differences.is_empty() { Ok(expected) } else { Err(lost(&tell(&differences))) }
        }
        None => {
            tracing::warn!("the journal does not cover the store's content; using the content as it is");
            guarded(|| digest_of(db))
        }
    }
}

/// Makes sled's files again of the journal, which has every commit from the first one on.
fn rebuild(opening: &Opening, history: History, why: &StoreError) -> Result<Recovered, StoreError> {
    tracing::warn!(%why, "rebuilding the embedded store from its journal, which has every commit");
    opening.put_aside()?;
    let db = opening.open()?;
    let position = give(&db, &history, 0, u64::MAX)?;
    flush(&db)?;
    let expected = history.digest_at(position).map_err(|error| failure(error.into()))?;
    let digest = compare(&db, expected, u64::MAX)?;
    opening.sync()?;
    tracing::info!(position, "the embedded store is rebuilt; nothing is lost");
    Ok(Recovered { db, history, position, digest })
}

/// Opens sled after it failed, and gives it the commits up to a position.
pub(super) fn catch_up(opening: &Opening, journal: &Path, position: u64) -> Result<Database, StoreError> {
    let history = History::read(journal).map_err(|error| failure(error.into()))?;
    let db = opening.open()?;
    let note = guarded(|| read_note(&db))?.unwrap_or_default();
    let reached = give(&db, &history, note.position, position)?;
    if reached != position {
        return Err(lost(&format!("the store has the commits up to {reached} of {position}")));
    }
    flush(&db)?;
    Ok(db)
}

/// The digest of all rows that are there.
fn digest_of(db: &Db) -> Result<Digest, StoreError> {
    let (mut digest, note) = (Digest::default(), key::commit());
    for row in db.iter() {
        let (key, value) = row.map_err(failure)?;
        if key != note {
            digest.change(&key, None, Some(&value));
        }
    }
    Ok(digest)
}

/// What is wrong, in words.
fn tell(differences: &[Difference]) -> String {
    let one = |difference: &Difference| {
        let (expected, found) = (difference.expected.rows, difference.found.rows);
        let what = key::name_of(difference.kind);
        match expected.cmp(&found) {
            std::cmp::Ordering::Greater => format!("{} of {expected} {what} are missing", expected - found),
            std::cmp::Ordering::Less => format!("{} {what} are there that were removed", found - expected),
            std::cmp::Ordering::Equal => format!("some of {expected} {what} are not what was written"),
        }
    };
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn read_note(db: &Db) -> Result<Option<Note>, StoreError> {
    let Some(value) = db.get(key::commit()).map_err(failure)? else { return Ok(None) };
    let bad = || lost("the row that says which commits the store has cannot be read");
    let (position, mut rest) = value.split_first_chunk::<8>().ok_or_else(bad)?;
    let mut totals = Vec::new();
    let is_closed = !rest.is_empty();
    while let Some((one, behind)) = rest.split_first_chunk::<17>() {
        let number = |at: usize| one[at..at + 8].try_into().map(u64::from_be_bytes).map_err(|_| bad());
        totals.push((one[0], Total { rows: number(1)?, sum: number(9)? }));
        rest = behind;
    }
    if !matches!(rest, [] | [0]) {
        return Err(bad());
    }
    let mut digest = Digest::default();
    digest.set(&totals);
    Ok(Some(Note { position: u64::from_be_bytes(*position), closed: is_closed.then_some(digest) }))
}

/// The row that says which commits sled has, and, when it is closed, what its rows come to: the totals, and a zero byte.
pub(super) fn write_note(position: u64, closed: Option<&Digest>) -> Vec<u8> {
    let mut note = position.to_be_bytes().to_vec();
    if let Some(digest) = closed {
        for (kind, total) in digest.all() {
            note.push(kind);
            note.extend_from_slice(&total.rows.to_be_bytes());
            note.extend_from_slice(&total.sum.to_be_bytes());
        }
        note.push(0);
    }
    note
}

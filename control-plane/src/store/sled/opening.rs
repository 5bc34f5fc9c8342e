//! What can be wrong with a store when it is opened, and how errors of sled are told.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::commits::Commits;
use super::key;
use crate::store::StoreError;

/// The version of the layout below. It grows when an older program could not read what a newer one writes.
pub(in crate::store) const SCHEMA: u64 = 4;
/// The oldest version of which this program reads every row. Version 3 has a journal and data in parts; what version 2 wrote is
/// a version 3 without them. In version 4 pools have lists of tenants, and who is not listed may not use a pool.
pub(in crate::store) const OLDEST: u64 = 2;
/// The version of a store with a journal, and pools without tenants: until [`crate::pools`] has given them some.
const WITHOUT_TENANTS: u64 = 3;

/// How often, and after which pause, files that somebody has open are asked for again: 3 s in all. A process that ends may
/// still hold them, and within one process sled's own threads do, for a moment after the store is dropped.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(10);

/// Opens the files, and waits a moment for whoever is just letting go of them.
pub(super) fn open_files(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 1..TRIES {
        match config.open() {
            Err(error) if is_locked(&error) => std::thread::sleep(PAUSE),
            opened => return opened,
        }
    }
    config.open()
}

pub(super) fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("lock"))
}

pub(super) fn opening(path: &Path, error: sled::Error) -> StoreError {
    if !is_locked(&error) {
        return failure(error);
    }
    StoreError::Busy(path.display().to_string())
}

/// Checks the version of the layout. A new store gets this one. An older one that can be read gets the version that has a
/// journal, since no older program, which would not see that, may open it from then on; it gets this one when its pools
/// have tenants.
pub(super) fn check_schema(commits: &mut Commits) -> Result<(), StoreError> {
    let db = commits.db()?;
    let version = match number(db, "schema")? {
        WITHOUT_TENANTS..=SCHEMA => return Ok(()),
        0 if is_new(db)? => SCHEMA,
        found => {
            check_version(found)?;
            WITHOUT_TENANTS
        }
    };
    set_schema(commits, version)
}

pub(super) fn set_schema(commits: &mut Commits, version: u64) -> Result<(), StoreError> {
    commits.commit(&[(key::meta("schema"), Some(version.to_be_bytes().to_vec()))])
}

/// Makes a closed store one of an older layout, as far as the version says so.
#[cfg(test)]
pub(crate) fn age(path: &Path, version: u64) {
    let opening = super::Opening { path: path.to_owned(), cache_bytes: 8 << 20, compared_up_to: u64::MAX };
    let mut commits = Commits::open(opening).expect("the store opens");
    set_schema(&mut commits, version).expect("the store can be written");
    commits.close().expect("the store closes");
}

/// Whether nothing was ever committed.
fn is_new(db: &sled::Tree) -> Result<bool, StoreError> {
    let note = key::commit();
    let first = db.iter().find(|row| row.as_ref().map_or(true, |(key, _)| key != &note));
    Ok(first.transpose().map_err(failure)?.is_none())
}

pub(super) fn check_version(found: u64) -> Result<(), StoreError> {
    match found {
        OLDEST..=SCHEMA => Ok(()),
        1 => Err(StoreError::Version {
            found: 1,
            known: SCHEMA,
            advice: "it was written before the first release and holds secrets that are not encrypted and cannot be \
                     removed from its files; use another data directory, set everything up again, and delete it",
        }),
        found if found > SCHEMA => Err(StoreError::Version {
            found,
            known: SCHEMA,
            advice: "run the newer version that wrote it, or restore a backup from before the upgrade",
        }),
        found => Err(StoreError::Version {
            found,
            known: SCHEMA,
            advice: "the folder does not hold a Postrider store; choose another data directory",
        }),
    }
}

pub(super) fn number(db: &sled::Tree, name: &str) -> Result<u64, StoreError> {
    let Some(value) = db.get(key::meta(name)).map_err(failure)? else { return Ok(0) };
    let bytes = value.as_ref().try_into().map_err(|_| damaged(name, "not a number"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Which store this is: made when there is none, and the same in all that is restored from its backups.
pub(super) fn identity(commits: &mut Commits) -> Result<Bytes, StoreError> {
    let key = key::meta(key::IDENTITY_OF_STORE);
    if let Some(identity) = commits.db()?.get(&key).map_err(failure)? {
        return Ok(Bytes::copy_from_slice(&identity));
    }
    let identity: [u8; 16] = rand::random();
    commits.commit(&[(key, Some(identity.to_vec()))])?;
    Ok(Bytes::copy_from_slice(&identity))
}

/// Begins a new epoch.
pub(super) fn begin_epoch(commits: &mut Commits) -> Result<u64, StoreError> {
    let epoch = number(commits.db()?, "epoch")? + 1;
    commits.commit(&[(key::meta("epoch"), Some(epoch.to_be_bytes().to_vec()))])?;
    Ok(epoch)
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// An error of sled, as our callers know it.
pub(super) fn failure(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if is_full(&error) => StoreError::Full(error.to_string()),
        sled::Error::Corruption { at, .. } => damaged(&format!("{at:?}"), "a checksum does not match"),
        other => StoreError::Unavailable(other.to_string()),
    }
}

/// Something that was acknowledged is gone.
pub(super) fn lost(what: &str) -> StoreError {
    StoreError::Lost(what.to_owned())
}

pub(super) fn damaged(place: &str, problem: &str) -> StoreError {
    StoreError::Damaged { place: place.to_owned(), problem: problem.to_owned() }
}

/// The same error for one more caller.
pub(super) fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full(problem) => StoreError::Full(problem.clone()),
        StoreError::Damaged { place, problem } => {
            StoreError::Damaged { place: place.clone(), problem: problem.clone() }
        }
        StoreError::Lost(problem) => StoreError::Lost(problem.clone()),
        StoreError::Unavailable(problem) => StoreError::Unavailable(problem.clone()),
        other => StoreError::Unavailable(other.to_string()),
    }
}

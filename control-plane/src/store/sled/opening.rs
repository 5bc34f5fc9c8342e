//! What can be wrong with a store when it is opened, and how errors of sled are told.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::key;
use crate::store::StoreError;

/// The version of the layout below. It grows when an older program could not read what a newer one writes.
pub(in crate::store) const SCHEMA: u64 = 2;

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

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("lock"))
}

pub(super) fn opening(path: &Path, error: sled::Error) -> StoreError {
    if !is_locked(&error) {
        return failure(error);
    }
    StoreError::Unavailable(format!(
        "{} is open in another process; stop that one, or choose another data directory",
        path.display()
    ))
}

pub(super) fn check_schema(db: &sled::Db) -> Result<(), StoreError> {
    match number(db, "schema")? {
        0 if db.is_empty() => {
            db.insert(key::meta("schema"), &SCHEMA.to_be_bytes()).map_err(failure)?;
            Ok(())
        }
        SCHEMA => Ok(()),
        1 => Err(StoreError::Version {
            found: 1,
            known: SCHEMA,
            advice: "it is of before the first release and holds secrets that are not sealed, which no sealing takes \
                     out of its files again; choose another data directory, set things up anew, and delete it",
        }),
        found if found > SCHEMA => Err(StoreError::Version {
            found,
            known: SCHEMA,
            advice: "run the newer program that wrote it, or restore a backup of before its upgrade",
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
pub(super) fn identity(db: &sled::Tree) -> Result<Bytes, StoreError> {
    let key = key::meta(key::IDENTITY_OF_STORE);
    if let Some(identity) = db.get(&key).map_err(failure)? {
        return Ok(Bytes::copy_from_slice(&identity));
    }
    let identity: [u8; 16] = rand::random();
    db.insert(key, &identity).map_err(failure)?;
    Ok(Bytes::copy_from_slice(&identity))
}

/// An error of sled, as our callers know it.
pub(super) fn failure(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => StoreError::Full(error),
        sled::Error::Corruption { at, .. } => damaged(&format!("{at:?}"), "a checksum does not match"),
        other => StoreError::Unavailable(other.to_string()),
    }
}

pub(super) fn damaged(place: &str, problem: &str) -> StoreError {
    StoreError::Damaged { place: place.to_owned(), problem: problem.to_owned() }
}

//! The wrapped data keys, in a file of their own beside the tree.
//!
//! The tree is a log: what is removed from it stays on the disk until its segment is used again, which may be never. A
//! removed data key must not: with a former key-encryption key it would open what the log still holds. So the file is
//! written anew as a whole and takes the former one's place.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::Sealed;
use postrider_proto::store as records;
use prost::Message as _;

use super::codec::bytes;
use super::{damaged, failure, key};
use crate::store::{DataKeyRow, StoreError};

const NAME: &str = "data-keys";
const NEW: &str = "data-keys.new";

/// The file.
#[derive(Clone, Debug)]
pub(super) struct DataKeys {
    folder: PathBuf,
}

impl DataKeys {
    /// Finds the file of a store, which remembers whether it has one: without it nothing sealed opens.
    pub(super) fn open(folder: &Path, db: &sled::Db) -> Result<Self, StoreError> {
        let keys = Self { folder: folder.to_owned() };
        // Left by a crash. Nobody was told that what is in it is written.
        match std::fs::remove_file(folder.join(NEW)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failure(error.into())),
            _ => {}
        }
        let (exists, known) =
            (!keys.read()?.is_empty(), db.contains_key(key::has_data_keys()).map_err(failure)?);
        match (exists, known) {
            (false, true) => Err(damaged(&keys.path().display().to_string(), "the file is missing or empty")),
            (true, false) => {
                db.insert(key::has_data_keys(), &[]).map_err(failure)?;
                Ok(keys)
            }
            _ => Ok(keys),
        }
    }

    /// Every data key, oldest first.
    pub(super) fn read(&self) -> Result<Vec<DataKeyRow>, StoreError> {
        let file = match std::fs::read(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failure(error.into())),
        };
        let record = records::DataKeysRecord::decode(file.as_slice());
        self.read_rows(&record.map_err(|error| self.damaged(&error.to_string()))?)
    }

    /// What is in the file, for a backup.
    pub(super) fn export(&self) -> Result<records::DataKeysRecord, StoreError> {
        Ok(records::DataKeysRecord { data_keys: self.read()?.iter().map(write_row).collect() })
    }

    /// Writes the file of a store that is made of a backup.
    pub(super) fn import(folder: &Path, record: &records::DataKeysRecord) -> Result<(), StoreError> {
        let keys = Self { folder: folder.to_owned() };
        let rows = keys.read_rows(record)?;
        if rows.is_empty() { Ok(()) } else { keys.write(&rows) }
    }

    /// Adds a data key.
    pub(super) fn add(&self, row: DataKeyRow) -> Result<(), StoreError> {
        let mut rows = self.read()?;
        rows.push(row);
        rows.sort_by_key(|row| row.id);
        self.write(&rows)
    }

    /// Removes data keys.
    pub(super) fn remove(&self, ids: &[DataKeyId]) -> Result<(), StoreError> {
        let mut rows = self.read()?;
        rows.retain(|row| !ids.contains(&row.id));
        self.write(&rows)
    }

    fn write(&self, rows: &[DataKeyRow]) -> Result<(), StoreError> {
        let record = records::DataKeysRecord { data_keys: rows.iter().map(write_row).collect() };
        self.replace(&record.encode_to_vec()).map_err(|error| failure(error.into()))
    }

    fn replace(&self, content: &[u8]) -> std::io::Result<()> {
        let new = self.folder.join(NEW);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, self.path())?;
        File::open(&self.folder)?.sync_all()
    }

    fn read_rows(&self, record: &records::DataKeysRecord) -> Result<Vec<DataKeyRow>, StoreError> {
        record.data_keys.iter().map(|record| self.read_row(record)).collect()
    }

    fn read_row(&self, record: &records::DataKeyRecord) -> Result<DataKeyRow, StoreError> {
        let id = record.id.as_ref().try_into().map_err(|_| self.damaged("an id has the wrong length"))?;
        let canary = Sealed::from_bytes(record.canary.to_vec());
        Ok(DataKeyRow {
            id: DataKeyId::from_bytes(id),
            kek: record.kek.parse().map_err(|_| self.damaged("a key-encryption key has no name"))?,
            wrapped: record.wrapped.to_vec(),
            canary: canary.map_err(|error| self.damaged(&error.to_string()))?,
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    fn damaged(&self, problem: &str) -> StoreError {
        damaged(&self.path().display().to_string(), problem)
    }
}

fn write_row(row: &DataKeyRow) -> records::DataKeyRecord {
    records::DataKeyRecord {
        id: bytes(&row.id.to_bytes()),
        kek: row.kek.to_string(),
        wrapped: bytes(&row.wrapped),
        canary: bytes(row.canary.as_bytes()),
    }
}

/// The key-encryption keys that wrap data keys, each once.
pub(in crate::store) fn keks_of(record: &records::DataKeysRecord) -> Vec<String> {
    let mut keks: Vec<String> = record.data_keys.iter().map(|key| key.kek.clone()).collect();
    keks.dedup();
    keks
}

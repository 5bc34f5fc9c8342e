//! The wrapped data keys, in a file of their own beside the tree.
//!
//! The tree is a log: what is removed from it stays on the disk until its segment is used again, which may be never. A
//! removed data key must not: with a former key-encryption key it would open what the log still holds. So the file is
//! rewritten as a whole and takes the former one's place.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::Sealed;
use postrider_proto::store as records;
use prost::Message as _;

use super::codec::bytes;
use super::commits::Commits;
use super::{damaged, failure, key};
use crate::store::{DataKeyRow, StoreError};

const NAME: &str = "data-keys";
const NEW: &str = "data-keys.new";
/// Stands between the keys and their checksum (CRC-32, little-endian). As a part of the record it would be an unfinished group.
const CHECKED: [u8; 4] = *b"crc1";

/// The file.
#[derive(Clone, Debug)]
pub(super) struct DataKeys {
    folder: PathBuf,
}

impl DataKeys {
    /// Finds the file of a store, which remembers whether it has one: without it nothing sealed opens.
    pub(super) fn open(commits: &mut Commits) -> Result<Self, StoreError> {
        let folder = commits.folder();
        let keys = Self { folder: folder.clone() };
        // Left by a crash. Nobody was told that what is in it is written.
        match std::fs::remove_file(folder.join(NEW)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failure(error.into())),
            _ => {}
        }
        let known = commits.db()?.contains_key(key::has_data_keys()).map_err(failure)?;
        let exists = !keys.read()?.is_empty();
        match (exists, known) {
            (false, true) => Err(damaged(&keys.path().display().to_string(), "the file is missing or empty")),
            (true, false) => {
                commits.commit(&[(key::has_data_keys(), Some(Vec::new()))])?;
                Ok(keys)
            }
            _ => Ok(keys),
        }
    }

    /// Whether a folder has the file.
    pub(super) fn is_there(folder: &Path) -> bool {
        folder.join(NAME).exists()
    }

    /// Every data key, oldest first.
    pub(super) fn read(&self) -> Result<Vec<DataKeyRow>, StoreError> {
        let file = match std::fs::read(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failure(error.into())),
        };
        let content = self.checked(&file)?;
        let record = records::DataKeysRecord::decode(content);
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
        let mut content = record.encode_to_vec();
        let checksum = crc32fast::hash(&content).to_le_bytes();
        content.extend_from_slice(&CHECKED);
        content.extend_from_slice(&checksum);
        self.replace(&content).map_err(|error| failure(error.into()))
    }

    /// What the file holds in front of its checksum. Files of earlier builds have none.
    fn checked<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], StoreError> {
        let Some((front, checksum)) = file.split_last_chunk::<4>() else { return Ok(file) };
        let Some(content) = front.strip_suffix(&CHECKED) else { return Ok(file) };
        if crc32fast::hash(content).to_le_bytes() == *checksum {
            Ok(content)
        } else {
            Err(self.damaged("its checksum is wrong"))
        }
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

/// Whether a store that had data keys still has them.
pub(super) fn check(folder: &Path, db: &sled::Tree) -> Result<(), StoreError> {
    let keys = DataKeys { folder: folder.to_owned() };
    if keys.read()?.is_empty() && db.contains_key(key::has_data_keys()).map_err(failure)? {
        return Err(keys.damaged("the file is missing or empty"));
    }
    Ok(())
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

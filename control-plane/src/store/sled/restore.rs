//! Makes a store of a backup, beside where it will be, and puts it in place when it is seen to be what the file says.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use postrider_domain::audit::{Check, Entry};
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use sha2::{Digest as _, Sha256};
use sled::Tree;

use super::commits::flush;
use super::data_keys::DataKeys;
use super::engine::Opening;
use super::opening::{check_version, number};
use super::writer::{Write, free_replaced};
use super::{audit, failure, key};
use crate::store::backup::file::Part;
use crate::store::backup::{RestoreError, Summary, file_error, open, verify};
use crate::store::journal::sync_folder;
use crate::store::{STORE, StoreError};

/// The store while it is made.
const MAKING: &str = "store.restoring";
/// What the root of a volume may have in it.
const OF_THE_SYSTEM: &str = "lost+found";
/// Memory for cached pages meanwhile.
const CACHE: u64 = 64 * 1024 * 1024;
/// Records of the audit log that are checked at once.
const STEP: usize = 1000;
/// How often a store may be opened in a second, and more, before two lives of it could have one epoch.
const EPOCHS: u64 = 1 << 20;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Of what.
    pub summary: Summary,
    /// Rows that the store has now.
    pub rows: u64,
    /// Tenants.
    pub tenants: u64,
    /// Subscriptions, deleted ones included.
    pub subscriptions: u64,
    /// Events.
    pub events: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Audit records.
    pub audit_records: u64,
}

/// Makes the store in a data directory of a backup. `now` is the time of day.
///
/// # Errors
/// [`RestoreError`]: then the directory is as it was.
pub fn restore(from: &Path, data_dir: &Path, now: Timestamp) -> Result<Restored, RestoreError> {
    let summary = verify(from)?;
    let was_there = data_dir.exists();
    let _alone = claim(data_dir)?;
    let making = data_dir.join(MAKING);
    let made = make(from, &making, &summary, now);
    let placed = made.and_then(|made| place(&making, data_dir).map(|()| made));
    if placed.is_err() {
        // What was begun is of no use. That it cannot be removed is less than why it was given up.
        let _left = std::fs::remove_dir_all(&making);
        let _left = (!was_there).then(|| std::fs::remove_dir(data_dir));
    }
    placed
}

/// Makes the directory if it is not there; it must be empty, and stays locked as long as the file is open.
fn claim(data_dir: &Path) -> Result<File, RestoreError> {
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |cause| RestoreError::Io { doing, path, cause }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(io("make", data_dir))?;
    let folder = File::open(data_dir).map_err(io("open", data_dir))?;
    folder.try_lock().map_err(|_| RestoreError::Busy(data_dir.to_owned()))?;
    for entry in std::fs::read_dir(data_dir).map_err(io("read", data_dir))? {
        let name = entry.map_err(io("read", data_dir))?.file_name();
        if name != MAKING && name != OF_THE_SYSTEM {
            return Err(RestoreError::NotEmpty(data_dir.to_owned()));
        }
    }
    // Left by a restore that was cut off: nobody else works there.
    let making = data_dir.join(MAKING);
    match std::fs::remove_dir_all(&making) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", &making)(error)),
        _ => Ok(folder),
    }
}

fn place(making: &Path, data_dir: &Path) -> Result<(), RestoreError> {
    let put = std::fs::rename(making, data_dir.join(STORE))
        .and_then(|()| sync_folder(data_dir))
        .and_then(|()| data_dir.parent().map_or(Ok(()), sync_folder));
    put.map_err(|cause| RestoreError::Io { doing: "put in place", path: making.to_owned(), cause })
}

fn make(from: &Path, making: &Path, summary: &Summary, now: Timestamp) -> Result<Restored, RestoreError> {
    let written = {
        let db = opening(making).open()?;
        let mut writing = Writing { tree: &db, written: Digest::default() };
        writing.pass(from, making, |part| match part {
            Part::Rows(rows) => Some(rows),
            _ => None,
        })?;
        writing.pass(from, making, |part| match part {
            Part::Changes(changes) => Some(changes),
            _ => None,
        })?;
        writing.begin_another_life(summary, now)?;
        flush(&db)?;
        writing.written
    };
    // Opened anew: what is compared has come from the disk.
    let opening = opening(making);
    let db = opening.open()?;
    opening.sync()?;
    check_version(number(&db, "schema")?)?;
    let (found, counts) = read_all(&db)?;
    if found != written {
        return Err(RestoreError::Differs(format!(
            "{} rows were found, {} written",
            found.rows, written.rows
        )));
    }
    check_audit_log(&db)?;
    let count = |kind: &[u8]| kind.first().and_then(|kind| counts.get(kind)).copied().unwrap_or(0);
    Ok(Restored {
        summary: summary.clone(),
        rows: found.rows,
        tenants: count(&key::tenants()),
        subscriptions: count(&key::subscriptions()),
        events: count(&key::all_events()),
        deliveries: count(&key::all_deliveries()),
        audit_records: count(&key::audit_records()),
    })
}

fn opening(path: &Path) -> Opening {
    Opening { path: path.to_owned(), cache_bytes: CACHE, compared_up_to: 0 }
}

/// What rows there are, whatever their order: how many, and the sum, without carries, of their digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    sum: [u8; 32],
}

impl Digest {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.toggle(key, value);
    }

    fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows -= 1;
        self.toggle(key, value);
    }

    fn toggle(&mut self, key: &[u8], value: &[u8]) {
        let digest = Sha256::new().chain_update((key.len() as u64).to_be_bytes()).chain_update(key);
        let digest: [u8; 32] = digest.chain_update(value).finalize().into();
        self.sum.iter_mut().zip(digest).for_each(|(sum, byte)| *sum ^= byte);
    }
}

struct Writing<'a> {
    tree: &'a Tree,
    written: Digest,
}

impl Writing<'_> {
    /// Reads the file once, and writes the rows that are wanted of each part.
    fn pass(
        &mut self,
        from: &Path,
        making: &Path,
        wanted: impl Fn(Part) -> Option<Vec<records::BackupRow>>,
    ) -> Result<(), RestoreError> {
        let (mut reader, _) = open(from)?;
        while let Some(part) = reader.next().map_err(|problem| file_error(from, problem))? {
            if let Part::DataKeys(keys) = &part {
                DataKeys::import(making, keys)?;
            }
            let rows = wanted(part).unwrap_or_default();
            let count = rows.len();
            for row in rows {
                self.put(&row.key, row.value.as_deref()).map_err(failure)?;
            }
            free_replaced(count);
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> sled::Result<()> {
        let former = match value {
            Some(value) => self.tree.insert(key, value)?,
            None => self.tree.remove(key)?,
        };
        if let Some(former) = former {
            self.written.remove(key, &former);
        }
        if let Some(value) = value {
            self.written.add(key, value);
        }
        Ok(())
    }

    /// Tells the store that it was restored: its audit log, and by an epoch that no life of it has had or will have before this one,
    /// agents that still have jobs of another life.
    fn begin_another_life(&mut self, summary: &Summary, now: Timestamp) -> Result<(), StoreError> {
        let seconds = u64::try_from(now.as_millis() / 1000).unwrap_or(0);
        let epoch = number(self.tree, "epoch")?.saturating_add(EPOCHS).max(seconds.saturating_mul(EPOCHS));
        let entry = Entry {
            time: now,
            actor: "postrider".to_owned(),
            address: String::new(),
            action: "Restore".to_owned(),
            target: summary.store.clone(),
            tenant: None,
            request_id: String::new(),
            detail: format!("from a backup that was begun at {}", summary.begun),
        };
        let mut rows: Vec<Write> = audit::Ends::load(self.tree)?.append(entry);
        for name in ["epoch", key::FENCE] {
            rows.push((key::meta(name), Some(epoch.to_be_bytes().to_vec())));
        }
        rows.iter().try_for_each(|(key, value)| self.put(key, value.as_deref())).map_err(failure)
    }
}

/// All rows, and how many there are of each kind.
pub(super) fn read_all(tree: &Tree) -> Result<(Digest, BTreeMap<u8, u64>), StoreError> {
    let (mut digest, mut counts) = (Digest::default(), BTreeMap::new());
    for row in tree.iter() {
        let (key, value) = row.map_err(failure)?;
        digest.add(&key, &value);
        *counts.entry(key.first().copied().unwrap_or_default()).or_default() += 1;
    }
    Ok((digest, counts))
}

pub(super) fn check_audit_log(tree: &Tree) -> Result<(), RestoreError> {
    let broken = |problem: String| RestoreError::AuditLog(problem);
    // Compares the end with where the log says that it ends.
    audit::Ends::load(tree).map_err(|error| broken(error.to_string()))?;
    let span = audit::span(tree)?;
    let mut check = Check::new(span.start, span.end, None);
    while !check.is_at_end() {
        let records = audit::after(tree, check.head().sequence, STEP);
        let records = records.map_err(|error| broken(error.to_string()))?;
        if records.is_empty() {
            break;
        }
        records.iter().try_for_each(|record| check.follow(record)).map_err(broken)?;
    }
    check.finish().map_err(broken)
}

//! A copy of a whole store in one file, taken while the store is in use, and how a store is made of it again.
//!
//! A store has no moment at which it stands still, and a copy of moving rows is none. So a backup has two kinds of parts, mixed in
//! any order: every *row*, as a scan found it sooner or later, and every *change* that was written since before the scan began.
//! Whoever applies first the rows and then the changes, in their order, has the store as it was at the last change: a row that
//! the scan saw too early is made good by the changes, and one that it saw late is only written again.
//!
//! The file is described in `backup/file.rs`. Rows and keys do not leave the modules below the store.

pub(super) mod file;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use tokio::sync::mpsc;

pub use self::file::{FileError, Seal};
use self::file::{Part, Reader};
use super::StoreError;

/// The parts of a file, in their order. It is whole when the channel ends without an error.
pub type BackupParts = mpsc::Receiver<Result<Bytes, BackupError>>;

/// Why a backup ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// More is written than the taker takes.
    #[error(
        "the backup is taken more slowly than the store is written to, {waiting} MiB of changes wait; take it to a faster disk or \
         over a faster connection, or when less is going on"
    )]
    TooSlow {
        /// MiB.
        waiting: usize,
    },
    /// A write has failed meanwhile, and whether it is in the store is not known.
    #[error("the store could not be written while the backup was taken; take another when it can be")]
    WriteFailed,
    /// The store was closed.
    #[error("the control plane is stopping; take the backup when it runs again")]
    Closed,
}

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The version of the program that wrote it.
    pub product: String,
    /// When it was begun.
    pub begun: Timestamp,
    /// Which store it is of.
    pub store: String,
    /// The epoch that the store was in.
    pub epoch: u64,
    /// How many rows were found.
    pub rows: u64,
    /// How many changes were made meanwhile.
    pub changes: u64,
    /// How long the file is.
    pub bytes: u64,
    /// The key-encryption keys by which its secrets are opened.
    pub keks: Vec<String>,
}

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is not a whole backup.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: FileError,
    },
    /// Something is there already.
    #[error(
        "{0} is not empty: a restore never writes over a store; name a directory that is empty or not there, and give it to the \
         control plane as its data_dir afterwards"
    )]
    NotEmpty(PathBuf),
    /// Another restore is at work there.
    #[error("another restore is making a store in {0}; wait for its end")]
    Busy(PathBuf),
    /// The system refuses.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
    /// The store that was made cannot be written or read.
    #[error("the store could not be made")]
    Store(#[from] StoreError),
    /// What was made is not what was in the file.
    #[error("the restored rows differ from the backup: {0}; nothing was put in place; check the disk")]
    Differs(String),
    /// The audit log in the backup is not intact.
    #[error("the backup's audit log is not intact: {0}; nothing was put in place. Restore another backup")]
    AuditLog(String),
}

/// Reads a file from its beginning to its end: whether it is a whole backup that this program can restore, and of what.
///
/// # Errors
/// [`RestoreError::File`], or [`RestoreError::Io`].
pub fn verify(path: &Path) -> Result<Summary, RestoreError> {
    let (mut reader, header) = open(path)?;
    let mut keks = Vec::new();
    while let Some(part) = reader.next().map_err(|problem| file_error(path, problem))? {
        if let Part::DataKeys(content) = part {
            keks = super::sled::keks_of(&content);
        }
    }
    let (trailer, bytes) = reader.end();
    Ok(Summary {
        product: header.product,
        begun: Timestamp::from_millis(header.begin_time_ms),
        store: hex::encode(&header.store),
        epoch: header.epoch,
        rows: trailer.rows,
        changes: trailer.changes,
        bytes,
        keks,
    })
}

/// A reader of the file, behind its header.
pub(super) fn open(path: &Path) -> Result<(Reader<BufReader<File>>, records::BackupHeader), RestoreError> {
    let cause = |cause| RestoreError::Io { doing: "read", path: path.to_owned(), cause };
    let file = File::open(path).map_err(cause)?;
    Reader::open(BufReader::with_capacity(256 * 1024, file)).map_err(|problem| file_error(path, problem))
}

pub(super) fn file_error(path: &Path, problem: FileError) -> RestoreError {
    match problem {
        FileError::Io(cause) => RestoreError::Io { doing: "read", path: path.to_owned(), cause },
        problem => RestoreError::File { path: path.to_owned(), problem },
    }
}

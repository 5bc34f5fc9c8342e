//! sled, opened so that nothing that can be rebuilt keeps it from opening, and closed for readers while it is opened again.

use std::cell::Cell;
use std::fs::File;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use arc_swap::ArcSwapOption;
use sled::{Db, Tree};

use super::opening::{again, failure, is_locked, lost, open_files, opening};
use super::real_sync;
use crate::store::StoreError;
use crate::store::journal::sync_folder;

/// What sled's snapshots are named like. They only make opening faster.
const SNAPSHOT: &str = "snap.";
const UNFINISHED: &str = ".generating";
/// The file in which sled keeps its own settings. It is written again when it is missing.
const SETTINGS: &str = "conf";
/// The log: everything that cannot be rebuilt from the other files.
pub(super) const LOG: &str = "db";
const BLOBS: &str = "blobs";
/// Where files go that are replaced by what the journal has.
const DAMAGED: &str = "damaged";

/// What readers use: the tree, as long as it is open.
#[derive(Clone, Default)]
pub(super) struct Engine(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tree: ArcSwapOption<Tree>,
    /// Why it is not open.
    problem: Mutex<Option<StoreError>>,
    /// Whether a reader saw an error that may stay.
    suspect: AtomicBool,
}

impl Engine {
    /// The tree.
    ///
    /// # Errors
    /// Why it is not open.
    pub(super) fn tree(&self) -> Result<Tree, StoreError> {
        let tree = self.0.tree.load_full();
        tree.map(|tree| (*tree).clone()).ok_or_else(|| self.problem())
    }

    /// Why the tree is not open.
    pub(super) fn problem(&self) -> StoreError {
        let problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner);
        problem.as_ref().map_or_else(|| StoreError::Unavailable("it is closed".to_owned()), again)
    }

    pub(super) fn set(&self, tree: &Tree) {
        self.0.suspect.store(false, Ordering::Relaxed);
        self.0.tree.store(Some(Arc::new(tree.clone())));
    }

    pub(super) fn close(&self, problem: Option<StoreError>) {
        *self.0.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        let closed: Result<(), StoreError> = guarded(|| {
            self.0.tree.store(None);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::debug!(%error, "sled failed while it was closed");
        }
    }

    /// Notes that a read failed; whether nobody else had noted it.
    pub(super) fn suspect(&self) -> bool {
        !self.0.suspect.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_no_longer_suspect(&self) {
        self.0.suspect.store(false, Ordering::Relaxed);
    }
}

/// sled. Its last handle panics when its files fail while it is dropped.
pub(super) struct Database(Option<Db>);

impl Deref for Database {
    type Target = Db;

    fn deref(&self) -> &Db {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let dropped: Result<(), StoreError> = guarded(|| {
            drop(self.0.take());
            Ok(())
        });
        if let Err(error) = dropped {
            tracing::debug!(%error, "sled failed while it was closed");
        }
    }
}

/// How sled is opened.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) path: PathBuf,
    pub(super) cache_bytes: u64,
    /// Bytes of the log up to which all rows are read and compared with what they should be.
    pub(super) compared_up_to: u64,
}

impl Opening {
    /// Opens the files, and makes them when there are none. A snapshot that cannot be read is removed.
    pub(super) fn open(&self) -> Result<Database, StoreError> {
        real_sync::require()?;
        remove_unusable(&self.path)?;
        match self.attempt() {
            Err(StoreError::Lost(problem)) if remove_snapshots(&self.path, |_| true)? => {
                tracing::warn!(%problem, "removed the store's snapshots because they do not match its log; reading the whole log");
                self.attempt()
            }
            opened => opened,
        }
    }

    fn attempt(&self) -> Result<Database, StoreError> {
        let config = sled::Config::new()
            .path(&self.path)
            .cache_capacity(self.cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let opened = guarded(|| match open_files(&config) {
            Err(error) if is_locked(&error) => Err(opening(&self.path, error)),
            opened => opened.map_err(failure),
        });
        match opened {
            Err(StoreError::Damaged { place, problem }) => {
                Err(lost(&format!("the log {} cannot be read: {problem} ({place})", self.log().display())))
            }
            opened => opened.map(|db| Database(Some(db))),
        }
    }

    /// Whether the log has any content.
    pub(super) fn has_log(&self) -> bool {
        std::fs::metadata(self.log()).is_ok_and(|log| log.len() > 0)
    }

    fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Waits until everything that sled wrote is on disk: files, and the names of files.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let sync = || -> std::io::Result<()> {
            File::open(self.log())?.sync_all()?;
            File::open(self.path.join(SETTINGS))?.sync_all()?;
            let blobs = self.path.join(BLOBS);
            for blob in std::fs::read_dir(&blobs)? {
                File::open(blob?.path())?.sync_all()?;
            }
            sync_folder(&blobs)?;
            sync_folder(&self.path)?;
            self.path.parent().map_or(Ok(()), sync_folder)
        };
        sync().map_err(|error| failure(error.into()))
    }

    /// Puts sled's files aside, because the journal has everything that was in them.
    pub(super) fn put_aside(&self) -> Result<(), StoreError> {
        let aside = self.path.join(DAMAGED);
        let moved = || -> std::io::Result<()> {
            match std::fs::remove_dir_all(&aside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => std::fs::create_dir(&aside)?,
            }
            for entry in std::fs::read_dir(&self.path)? {
                let name = entry?.file_name();
                let is_sleds = [LOG, SETTINGS, BLOBS].iter().any(|one| name == *one)
                    || name.to_string_lossy().starts_with(SNAPSHOT);
                if is_sleds {
                    std::fs::rename(self.path.join(&name), aside.join(&name))?;
                }
            }
            sync_folder(&self.path)
        };
        moved().map_err(|error| failure(error.into()))
    }
}

/// Removes what sled would refuse to start on although it can do without: files of which the checksum is wrong.
fn remove_unusable(folder: &Path) -> Result<(), StoreError> {
    let settings = folder.join(SETTINGS);
    if let Ok(content) = std::fs::read(&settings)
        && !is_checked(&content, 4)
    {
        tracing::warn!(file = %settings.display(), "removing a damaged file; it is recreated");
        std::fs::remove_file(&settings).map_err(|error| failure(error.into()))?;
    }
    let unusable = |path: &Path| {
        path.to_string_lossy().ends_with(UNFINISHED)
            || !std::fs::read(path).is_ok_and(|content| is_checked(&content, 12))
    };
    remove_snapshots(folder, unusable).map(drop)
}

/// Whether a file ends with the checksum of what comes before its last `tail` bytes.
fn is_checked(content: &[u8], tail: usize) -> bool {
    let Some((covered, tail)) = content.len().checked_sub(tail).map(|at| content.split_at(at)) else {
        return false;
    };
    let stated = tail.last_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    !covered.is_empty() && stated == Some(crc32fast::hash(covered))
}

/// Removes snapshots; whether there were any.
fn remove_snapshots(folder: &Path, which: impl Fn(&Path) -> bool) -> Result<bool, StoreError> {
    let of = |error: std::io::Error| failure(error.into());
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(of)?,
    };
    let mut any = false;
    for entry in entries {
        let path = entry.map_err(of)?.path();
        let is_snapshot = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SNAPSHOT));
        if is_snapshot && which(&path) {
            tracing::warn!(file = %path.display(), "removing a snapshot of the store's log; it is recreated");
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
                .map_err(of)?;
            any = true;
        }
    }
    Ok(any)
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does work of sled, which panics when it finds what it does not expect in its files: that is damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    tell_panics_of_sled_in_words();
    let was_quiet = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(was_quiet);
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref().copied()).unwrap_or("without a reason");
        let text: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
        Err(StoreError::Damaged {
            place: "a page of the store".to_owned(),
            problem: format!("sled gave up: {text}"),
        })
    })
}

/// A panic that is caught by [`guarded`] becomes an error; sled catches those of its own threads.
fn tell_panics_of_sled_in_words() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let of_sled = std::thread::current().name().is_some_and(|name| name.starts_with("sled-io-"));
            if QUIET.get() || of_sled {
                tracing::debug!(%panic, "a panic in the embedded store");
            } else {
                former(panic);
            }
        }));
    });
}

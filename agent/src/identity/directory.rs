//! The directory that holds the identity: its owner's alone, one process's at a time, whole at every moment.
//!
//! A file is replaced by writing another beside it, flushing that, and renaming it; so after a crash there is the old
//! one or the new one. What others could read is refused, for a private key that was readable is no secret any more.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::record::{Pending, Record, RecordError};

const IDENTITY: &str = "identity.pem";
const PENDING: &str = "pending.pem";
const LOCK: &str = "lock";
/// No file here is larger.
const MAX_BYTES: u64 = 256 << 10;

/// See the [module](self).
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Held as long as the process lives.
    _lock: File,
}

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file or the directory itself.
    #[error("{path} cannot be {what}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It is no directory.
    #[error("`state_dir` is {path}, which is not a directory", path = .0.display())]
    NoDirectory(PathBuf),
    /// Others may read or write it.
    #[error(
        "other users can read {path}, which holds this agent's private key: run `chmod {wanted:o} {path}`; if the key may have been read, revoke this agent and enroll again",
        path = .path.display()
    )]
    Permissions {
        /// What.
        path: PathBuf,
        /// Its proper mode.
        wanted: u32,
    },
    /// Another process is at work there.
    #[error(
        "another agent runs with the identity in {path}: stop it, or give this one a `state_dir` of its own",
        path = .0.display()
    )]
    Locked(PathBuf),
    /// What is in it cannot be used.
    #[error("{path}: {source}. If that does not help, remove the file and enroll again, with a new join token", path = .path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
}

/// Whether there is an identity in the directory at `path`, as far as can be seen from here.
#[must_use]
pub fn has_identity(path: &Path) -> bool {
    path.join(IDENTITY).exists()
}

impl Directory {
    /// Makes the directory if it is not there, and keeps other processes out of it.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn open(path: &Path) -> Result<Directory, DirectoryError> {
        let failed = |what| move |source| DirectoryError::Io { path: path.to_owned(), what, source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("made"))?;
        let found = std::fs::metadata(path).map_err(failed("read"))?;
        if !found.is_dir() {
            return Err(DirectoryError::NoDirectory(path.to_owned()));
        }
        check_mode(path, found.permissions().mode(), 0o700)?;
        let lock = lock(path)?;
        Ok(Directory { path: path.to_owned(), _lock: lock })
    }

    /// Whether there is an identity at `path` that can be used. Unlike [`Directory::open`] it makes nothing and keeps nobody out, so
    /// an agent may be at work there.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn look(path: &Path) -> Result<bool, DirectoryError> {
        let found = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => {
                found.map_err(|source| DirectoryError::Io { path: path.to_owned(), what: "read", source })?
            }
        };
        if !found.is_dir() {
            return Err(DirectoryError::NoDirectory(path.to_owned()));
        }
        check_mode(path, found.permissions().mode(), 0o700)?;
        Ok(read(path, IDENTITY, Record::read)?.is_some())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity, if there is one.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn identity(&self) -> Result<Option<Record>, DirectoryError> {
        read(&self.path, IDENTITY, Record::read)
    }

    /// The key whose certificate was asked for and has not come, if there is one.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn pending(&self) -> Result<Option<Pending>, DirectoryError> {
        read(&self.path, PENDING, Pending::read)
    }

    /// Keeps a new identity in place of what was there. Its key is pending no more.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn keep_identity(&self, record: &Record) -> Result<(), DirectoryError> {
        self.replace(IDENTITY, &record.write())?;
        self.forget_pending()
    }

    /// Keeps a key before its certificate is asked for.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn keep_pending(&self, pending: &Pending) -> Result<(), DirectoryError> {
        self.replace(PENDING, &pending.write())
    }

    /// Removes the pending key, if there is one.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn forget_pending(&self) -> Result<(), DirectoryError> {
        match std::fs::remove_file(self.path.join(PENDING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed(PENDING, "removed")(error))
            }
            _ => Ok(()),
        }
    }

    fn replace(&self, name: &str, text: &str) -> Result<(), DirectoryError> {
        let (path, beside) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            // One that a crash left behind.
            match std::fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(self.failed(name, "written"))
    }

    fn failed(&self, name: &str, what: &'static str) -> impl FnOnce(io::Error) -> DirectoryError {
        let path = self.path.join(name);
        move |source| DirectoryError::Io { path, what, source }
    }
}

fn read<T>(
    directory: &Path,
    name: &str,
    parse: impl Fn(&str) -> Result<T, RecordError>,
) -> Result<Option<T>, DirectoryError> {
    let path = directory.join(name);
    let failed = |source| DirectoryError::Io { path: path.clone(), what: "read", source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    check_mode(&path, mode, 0o600)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| RecordError::Damaged("it is not text"));
    text.and_then(parse).map(Some).map_err(|source| DirectoryError::Record { path, source })
}

fn lock(directory: &Path) -> Result<File, DirectoryError> {
    let path = directory.join(LOCK);
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|source| DirectoryError::Io { path: path.clone(), what: "opened", source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(DirectoryError::Io { path, what: "locked", source }),
    }
}

fn check_mode(path: &Path, mode: u32, wanted: u32) -> Result<(), DirectoryError> {
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(DirectoryError::Permissions { path: path.to_owned(), wanted })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;
    use crate::identity::key::Key;
    use crate::identity::record::Purpose;

    fn pending() -> Pending {
        Pending { purpose: Purpose::Renewal, key: Key::generate().unwrap() }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_kept_is_its_owners_alone_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let directory = Directory::open(&path).unwrap();
        assert!(directory.identity().unwrap().is_none() && directory.pending().unwrap().is_none());
        let (first, second) = (pending(), pending());
        directory.keep_pending(&first).unwrap();
        // What a crash may have left, for everybody to read.
        std::fs::write(path.join("pending.pem.new"), "half").unwrap();
        set_mode(&path.join("pending.pem.new"), 0o644);
        directory.keep_pending(&second).unwrap();
        assert_eq!(directory.pending().unwrap().unwrap().key.pkcs8(), second.key.pkcs8());
        assert_eq!((mode(&path), mode(&path.join(PENDING)), mode(&path.join(LOCK))), (0o700, 0o600, 0o600));
        directory.forget_pending().unwrap();
        directory.forget_pending().unwrap();
        assert!(directory.pending().unwrap().is_none());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "the lock alone");
    }

    #[test]
    fn what_others_may_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let directory = Directory::open(&path).unwrap();
        directory.keep_pending(&pending()).unwrap();
        let file = path.join(PENDING);
        for loose in [0o640, 0o604, 0o660] {
            set_mode(&file, loose);
            let error = directory.pending().err().unwrap().to_string();
            assert!(error.contains(&format!("chmod 600 {}", file.display())), "{error}");
        }
        drop(directory);
        for loose in [0o750, 0o701, 0o770] {
            set_mode(&path, loose);
            let error = Directory::open(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 700 {}", path.display())), "{error}");
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = Directory::open(&path).unwrap();
        assert!(matches!(Directory::open(&path), Err(DirectoryError::Locked(_))));
        drop(first);
        Directory::open(&path).unwrap();
    }

    #[test]
    fn what_is_damaged_or_no_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let directory = Directory::open(&path).unwrap();
        directory.keep_pending(&pending()).unwrap();
        let file = path.join(PENDING);
        for bytes in [&b"Postrider"[..], &[0xff; 10], b""] {
            std::fs::write(&file, bytes).unwrap();
            let error = directory.pending().err().unwrap().to_string();
            assert!(error.contains("pending.pem") && error.contains("damaged"), "{error}");
        }
        let error = Directory::open(&file).unwrap_err();
        assert!(matches!(error, DirectoryError::NoDirectory(_) | DirectoryError::Io { .. }), "{error}");
    }
}

//! Reads the small files that the agent's owner names. A file that holds a secret must be its reader's alone.
//!
//! Nothing here puts a byte of a file into an error.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use zeroize::Zeroizing;

/// More than any certificate bundle or list of headers has.
const MAX_BYTES: u64 = 1 << 20;

/// Why a file was not taken, as the end of a sentence that begins with the setting's name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("names {path}, which cannot be read: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("names {path}, which is not a file")]
    NotAFile { path: String },
    #[error("names {path}, which is larger than 1 MiB")]
    TooLarge { path: String },
    #[error("names {path}, which holds a secret and has mode {mode:04o}; nobody else may read it: {remedy}")]
    TooOpen { path: String, mode: u32, remedy: &'static str },
}

/// The content of a file.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    open_and_read(path, |_| Ok(()))
}

/// The content of a file that others must not be able to read.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    open_and_read(path, |metadata| is_private(path, metadata))
}

fn open_and_read(
    path: &Path,
    check: impl Fn(&Metadata) -> Result<(), FileError>,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let unreadable = |source| FileError::Unreadable { path: shown(path), source };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(FileError::NotAFile { path: shown(path) });
    }
    let file = File::open(path).map_err(unreadable)?;
    // Of what was opened, which is what is read.
    let metadata = file.metadata().map_err(unreadable)?;
    check(&metadata)?;
    if metadata.len() > MAX_BYTES {
        return Err(FileError::TooLarge { path: shown(path) });
    }
    // With room for all of it at once, so that no copy is left behind.
    let room = usize::try_from(metadata.len()).unwrap_or_default() + 1;
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}

/// The rule that PostgreSQL has for its key: 0600 or tighter, or 0640 or tighter when it is root's. The latter is how
/// Kubernetes mounts a secret for a process that is not root, by `fsGroup`.
fn is_private(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let mode = metadata.mode() & 0o7777;
    let (forbidden, remedy) = if metadata.uid() == 0 {
        (0o037, "chmod 0600, or 0640 for a group that only the agent is in")
    } else {
        (0o077, "chmod 0600")
    };
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(FileError::TooOpen { path: shown(path), mode, remedy })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    fn told(result: Result<Zeroizing<Vec<u8>>, FileError>) -> String {
        result
            .map_or_else(|error| error.to_string(), |content| String::from_utf8_lossy(&content).into_owned())
    }

    #[test]
    fn a_secret_is_read_only_when_it_is_private() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret").unwrap();
        // Root can give the file away; anybody else owns it already.
        let nobodys = chown(file.path(), Some(65_534), None).is_ok();
        let of_root = |mode| {
            let _root_only = chown(file.path(), Some(0), None);
            std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            told(read_secret(file.path()))
        };
        if nobodys {
            for (mode, expected) in [(0o640, "s3cret"), (0o440, "s3cret"), (0o600, "s3cret")] {
                assert_eq!(of_root(mode), expected, "{mode:o}");
            }
            for mode in [0o644, 0o660, 0o604, 0o602, 0o650, 0o666] {
                let error = of_root(mode);
                assert!(
                    error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 0600"),
                    "{error}"
                );
            }
            chown(file.path(), Some(65_534), None).unwrap();
        }
        for (mode, taken) in [(0o600, true), (0o400, true), (0o640, false), (0o644, false), (0o610, false)] {
            std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let told = told(read_secret(file.path()));
            assert_eq!(told == "s3cret", taken, "{mode:o}: {told}");
            assert!(taken || !told.contains("s3cret"));
        }
        assert_eq!(told(read(file.path())), "s3cret");
    }

    #[test]
    fn what_is_no_small_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(told(read(folder.path())).contains("not a file"));
        assert!(told(read(&folder.path().join("none"))).contains("cannot be read"));
        let large = folder.path().join("large");
        std::fs::write(&large, vec![b'x'; (1 << 20) + 1]).unwrap();
        assert!(told(read(&large)).contains("larger than 1 MiB"));
    }
}

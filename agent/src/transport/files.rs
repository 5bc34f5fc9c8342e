//! Reads the small files that the agent's owner names. A file that holds a secret must be its reader's alone.
//!
//! Nothing here puts a byte of a file into an error.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use postrider_domain::secret_file::is_private;
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
    #[error(
        "names {path}, which holds a secret and has mode {mode:04o}, by which others can read or change it; run \
         `chmod 600 {path}`, or 640 if it is root's, for a group that only the agent is in"
    )]
    TooOpen { path: String, mode: u32 },
}

/// The content of a file.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    open_and_read(path, |_| Ok(()))
}

/// The content of a file that others must not be able to read.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    open_and_read(path, |metadata| must_be_private(path, metadata))
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

fn must_be_private(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let mode = metadata.mode() & 0o7777;
    if is_private(mode, metadata.uid()) {
        Ok(())
    } else {
        Err(FileError::TooOpen { path: shown(path), mode })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    fn told(result: Result<Zeroizing<Vec<u8>>, FileError>) -> String {
        result
            .map_or_else(|error| error.to_string(), |content| String::from_utf8_lossy(&content).into_owned())
    }

    #[test]
    fn a_secret_is_read_only_when_it_is_private() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret").unwrap();
        for (mode, taken) in [(0o600, true), (0o400, true), (0o644, false), (0o610, false)] {
            std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let told = told(read_secret(file.path()));
            assert_eq!(told == "s3cret", taken, "{mode:o}: {told}");
            let advised = told.contains(&format!("mode {mode:04o}")) && told.contains("chmod 600");
            assert!(taken || (advised && !told.contains("s3cret")), "{told}");
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

//! Files that hold a secret: read only when nobody else can.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use postrider_domain::secret_file::is_private;
use zeroize::Zeroizing;

/// The most that such a file may hold.
const MAX_BYTES: u64 = 64 * 1024;

/// Why a secret is not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The system refuses.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Others can read or write it.
    #[error(
        "{path} holds a secret and has mode {mode:04o}, by which others can read or change it; run `chmod 600 {path}`, or 640 if it is \
         root's, for a group that only this program is in"
    )]
    Loose {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// It is no file, or too large for one with a secret.
    #[error("{path} is not a file of at most 64 KiB; name the file that holds the secret")]
    Strange {
        /// What it is not.
        path: String,
    },
}

/// Reads a secret.
///
/// # Errors
/// [`SecretFileError`].
pub fn read(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let name = || path.display().to_string();
    let unreadable = |cause| SecretFileError::Unreadable { path: name(), cause };
    let file = File::open(path).map_err(unreadable)?;
    // Of the file that is open: its name may stand for another one by now.
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(SecretFileError::Strange { path: name() });
    }
    let mode = metadata.mode() & 0o777;
    if !is_private(mode, metadata.uid()) {
        return Err(SecretFileError::Loose { path: name(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_read_only_when_it_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "s3cret\n").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o604, false), (0o620, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = read(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}");
            match read {
                Ok(text) => assert_eq!(text.as_str(), "s3cret\n"),
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains("chmod 600") && !said.contains("s3cret"), "{said}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(SecretFileError::Strange { .. })));
        assert!(matches!(read(&folder.path().join("none")), Err(SecretFileError::Unreadable { .. })));
    }
}

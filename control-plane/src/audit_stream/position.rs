//! Up to which record the stream has come, in a file: `SEQUENCE:HASH`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use postrider_domain::audit::Head;

/// More than any such file has.
const MAX_BYTES: u64 = 256;

/// Reads it; `None` when there is no such file, or an empty one.
pub(super) fn read(path: &Path) -> io::Result<Option<Head>> {
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?.take(MAX_BYTES).read_to_string(&mut text)?,
    };
    let text = text.trim_end();
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).ok_or_else(|| {
        let problem = format!(
            "{} holds no position of the audit stream; remove it, and the whole log is streamed again",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

fn parse(text: &str) -> Option<Head> {
    let (sequence, hash) = text.split_once(':')?;
    Some(Head { sequence: sequence.parse().ok()?, hash: hex::decode(hash).ok()?.try_into().ok()? })
}

/// Replaces the file as a whole. It is not synced: after a crash of the machine some records are sent again.
pub(super) fn write(path: &Path, head: Head) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{}:{}", head.sequence, hex::encode(head.hash))?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit-stream");
        assert_eq!(read(&path).unwrap(), None);
        let head = Head { sequence: 14, hash: [7; 32] };
        write(&path, head).unwrap();
        write(&path, head).unwrap();
        assert_eq!(read(&path).unwrap(), Some(head));
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(&path).unwrap(), None, "the machine crashed");
        for wrong in ["14", "14:00", "x:00", &"9".repeat(1000)] {
            std::fs::write(&path, wrong).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("remove it"), "{wrong}");
        }
    }
}

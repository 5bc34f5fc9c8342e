//! The head of the audit log, exported: logged, shown as a metric, and written to a file outside of the store, so that a
//! log that was cut off or put back shows. Called at the start, every minute, and by `audit verify`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::audit::{AuditKey, Code, Head};
use postrider_telemetry::blocking;
use tracing::{error, info, warn};

use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// How often the head is exported, when it has changed.
const EVERY: Duration = Duration::from_secs(60);
/// The target of the log lines, for those who keep them elsewhere.
const TARGET: &str = "postrider::audit_head";
const FIRST_LINE: &str = "postrider audit head 1";
/// More than any such file has.
const MAX_BYTES: u64 = 1024;

/// A head with its authentication code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The log's end at that time.
    pub head: Head,
    /// Over the head, with the sealed key.
    pub code: Code,
}

impl Exported {
    /// As the file has it.
    #[must_use]
    pub fn text(&self) -> String {
        let (head, code) = (self.head, hex::encode(self.code));
        format!("{FIRST_LINE}\n{}:{}\n{code}\n", head.sequence, hex::encode(head.hash))
    }

    /// The hash of the record, hex.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(self.head.hash)
    }

    /// Reads what [`Exported::text`] has written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let [FIRST_LINE, head, code] = lines.as_slice() else { return None };
        let (sequence, hash) = head.split_once(':')?;
        let bytes = |text: &str| hex::decode(text).ok()?.try_into().ok();
        let head = Head { sequence: sequence.parse().ok()?, hash: bytes(hash)? };
        Some(Self { head, code: bytes(code)? })
    }
}

/// Why the exported head and the log do not go together.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The file cannot be read.
    #[error("audit_head_file {path} cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The file is not one.
    #[error("audit_head_file {path} holds no head of an audit log; name another file, or move this one away")]
    Strange {
        /// The file.
        path: String,
    },
    /// The log is not what it was.
    #[error(
        "the audit log was truncated or replaced: {problem}. Compare the records that were kept elsewhere. If this store was \
         restored from a backup on purpose, move {path} away and start again"
    )]
    Truncated {
        /// The file.
        path: String,
        /// What is missing.
        problem: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads an exported head; `None` when there is no such file.
///
/// # Errors
/// [`HeadError::Unreadable`], [`HeadError::Strange`].
pub fn read(path: &Path) -> Result<Option<Exported>, HeadError> {
    let name = || path.display().to_string();
    let text = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(found) if !found.is_file() || found.len() > MAX_BYTES => {
            return Err(HeadError::Strange { path: name() });
        }
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(|cause| HeadError::Unreadable { path: name(), cause })?;
    Exported::parse(&text).map(Some).ok_or_else(|| HeadError::Strange { path: name() })
}

/// Compares the log with the head that the file has. Without a file there is nothing to compare.
///
/// # Errors
/// [`HeadError`]; above all, when the log ends before the head.
pub async fn compare(store: &dyn Store, key: &AuditKey, path: &Path) -> Result<(), HeadError> {
    let Some(exported) = read(path)? else { return Ok(()) };
    let problem = match key.is_code(&exported.head, &exported.code) {
        true => missing(store, exported.head).await?,
        false => Some("the file was altered, or is that of another store".to_owned()),
    };
    let path = path.display().to_string();
    problem.map_or(Ok(()), |problem| Err(HeadError::Truncated { path, problem }))
}

/// What the log lacks of a head that it once had.
async fn missing(store: &dyn Store, known: Head) -> Result<Option<String>, StoreError> {
    let span = store.audit_span().await?;
    let number = known.sequence;
    if span.end.sequence < number {
        return Ok(Some(format!("it ends with record {}, and had record {number}", span.end.sequence)));
    }
    let hash = if number == span.start.sequence {
        span.start.hash
    } else if number < span.start.sequence {
        // Aged out: it proves nothing any more.
        known.hash
    } else {
        let found = store.audit_records_after(number - 1, 1).await?;
        found.first().map(|record| record.hash).unwrap_or_default()
    };
    Ok((hash != known.hash).then(|| format!("record {number} is not the one that it had")))
}

/// Exports the head now and, as it changes, every minute.
pub struct Exporter {
    /// Whose log.
    pub store: Arc<dyn Store>,
    /// What authenticates it.
    pub key: AuditKey,
    /// Where it is written.
    pub path: Option<PathBuf>,
    /// Where its number is shown.
    pub metrics: Arc<Metrics>,
}

impl Exporter {
    /// Runs until it is cancelled.
    pub async fn run(self) {
        let mut last = None;
        loop {
            last = self.export(last).await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Exports the head if it is not the last one; the last one that was exported.
    pub async fn export(&self, last: Option<Head>) -> Option<Head> {
        let head = match self.store.audit_span().await {
            Ok(span) => span.end,
            Err(error) => {
                warn!(%error, "failed to read the end of the audit log; trying again in a minute");
                return last;
            }
        };
        if last == Some(head) {
            return last;
        }
        let exported = Exported { head, code: self.key.code(&head) };
        self.metrics.audit_head(head.sequence);
        if let Some(path) = self.path.clone() {
            let written = blocking::run(move || replace(&path, &exported.text())).await;
            let written = written.map_err(std::io::Error::other).and_then(|written| written);
            if let Err(error) = written {
                error!(%error, "failed to write audit_head_file; trying again in a minute");
                return last;
            }
        }
        let (hash, code) = (hex::encode(head.hash), hex::encode(exported.code));
        info!(target: TARGET, sequence = head.sequence, hash, code, "audit log head");
        Some(head)
    }
}

/// Replaces the file as a whole, synced.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let exported = Exported { head: Head { sequence: 14, hash: [7; 32] }, code: [9; 32] };
        let text = exported.text();
        assert_eq!(Exported::parse(&text), Some(exported));
        let other = text.replacen("head 1", "head 2", 1);
        for wrong in ["", &text[..text.len() - 3], &other, &format!("{text}x\n"), &text.replace(':', " ")] {
            assert_eq!(Exported::parse(wrong), None, "{wrong}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head");
        assert!(read(&path).unwrap().is_none());
        replace(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap(), Some(exported));
        std::fs::write(&path, "something else").unwrap();
        assert!(matches!(read(&path), Err(HeadError::Strange { .. })));
        assert!(matches!(read(folder.path()), Err(HeadError::Strange { .. })));
    }
}

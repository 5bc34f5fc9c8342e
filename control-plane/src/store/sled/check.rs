//! Reads a whole store while no control plane uses it, and compares it with what was committed.

use std::path::Path;

use super::commits::Commits;
use super::engine::{Opening, guarded};
use super::opening::{check_version, number};
use super::restore::{check_audit_log, read_all};
use super::{data_keys, key};
use crate::store::backup::RestoreError;
use crate::store::{STORE, StoreError};

/// Memory for cached pages meanwhile.
const CACHE: u64 = 64 * 1024 * 1024;

/// A store in which everything that was committed is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The position of the last commit; 0 in a store that no control plane has opened since it was restored.
    pub commits: u64,
    /// Rows of all kinds.
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

/// Opens the store in a data directory as a start does, and reads every row. Whatever size it has.
///
/// # Errors
/// When there is no store, another process has it open, another version wrote it, it is damaged, or the disk refuses.
pub fn check(data_dir: &Path) -> Result<Checked, StoreError> {
    let path = data_dir.join(STORE);
    if !path.is_dir() {
        return Err(StoreError::Unavailable(format!("there is no store in {}", data_dir.display())));
    }
    let mut commits =
        Commits::open(Opening { path: path.clone(), cache_bytes: CACHE, compared_up_to: u64::MAX })?;
    let db = commits.db()?;
    check_version(number(db, "schema")?)?;
    data_keys::check(&path, db)?;
    let (digest, counts) = guarded(|| read_all(db))?;
    guarded(|| check_audit_log(db).map_err(of_audit_log))?;
    let count = |kind: &[u8]| kind.first().and_then(|kind| counts.get(kind)).copied().unwrap_or(0);
    let checked = Checked {
        commits: commits.position(),
        rows: digest.rows,
        tenants: count(&key::tenants()),
        subscriptions: count(&key::subscriptions()),
        events: count(&key::all_events()),
        deliveries: count(&key::all_deliveries()),
        audit_records: count(&key::audit_records()),
    };
    commits.close()?;
    Ok(checked)
}

fn of_audit_log(error: RestoreError) -> StoreError {
    match error {
        RestoreError::Store(error) => error,
        other => StoreError::Lost(other.to_string()),
    }
}

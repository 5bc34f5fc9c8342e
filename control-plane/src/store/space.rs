//! How much of the disk is left, and whether that is enough to accept events.
//!
//! Below a reserve no event is accepted any more; outcomes, deletions, retention and configuration still are: they are what makes
//! room, and they need some to do so.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The reserve on a large disk.
const RESERVE: u64 = 256 * 1024 * 1024;
/// The part of a disk that the reserve may be.
const PART_OF_DISK: u64 = 10;
/// How often the disk is asked, at most.
const EVERY: Duration = Duration::from_millis(100);

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) free: u64,
    pub(super) total: u64,
}

impl Disk {
    /// Asks the disk on which a folder is; `None` when it does not answer.
    pub(super) fn of(folder: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Some(Self { free: bytes(disk.f_bavail), total: bytes(disk.f_blocks) })
    }
}

/// The reserve of a disk, if nobody has set one.
pub(super) fn default_reserve(total: u64) -> u64 {
    (total / PART_OF_DISK).min(RESERVE)
}

/// Less is free than the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) free: u64,
    pub(super) reserve: u64,
}

impl fmt::Display for Short {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        write!(
            to,
            "{:.1} MiB are free and {:.1} MiB are kept as a reserve",
            mib(self.free),
            mib(self.reserve)
        )
    }
}

/// Whether the disk of a folder is short.
pub(super) fn short(folder: &Path, reserve: Option<u64>) -> Option<Short> {
    let Disk { free, total } = Disk::of(folder)?;
    let reserve = reserve.unwrap_or_else(|| default_reserve(total));
    (free < reserve).then_some(Short { free, reserve })
}

/// Watches the disk of a folder.
#[derive(Debug)]
pub(super) struct Space {
    folder: PathBuf,
    /// What was set; otherwise it follows the disk's size.
    reserve: Option<u64>,
    asked: Option<Duration>,
    short: Option<Short>,
}

impl Space {
    pub(super) fn new(folder: PathBuf, reserve: Option<u64>) -> Self {
        Self { folder, reserve, asked: None, short: None }
    }

    /// Why no event may be accepted, if none may. `now` is the time since some start.
    pub(super) fn short(&mut self, now: Duration) -> Option<Short> {
        if self.asked.is_some_and(|asked| now < asked + EVERY) {
            return self.short;
        }
        self.asked = Some(now);
        let short = short(&self.folder, self.reserve);
        match (self.short, short) {
            (None, Some(short)) => tracing::error!(
                folder = %self.folder.display(),
                "the disk is nearly full: {short}; events are refused until space is freed"
            ),
            (Some(_), None) => tracing::info!("disk space is available again; events are accepted"),
            _ => {}
        }
        self.short = short;
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_follows_the_disk() {
        let mib = 1024 * 1024;
        assert_eq!(default_reserve(8 * mib), 8 * mib / 10);
        assert_eq!(default_reserve(1024 * mib), 1024 * mib / 10);
        assert_eq!(default_reserve(10 * 1024 * mib), 256 * mib);
        assert_eq!(default_reserve(0), 0);
    }

    #[test]
    fn a_disk_is_short_when_less_is_free_than_the_reserve() {
        let folder = tempfile::tempdir().unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(Space::new(folder.path().to_owned(), Some(0)).short(second), None);
        let mut space = Space::new(folder.path().to_owned(), Some(u64::MAX));
        assert!(matches!(space.short(second), Some(Short { reserve: u64::MAX, .. })));
        space.reserve = Some(0);
        // It is not asked again at once.
        assert!(space.short(second + EVERY / 2).is_some());
        assert_eq!(space.short(second + EVERY), None);
    }
}

//! When this machine itself stood still: a thread that sleeps a little, again and again, and notes when it woke too late,
//! and one that syncs a little file on the store's disk, and notes when that took too long.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use postrider_tests::clock::now;

const NAP: Duration = Duration::from_millis(5);
/// What waking too late is. A thread that sleeps nearly always gets its turn within a few milliseconds, also beside
/// processes that use every core.
const LATE: Duration = Duration::from_millis(30);
/// What a slow sync of 512 bytes is. Disks of virtual machines take milliseconds at most, but now and then stand still.
const SLOW: Duration = Duration::from_millis(20);

type Gaps = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// Watches the machine and its disk until it is dropped.
pub(crate) struct Steady {
    machine: Gaps,
    disk: Gaps,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Steady {
    /// Watches the disk that has `folder`.
    ///
    /// # Errors
    /// When no file can be made there.
    pub(crate) fn watch(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).context("cannot watch the disk")?;
        let (machine, disk, over) = (Gaps::default(), Gaps::default(), Arc::new(AtomicBool::new(false)));
        let naps = repeat(&machine, &over, NAP + LATE, || std::thread::sleep(NAP));
        let syncs = repeat(&disk, &over, NAP + SLOW, move || sync(&file));
        Ok(Self { machine, disk, over, threads: vec![naps, syncs] })
    }

    /// Whether the machine or its disk stood still at some time between these two.
    pub(crate) fn stood_still(&self, from: Instant, until: Instant) -> bool {
        within(&self.machine, from, until) || within(&self.disk, from, until)
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Does something again and again on a thread, and notes when it took longer than `most`.
fn repeat(
    gaps: &Gaps,
    over: &Arc<AtomicBool>,
    most: Duration,
    work: impl Fn() + Send + 'static,
) -> JoinHandle<()> {
    let (found, ends) = (gaps.clone(), over.clone());
    std::thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            let begun = now();
            work();
            if begun.elapsed() > most {
                found.lock().unwrap_or_else(PoisonError::into_inner).push((begun, now()));
            }
        }
    })
}

fn sync(file: &File) {
    std::thread::sleep(NAP);
    // A disk that fails fails the control plane too, which says so.
    let _failed = file.write_all_at(&[1; 512], 0).and_then(|()| file.sync_data());
}

fn within(gaps: &Gaps, from: Instant, until: Instant) -> bool {
    let gaps = gaps.lock().unwrap_or_else(PoisonError::into_inner);
    gaps.iter().any(|(begun, ended)| *begun <= until && *ended >= from)
}

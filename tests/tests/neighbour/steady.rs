//! When this machine itself stood still: a thread that sleeps a little, again and again, and notes when it woke too late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postrider_tests::clock::now;

const NAP: Duration = Duration::from_millis(5);
/// What waking too late is. A thread that sleeps nearly always gets its turn within a few milliseconds, also beside
/// processes that use every core.
const LATE: Duration = Duration::from_millis(30);

/// Watches the machine until it is dropped.
pub(crate) struct Steady {
    gaps: Arc<Mutex<Vec<(Instant, Instant)>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Steady {
    pub(crate) fn watch() -> Self {
        let (gaps, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (found, ends) = (gaps.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let begun = now();
                std::thread::sleep(NAP);
                if begun.elapsed() > NAP + LATE {
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((begun, now()));
                }
            }
        });
        Self { gaps, over, thread: Some(thread) }
    }

    /// Whether the machine stood still at some time between these two.
    pub(crate) fn stood_still(&self, from: Instant, until: Instant) -> bool {
        let gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.iter().any(|(begun, ended)| *begun <= until && *ended >= from)
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

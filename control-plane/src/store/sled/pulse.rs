//! Whether the writer's thread gets on: a call to the operating system may never return, and nothing else would show that.
//!
//! A thread of its own looks once a second. Time is what it has slept, so that a clock that jumps does not count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

const EVERY: Duration = Duration::from_secs(1);
/// Looks after which callers are not left waiting any more.
const SILENT_AFTER: u32 = 30;
/// Looks after which the thread is given up.
const GIVEN_UP_AFTER: u32 = 60;

/// What the writer's thread says of itself.
#[derive(Clone, Default)]
pub(super) struct Pulse(Arc<Work>);

#[derive(Default)]
struct Work {
    /// How much work was begun.
    begun: AtomicU64,
    /// How much of it was ended.
    ended: AtomicU64,
}

impl Pulse {
    /// Work is begun that must end.
    pub(super) fn begin(&self) {
        self.0.begun.fetch_add(1, Ordering::Release);
    }

    /// It has ended.
    pub(super) fn end(&self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }

    /// The work that is under way, by its number.
    fn under_way(&self) -> Option<u64> {
        let begun = self.0.begun.load(Ordering::Acquire);
        (begun > self.0.ended.load(Ordering::Acquire)).then_some(begun)
    }
}

/// For how many looks the same work has been under way.
#[derive(Debug, Default)]
struct Looks {
    seen: Option<u64>,
    same: u32,
}

impl Looks {
    fn look(&mut self, under_way: Option<u64>) -> u32 {
        self.same = if under_way.is_some() && under_way == self.seen { self.same + 1 } else { 0 };
        self.seen = under_way;
        self.same
    }
}

/// Looks until the other end of `stop` is dropped. Says when callers need not wait any more, and when the thread is given up.
pub(super) fn watch(
    pulse: &Pulse,
    silent: &watch::Sender<bool>,
    failing: &Weak<watch::Sender<Option<String>>>,
    stop: &Receiver<()>,
) {
    let mut looks = Looks::default();
    while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let same = looks.look(pulse.under_way());
        let is_silent = same >= SILENT_AFTER;
        silent.send_if_modified(|was| std::mem::replace(was, is_silent) != is_silent);
        if same == SILENT_AFTER {
            tracing::error!("the disk has not answered the store for {SILENT_AFTER} s");
        }
        if let (GIVEN_UP_AFTER, Some(failing)) = (same, failing.upgrade()) {
            let _nobody_looks =
                failing.send(Some(format!("the disk has not answered for {GIVEN_UP_AFTER} s")));
        }
    }
}

/// What callers are told who wait for a thread that is silent.
pub(super) fn silence() -> String {
    format!("the disk has not answered for {SILENT_AFTER} s; it is not known whether the change was stored")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_does_not_end_counts() {
        let (pulse, mut looks) = (Pulse::default(), Looks::default());
        let look = |looks: &mut Looks, pulse: &Pulse| looks.look(pulse.under_way());
        assert_eq!([look(&mut looks, &pulse), look(&mut looks, &pulse)], [0, 0], "nothing is under way");
        pulse.begin();
        let counted: Vec<u32> = (0..4).map(|_| look(&mut looks, &pulse)).collect();
        assert_eq!(counted, [0, 1, 2, 3]);
        pulse.end();
        pulse.begin();
        assert_eq!([look(&mut looks, &pulse), look(&mut looks, &pulse)], [0, 1], "it is other work");
        pulse.end();
        assert_eq!(look(&mut looks, &pulse), 0);
    }
}

//! What a computation on data from outside may cost: a budget that is counted down while the work is done.
//!
//! The work is done by libraries that know of no budget. They see the data through [`crate::schema`]'s own view of it,
//! which charges each look. When the budget is used up, the view shows nothing any more, so that the work ends within
//! microseconds, and its result is thrown away. Nothing here reads a clock: a unit is about a nanosecond, and a probe
//! of the caller's is asked from time to time whether to go on.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// How many units are used between two questions to the probe.
const PROBE_EVERY: u64 = 100_000;

/// Whether the work is to stop: its caller is gone, or real time says that the units are wrong.
pub type Probe = Arc<dyn Fn() -> bool + Send + Sync>;

/// What may still be used, in units of about a nanosecond.
#[derive(Clone)]
pub struct Budget {
    left: u64,
    used: u64,
    probe: Option<Probe>,
    called_off: bool,
}

/// Why work was not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// It needs more than one piece of work may use.
    #[error("it costs too much")]
    TooCostly,
    /// What was left for all pieces of the call is used up.
    #[error("the call costs too much")]
    UsedUp,
    /// The probe said so.
    #[error("the work was called off")]
    CalledOff,
}

thread_local! {
    static METER: Meter = const { Meter::new() };
}

/// What the work that runs on this thread may still use.
struct Meter {
    left: Cell<u64>,
    until_probe: Cell<u64>,
    called_off: Cell<bool>,
    probe: RefCell<Option<Probe>>,
}

impl Budget {
    /// So many units, and whom to ask whether to go on.
    #[must_use]
    pub fn new(units: u64, probe: Option<Probe>) -> Self {
        Self { left: units, used: 0, probe, called_off: false }
    }

    /// What is left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// What was used so far.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Uses units at once, for work whose cost is known before it is done.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn spend(&mut self, units: u64) -> Result<(), Stopped> {
        if self.called_off || self.probe.as_ref().is_some_and(|probe| probe()) {
            self.called_off = true;
            return Err(Stopped::CalledOff);
        }
        let enough = units <= self.left;
        let units = units.min(self.left);
        self.left -= units;
        self.used = self.used.saturating_add(units);
        if enough { Ok(()) } else { Err(Stopped::UsedUp) }
    }

    /// Does a piece of work that charges as it goes, and may use up to `most`.
    ///
    /// # Errors
    /// Why it was not finished; its result would mean nothing.
    pub(crate) fn metered<T>(&mut self, most: u64, work: impl FnOnce() -> T) -> Result<T, Stopped> {
        self.spend(0)?;
        let allowed = most.min(self.left);
        let result = METER.with(|meter| {
            meter.begin(allowed, self.probe.clone());
            work()
        });
        let (left, called_off) = METER.with(Meter::end);

        let used = allowed - left;
        self.left -= used;
        self.used = self.used.saturating_add(used);
        self.called_off |= called_off;
        match (called_off, left) {
            (true, _) => Err(Stopped::CalledOff),
            (false, 0) if allowed == most => Err(Stopped::TooCostly),
            (false, 0) => Err(Stopped::UsedUp),
            (false, _) => Ok(result),
        }
    }
}

impl Meter {
    const fn new() -> Self {
        Self {
            left: Cell::new(u64::MAX),
            until_probe: Cell::new(PROBE_EVERY),
            called_off: Cell::new(false),
            probe: RefCell::new(None),
        }
    }

    fn begin(&self, units: u64, probe: Option<Probe>) {
        self.left.set(units);
        self.until_probe.set(PROBE_EVERY);
        self.called_off.set(false);
        self.probe.replace(probe);
    }

    /// Back to what does not count, and what was left.
    fn end(&self) -> (u64, bool) {
        self.probe.replace(None);
        (self.left.replace(u64::MAX), self.called_off.replace(false))
    }

    fn charge(&self, units: u64) -> bool {
        let left = self.left.get();
        if left == u64::MAX {
            return true;
        }
        let rest = left.saturating_sub(units);
        self.left.set(rest);
        let until = self.until_probe.get();
        if until > units {
            self.until_probe.set(until - units);
        } else {
            self.until_probe.set(PROBE_EVERY);
            self.ask();
        }
        rest > 0 && !self.called_off.get()
    }

    fn ask(&self) {
        if self.probe.borrow().as_ref().is_some_and(|probe| probe()) {
            self.called_off.set(true);
        }
    }
}

/// Charges the work that runs on this thread: whether it may go on. Outside of metered work it always may.
pub(crate) fn charge(units: u64) -> bool {
    METER.with(|meter| meter.charge(units))
}

/// Whether the work that runs on this thread may go on, without charging it.
pub(crate) fn may_go_on() -> bool {
    METER.with(|meter| meter.left.get() > 0 && !meter.called_off.get())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn work(units: u64) -> u64 {
        (0..units).take_while(|_| charge(1)).count() as u64
    }

    #[test]
    fn work_ends_when_its_budget_is_used_up() {
        let mut budget = Budget::new(1000, None);
        assert_eq!(budget.metered(500, || work(100)), Ok(100));
        assert_eq!((budget.used(), budget.left()), (100, 900));
        assert_eq!(budget.metered(500, || work(10_000)), Err(Stopped::TooCostly));
        assert_eq!((budget.used(), budget.left()), (600, 400));
        assert_eq!(budget.metered(500, || work(10_000)), Err(Stopped::UsedUp));
        assert_eq!(budget.left(), 0);
        assert_eq!(budget.spend(1), Err(Stopped::UsedUp));
        assert_eq!(work(10), 10, "outside of metered work nothing is counted");
    }

    #[test]
    fn work_ends_when_its_caller_is_gone() {
        let asked = Arc::new(AtomicU64::new(0));
        let counted = asked.clone();
        let probe: Probe = Arc::new(move || counted.fetch_add(1, Ordering::Relaxed) >= 3);
        let mut budget = Budget::new(u64::MAX - 1, Some(probe));
        assert_eq!(budget.metered(u64::MAX - 1, || work(1 << 40)), Err(Stopped::CalledOff));
        assert!(budget.used() <= 4 * PROBE_EVERY, "{}", budget.used());
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        assert_eq!(budget.spend(1), Err(Stopped::CalledOff));
    }
}

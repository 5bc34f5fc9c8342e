//! The only place of this program that asks what time it is, and that judges how far the answer can be believed.
//!
//! The machine's wall clock may be wrong by days: set by hand, reset with a virtual machine, or not yet set after a boot.
//! [`Clock::wall`] therefore gives the wall clock's time only as far as the judge believes it, and whatever removes
//! something for its age asks [`Clock::removal_time`] first. Decision 0029 says why.

mod judge;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postrider_domain::time::Timestamp;

pub use self::judge::{CONFIRMED_AFTER, TOLERANCE};
use self::judge::{Judge, Judgement};

/// Reads time in the ways that are needed. All copies of a clock share one judgement.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    shared: &'static Shared,
}

#[derive(Debug)]
struct Shared {
    /// What [`Clock::now`] began at, in milliseconds since 1970.
    began: AtomicI64,
    judge: Mutex<Judge>,
}

impl Shared {
    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the wall clock was found to be when it was compared with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What the wall clock says.
    pub wall: Timestamp,
    /// The latest time in the store.
    pub stored: Timestamp,
    /// Whether the wall clock is believed.
    pub trusted: bool,
}

impl Clock {
    /// A clock that starts now. It believes the wall clock until it is compared with something.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        let (origin, wall) = (Instant::now(), machine_wall());
        let shared = Shared {
            began: AtomicI64::new(wall.as_millis()),
            judge: Mutex::new(Judge::new(wall, Duration::ZERO)),
        };
        // A program has one clock, for as long as it runs; a copy of it is two words that every part can keep.
        Self { origin, shared: Box::leak(Box::new(shared)) }
    }

    /// Compares the wall clock with the latest time that the store has. Called once, before anything is scheduled: the time
    /// of schedules begins no earlier than that, or what waits would wait longer.
    pub fn compare(&self, stored: Timestamp) -> Comparison {
        let (wall, since) = (machine_wall(), self.since_start());
        let mut judge = self.shared.judge();
        *judge = Judge::after(stored, wall, since);
        let judgement = judge.observe(wall, since);
        let began = judgement.time - since;
        self.shared.began.store(began.as_millis(), Ordering::Relaxed);
        Comparison { wall, stored, trusted: judgement.trusted }
    }

    /// The time by which things are scheduled: it began as the wall clock's and never jumps, so that setting the
    /// machine's clock makes no storm of retries.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.started() + self.since_start()
    }

    /// When it was started, by the wall clock.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        Timestamp::from_millis(self.shared.began.load(Ordering::Relaxed))
    }

    /// The time of day as far as it can be known: the wall clock's, unless that has jumped. For what is stored, for what
    /// people see, and for whatever expires.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        self.judged().time
    }

    /// The wall clock's time as this machine has it, right or wrong: for signatures, which receivers compare with their own
    /// clocks.
    #[must_use]
    pub fn machine_wall(&self) -> Timestamp {
        machine_wall()
    }

    /// Whether the wall clock is believed now.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.judged().trusted
    }

    /// The time by which something may be removed for its age; `None` while the wall clock is not believed: then nothing
    /// may.
    #[must_use]
    pub fn removal_time(&self) -> Option<Timestamp> {
        let Judgement { time, trusted } = self.judged();
        trusted.then_some(time)
    }

    /// The wall clock's time as finely as there is, for traces.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn precise(&self) -> SystemTime {
        SystemTime::now()
    }

    /// Milliseconds since the start: the clock of `Welcome.server_time_ms`.
    #[must_use]
    pub fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.since_start().as_millis()).unwrap_or(u64::MAX)
    }

    /// The time since the start: for what is measured finer than in milliseconds.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn since_start(&self) -> Duration {
        Instant::now().duration_since(self.origin)
    }

    fn judged(&self) -> Judgement {
        self.shared.judge().observe(machine_wall(), self.since_start())
    }
}

/// How much of a processor's time the thread has had that asks.
pub(crate) fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn machine_wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

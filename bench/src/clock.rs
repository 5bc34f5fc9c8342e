//! The only file of this program that reads the clock: the machine's monotonic one, which every process of a run
//! shares, so that a time taken in the emitter and one taken in the sink can be subtracted.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point in time, in nanoseconds since the machine started.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Moment(pub(crate) u64);

/// Now.
pub(crate) fn now() -> Moment {
    let time = clock_gettime(ClockId::Monotonic);
    let nanos = time.tv_sec * 1_000_000_000 + time.tv_nsec;
    Moment(u64::try_from(nanos).unwrap_or(0))
}

impl Moment {
    /// The time from an earlier moment to this one; zero when it is not earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long ago this was.
    pub(crate) fn elapsed(self) -> Duration {
        now().since(self)
    }
}

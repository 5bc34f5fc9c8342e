//! The only place where the agent reads a clock.
//!
//! What the agent decides by is monotonic: deadlines come as durations, and start-by times on the control plane's own
//! monotonic clock, which [`crate::server_time`] translates. The time of day, which may be a day off, is only a hint
//! across restarts, where no other clock goes on.

use std::time::{Duration, SystemTime};

use postrider_domain::time::Timestamp;

/// A moment on this process's monotonic clock.
pub use tokio::time::Instant;

/// A moment by the time of day, as this machine believes it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(u64);

impl WallTime {
    /// As it is stored.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> WallTime {
        WallTime(seconds)
    }

    /// To be stored.
    #[must_use]
    pub fn unix_seconds(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was. `None` if it is yet to come: then the clock was set.
    #[must_use]
    pub fn since(self, earlier: WallTime) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_secs)
    }
}

/// Now.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
#[must_use]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
#[must_use]
pub(crate) fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A machine that believes to be before 1970 is unsure in any case.
    WallTime(since.map_or(0, |since| since.as_secs()))
}

/// The time of day, as certificates are judged by it.
#[must_use]
pub(crate) fn timestamp() -> Timestamp {
    Timestamp::from_millis(i64::try_from(wall().unix_seconds()).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// The time of day as finely as there is, for traces.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
#[must_use]
pub(crate) fn precise() -> SystemTime {
    SystemTime::now()
}

/// A moment so far off that waiting for it is waiting for ever.
#[must_use]
pub(crate) fn far(from: Instant) -> Instant {
    from + Duration::from_secs(365 * 24 * 3600)
}

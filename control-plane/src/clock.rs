//! The only place of this program that asks what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postrider_domain::time::Timestamp;

/// Reads time in the three ways that are needed.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_wall: Timestamp,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Self { origin: Instant::now(), origin_wall: wall() }
    }

    /// The time by which things are scheduled: it began as the wall clock's and never jumps, so that setting the
    /// machine's clock makes no storm of retries.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.origin_wall + self.since_start()
    }

    /// When it was started, by the wall clock.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.origin_wall
    }

    /// The wall clock's time, for signatures and for what people see.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        wall()
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
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

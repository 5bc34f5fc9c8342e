//! The only place where the agent reads a clock.
//!
//! The clock is monotonic. The agent never asks for the time of day: deadlines come as durations, and
//! start-by times on the control plane's own monotonic clock, which [`crate::server_time`] translates.

use std::time::Duration;

/// A moment on this process's monotonic clock.
pub use tokio::time::Instant;

/// Now.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
#[must_use]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A moment so far off that waiting for it is waiting for ever.
#[must_use]
pub(crate) fn far(from: Instant) -> Instant {
    from + Duration::from_secs(365 * 24 * 3600)
}

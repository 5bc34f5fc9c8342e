//! The only place that reads the clock.

use std::time::Instant;

/// Now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the tests' clock.rs")]
pub fn now() -> Instant {
    Instant::now()
}

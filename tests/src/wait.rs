//! Waiting for a condition, never for a time.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::clock::now;

/// Long enough for anything on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Looks again and again until there is something.
///
/// # Errors
/// When there is nothing within [`PATIENCE`], or looking fails.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, look).await
}

/// Looks again and again until there is something.
///
/// # Errors
/// When there is nothing in time, or looking fails.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if begun.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `Some` when it holds: for conditions that have nothing to give.
#[must_use]
pub fn when(holds: bool) -> Option<()> {
    holds.then_some(())
}

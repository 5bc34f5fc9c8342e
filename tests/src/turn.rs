//! Heavy tests take turns: two loads at once on a small machine would measure each other.

use tokio::sync::{Semaphore, SemaphorePermit};

static TURN: Semaphore = Semaphore::const_new(1);

/// Waits for this test's turn, which lasts until the value is dropped.
///
/// # Panics
/// Never: nobody closes the semaphore.
pub async fn take() -> SemaphorePermit<'static> {
    TURN.acquire().await.expect("nobody closes it")
}

//! Calls of `Emit`, a fixed number at once.

use std::rc::Rc;
use std::time::Duration;

use super::Run;

/// How long a caller that was told to come back later stays away.
const BACK_OFF: Duration = Duration::from_millis(5);

/// Emits with so many callers until it is over.
pub(super) async fn run(run: &Rc<Run>, callers: usize) {
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let run = run.clone();
            tokio::task::spawn_local(async move {
                while run.another().await {
                    let refused = run.notes.borrow().summary.refused;
                    if !run.call().await {
                        return;
                    }
                    if run.notes.borrow().summary.refused > refused {
                        tokio::time::sleep(BACK_OFF).await;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        // A caller that panics has said so on stderr, and its events are missing.
        let _panicked = caller.await;
    }
}

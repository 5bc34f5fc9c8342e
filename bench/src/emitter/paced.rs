//! Calls of `Emit` at a fixed rate: each begins at its time, whatever became of those before it.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Run;

/// How long the last calls are waited for.
const LAST_WITHIN: Duration = Duration::from_secs(30);

/// Emits so many a second until it is over.
pub(super) async fn run(run: &Rc<Run>, per_second: u32) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    // A tick that comes late does not move those after it.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    loop {
        ticks.tick().await;
        if !run.another().await {
            break;
        }
        let run = run.clone();
        calls.spawn_local(async move { run.call().await });
        while calls.try_join_next().is_some() {}
    }
    let all = async { while calls.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_WITHIN, all).await.is_err() {
        run.not_accepted(tonic::Code::DeadlineExceeded, "no answer to the last calls");
    }
}

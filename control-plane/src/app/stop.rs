//! How the control plane ends: told to, or because one of its tasks has failed.
//!
//! A stop waits for attempts under way within the grace, and for everything else within fixed times, so that it ends
//! within the grace and [`AFTER_GRACE`] whatever the store, a connection or a task does.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use postrider_telemetry::blocking;
use postrider_telemetry::tasks::{EXIT_TASK_FAILED, caught};
use postrider_telemetry::watchdog::Watchdog;
use tokio::time::timeout;
use tonic_health::ServingStatus;
use tracing::{error, info, warn};

use super::{FAILED_GRACE, Parts};

/// How long sessions, calls and servers may take to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// How long tasks may take to yield when they are aborted.
const ABORT_WITHIN: Duration = Duration::from_millis(500);
/// How long the last uses of tokens and keys may take to be written: the next start does without them.
const NOTE_WITHIN: Duration = Duration::from_secs(1);
/// How long the store may take to close.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);
/// All of it together, and some time to spare: Kubernetes is asked for 10 seconds more than the grace.
pub(crate) const AFTER_GRACE: Duration = Duration::from_secs(9);

impl Parts {
    /// Runs until `stop` is done or a task has failed, then stops.
    pub(super) async fn until(
        self,
        stop: impl Future<Output = ()>,
        watchdog: Watchdog,
        grace: Duration,
    ) -> anyhow::Result<()> {
        let failed = tokio::select! {
            () = stop => None,
            failed = self.shown.supervisor().failed() => Some(failed),
        };
        let Some(failed) = failed else {
            info!("stopping: finishing calls and attempts in flight");
            return self.stop(grace).await;
        };
        let grace = grace.min(FAILED_GRACE);
        watchdog.arm(grace + AFTER_GRACE, EXIT_TASK_FAILED);
        if let Err(error) = self.stop(grace).await {
            error!("the stop after a failure was not clean: {error:#}");
        }
        Err(failed.into())
    }

    async fn stop(mut self, grace: Duration) -> anyhow::Result<()> {
        self.shown.stopping();
        self.report_health(ServingStatus::NotServing).await;
        if timeout(grace, self.lanes.drain()).await.is_err() {
            warn!(?grace, "attempts are still in flight; agents will report them after the next start");
        }
        self.close().await;
        let stuck = [self.servers.shutdown(ABORT_WITHIN).await, self.pipeline.shutdown(ABORT_WITHIN).await];
        for task in stuck.into_iter().flatten() {
            warn!(task, "a task did not stop in time; exiting without it");
        }
        let traces = self.api.traces.clone();
        let sent = timeout(FLUSH_WITHIN, blocking::run(move || traces.end()));
        let (_sent_or_not, closed) = tokio::join!(sent, self.flush());
        closed?;
        info!("stopped");
        Ok(())
    }

    /// Ends sessions, calls and servers.
    async fn close(&mut self) {
        self.closing.cancel();
        self.links.sessions.close();
        self.changes.close();
        let (sessions, changes) = (self.links.sessions.wait(), self.changes.wait());
        let ended = async { tokio::join!(sessions, changes, self.servers.ended()) };
        if timeout(CLOSE_WITHIN, ended).await.is_err() {
            warn!("some connections did not close in time; closing them now");
        }
    }

    /// Writes what is left, and closes the store.
    async fn flush(&self) -> anyhow::Result<()> {
        let uses = async { tokio::join!(self.api.tokens.write_uses(), self.api.uses.write()) };
        match timeout(NOTE_WITHIN, caught(uses)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => error!(%error, "failed to store the last use of tokens and keys"),
            Err(_) => warn!("timed out storing the last use of tokens and keys"),
        }
        match timeout(FLUSH_WITHIN, caught(self.store.close())).await {
            Ok(closed) => closed?.context("the store could not be flushed"),
            Err(_) => {
                // Dropped, it would wait for its thread.
                std::mem::forget(self.store.clone());
                anyhow::bail!(
                    "the store did not close within {} s; what was acknowledged is on disk, and the next start \
                     recovers it: look at the disk of data_dir before that",
                    FLUSH_WITHIN.as_secs()
                )
            }
        }
    }
}

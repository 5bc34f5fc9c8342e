//! The tasks that a program lives by. Each has a name and a span and belongs to one [`Supervisor`].
//!
//! A program that goes on without one of its tasks is half dead: it accepts work that nobody carries out. So the
//! supervisor records the first task that panics or ends before the stop has begun, counts it, and cancels the token of
//! the stop, from which moment nothing new is accepted. The program waits for [`Supervisor::failed`], winds up within a
//! short time, and ends with that error and [`EXIT_TASK_FAILED`]. The supervisor never restarts a task: what a panic
//! left behind in memory cannot be trusted, and a restart of the process loses nothing that was acknowledged.

use std::any::Any;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info_span};

use crate::metrics::Counters;

/// The exit code of a program that ended because one of its tasks failed. Source: `EX_SOFTWARE` of sysexits(3).
pub const EXIT_TASK_FAILED: u8 = 70;

/// A task panicked or ended before the program was stopping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task {task} {cause}; this is a fault in Postrider, and the process ends to be started again")]
pub struct TaskFailed {
    /// The task's name.
    pub task: &'static str,
    /// What happened to it.
    pub cause: Cause,
}

/// How a task failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// It returned.
    #[error("ended before the program was stopping")]
    Ended,
    /// It returned an error.
    #[error("failed: {0}")]
    Failed(String),
    /// It panicked.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It was aborted.
    #[error("was aborted")]
    Aborted,
}

/// Something panicked; the text is the panic's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(pub String);

/// Watches over all tasks of a program. Clones watch over the same.
#[derive(Clone)]
pub struct Supervisor(Arc<Shared>);

struct Shared {
    stop: CancellationToken,
    failures: Counters,
    failed: watch::Sender<Option<TaskFailed>>,
    /// What ends a task that runs.
    running: Mutex<Vec<(&'static str, Weak<CancellationToken>)>>,
}

impl Supervisor {
    /// A supervisor of a program that stops when `stop` is cancelled; a failure cancels it too, and is counted in
    /// `failures` by the task's name.
    #[must_use]
    pub fn new(stop: CancellationToken, failures: Counters) -> Self {
        let (failed, running) = (watch::Sender::new(None), Mutex::default());
        Self(Arc::new(Shared { stop, failures, failed, running }))
    }

    /// Owns tasks that end together.
    #[must_use]
    pub fn tasks(&self) -> Tasks {
        let (running, handles) = (JoinSet::new(), Vec::new());
        Tasks { supervisor: self.clone(), running, handles, released: Arc::default() }
    }

    /// The first failure, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<TaskFailed> {
        self.0.failed.borrow().clone()
    }

    /// Waits for the first failure. Never returns when there is none.
    pub async fn failed(&self) -> TaskFailed {
        let mut failed = self.0.failed.subscribe();
        match failed.wait_for(Option::is_some).await.ok().and_then(|failed| failed.clone()) {
            Some(failed) => failed,
            None => std::future::pending().await,
        }
    }

    /// Runs a task within the caller's own, such as one that borrows. It may end at any time; a panic is a failure.
    ///
    /// # Errors
    /// When it panics, or is aborted.
    pub async fn run<T>(&self, task: &'static str, work: impl Future<Output = T>) -> Result<T, TaskFailed> {
        let aborted = self.register(task);
        let cause = tokio::select! {
            ended = caught(work.instrument(info_span!("task", name = task))) => match ended {
                Ok(ended) => return Ok(ended),
                Err(panicked) => Cause::Panicked(panicked.0),
            },
            () = aborted.cancelled() => Cause::Aborted,
        };
        self.report(task, cause.clone());
        Err(TaskFailed { task, cause })
    }

    /// The names of the tasks that run.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().filter(|(_, aborted)| aborted.strong_count() > 0).map(|(name, _)| *name).collect()
    }

    /// Aborts the tasks of this name, which is a failure of theirs. Whether there was one.
    pub fn abort(&self, task: &str) -> bool {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let named = running.iter().filter(|(name, _)| *name == task);
        named.filter_map(|(_, aborted)| aborted.upgrade()).inspect(|aborted| aborted.cancel()).count() > 0
    }

    fn register(&self, task: &'static str) -> Arc<CancellationToken> {
        let aborted = Arc::new(CancellationToken::new());
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|(_, aborted)| aborted.strong_count() > 0);
        running.push((task, Arc::downgrade(&aborted)));
        aborted
    }

    /// A task has ended in this way. Expected once the stop has begun; then only a failure is worth a line.
    fn report(&self, task: &'static str, cause: Cause) {
        let shared = &self.0;
        let failed = TaskFailed { task, cause };
        let is_first = shared.failed.send_if_modified(|first| {
            let counts = first.is_none() && !shared.stop.is_cancelled();
            if counts {
                *first = Some(failed.clone());
                shared.failures.inc(task);
                shared.stop.cancel();
            }
            counts
        });
        match &failed.cause {
            cause if is_first => error!(task, "a task {cause}; the process stops"),
            Cause::Ended | Cause::Aborted => {}
            cause => error!(task, "a task {cause} while the process was stopping"),
        }
    }
}

/// Tasks that end together. Dropped, it aborts them, which is no failure.
pub struct Tasks {
    supervisor: Supervisor,
    running: JoinSet<()>,
    handles: Vec<(&'static str, AbortHandle)>,
    /// The owner ends them.
    released: Arc<AtomicBool>,
}

impl Tasks {
    /// Starts a task that runs until the stop has begun.
    pub fn spawn(&mut self, task: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_fallible(task, async move {
            work.await;
            Ok::<_, Panicked>(())
        });
    }

    /// Starts a task that runs until the stop has begun, or fails with an error.
    pub fn spawn_fallible<E: Display + Send>(
        &mut self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let supervisor = self.supervisor.clone();
        let guard = Guard { supervisor, task, released: self.released.clone(), cause: None };
        // Boxed, so that it is still whole when its end is reported.
        let work = Box::pin(AssertUnwindSafe(work).catch_unwind());
        let aborted = self.supervisor.register(task);
        let watched = async move {
            let (mut guard, mut work) = (guard, work);
            guard.cause = Some(tokio::select! {
                ended = &mut work => match ended {
                    Ok(Ok(())) => Cause::Ended,
                    Ok(Err(error)) => Cause::Failed(format!("{error:#}")),
                    Err(panic) => Cause::Panicked(message(&*panic)),
                },
                () = aborted.cancelled() => Cause::Aborted,
            });
            drop(guard);
        };
        let handle = self.running.spawn(watched.instrument(info_span!("task", name = task)));
        self.handles.push((task, handle));
    }

    /// Waits until all have ended.
    pub async fn ended(&mut self) {
        while self.running.join_next().await.is_some() {}
    }

    /// Aborts all, and waits for that. The names of those that have not ended within the time: they do not yield.
    pub async fn shutdown(&mut self, within: Duration) -> Vec<&'static str> {
        self.released.store(true, Ordering::Relaxed);
        self.running.abort_all();
        let _late = timeout(within, self.ended()).await;
        let running = self.handles.iter().filter(|(_, handle)| !handle.is_finished());
        running.map(|(name, _)| *name).collect()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.released.store(true, Ordering::Relaxed);
    }
}

/// Reports the end of a task, whichever way it comes.
struct Guard {
    supervisor: Supervisor,
    task: &'static str,
    released: Arc<AtomicBool>,
    cause: Option<Cause>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let cause = self.cause.take().unwrap_or(Cause::Aborted);
        if !(cause == Cause::Aborted && self.released.load(Ordering::Relaxed)) {
            self.supervisor.report(self.task, cause);
        }
    }
}

/// Waits for something that may panic. The caller must not use what the panic may have left half done.
///
/// # Errors
/// When it panics.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| Panicked(message(&*panic)))
}

/// What a panic says.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;

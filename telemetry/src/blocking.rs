//! Work that blocks, on threads that are kept for it.
//!
//! A machine or container may refuse to start a thread at any time. tokio then panics if it has no thread for blocking
//! work, and lets the work wait if it has one. So a program starts some threads at its start ([`reserve`]), keeps those
//! that it has ([`keep_threads`]), and hands in its work by [`run`], which answers with an error instead of a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

use crate::tasks::message;

/// Threads for blocking work at once. More work than that waits: a page that the disk owes is not faster for it.
const MOST: usize = 64;
/// For ever: a thread that is there need not be asked for when there are no more.
const KEEP: Duration = Duration::from_secs(u32::MAX as u64);
/// How long a new thread may take to run.
const STARTED_WITHIN: Duration = Duration::from_secs(5);

/// Blocking work was not done, or nobody knows its result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No thread could be started, and the work was taken back.
    #[error(
        "no thread could be started ({0}); raise the limit of processes (pids) of the machine or container"
    )]
    NoThread(String),
    /// It panicked.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// The program is ending.
    #[error("the program is ending")]
    Ending,
}

/// Has a runtime keep the threads that it starts for blocking work.
pub fn keep_threads(builder: &mut Builder) -> &mut Builder {
    builder.max_blocking_threads(MOST).thread_keep_alive(KEEP)
}

/// Starts threads for blocking work. Must be called within a runtime that keeps them.
///
/// # Errors
/// When that many cannot be started.
pub async fn reserve(threads: usize) -> Result<(), Lost> {
    let (up, mut running) = tokio::sync::mpsc::channel(threads.max(1));
    let mut held = Vec::with_capacity(threads);
    let mut works = Vec::with_capacity(threads);
    for _ in 0..threads {
        let (hold, released) = mpsc::channel::<()>();
        let up = up.clone();
        held.push(hold);
        works.push(Box::pin(run(move || {
            let _nobody_counts = up.try_send(());
            // Each holds its thread until all have one.
            let _released = released.recv();
        })));
    }
    drop(up);
    let mut works = futures::future::join_all(works);
    let all_run = async {
        for _ in 0..threads {
            running.recv().await;
        }
    };
    tokio::select! {
        () = all_run => {}
        done = &mut works => return done.into_iter().collect(),
        () = tokio::time::sleep(STARTED_WITHIN) => {
            let late = format!("fewer than {threads} run after {} s", STARTED_WITHIN.as_secs());
            return Err(Lost::NoThread(late));
        }
    }
    drop(held);
    works.await.into_iter().collect()
}

/// Does blocking work on a thread for that.
///
/// # Errors
/// [`Lost`]; after [`Lost::NoThread`] the work was not done and will not be.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
    // When tokio panics, the work stays in its queue, and would be done when nobody expects it any more.
    let work = Arc::new(Mutex::new(Some(work)));
    let queued = work.clone();
    let take = move || queued.lock().unwrap_or_else(PoisonError::into_inner).take();
    let started = catch_unwind(AssertUnwindSafe(|| spawn_blocking(move || take().map(|work| work()))));
    match started {
        Ok(done) => match done.await {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Err(Lost::Ending),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => Err(Lost::Panicked(message(&*panic))),
                Err(_) => Err(Lost::Ending),
            },
        },
        Err(panic) => {
            drop(work.lock().unwrap_or_else(PoisonError::into_inner).take());
            Err(Lost::NoThread(message(&*panic)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        keep_threads(Builder::new_current_thread().enable_all()).build().unwrap()
    }

    #[test]
    fn work_is_done_and_its_panic_is_an_error() {
        runtime().block_on(async {
            assert_eq!(run(|| 7).await, Ok(7));
            let lost = run(|| -> u32 { panic!("no row") }).await.unwrap_err();
            assert_eq!(lost, Lost::Panicked("no row".to_owned()));
            assert_eq!(run(|| 8).await, Ok(8), "the thread goes on");
        });
    }

    #[test]
    fn threads_that_were_reserved_work_at_the_same_time_and_are_kept() {
        runtime().block_on(async {
            reserve(3).await.unwrap();
            let threads = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            assert_eq!(threads, 0, "nothing is left of the reservation but its threads");
            let barrier = Arc::new(std::sync::Barrier::new(3));
            let meet = || {
                let barrier = barrier.clone();
                run(move || {
                    barrier.wait();
                    std::thread::current().id()
                })
            };
            let (a, b, c) = tokio::join!(meet(), meet(), meet());
            assert!(a != b && b != c && a != c);
            reserve(0).await.unwrap();
        });
    }
}

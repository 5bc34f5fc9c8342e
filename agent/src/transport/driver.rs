//! The tasks that drive a connection. They end with the last user of the connection.
//!
//! A farewell would be more polite than an abrupt end, but a peer that reads nothing could hold it up for ever, and a
//! socket and its buffers with it.

use std::sync::{Arc, Mutex, Weak};

use tokio::task::JoinSet;

/// The tasks, for the connection's users to hold.
#[derive(Debug, Default)]
pub(crate) struct Driver(Arc<Mutex<JoinSet<()>>>);

/// Where hyper starts more tasks for the connection. It does not keep them alive.
#[derive(Debug, Clone)]
pub(crate) struct Executor(Weak<Mutex<JoinSet<()>>>);

impl Driver {
    /// Runs a task until it or the driver ends.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        run(&self.0, task);
    }

    pub(crate) fn executor(&self) -> Executor {
        Executor(Arc::downgrade(&self.0))
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        if let Some(tasks) = self.0.upgrade() {
            run(&tasks, async move {
                // hyper tells whoever waits for it by other ways.
                let _told = task.await;
            });
        }
    }
}

fn run(tasks: &Mutex<JoinSet<()>>, task: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = tasks.lock().expect("nothing panics while it holds this lock");
    while tasks.try_join_next().is_some() {}
    tasks.spawn(task);
}

//! The jobs of one stream that have not ended, across its connections.

use std::collections::HashMap;
use std::sync::Arc;

use postrider_proto::agent::JobKey;
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument as _;

use super::attempt::Finished;
use crate::gate::Gate;

/// What a stream can hold.
#[derive(Debug, Clone, Copy)]
pub struct Credit {
    /// In jobs.
    pub jobs: u32,
    /// In bytes of their bodies.
    pub bytes: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Running {
    credit: Credit,
    tasks: JoinSet<Finished>,
    jobs: HashMap<JobKey, Held>,
    used: Used,
}

#[derive(Debug)]
struct Held {
    gate: Arc<Gate>,
    bytes: u64,
    /// The control plane does not count on this job any more, and may send another in its place.
    forgotten: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Used {
    jobs: u32,
    bytes: u64,
}

/// The control plane sent more than it may.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane sent more jobs than this stream can hold")]
pub(super) struct OverCredit;

impl Running {
    pub(super) fn new(credit: Credit) -> Running {
        Running { credit, tasks: JoinSet::new(), jobs: HashMap::new(), used: Used::default() }
    }

    /// Starts the task of a job that is not held yet.
    pub(super) fn start(
        &mut self,
        key: JobKey,
        body_bytes: usize,
        gate: Arc<Gate>,
        task: impl Future<Output = Finished> + Send + 'static,
    ) -> Result<(), OverCredit> {
        let bytes = body_bytes as u64;
        if self.used.jobs >= self.credit.jobs || self.used.bytes + bytes > self.credit.bytes {
            return Err(OverCredit);
        }
        self.used.jobs += 1;
        self.used.bytes += bytes;
        self.jobs.insert(key, Held { gate, bytes, forgotten: false });
        self.tasks.spawn(task.in_current_span());
        Ok(())
    }

    pub(super) fn holds(&self, key: &JobKey) -> bool {
        self.jobs.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// The jobs that the control plane counts on.
    pub(super) fn keys(&self) -> Vec<JobKey> {
        self.jobs.iter().filter(|(_, held)| !held.forgotten).map(|(key, _)| key.clone()).collect()
    }

    /// Keeps a job from starting if it has not. It ends with an outcome either way.
    pub(super) fn cancel(&self, key: &JobKey) {
        if let Some(held) = self.jobs.get(key) {
            held.gate.shut();
        }
    }

    /// As [`Running::cancel`]; besides, the job's credit is free again.
    pub(super) fn forget(&mut self, key: &JobKey) {
        if let Some(held) = self.jobs.get_mut(key)
            && !held.forgotten
        {
            held.gate.shut();
            held.forgotten = true;
            self.used.jobs -= 1;
            self.used.bytes -= held.bytes;
        }
    }

    /// The next job to end. Never, if there is none.
    pub(super) async fn next(&mut self) -> Finished {
        match self.tasks.join_next().await {
            Some(joined) => self.ended(joined),
            None => std::future::pending().await,
        }
    }

    /// A job that has ended already.
    pub(super) fn try_next(&mut self) -> Option<Finished> {
        let joined = self.tasks.try_join_next()?;
        Some(self.ended(joined))
    }

    fn ended(&mut self, joined: Result<Finished, JoinError>) -> Finished {
        let finished = joined.expect("a job's task catches panics and is never aborted");
        if let Some(held) = self.jobs.remove(&finished.key)
            && !held.forgotten
        {
            self.used.jobs -= 1;
            self.used.bytes -= held.bytes;
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::ready;

    fn key(attempt: u32) -> JobKey {
        JobKey { delivery_id: "dlv_x-1".into(), attempt, epoch: 1, ..JobKey::default() }
    }

    fn start(running: &mut Running, attempt: u32, bytes: usize) -> Result<Arc<Gate>, OverCredit> {
        let gate = Arc::<Gate>::default();
        let finished = Finished::not_started(key(attempt), "");
        running.start(key(attempt), bytes, Arc::clone(&gate), ready(finished)).map(|()| gate)
    }

    #[tokio::test]
    async fn credit_bounds_jobs_and_bytes_and_comes_back() {
        let mut running = Running::new(Credit { jobs: 2, bytes: 100 });
        start(&mut running, 1, 60).unwrap();
        assert_eq!(start(&mut running, 2, 41).unwrap_err(), OverCredit);
        start(&mut running, 2, 40).unwrap();
        assert_eq!(start(&mut running, 3, 0).unwrap_err(), OverCredit);
        assert!(running.holds(&key(1)) && running.keys().len() == 2);
        running.next().await;
        running.next().await;
        assert!(running.is_empty() && running.keys().is_empty());
        start(&mut running, 3, 100).unwrap();
    }

    #[tokio::test]
    async fn a_forgotten_job_frees_its_credit_once_and_still_ends() {
        let mut running = Running::new(Credit { jobs: 1, bytes: 100 });
        let gate = start(&mut running, 1, 100).unwrap();
        running.forget(&key(1));
        running.forget(&key(1));
        running.forget(&key(9));
        assert!(gate.is_shut() && running.keys().is_empty() && !running.is_empty());
        start(&mut running, 2, 100).unwrap();
        running.next().await;
        running.next().await;
        assert_eq!((running.used.jobs, running.used.bytes), (0, 0));
    }
}

//! What the agent says of itself on its admin port: whether it lives, whether it is ready, and its metrics.
//!
//! Alive means progress: each stream says, whenever it waits for something, within what time it will be heard of again,
//! and is believed for a while longer. Once a task has failed the agent is neither, until it ends. Ready means that a stream is open and the agent has not been told to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use postrider_proto::agent::Outcome;
use postrider_telemetry::admin::{Program, Verdict};
use postrider_telemetry::tasks::Supervisor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{Instant, now};
use crate::identity::Trust;
use crate::metrics::{Connect, Metrics};
use crate::transport::credentials::Credentials;

/// How much later than it said a stream may be heard of.
const MARGIN: Duration = Duration::from_secs(30);

/// See the [module](self).
pub struct Admin {
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Who watches over tasks.
    pub(crate) supervisor: Supervisor,
    stop: CancellationToken,
    streams: Mutex<BTreeMap<u32, State>>,
    /// Tells when the certificate ends that is in use.
    trust: Mutex<Option<watch::Receiver<Trust>>>,
    /// There once the agent runs.
    credentials: OnceLock<Arc<Credentials>>,
}

/// What is known of one stream.
#[derive(Debug)]
struct State {
    /// When it said that it would be heard of, at the latest.
    back: Instant,
    /// Its open connections: two for a moment, when it moves from one to another.
    live: u32,
    /// Why it is not connected, once it was not.
    why: Option<String>,
    holds: Arc<Holds>,
}

/// What a stream holds.
#[derive(Debug, Default)]
struct Holds {
    jobs: AtomicUsize,
    outcomes: AtomicUsize,
}

/// Where one stream says what it does, until it ends.
pub struct Pulse {
    admin: Arc<Admin>,
    number: u32,
    holds: Arc<Holds>,
}

/// A connection of the stream is open as long as this lives.
pub struct Live {
    admin: Arc<Admin>,
    number: u32,
}

impl Admin {
    /// Of an agent without streams, which stops when `stop` is cancelled, as a failed task does.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Arc<Admin> {
        let (metrics, streams, trust) = (Metrics::new(), Mutex::default(), Mutex::default());
        let supervisor = Supervisor::new(stop.clone(), metrics.task_failures.clone());
        Arc::new(Admin { metrics, supervisor, stop, streams, trust, credentials: OnceLock::new() })
    }

    /// The owner's credentials are these.
    pub(crate) fn uses(&self, credentials: Arc<Credentials>) {
        let _the_first_stay = self.credentials.set(credentials);
    }

    /// A stream begins.
    #[must_use]
    pub fn stream(self: &Arc<Admin>, number: u32) -> Pulse {
        let holds = Arc::<Holds>::default();
        let state = State { back: now(), live: 0, why: None, holds: Arc::clone(&holds) };
        self.lock().insert(number, state);
        Pulse { admin: Arc::clone(self), number, holds }
    }

    /// The certificate in use is this one, and those that follow.
    pub fn trusts(&self, trust: watch::Receiver<Trust>) {
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = Some(trust);
    }

    /// Brings up to date what is not counted as it happens.
    fn look(&self) {
        let (mut open, mut jobs, mut outcomes) = (0, 0, 0);
        for state in self.lock().values() {
            open += i64::from(state.live > 0);
            jobs += state.holds.jobs.load(Ordering::Relaxed);
            outcomes += state.holds.outcomes.load(Ordering::Relaxed);
        }
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.streams.set(open);
        self.metrics.jobs.set(whole(jobs));
        self.metrics.outbox.set(whole(outcomes));
        self.metrics.draining.set(self.stop.is_cancelled().into());
        let trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.expiry.set(trust.as_ref().and_then(|trust| trust.borrow().expires));
    }

    fn change(&self, number: u32, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.lock().get_mut(&number) {
            change(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, State>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task that has failed, which no later progress makes good.
    fn failed(&self) -> Verdict {
        self.supervisor.failure().map_or(Ok(()), |failed| Err(vec![failed.to_string()]))
    }

    fn alive_at(&self, now: Instant) -> Verdict {
        let streams = self.lock();
        let late = streams.iter().filter_map(|(number, state)| {
            let late = now.checked_duration_since(state.back).filter(|late| *late > MARGIN)?;
            Some(format!("stream {number} should have been heard of {} s ago", late.as_secs()))
        });
        let late: Vec<_> = late.collect();
        if late.is_empty() { Ok(()) } else { Err(late) }
    }

    fn ready(&self) -> Verdict {
        if self.stop.is_cancelled() {
            return Err(vec!["stopping: attempts in flight are finished and reported".to_owned()]);
        }
        let streams = self.lock();
        if streams.values().any(|state| state.live > 0) {
            return Ok(());
        }
        if streams.is_empty() {
            return Err(vec![
                "this agent has no identity yet: it enrolls, and its log says how that goes".to_owned(),
            ]);
        }
        let reason = |state: &State| match &state.why {
            Some(why) => format!("not connected to the control plane: {why}"),
            None => "not connected to the control plane yet".to_owned(),
        };
        let reasons: BTreeSet<_> = streams.values().map(reason).collect();
        Err(reasons.into_iter().collect())
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Live({})", self.number)
    }
}

#[async_trait]
impl Program for Admin {
    fn name(&self) -> &'static str {
        env!("CARGO_PKG_NAME")
    }

    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    async fn alive(&self) -> Verdict {
        self.failed()?;
        self.alive_at(now())
    }

    async fn ready(&self) -> Verdict {
        self.failed()?;
        Admin::ready(self)
    }

    async fn warnings(&self) -> Vec<String> {
        self.credentials.get().map(|credentials| credentials.warnings()).unwrap_or_default()
    }

    async fn metrics(&self) -> String {
        self.look();
        self.metrics.encode()
    }
}

impl Pulse {
    /// The stream waits for something now, and will be heard of again within so long.
    pub(crate) fn back_within(&self, wait: Duration) {
        let back = now() + wait;
        self.admin.change(self.number, |state| state.back = back);
    }

    /// The stream is not connected.
    pub(crate) fn lost(&self, why: String) {
        self.admin.change(self.number, |state| state.why = Some(why));
    }

    /// What came of an attempt to open a connection.
    pub(crate) fn connected(&self, connect: Connect) {
        self.admin.metrics.connected(connect);
    }

    /// A job has ended.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        self.admin.metrics.ended(outcome);
    }

    /// The stream holds so many jobs, and outcomes that are not acknowledged.
    pub(crate) fn holds(&self, jobs: usize, outcomes: usize) {
        self.holds.jobs.store(jobs, Ordering::Relaxed);
        self.holds.outcomes.store(outcomes, Ordering::Relaxed);
    }

    /// A connection of the stream is open.
    pub(crate) fn live(&self) -> Live {
        self.admin.change(self.number, |state| state.live += 1);
        Live { admin: Arc::clone(&self.admin), number: self.number }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.admin.lock().remove(&self.number);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.admin.change(self.number, |state| state.live -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin() -> (Arc<Admin>, CancellationToken) {
        let stop = CancellationToken::new();
        (Admin::new(stop.clone()), stop)
    }

    #[test]
    fn it_is_ready_with_one_open_stream_until_it_is_told_to_stop() {
        let (admin, stop) = admin();
        assert!(admin.ready().unwrap_err()[0].contains("no identity yet"));
        let (one, other) = (admin.stream(0), admin.stream(1));
        assert_eq!(admin.ready().unwrap_err(), ["not connected to the control plane yet"]);
        one.lost("refused".to_owned());
        other.lost("refused".to_owned());
        assert_eq!(admin.ready().unwrap_err(), ["not connected to the control plane: refused"]);
        let former = one.live();
        assert_eq!(admin.ready(), Ok(()));
        let successor = one.live();
        drop(former);
        assert_eq!(admin.ready(), Ok(()), "it has moved");
        stop.cancel();
        assert!(admin.ready().unwrap_err()[0].starts_with("stopping"));
        drop(successor);
    }

    #[tokio::test]
    async fn once_a_task_has_failed_it_is_neither_alive_nor_ready_and_names_the_task() {
        let (admin, stop) = admin();
        let _live = admin.stream(0).live();
        let panics = admin.supervisor.run(crate::tasks::STREAM, async { panic!("the test says so") });
        panics.await.unwrap_err();
        let why = admin.alive().await.unwrap_err();
        assert!(why[0].starts_with("the task stream panicked: the test says so"), "{why:?}");
        assert_eq!(Program::ready(&*admin).await, Err(why));
        assert!(stop.is_cancelled(), "what is under way is finished, and nothing else begun");
        assert!(admin.metrics.encode().contains("postrider_agent_task_failures_total{task=\"stream\"} 1"));
    }

    #[test]
    fn a_stream_that_is_not_heard_of_is_missed_after_a_margin() {
        let (admin, _) = admin();
        let (one, other) = (admin.stream(0), admin.stream(1));
        let began = now();
        one.back_within(Duration::from_secs(10));
        other.back_within(Duration::from_secs(300));
        assert_eq!(admin.alive_at(began + Duration::from_secs(35)), Ok(()));
        let reasons = admin.alive_at(began + Duration::from_secs(50)).unwrap_err();
        assert!(
            reasons.len() == 1 && reasons[0].starts_with("stream 0 should have been heard of"),
            "{reasons:?}"
        );
        drop(one);
        assert_eq!(admin.alive_at(began + Duration::from_secs(50)), Ok(()), "it has ended");
    }
}

//! What the control plane says of itself on its admin port: whether it lives, whether it is ready, and its metrics.
//!
//! Alive means progress: every few seconds a question goes through the queue of the lanes' task, and a row through the
//! store's writer. A store that answers with an error makes progress all the same; then the program is not ready. Once a
//! task has failed the program is neither, until it ends.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use postrider_telemetry::admin::{Program, Verdict};
use postrider_telemetry::tasks::Supervisor;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::metrics::levels::Sources;
use crate::metrics::upkeep::Watched;
use crate::store::Store;

/// How often the lanes and the store are asked for a sign of life.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// How long they may owe it.
const BEAT_WITHIN: Duration = Duration::from_secs(30);

const STARTING: &str = "starting: the store is opened and read";

/// See the [module](self).
pub struct Admin {
    clock: Clock,
    metrics: Arc<Metrics>,
    supervisor: Supervisor,
    /// There once it serves.
    sources: OnceLock<Sources>,
    /// Likewise.
    watched: OnceLock<Arc<Watched>>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Stopping,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// When they last gave a sign of life, since the start.
    lanes: Duration,
    store: Duration,
    /// Why the store could not be written the last time.
    unwritten: Option<String>,
}

impl Admin {
    /// Of a control plane that starts.
    #[must_use]
    pub fn new(clock: Clock, metrics: Arc<Metrics>, supervisor: Supervisor) -> Arc<Self> {
        let now = clock.since_start();
        let state = State { phase: Phase::Starting, lanes: now, store: now, unwritten: None };
        let (sources, watched) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self { clock, metrics, supervisor, sources, watched, state: Mutex::new(state) })
    }

    /// From now on calls are served, and these know how things are.
    pub fn serving(&self, sources: Sources, watched: Arc<Watched>) {
        let _the_first_stay = (self.sources.set(sources), self.watched.set(watched));
        let now = self.clock.since_start();
        let mut state = self.state();
        (state.phase, state.lanes, state.store) = (Phase::Serving, now, now);
    }

    /// From now on it finishes what is under way, for which it has its own limit.
    pub fn stopping(&self) {
        self.state().phase = Phase::Stopping;
    }

    /// Asks for signs of life, until it is cancelled. One that does not answer does not keep the other from answering.
    pub fn watch(self: Arc<Self>, lanes: Lanes, store: Arc<dyn Store>) -> impl Future<Output = ()> {
        let admin = self.clone();
        let of_lanes = async move {
            while lanes.beat().await.is_some() {
                admin.heard_of_lanes();
                sleep(BEAT_EVERY).await;
            }
        };
        let of_store = async move {
            loop {
                let unwritten = store.beat().await.err().map(|error| error.to_string());
                self.heard_of_store(unwritten);
                sleep(BEAT_EVERY).await;
            }
        };
        async {
            tokio::join!(of_lanes, of_store);
        }
    }

    fn heard_of_lanes(&self) {
        self.state().lanes = self.clock.since_start();
    }

    fn heard_of_store(&self, unwritten: Option<String>) {
        let mut state = self.state();
        (state.store, state.unwritten) = (self.clock.since_start(), unwritten);
    }

    /// A task that has failed, which no later progress makes good.
    fn failed(&self) -> Verdict {
        self.supervisor.failure().map_or(Ok(()), |failed| Err(vec![failed.to_string()]))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn alive(&self, now: Duration) -> Verdict {
        match self.phase {
            // How long that may take, whoever runs it says: in Kubernetes, by the startup probe.
            Phase::Starting => return Err(vec![STARTING.to_owned()]),
            // A store that is closed may take its time.
            Phase::Stopping => return Ok(()),
            Phase::Serving => {}
        }
        let mut reasons = Vec::new();
        for (who, beat) in [("the lanes' task has", self.lanes), ("the store's writer has", self.store)] {
            let silent = now.saturating_sub(beat);
            if silent > BEAT_EVERY + BEAT_WITHIN {
                reasons.push(format!("{who} not answered for {} s", silent.as_secs()));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn ready(&self, now: Duration) -> Verdict {
        match self.phase {
            Phase::Starting => return Err(vec![STARTING.to_owned()]),
            Phase::Stopping => {
                return Err(vec!["stopping: calls and attempts in flight are finished".to_owned()]);
            }
            Phase::Serving => {}
        }
        let mut reasons = self.alive(now).err().unwrap_or_default();
        reasons.extend(self.unwritten.iter().map(|why| format!("nothing can be accepted: {why}")));
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
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
        self.state().alive(self.clock.since_start())
    }

    async fn ready(&self) -> Verdict {
        self.failed()?;
        self.state().ready(self.clock.since_start())
    }

    async fn warnings(&self) -> Vec<String> {
        let watched = self.watched.get();
        watched.map(|watched| watched.warnings(self.clock.wall())).unwrap_or_default()
    }

    async fn metrics(&self) -> String {
        self.metrics.show(self.sources.get()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn state(phase: Phase) -> State {
        State { phase, lanes: seconds(100), store: seconds(103), unwritten: None }
    }

    #[test]
    fn it_lives_as_long_as_both_loops_answer() {
        let serving = state(Phase::Serving);
        assert_eq!(serving.alive(seconds(135)), Ok(()));
        let lanes = "the lanes' task has not answered for 36 s".to_owned();
        assert_eq!(serving.alive(seconds(136)), Err(vec![lanes.clone()]));
        assert_eq!(serving.ready(seconds(136)), Err(vec![lanes]));
        assert_eq!(serving.alive(seconds(139)).unwrap_err().len(), 2);
        assert_eq!(state(Phase::Stopping).alive(seconds(1000)), Ok(()));
        assert_eq!(
            state(Phase::Starting).alive(seconds(104)),
            Err(vec![STARTING.to_owned()]),
            "for a startup probe"
        );
    }

    #[test]
    fn it_is_ready_while_it_serves_and_can_write() {
        assert_eq!(state(Phase::Serving).ready(seconds(104)), Ok(()));
        assert!(state(Phase::Starting).ready(seconds(104)).unwrap_err()[0].starts_with("starting"));
        assert!(state(Phase::Stopping).ready(seconds(104)).unwrap_err()[0].starts_with("stopping"));
        let full = State { unwritten: Some("the disk is full".to_owned()), ..state(Phase::Serving) };
        assert_eq!(full.alive(seconds(104)), Ok(()), "a restart would not help");
        assert_eq!(
            full.ready(seconds(104)),
            Err(vec!["nothing can be accepted: the disk is full".to_owned()])
        );
    }
}

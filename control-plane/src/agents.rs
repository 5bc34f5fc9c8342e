//! What is known of agents: who is connected, and who was.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::HashMap;
use postrider_domain::id::AgentId;
use postrider_domain::time::Timestamp;
use tracing::warn;

use crate::schedule::HolderId;
use crate::store::{AgentRow, Store, StoreError};

/// How long an agent that is gone stays in lists.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Processes of an agent that are known to be replaced by a newer one.
const FORMER: usize = 8;

/// An agent as lists show it.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// What is stored of it.
    pub row: AgentRow,
    /// Its open streams.
    pub holders: Vec<HolderId>,
    /// Whether it takes no more jobs.
    pub draining: bool,
    /// The latest of its processes that a newer one has replaced, by instance.
    former: VecDeque<String>,
}

impl AgentView {
    fn new(row: AgentRow) -> Self {
        Self { row, holders: Vec::new(), draining: false, former: VecDeque::new() }
    }

    /// Another process takes over.
    fn replace(&mut self) {
        self.holders.clear();
        self.draining = false;
        self.row.drained = None;
        if self.former.len() == FORMER {
            self.former.pop_front();
        }
        self.former.push_back(self.row.instance.clone());
    }
}

/// Every agent that is connected, or was lately.
pub struct Agents {
    store: Arc<dyn Store>,
    known: Mutex<BTreeMap<AgentId, AgentView>>,
}

impl Agents {
    /// What the store has. Streams that were open when it was left are not open now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>) -> Result<(Self, HashMap<AgentId, u32>), StoreError> {
        let rows = store.agents().await?;
        let open =
            rows.iter().filter(|row| row.streams > 0).map(|row| (row.id.clone(), row.streams)).collect();
        let view = |row: AgentRow| (row.id.clone(), AgentView::new(row));
        let known = Mutex::new(rows.into_iter().map(view).collect());
        Ok((Self { store, known }, open))
    }

    /// A stream was opened.
    pub async fn connected(&self, row: AgentRow, holder: HolderId) {
        let row = {
            let mut known = self.lock();
            let id = row.id.clone();
            let view = known.entry(id).or_insert_with(|| AgentView::new(row.clone()));
            if view.row.instance != row.instance {
                view.replace();
            }
            let drained = view.row.drained;
            let connected_at = if view.holders.is_empty() { row.connected_at } else { view.row.connected_at };
            view.holders.push(holder);
            // As many as this run of the process ever had: after a crash of ours, all of them are awaited, also when
            // only some are back before the next crash.
            let before = if view.row.instance == row.instance { view.row.streams } else { 0 };
            view.row = AgentRow { streams: open_streams(view).max(before), connected_at, drained, ..row };
            view.row.clone()
        };
        self.write(&row).await;
    }

    /// A stream ended: by agreement, or because it was lost. After a loss the process may come back with its jobs.
    pub async fn disconnected(&self, id: &AgentId, holder: HolderId, lost: bool, now: Timestamp) {
        let row = {
            let mut known = self.lock();
            let Some(view) = known.get_mut(id) else { return };
            view.holders.retain(|other| *other != holder);
            if view.holders.is_empty() && !lost {
                view.row.streams = 0;
            }
            view.row.last_seen = now;
            view.row.clone()
        };
        self.write(&row).await;
    }

    /// Whether a newer process of the agent has replaced this one: it may not come back.
    #[must_use]
    pub fn is_replaced(&self, id: &AgentId, instance: &str) -> bool {
        self.lock().get(id).is_some_and(|view| view.former.iter().any(|former| former == instance))
    }

    /// An agent was heard of.
    pub fn seen(&self, id: &AgentId, now: Timestamp) {
        if let Some(view) = self.lock().get_mut(id) {
            view.row.last_seen = now;
        }
    }

    /// An agent takes no more jobs.
    pub fn draining(&self, id: &AgentId) {
        if let Some(view) = self.lock().get_mut(id) {
            view.draining = true;
        }
    }

    /// Since when this run of an agent is drained.
    #[must_use]
    pub fn drained(&self, id: &AgentId, instance: &str) -> Option<Timestamp> {
        let known = self.lock();
        known.get(id).filter(|view| view.row.instance == instance).and_then(|view| view.row.drained)
    }

    /// Drains this run of an agent, from a time on, or gives it jobs again, and returns it as it is then, with all its open
    /// streams; `None` when it was not seen lately.
    ///
    /// # Errors
    /// When the store cannot be written: then nothing has changed.
    pub async fn set_drained(
        &self,
        id: &AgentId,
        drained: Option<Timestamp>,
    ) -> Result<Option<AgentView>, StoreError> {
        let (before, view) = {
            let mut known = self.lock();
            let Some(view) = known.get_mut(id) else { return Ok(None) };
            let before = view.row.drained;
            view.row.drained = drained.map(|now| before.unwrap_or(now));
            (before, view.clone())
        };
        // Known before it is written: a stream that opens meanwhile writes the same.
        let written = self.store.put_agent(&view.row).await;
        if written.is_err()
            && let Some(view) = self.lock().get_mut(id)
        {
            view.row.drained = before;
        }
        written.map(|()| Some(view))
    }

    /// Every agent by id.
    #[must_use]
    pub fn list(&self) -> Vec<AgentView> {
        self.lock().values().cloned().collect()
    }

    /// One agent.
    #[must_use]
    pub fn get(&self, id: &AgentId) -> Option<AgentView> {
        self.lock().get(id).cloned()
    }

    /// So many of the agents that are wanted, by id, after this one.
    #[must_use]
    pub fn page(
        &self,
        after: Option<&AgentId>,
        limit: usize,
        wanted: impl Fn(&AgentView) -> bool,
    ) -> Vec<AgentView> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.lock();
        let views = known.range::<AgentId, _>((start, Bound::Unbounded)).map(|(_, view)| view);
        views.filter(|view| wanted(view)).take(limit).cloned().collect()
    }

    /// How many agents are connected, by pool and version. A pool whose agents are all gone has no version.
    #[must_use]
    pub fn connected_versions(&self) -> BTreeMap<String, BTreeMap<String, usize>> {
        let mut pools = BTreeMap::<String, BTreeMap<String, usize>>::new();
        for view in self.lock().values() {
            let versions = pools.entry(view.row.pool.clone()).or_default();
            if !view.holders.is_empty() {
                *versions.entry(view.row.version.clone()).or_default() += 1;
            }
        }
        pools
    }

    /// Forgets agents that have been gone for long.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_before(&self, time: Timestamp) -> Result<(), StoreError> {
        let old: Vec<AgentId> = {
            let mut known = self.lock();
            let is_old = |view: &AgentView| view.holders.is_empty() && view.row.last_seen < time;
            let old = known.values().filter(|view| is_old(view)).map(|view| view.row.id.clone()).collect();
            known.retain(|_, view| !is_old(view));
            old
        };
        for id in old {
            self.store.delete_agent(&id).await?;
        }
        Ok(())
    }

    /// What is written here only helps after a restart: that it is missing must not stop an agent.
    async fn write(&self, row: &AgentRow) {
        if let Err(error) = self.store.put_agent(row).await {
            warn!(agent = %row.id, %error, "failed to store the state of an agent");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentId, AgentView>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_streams(view: &AgentView) -> u32 {
    u32::try_from(view.holders.len()).unwrap_or(u32::MAX)
}

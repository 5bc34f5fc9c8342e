//! Operations: work on many things that goes on by itself, a step at a time, beside live traffic.
//!
//! A step is small, and what it has done and where it has come is written after it. So a restart goes on from the last
//! step that was written; doing one again must do no harm, which is each kind's own care. What users request (pause, resume,
//! cancel) takes effect between two steps.

mod deletion;
mod pace;
mod replay;
pub(crate) mod rotation;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::{OperationId, TenantId};
use postrider_domain::operation::{Action, State};
use postrider_domain::time::Timestamp;
use postrider_proto::operation::{read_state, write_state};
use postrider_proto::time;
use postrider_proto::v1::operation::Work;
use postrider_telemetry::tasks::caught;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tracing::{Instrument as _, info, info_span, warn};

use self::pace::Starts;
use crate::api::Api;
use crate::clock::Clock;
use crate::metrics::reads::ReadCounts;
use crate::reads::{Name, Reader, Turn};
use crate::store::{OperationRow, Page, Store, StoreError};

/// Operations of a tenant that have not ended.
const MAX_UNFINISHED: usize = 20;
/// The newest operations of a tenant that are kept; of older ones, those that have not ended.
const KEPT: usize = 1000;
/// Operations that are read at once.
const PAGE: usize = 500;
/// How often it is looked for those that are too old.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// How long one is remembered after its end.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);
/// Under which name all operations of a tenant take turns to read.
const OPERATIONS: &str = "operations";
/// How long it waits for a store that fails.
const RETRY: Duration = Duration::from_secs(1);

/// Why an operation is not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is none.
    #[error("there is no such operation; the newest 1000 of a tenant are kept, for 30 days after their end")]
    NotFound,
    /// It has ended.
    #[error("the operation has ended")]
    Ended,
    /// It deletes a tenant, and is to be cancelled.
    #[error("a tenant deletion cannot be cancelled; you can pause it")]
    Final,
    /// The tenant has too many.
    #[error("20 operations of the tenant have not ended; wait for one, or cancel one")]
    TooMany,
    /// The tenant starts them too fast.
    #[error("the tenant has started too many operations at once; it may start 10 a second")]
    TooFast(Duration),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a step has come to.
#[derive(Debug, Default)]
struct Step {
    /// Where to go on.
    cursor: String,
    /// What was found, done and could not be done.
    matched: u64,
    done: u64,
    skipped: u64,
    /// The share of the whole that is behind.
    progress: f64,
    /// Whether there is nothing left.
    finished: bool,
    /// How long to wait before the next one.
    wait: Duration,
    /// Why something could not be done. Empty for nothing.
    problem: String,
}

/// Operations. Those that have not ended are in memory, the others in the store alone.
pub struct Operations {
    store: Arc<dyn Store>,
    clock: Clock,
    slots: Mutex<BTreeMap<OperationId, Slot>>,
    starts: Starts,
    counts: ReadCounts,
    /// Held while one is changed and written.
    changes: tokio::sync::Mutex<()>,
    begin: mpsc::UnboundedSender<OperationId>,
    begun: tokio::sync::Mutex<mpsc::UnboundedReceiver<OperationId>>,
}

#[derive(Clone)]
struct Slot {
    row: OperationRow,
    /// Somebody has wished something.
    changed: Arc<Notify>,
}

impl Slot {
    fn new(row: OperationRow) -> Self {
        Self { row, changed: Arc::default() }
    }

    fn state(&self) -> State {
        read_state(self.row.operation.state())
    }
}

impl Operations {
    /// Those that the store has, of which those that have not ended go on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn load(store: Arc<dyn Store>, clock: Clock, counts: ReadCounts) -> Result<Self, StoreError> {
        let (mut slots, mut after) = (BTreeMap::new(), None);
        loop {
            let page = store.operations(after, PAGE).await?;
            let slot = page.items.into_iter().map(|row| (row.id, Slot::new(row)));
            slots.extend(slot.filter(|(_, slot)| !slot.state().has_ended()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let (begin, begun) = mpsc::unbounded_channel();
        Ok(Self {
            store,
            clock,
            slots: Mutex::new(slots),
            starts: Starts::new(),
            counts,
            changes: tokio::sync::Mutex::default(),
            begin,
            begun: tokio::sync::Mutex::new(begun),
        })
    }

    /// Makes an operation and sets it to work.
    ///
    /// # Errors
    /// [`OperationError::TooMany`], [`OperationError::TooFast`], [`OperationError::Store`].
    pub async fn create(
        &self,
        tenant: &TenantId,
        row: OperationRow,
        audit: Entry,
    ) -> Result<OperationRow, OperationError> {
        let _change = self.changes.lock().await;
        if self.unfinished(tenant.as_str()).len() >= MAX_UNFINISHED {
            return Err(OperationError::TooMany);
        }
        self.starts.take(tenant, self.clock.since_start()).map_err(|wait| {
            self.counts.operations_too_fast();
            OperationError::TooFast(wait)
        })?;
        self.store.put_operation(&row, Some(audit)).await?;
        self.slots().insert(row.id, Slot::new(row.clone()));
        let _stopping = self.begin.send(row.id);
        if let Err(error) = self.store.trim_operations(tenant, KEPT).await {
            warn!(%tenant, %error, "failed to remove the oldest operations; retrying");
        }
        Ok(row)
    }

    /// One operation of a tenant.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get(&self, tenant: &TenantId, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
        let row = match self.slot(id) {
            Some(slot) => Some(slot.row),
            None => self.store.operation(id).await?,
        };
        Ok(row.filter(|row| row.operation.tenant == tenant.as_str()))
    }

    /// A page of a tenant's operations before this one, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(
        &self,
        tenant: &TenantId,
        before: Option<OperationId>,
        limit: usize,
    ) -> Result<Page<OperationRow, OperationId>, StoreError> {
        let mut page = self.store.operations_of(tenant, before, limit).await?;
        let slots = self.slots();
        for row in &mut page.items {
            if let Some(slot) = slots.get(&row.id) {
                row.clone_from(&slot.row);
            }
        }
        Ok(page)
    }

    /// Applies what a user requests of an operation of a tenant.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn request(
        &self,
        tenant: &TenantId,
        id: OperationId,
        requested: Action,
        audit: Entry,
    ) -> Result<OperationRow, OperationError> {
        let _change = self.changes.lock().await;
        let mut row = self.get(tenant, id).await?.ok_or(OperationError::NotFound)?;
        if requested == Action::Cancel && matches!(row.operation.work, Some(Work::TenantDeletion(_))) {
            return Err(OperationError::Final);
        }
        let state = read_state(row.operation.state()).after(requested).ok_or(OperationError::Ended)?;
        row.operation.set_state(write_state(state));
        if state.has_ended() && row.operation.end_time.is_none() {
            row.operation.end_time = Some(time::write(self.clock.wall()));
        }
        self.store.put_operation(&row, Some(audit)).await?;
        let changed = self.slot(id).map(|slot| slot.changed);
        self.replace(row.clone());
        changed.into_iter().for_each(|changed| changed.notify_one());
        Ok(row)
    }

    /// Works until the program stops.
    pub async fn run(self: Arc<Self>, api: Api) {
        let stopping = api.stopping.clone();
        let mut work = JoinSet::new();
        let unfinished: Vec<OperationId> = self.slots().keys().copied().collect();
        for id in unfinished {
            self.clone().start(&mut work, id, &api);
        }
        let mut begun = self.begun.lock().await;
        let mut forget = tokio::time::interval(FORGET_EVERY);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = forget.tick() => self.forget_old().await,
                Some(id) = begun.recv() => self.clone().start(&mut work, id, &api),
                Some(ended) = work.join_next() => {
                    ended.expect("an operation's task catches its panics and is never aborted");
                }
            }
        }
    }

    fn start(self: Arc<Self>, work: &mut JoinSet<()>, id: OperationId, api: &Api) {
        let operation = self.work(id, api.clone());
        work.spawn(operation.instrument(info_span!("operation", %id)));
    }

    async fn work(self: Arc<Self>, id: OperationId, api: Api) {
        while let Some(slot) = self.slot(id) {
            match slot.state() {
                State::Done | State::Cancelled => return,
                State::Paused => slot.changed.notified().await,
                State::Running => {
                    let wait = match caught(self.step(&api, &slot.row)).await {
                        Ok(Ok(wait)) => wait,
                        Ok(Err(error)) => self.held_up(id, &error),
                        // The next step begins where the last one that was written has ended.
                        Err(panicked) => self.held_up(id, &panicked),
                    };
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = slot.changed.notified() => {}
                    }
                }
            }
        }
    }

    /// One step, and how long to wait after it.
    async fn step(&self, api: &Api, row: &OperationRow) -> Result<Duration, StoreError> {
        let step = match &row.operation.work {
            Some(Work::Replay(replay)) => {
                let _turn = turn(api, row).await?;
                let step = replay::step(&*self.store, &api.lanes, row, replay).await?;
                replay::paced(step, row, &api.emitter)
            }
            Some(Work::KeyRotation(rotation)) => rotation::step(api, row, rotation).await?,
            Some(Work::TenantDeletion(_)) => deletion::step(&*self.store, row).await?,
            // Of a later version's kind: it is left as it is, for that.
            None => Step { wait: Duration::from_secs(3600), cursor: row.cursor.clone(), ..Step::default() },
        };
        let _change = self.changes.lock().await;
        // What was wished meanwhile stays.
        let Some(Slot { mut row, .. }) = self.slot(row.id) else { return Ok(Duration::ZERO) };
        let operation = &mut row.operation;
        operation.matched += step.matched;
        operation.done += step.done;
        operation.skipped += step.skipped;
        operation.progress = operation.progress.max(step.progress);
        if step.skipped > 0 || operation.skipped == 0 {
            operation.problem = step.problem;
        }
        row.cursor = step.cursor;
        if step.finished && operation.end_time.is_none() {
            operation.progress = 1.0;
            operation.set_state(write_state(State::Done));
            operation.end_time = Some(time::write(self.clock.wall()));
            info!(operation = %row.id, matched = operation.matched, done = operation.done, "operation done");
        }
        if step.finished && matches!(row.operation.work, Some(Work::TenantDeletion(_))) {
            self.finish_deletion(api, &row).await?;
        } else {
            self.store.put_operation(&row, None).await?;
        }
        self.replace(row);
        Ok(step.wait)
    }

    fn held_up(&self, id: OperationId, error: &dyn std::error::Error) -> Duration {
        warn!(operation = %id, %error, "the operation failed; retrying");
        if let Some(slot) = self.slots().get_mut(&id) {
            slot.row.operation.problem = error.to_string();
        }
        RETRY
    }

    async fn forget_old(&self) {
        let Some(now) = self.clock.removal_time() else { return };
        if let Err(error) = self.forget_ended_before(now - REMEMBERED).await {
            warn!(%error, "failed to remove old operations; retrying");
        }
    }

    /// By age, a page at a time, as far as there are any that were created before that.
    async fn forget_ended_before(&self, time: Timestamp) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.store.operations(after, PAGE).await?;
            let is_last = page.items.last().is_none_or(|last| last.id.created() >= time);
            let old = page.items.iter().filter(|row| ended(row).is_some_and(|end| end < time));
            let old = old.filter_map(|row| Some((row.operation.tenant.parse().ok()?, row.id)));
            let old: Vec<(TenantId, OperationId)> = old.collect();
            if !old.is_empty() {
                self.store.delete_operations(old).await?;
            }
            after = page.next;
            if is_last || after.is_none() {
                return Ok(());
            }
        }
    }

    fn slot(&self, id: OperationId) -> Option<Slot> {
        self.slots().get(&id).cloned()
    }

    /// What is known of an operation from now on: one that has ended is in the store alone.
    fn replace(&self, row: OperationRow) {
        let mut slots = self.slots();
        if read_state(row.operation.state()).has_ended() {
            slots.remove(&row.id);
        } else if let Some(slot) = slots.get_mut(&row.id) {
            slot.row = row;
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<OperationId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When an operation ended.
fn ended(row: &OperationRow) -> Option<Timestamp> {
    row.operation.end_time.as_ref().and_then(|end| time::read("end_time", end).ok())
}

/// The turn to read of an operation that looks through what its tenant has.
async fn turn(api: &Api, row: &OperationRow) -> Result<Turn, StoreError> {
    let damaged = |_| StoreError::Damaged {
        place: row.id.to_string(),
        problem: "what it is for cannot be read".to_owned(),
    };
    let party = Name::Tenant(row.operation.tenant.parse().map_err(damaged)?);
    let member = Name::Token(OPERATIONS.into());
    let busy = |busy| StoreError::Unavailable(format!("there is no turn to read now: {busy:?}"));
    api.reads.turn(&Reader { party, member }).await.map_err(busy)
}

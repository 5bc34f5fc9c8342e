//! Operations: work on many things that goes on by itself, a step at a time, beside live traffic.
//!
//! A step is small, and what it has done and where it has come is written after it. So a restart goes on from the last
//! step that was written; doing one again must do no harm, which is each kind's own care. What people wish (pause, resume,
//! cancel) takes effect between two steps.

mod deletion;
mod replay;
pub(crate) mod rotation;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::{OperationId, TenantId};
use postrider_domain::operation::{State, Wish};
use postrider_domain::time::Timestamp;
use postrider_proto::operation::{read_state, write_state};
use postrider_proto::time;
use postrider_proto::v1::operation::Work;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::api::Api;
use crate::clock::Clock;
use crate::store::{OperationRow, Store, StoreError};

/// Operations of a tenant that have not ended.
const MAX_UNFINISHED: usize = 20;
/// How long one is remembered after its end.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);
/// How long it waits for a store that fails.
const RETRY: Duration = Duration::from_secs(1);

/// Why an operation is not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is none.
    #[error("there is no such operation; they are kept for 30 days after their end")]
    NotFound,
    /// It has ended.
    #[error("the operation has ended")]
    Ended,
    /// It deletes a tenant, and is to be cancelled.
    #[error("half a tenant is of no use: its deletion goes on to its end; it can be paused")]
    Final,
    /// The tenant has too many.
    #[error("20 operations of the tenant have not ended; wait for one, or cancel one")]
    TooMany,
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

/// Every operation that is remembered.
pub struct Operations {
    store: Arc<dyn Store>,
    clock: Clock,
    slots: Mutex<BTreeMap<OperationId, Slot>>,
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
    /// Those that the store has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn load(store: Arc<dyn Store>, clock: Clock) -> Result<Self, StoreError> {
        let rows = store.operations().await?;
        let slots = rows.into_iter().map(|row| (row.id, Slot::new(row))).collect();
        let (begin, begun) = mpsc::unbounded_channel();
        Ok(Self {
            store,
            clock,
            slots: Mutex::new(slots),
            changes: tokio::sync::Mutex::default(),
            begin,
            begun: tokio::sync::Mutex::new(begun),
        })
    }

    /// Makes an operation and sets it to work.
    ///
    /// # Errors
    /// [`OperationError::TooMany`], [`OperationError::Store`].
    pub async fn create(&self, row: OperationRow, audit: Entry) -> Result<OperationRow, OperationError> {
        let _change = self.changes.lock().await;
        let tenant = &row.operation.tenant;
        let unfinished = |slot: &&Slot| slot.row.operation.tenant == *tenant && !slot.state().has_ended();
        if self.slots().values().filter(unfinished).count() >= MAX_UNFINISHED {
            return Err(OperationError::TooMany);
        }
        self.store.put_operation(&row, Some(audit)).await?;
        self.slots().insert(row.id, Slot::new(row.clone()));
        let _stopping = self.begin.send(row.id);
        Ok(row)
    }

    /// One operation of a tenant.
    #[must_use]
    pub fn get(&self, tenant: &TenantId, id: OperationId) -> Option<OperationRow> {
        self.slot(id).map(|slot| slot.row).filter(|row| row.operation.tenant == tenant.as_str())
    }

    /// A tenant's operations before this one, newest first.
    #[must_use]
    pub fn list(&self, tenant: &TenantId, before: Option<OperationId>) -> Vec<OperationRow> {
        let slots = self.slots();
        let own = slots.iter().rev().filter(|(id, slot)| {
            slot.row.operation.tenant == tenant.as_str() && before.is_none_or(|before| **id < before)
        });
        own.map(|(_, slot)| slot.row.clone()).collect()
    }

    /// Does to an operation of a tenant what somebody wishes.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn wish(
        &self,
        tenant: &TenantId,
        id: OperationId,
        wish: Wish,
        audit: Entry,
    ) -> Result<OperationRow, OperationError> {
        let _change = self.changes.lock().await;
        let mut row = self.get(tenant, id).ok_or(OperationError::NotFound)?;
        if wish == Wish::Cancel && matches!(row.operation.work, Some(Work::TenantDeletion(_))) {
            return Err(OperationError::Final);
        }
        let state = read_state(row.operation.state()).after(wish).ok_or(OperationError::Ended)?;
        row.operation.set_state(write_state(state));
        if state.has_ended() && row.operation.end_time.is_none() {
            row.operation.end_time = Some(time::write(self.clock.wall()));
        }
        self.store.put_operation(&row, Some(audit)).await?;
        self.replace(row.clone());
        if let Some(slot) = self.slot(id) {
            slot.changed.notify_one();
        }
        Ok(row)
    }

    /// Works until the program stops.
    pub async fn run(self: Arc<Self>, api: Api) {
        let stopping = api.stopping.clone();
        let mut work = JoinSet::new();
        let unfinished: Vec<OperationId> =
            self.slots().iter().filter(|(_, slot)| !slot.state().has_ended()).map(|(id, _)| *id).collect();
        for id in unfinished {
            work.spawn(self.clone().work(id, api.clone()));
        }
        let mut begun = self.begun.lock().await;
        loop {
            self.forget_old().await;
            tokio::select! {
                () = stopping.cancelled() => return,
                Some(id) = begun.recv() => drop(work.spawn(self.clone().work(id, api.clone()))),
                Some(_) = work.join_next() => {}
            }
        }
    }

    async fn work(self: Arc<Self>, id: OperationId, api: Api) {
        while let Some(slot) = self.slot(id) {
            match slot.state() {
                State::Done | State::Cancelled => return,
                State::Paused => slot.changed.notified().await,
                State::Running => {
                    let wait = match self.step(&api, &slot.row).await {
                        Ok(wait) => wait,
                        Err(error) => self.held_up(id, &error),
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
            Some(Work::Replay(replay)) => replay::step(&*self.store, &api.lanes, row, replay).await?,
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

    fn held_up(&self, id: OperationId, error: &StoreError) -> Duration {
        warn!(operation = %id, %error, "the operation is held up; trying again");
        if let Some(slot) = self.slots().get_mut(&id) {
            slot.row.operation.problem = error.to_string();
        }
        RETRY
    }

    async fn forget_old(&self) {
        let now = self.clock.wall();
        let is_old = |row: &OperationRow| {
            let end = row.operation.end_time.as_ref().and_then(|end| time::read("end_time", end).ok());
            end.is_some_and(|end: Timestamp| end + REMEMBERED < now)
        };
        let old: Vec<OperationId> =
            self.slots().values().filter(|slot| is_old(&slot.row)).map(|slot| slot.row.id).collect();
        for id in old {
            match self.store.delete_operation(id).await {
                Ok(()) => drop(self.slots().remove(&id)),
                Err(error) => warn!(operation = %id, %error, "an old operation is not forgotten yet"),
            }
        }
    }

    fn slot(&self, id: OperationId) -> Option<Slot> {
        self.slots().get(&id).cloned()
    }

    fn replace(&self, row: OperationRow) {
        if let Some(slot) = self.slots().get_mut(&row.id) {
            slot.row = row;
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<OperationId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

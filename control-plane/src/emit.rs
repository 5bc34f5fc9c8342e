//! Accepting events: a bounded queue in front of one committer, which hands the store whatever has gathered.
//!
//! A caller is answered when its event is on disk. While one group is being flushed the next one gathers, so
//! under load many events share a flush, and alone an event waits for nobody.
//!
//! Tenants share the queue and its service fairly ([`postrider_domain::fair`]): one that floods is slowed down or refused
//! at its share, and the others hardly notice, for groups are small in bytes and in deliveries, and tenants take turns in
//! them. What a delivery counts for is what it needs while it is written, so that a flood of few events to many
//! subscriptions fills a share as one of many events does.

mod rates;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::delivery::Delivery;
use postrider_domain::event::Event;
use postrider_domain::fair::{Queue, Refused};
use postrider_domain::id::{DeliveryId, TenantId};
use postrider_domain::order::OrderingKey;
use postrider_domain::quota::{MAX_FAN_OUT, Quota};
use tokio::sync::{Notify, oneshot};

use self::rates::{Rates, TooFast};
use crate::clock::Clock;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::recent::RecentEvents;
use crate::store::{Accept, Accepted, Conflict, Store, StoreError};

/// Bytes of events that may wait to be committed. Beyond it, callers are told to come back.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// What an event counts for at least: it bounds their number too.
const MIN_BYTES: usize = 4 * 1024;
/// What a delivery counts for, and an event beside its data: their rows are written together, and each is held in memory by
/// the queue, the write, the tree and the schedule.
const DELIVERY_BYTES: usize = 512;
/// What a tenant is served in a turn.
const TURN_BYTES: usize = 64 * 1024;
/// Events of one group.
const GROUP: usize = 512;
/// Deliveries of one group; an event with more is a group of its own. The time and memory that a write needs grow with its rows.
const GROUP_DELIVERIES: usize = 2048;
/// Bytes of one group, beside its deliveries, about: whoever comes next waits for two groups at the most, so they are small enough to be written
/// within milliseconds, and large enough for many events of the usual size.
const GROUP_BYTES: usize = 512 * 1024;
/// Why an event was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EmitError {
    /// Too many events wait to be committed.
    #[error("too many events wait to be written; nothing was accepted")]
    Overloaded,
    /// Too many events of the tenant wait to be committed.
    #[error("too many of the tenant's events wait to be written; nothing was accepted")]
    ShareUsed,
    /// The tenant emits faster than it may.
    #[error("the tenant emits faster than it may (its quota, or tenant_emit_rate); nothing was accepted")]
    TooFast(Duration),
    /// The tenant's events make deliveries faster than they may.
    #[error(
        "the tenant's events make deliveries faster than they may (its quota, or tenant_delivery_rate); nothing was accepted"
    )]
    TooManyDeliveries(Duration),
    /// The event has more deliveries than one may have.
    #[error("the event matches {0} subscriptions, more than the limit of {MAX_FAN_OUT}; it was not accepted")]
    TooWide(usize),
    /// Another event has its name.
    #[error("another event has the name")]
    Conflict(Conflict),
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The program is stopping.
    #[error("the control plane is stopping")]
    Stopping,
}

impl From<Refused> for EmitError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Overloaded,
            Refused::ShareUsed => Self::ShareUsed,
        }
    }
}

impl From<TooFast> for EmitError {
    fn from(too_fast: TooFast) -> Self {
        match too_fast {
            TooFast::Events(wait) => Self::TooFast(wait),
            TooFast::Deliveries(wait) => Self::TooManyDeliveries(wait),
        }
    }
}

struct Pending {
    accept: Accept,
    size: usize,
    /// When it was handed in.
    began: Duration,
    answer: oneshot::Sender<Result<Accepted, EmitError>>,
}

/// Where events are handed in.
#[derive(Clone)]
pub struct Emitter(Arc<Intake>);

struct Intake {
    state: Mutex<State>,
    /// Something is queued.
    work: Notify,
    clock: Clock,
    metrics: Arc<Metrics>,
}

struct State {
    queue: Queue<TenantId, Pending>,
    /// Those that wait for room, by tenant: one of each is told when some was freed, and tells the next.
    waiters: HashMap<TenantId, Arc<Notify>>,
    rates: Rates,
    /// Whether the committer is gone.
    closed: bool,
}

/// An event on its way to disk.
pub struct Submitted {
    tenant: TenantId,
    answer: oneshot::Receiver<Result<Accepted, EmitError>>,
}

impl Submitted {
    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Waits until it is there.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn done(self) -> Result<Accepted, EmitError> {
        self.answer.await.unwrap_or(Err(EmitError::Stopping))
    }
}

impl Emitter {
    /// A queue, and the committer that must be run to empty it. Tenants may emit as fast as this quota says.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        lanes: Lanes,
        recent: Arc<RecentEvents>,
        quota: &Quota,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> (Self, Committer) {
        let state = State {
            queue: Queue::new(QUEUE_BYTES, TURN_BYTES),
            waiters: HashMap::new(),
            rates: Rates::new(quota),
            closed: false,
        };
        let intake = Arc::new(Intake { state: Mutex::new(state), work: Notify::new(), clock, metrics });
        (Self(intake.clone()), Committer { intake, store, lanes, recent })
    }

    /// The quota that one tenant has from now on; `None` for that of every tenant.
    pub fn limit(&self, tenant: &TenantId, quota: Option<&Quota>) {
        self.0.state().rates.limit(tenant, quota, self.0.clock.since_start());
    }

    /// Counts deliveries of a tenant that are made again: how long to wait before more of them are.
    pub fn replayed(&self, tenant: &TenantId, deliveries: usize) -> Duration {
        self.0.state().rates.repeat(tenant, deliveries, self.0.clock.since_start())
    }

    /// Whether an event with so much data would be taken now: asked before work is done on it that a flood would waste.
    ///
    /// # Errors
    /// As those of [`Emitter::try_submit`].
    pub fn would_take(&self, tenant: &TenantId, data: usize) -> Result<(), EmitError> {
        let state = self.0.state();
        let admitted = state.admits(tenant, data.max(MIN_BYTES));
        let admitted = admitted.and_then(|()| Ok(state.rates.admits(tenant, self.0.clock.since_start())?));
        admitted.inspect_err(|error| self.0.count_quota(error))
    }

    /// Hands in an event, unless there is no room for it or the tenant is too fast.
    ///
    /// # Errors
    /// Why not now: [`EmitError::Overloaded`], [`EmitError::ShareUsed`], [`EmitError::TooFast`], [`EmitError::Stopping`].
    pub fn try_submit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        self.0.admit(accept).inspect_err(|error| {
            self.0.count_quota(error);
            self.refused();
        })
    }

    /// An event was refused before it was handed in: that counts too.
    pub fn refused(&self) {
        self.0.metrics.refused();
    }

    /// Something was refused for a quota that is held elsewhere.
    pub fn refused_by_quota(&self, quota: &'static str) {
        self.0.metrics.limits.refused(quota);
    }

    /// Hands in an event as soon as there is room and the tenant may.
    ///
    /// # Errors
    /// [`EmitError::Stopping`], [`EmitError::TooWide`].
    pub async fn submit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        check_width(&accept).inspect_err(|error| {
            self.0.count_quota(error);
            self.refused();
        })?;
        let wait = self.0.reserve(&accept);
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
        }
        let size = size(&accept);
        loop {
            let room = {
                let mut state = self.0.state();
                match state.admits(&accept.event.tenant, size) {
                    Ok(()) => {
                        state.tell_next(&accept.event.tenant);
                        return Ok(self.0.enqueue(&mut state, accept, size));
                    }
                    Err(EmitError::Stopping) => {
                        self.refused();
                        state.tell_next(&accept.event.tenant);
                        return Err(EmitError::Stopping);
                    }
                    Err(_) => state.waiters.entry(accept.event.tenant.clone()).or_default().clone(),
                }
            };
            room.notified().await;
        }
    }
}

impl Intake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event: how long to wait with it.
    fn reserve(&self, accept: &Accept) -> Duration {
        let now = self.clock.since_start();
        self.state().rates.reserve(&accept.event.tenant, accept.subscriptions.len(), now)
    }

    fn admit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        check_width(&accept)?;
        let mut state = self.state();
        let size = size(&accept);
        state.admits(&accept.event.tenant, size)?;
        let now = self.clock.since_start();
        state.rates.take(&accept.event.tenant, accept.subscriptions.len(), now)?;
        Ok(self.enqueue(&mut state, accept, size))
    }

    fn count_quota(&self, error: &EmitError) {
        match error {
            EmitError::TooFast(_) => self.metrics.limits.refused("emit_rate"),
            EmitError::TooManyDeliveries(_) => self.metrics.limits.refused("delivery_rate"),
            EmitError::TooWide(_) => self.metrics.limits.refused("fan_out"),
            EmitError::Overloaded | EmitError::ShareUsed => self.metrics.limits.refused("queue_share"),
            EmitError::Conflict(_) | EmitError::Store(_) | EmitError::Stopping => {}
        }
    }

    fn enqueue(&self, state: &mut State, accept: Accept, size: usize) -> Submitted {
        let (sender, answer) = oneshot::channel();
        let (tenant, began) = (accept.event.tenant.clone(), self.clock.since_start());
        self.metrics.limits.queued(accept.subscriptions.len());
        state.queue.push(&tenant, Pending { accept, size, began, answer: sender }, size);
        self.work.notify_one();
        Submitted { tenant, answer }
    }

    /// What goes to the store together; nothing when nothing is queued.
    fn gather(&self) -> Vec<Pending> {
        let mut state = self.state();
        let (mut group, mut deliveries, mut bytes) = (Vec::new(), 0, 0);
        while group.len() < GROUP && bytes < GROUP_BYTES {
            let room = GROUP_DELIVERIES.saturating_sub(deliveries);
            let fits = |pending: &Pending| group.is_empty() || pending.accept.subscriptions.len() <= room;
            let Some(pending) = state.queue.take_if(fits) else { break };
            deliveries += pending.accept.subscriptions.len();
            bytes += content(&pending.accept);
            group.push(pending);
        }
        self.metrics.limits.taken(group.len(), deliveries);
        group
    }

    fn count(&self, result: &Result<Accepted, Conflict>, took: Duration) {
        match result {
            Ok(accepted) => self.metrics.accepted(accepted.duplicate, took),
            Err(conflict) => {
                if matches!(conflict, Conflict::StorageUsed { .. }) {
                    self.metrics.limits.refused("stored_bytes");
                }
                self.metrics.refused();
            }
        }
    }

    /// Frees the room of a group.
    fn release(&self, sizes: &[(TenantId, usize)]) {
        let mut state = self.state();
        for (tenant, size) in sizes {
            state.queue.release(tenant, *size);
        }
        // Whoever waits has a copy.
        state.waiters.retain(|_, room| Arc::strong_count(room) > 1);
        state.waiters.values().for_each(|room| room.notify_one());
    }
}

impl State {
    fn admits(&self, tenant: &TenantId, size: usize) -> Result<(), EmitError> {
        if self.closed {
            return Err(EmitError::Stopping);
        }
        Ok(self.queue.admits(tenant, size)?)
    }

    fn tell_next(&self, tenant: &TenantId) {
        if let Some(room) = self.waiters.get(tenant) {
            room.notify_one();
        }
    }
}

/// An event that goes to more subscriptions than one may is refused: its rows are written in one commit.
fn check_width(accept: &Accept) -> Result<(), EmitError> {
    let width = accept.subscriptions.len();
    if width > MAX_FAN_OUT { Err(EmitError::TooWide(width)) } else { Ok(()) }
}

/// What an event takes of the queue.
fn size(accept: &Accept) -> usize {
    (content(accept) + (accept.subscriptions.len() + 1) * DELIVERY_BYTES).max(MIN_BYTES)
}

/// What an event takes of a write beside its deliveries, about.
fn content(accept: &Accept) -> usize {
    let attributes: usize =
        accept.event.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    accept.event.data.len() + attributes
}

/// Empties the queue into the store.
pub struct Committer {
    intake: Arc<Intake>,
    store: Arc<dyn Store>,
    lanes: Lanes,
    recent: Arc<RecentEvents>,
}

/// Without a committer nothing that waits or comes is accepted.
impl Drop for Committer {
    fn drop(&mut self) {
        let mut state = self.intake.state();
        state.closed = true;
        while state.queue.take().is_some() {}
        state.waiters.values().for_each(|room| room.notify_one());
    }
}

impl Committer {
    /// Runs until it is cancelled.
    pub async fn run(self) {
        loop {
            let group = self.intake.gather();
            if group.is_empty() {
                self.intake.work.notified().await;
                continue;
            }
            let sizes = sizes(&group);
            self.commit(group).await;
            self.intake.release(&sizes);
        }
    }

    async fn commit(&self, group: Vec<Pending>) {
        let (accepts, answers): (Vec<Accept>, Vec<_>) =
            group.into_iter().map(|pending| (pending.accept, (pending.answer, pending.began))).unzip();
        let events: Vec<Event> = accepts.iter().map(|accept| accept.event.clone()).collect();
        match self.store.accept(accepts).await {
            Ok(results) => {
                self.hand_over(&results, events).await;
                let now = self.intake.clock.since_start();
                for ((answer, began), result) in answers.into_iter().zip(results) {
                    self.intake.count(&result, now.saturating_sub(began));
                    let _nobody_waits = answer.send(result.map_err(EmitError::Conflict));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for (answer, _) in answers {
                    self.intake.metrics.refused();
                    let _nobody_waits = answer.send(Err(EmitError::Store(error.clone())));
                }
            }
        }
    }

    /// Tells the lanes, in the order of the numbers that the store gave.
    async fn hand_over(&self, results: &[Result<Accepted, Conflict>], events: Vec<Event>) {
        let mut deliveries = Vec::new();
        for (result, event) in results.iter().zip(events) {
            let Ok(accepted) = result else { continue };
            if accepted.duplicate || accepted.deliveries.is_empty() {
                continue;
            }
            let ordering = event.ordering_key.as_ref().map(OrderingKey::hash);
            let fresh = |id: &DeliveryId| {
                (id.subscription, Delivery::new(id.sequence, accepted.key).ordered_by(ordering))
            };
            deliveries.extend(accepted.deliveries.iter().map(fresh));
            self.recent.insert(Arc::new(event));
        }
        if !deliveries.is_empty() {
            self.lanes.accepted(deliveries).await;
        }
    }
}

/// What each tenant has in the group.
fn sizes(group: &[Pending]) -> Vec<(TenantId, usize)> {
    let mut sizes: Vec<(TenantId, usize)> = Vec::new();
    for pending in group {
        let tenant = &pending.accept.event.tenant;
        match sizes.last_mut().filter(|(last, _)| last == tenant) {
            Some((_, size)) => *size += pending.size,
            None => sizes.push((tenant.clone(), pending.size)),
        }
    }
    sizes
}

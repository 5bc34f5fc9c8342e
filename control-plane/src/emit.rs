//! Accepting events: a bounded queue in front of one committer, which hands the store whatever has gathered.
//!
//! A caller is answered when its event is on disk. While one group is being flushed the next one gathers, so
//! under load many events share a flush, and alone an event waits for nobody.
//!
//! Tenants share the queue and its service fairly ([`postrider_domain::fair`]): one that floods is slowed down or refused
//! at its share, and the others hardly notice, for groups are small in bytes and tenants take turns in them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider_domain::delivery::Delivery;
use postrider_domain::event::Event;
use postrider_domain::fair::{Queue, Refused};
use postrider_domain::id::{DeliveryId, TenantId};
use postrider_domain::order::OrderingKey;
use postrider_domain::pace::{Meter, Pace};
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::recent::RecentEvents;
use crate::store::{Accept, Accepted, Conflict, Store, StoreError};

/// Bytes of events that may wait to be committed. Beyond it, callers are told to come back.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// What an event counts for at least: it bounds their number too.
const MIN_BYTES: usize = 4 * 1024;
/// What a delivery counts for, and an event beside its data: their rows are written together.
const DELIVERY_BYTES: usize = 128;
/// What a tenant is served in a turn.
const TURN_BYTES: usize = 64 * 1024;
/// Events of one group.
const GROUP: usize = 512;
/// Deliveries of one group, about: what a write needs of memory grows with its rows.
const GROUP_DELIVERIES: usize = 4096;
/// Bytes of one group, about: whoever comes next waits for two groups at the most, so they are small enough to be written
/// within milliseconds, and large enough for many events of the usual size.
const GROUP_BYTES: usize = 512 * 1024;
/// Tenants whose rates are remembered before those that have rested are looked for.
const METERS: usize = 1024;

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

/// How fast each tenant may emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmitRate {
    /// Events a second.
    pub per_second: NonZeroU32,
    /// Events at once.
    pub burst: NonZeroU32,
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
    pace: Option<Pace>,
    metrics: Arc<Metrics>,
}

struct State {
    queue: Queue<TenantId, Pending>,
    /// Those that wait for room, by tenant: one of each is told when some was freed, and tells the next.
    hungry: HashMap<TenantId, Arc<Notify>>,
    meters: HashMap<TenantId, Meter>,
    /// Of the tenants that have a pace of their own.
    paces: HashMap<TenantId, Pace>,
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
    /// A queue, and the committer that must be run to empty it. Without a rate tenants emit as fast as they can.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        lanes: Lanes,
        recent: Arc<RecentEvents>,
        rate: Option<EmitRate>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> (Self, Committer) {
        let state = State {
            queue: Queue::new(QUEUE_BYTES, TURN_BYTES),
            hungry: HashMap::new(),
            meters: HashMap::new(),
            paces: HashMap::new(),
            closed: false,
        };
        let pace = rate.map(|rate| Pace::new(rate.per_second, rate.burst));
        let intake = Arc::new(Intake { state: Mutex::new(state), work: Notify::new(), clock, pace, metrics });
        (Self(intake.clone()), Committer { intake, store, lanes, recent })
    }

    /// How fast one tenant may emit from now on; `None` for as fast as every other.
    pub fn limit(&self, tenant: &TenantId, pace: Option<Pace>) {
        let mut state = self.0.state();
        match pace {
            Some(pace) => drop(state.paces.insert(tenant.clone(), pace)),
            None => drop(state.paces.remove(tenant)),
        }
        // What was used by the former pace may be more than is ever used by this one.
        let now = self.0.clock.since_start();
        if let Some(pace) = self.0.pace_of(&state, tenant)
            && let Some(meter) = state.meters.get_mut(tenant)
        {
            *meter = pace.at_most_spent(*meter, now);
        }
    }

    /// Whether an event with so much data would be taken now: asked before work is done on it that a flood would waste.
    ///
    /// # Errors
    /// As those of [`Emitter::try_submit`].
    pub fn would_take(&self, tenant: &TenantId, data: usize) -> Result<(), EmitError> {
        let mut state = self.0.state();
        state.admits(tenant, data.max(MIN_BYTES))?;
        let Some(pace) = self.0.pace_of(&state, tenant) else { return Ok(()) };
        let now = self.0.clock.since_start();
        let mut meter = *state.meter(tenant, now);
        pace.take(&mut meter, now).map_err(EmitError::TooFast)
    }

    /// Hands in an event, unless there is no room for it or the tenant is too fast.
    ///
    /// # Errors
    /// Why not now: [`EmitError::Overloaded`], [`EmitError::ShareUsed`], [`EmitError::TooFast`], [`EmitError::Stopping`].
    pub fn try_submit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        self.0.admit(accept).inspect_err(|_| self.refused())
    }

    /// An event was refused before it was handed in: that counts too.
    pub fn refused(&self) {
        self.0.metrics.refused();
    }

    /// Hands in an event as soon as there is room and the tenant may.
    ///
    /// # Errors
    /// [`EmitError::Stopping`].
    pub async fn submit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        let wait = self.0.reserve(&accept.event.tenant);
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
                    Err(_) => state.hungry.entry(accept.event.tenant.clone()).or_default().clone(),
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

    fn pace_of(&self, state: &State, tenant: &TenantId) -> Option<Pace> {
        state.paces.get(tenant).copied().or(self.pace)
    }

    /// Counts one event of a tenant: how long to wait with it.
    fn reserve(&self, tenant: &TenantId) -> Duration {
        let mut state = self.state();
        let Some(pace) = self.pace_of(&state, tenant) else { return Duration::ZERO };
        let now = self.clock.since_start();
        pace.reserve(state.meter(tenant, now), now)
    }

    fn admit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        let mut state = self.state();
        let size = size(&accept);
        state.admits(&accept.event.tenant, size)?;
        if let Some(pace) = self.pace_of(&state, &accept.event.tenant) {
            let now = self.clock.since_start();
            pace.take(state.meter(&accept.event.tenant, now), now).map_err(EmitError::TooFast)?;
        }
        Ok(self.enqueue(&mut state, accept, size))
    }

    fn enqueue(&self, state: &mut State, accept: Accept, size: usize) -> Submitted {
        let (sender, answer) = oneshot::channel();
        let (tenant, began) = (accept.event.tenant.clone(), self.clock.since_start());
        state.queue.push(&tenant, Pending { accept, size, began, answer: sender }, size);
        self.work.notify_one();
        Submitted { tenant, answer }
    }

    /// What goes to the store together; nothing when nothing is queued.
    fn gather(&self) -> Vec<Pending> {
        let mut state = self.state();
        let (mut group, mut deliveries, mut bytes) = (Vec::new(), 0, 0);
        while group.len() < GROUP && deliveries < GROUP_DELIVERIES && bytes < GROUP_BYTES {
            let Some(pending) = state.queue.take() else { break };
            deliveries += pending.accept.subscriptions.len();
            bytes += written(&pending.accept);
            group.push(pending);
        }
        group
    }

    fn count(&self, result: &Result<Accepted, Conflict>, took: Duration) {
        match result {
            Ok(accepted) => self.metrics.accepted(accepted.duplicate, took),
            Err(_) => self.metrics.refused(),
        }
    }

    /// Frees the room of a group.
    fn release(&self, sizes: &[(TenantId, usize)]) {
        let mut state = self.state();
        for (tenant, size) in sizes {
            state.queue.release(tenant, *size);
        }
        // Whoever waits has a copy.
        state.hungry.retain(|_, room| Arc::strong_count(room) > 1);
        state.hungry.values().for_each(|room| room.notify_one());
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
        if let Some(room) = self.hungry.get(tenant) {
            room.notify_one();
        }
    }

    fn meter(&mut self, tenant: &TenantId, now: Duration) -> &mut Meter {
        if self.meters.len() >= METERS && self.meters.len() == self.meters.capacity() {
            self.meters.retain(|_, meter| !meter.is_idle(now));
        }
        self.meters.entry(tenant.clone()).or_default()
    }
}

/// What an event takes of the queue.
fn size(accept: &Accept) -> usize {
    written(accept).max(MIN_BYTES)
}

/// What an event takes of a write, about.
fn written(accept: &Accept) -> usize {
    let attributes: usize =
        accept.event.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    accept.event.data.len() + attributes + (accept.subscriptions.len() + 1) * DELIVERY_BYTES
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
        state.hungry.values().for_each(|room| room.notify_one());
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

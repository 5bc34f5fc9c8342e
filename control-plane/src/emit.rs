//! Accepting events: a bounded queue in front of one committer, which hands the store whatever has gathered.
//!
//! A caller is answered when its event is on disk. While one group is being flushed the next one gathers, so
//! under load many events share a flush, and alone an event waits for nobody.

use std::sync::Arc;

use postrider_domain::delivery::Delivery;
use postrider_domain::event::Event;
use postrider_domain::id::DeliveryId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::lanes::Lanes;
use crate::recent::RecentEvents;
use crate::store::{Accept, Accepted, Conflict, Store, StoreError};

/// Bytes of events that may wait to be committed. Beyond it, callers are told to come back.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// What an event counts for at least: it bounds their number too.
const MIN_BYTES: usize = 4 * 1024;
/// Bytes a permit of the queue stands for.
const PERMIT_BYTES: usize = 1024;
/// Events of one group.
const GROUP: usize = 512;
/// Deliveries of one group, about: what a write needs of memory grows with its rows.
const GROUP_DELIVERIES: usize = 4096;

/// Why an event was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EmitError {
    /// Too many events wait to be committed.
    #[error("too many events wait to be written; nothing was accepted")]
    Overloaded,
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

struct Pending {
    accept: Accept,
    answer: oneshot::Sender<Result<Accepted, EmitError>>,
    _room: OwnedSemaphorePermit,
}

/// Where events are handed in.
#[derive(Clone)]
pub struct Emitter {
    room: Arc<Semaphore>,
    queue: mpsc::Sender<Pending>,
}

/// An event on its way to disk.
pub struct Submitted(oneshot::Receiver<Result<Accepted, EmitError>>);

impl Submitted {
    /// Waits until it is there.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn done(self) -> Result<Accepted, EmitError> {
        self.0.await.unwrap_or(Err(EmitError::Stopping))
    }
}

impl Emitter {
    /// A queue, and the committer that must be run to empty it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, lanes: Lanes, recent: Arc<RecentEvents>) -> (Self, Committer) {
        let permits = QUEUE_BYTES / PERMIT_BYTES;
        // The room bounds what is in the queue; the queue itself is never the one that is full.
        let (sender, queue) = mpsc::channel(QUEUE_BYTES / MIN_BYTES + 1);
        let room = Arc::new(Semaphore::new(permits));
        (Self { room, queue: sender }, Committer { queue, store, lanes, recent })
    }

    /// Hands in an event, unless the queue is full.
    ///
    /// # Errors
    /// [`EmitError::Overloaded`], [`EmitError::Stopping`].
    pub fn try_submit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        let room = self.room.clone().try_acquire_many_owned(permits(&accept));
        self.enqueue(accept, room.map_err(|_| EmitError::Overloaded)?)
    }

    /// Hands in an event as soon as there is room.
    ///
    /// # Errors
    /// [`EmitError::Stopping`].
    pub async fn submit(&self, accept: Accept) -> Result<Submitted, EmitError> {
        let room = self.room.clone().acquire_many_owned(permits(&accept)).await;
        self.enqueue(accept, room.map_err(|_| EmitError::Stopping)?)
    }

    fn enqueue(&self, accept: Accept, room: OwnedSemaphorePermit) -> Result<Submitted, EmitError> {
        let (answer, submitted) = oneshot::channel();
        let pending = Pending { accept, answer, _room: room };
        self.queue.try_send(pending).map_err(|_| EmitError::Stopping)?;
        Ok(Submitted(submitted))
    }
}

fn permits(accept: &Accept) -> u32 {
    let bytes = accept.event.data.len().max(MIN_BYTES);
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// How many of these go to the store together.
fn events_of_one_write(group: &[Pending]) -> usize {
    let mut deliveries = 0;
    let fits = |pending: &&Pending| {
        let before = deliveries;
        deliveries += pending.accept.subscriptions.len();
        before < GROUP_DELIVERIES
    };
    group.iter().take_while(fits).count()
}

/// Empties the queue into the store.
pub struct Committer {
    queue: mpsc::Receiver<Pending>,
    store: Arc<dyn Store>,
    lanes: Lanes,
    recent: Arc<RecentEvents>,
}

impl Committer {
    /// Runs until every [`Emitter`] is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP);
        while self.queue.recv_many(&mut group, GROUP).await > 0 {
            while !group.is_empty() {
                self.commit(group.drain(..events_of_one_write(&group))).await;
            }
        }
    }

    async fn commit(&self, group: impl Iterator<Item = Pending>) {
        let (accepts, waiting): (Vec<Accept>, Vec<_>) =
            group.map(|pending| (pending.accept, (pending.answer, pending._room))).unzip();
        let events: Vec<Event> = accepts.iter().map(|accept| accept.event.clone()).collect();
        match self.store.accept(accepts).await {
            Ok(results) => {
                self.hand_over(&results, events).await;
                for ((answer, _room), result) in waiting.into_iter().zip(results) {
                    let _nobody_waits = answer.send(result.map_err(EmitError::Conflict));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for (answer, _room) in waiting {
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
            let fresh = |id: &DeliveryId| (id.subscription, Delivery::new(id.sequence, accepted.key));
            deliveries.extend(accepted.deliveries.iter().map(fresh));
            self.recent.insert(Arc::new(event));
        }
        if !deliveries.is_empty() {
            self.lanes.accepted(deliveries).await;
        }
    }
}

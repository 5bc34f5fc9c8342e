//! The one thread that writes: it gathers what has queued up, applies it as one atomic batch, and flushes once.
//!
//! That is the group commit: while one flush runs, the next group gathers. A group of settlements alone waits a
//! moment for an accept to share its flush with, because nobody waits for a settlement.

use std::collections::{HashMap, HashSet};
use std::thread::JoinHandle;
use std::time::Duration;

use postrider_domain::audit;
use postrider_domain::event::IDEMPOTENCY_WINDOW;
use postrider_domain::id::{DeliveryId, EventId, EventKey, SubscriptionId, TenantId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::audit::Ends;
pub(super) use super::group::Write;
use super::group::{Answer, Group, Results, settle};
use super::tap::Tap;
use super::usage::Usage;
use super::{codec, failure, key, read};
use crate::clock::Clock;
use crate::metrics::Writes;
use crate::store::{Accept, Accepted, Conflict, Settlement, StoreError};

/// Commands that may wait for the thread. Each caller waits for its answer, so callers bound this too.
const QUEUE: usize = 1024;
/// Rows of one batch, about: it bounds how long the first of a group waits for the last.
const GROUP_ROWS: usize = 4096;
/// How long settlements wait for company.
const LINGER: Duration = Duration::from_millis(3);

/// Rows to write, and what comes with them.
#[derive(Default)]
pub(super) struct Change {
    pub(super) rows: Vec<Write>,
    /// Who changed them.
    pub(super) audit: Option<audit::Entry>,
    /// Whose they are, when nothing of whom may be written once it is being deleted.
    pub(super) tenant: Option<TenantId>,
    /// What the rows free of what tenants' stored events count for.
    pub(super) freed: Vec<(TenantId, u64)>,
    /// The tenant that is being deleted from now on.
    pub(super) closes: Option<TenantId>,
    /// The tenant that is there (again) from now on.
    pub(super) opens: Option<TenantId>,
}

enum Command {
    Accept(Vec<Accept>, Answer<Results>),
    Settle(Settlement, Answer<()>),
    Change(Change, Answer<()>),
    Between(Between, oneshot::Sender<()>),
}

/// What is done between two batches.
enum Between {
    /// From the next batch on a backup is told of each, or none is any more.
    Tap(Option<Tap>),
    /// The thread ends.
    Close,
}

/// Hands commands to the thread. Dropped, it waits for the thread's end: then the store can be opened again.
pub(super) struct Writer {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.commands.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            tracing::error!("the store's thread has panicked");
        }
    }
}

impl Writer {
    /// Starts the thread. Must be called within a tokio runtime.
    pub(super) fn spawn(db: sled::Db, audit: Ends, closed: HashSet<TenantId>, writes: Writes) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let runtime = Handle::current();
        let (ends, usage) = (HashMap::new(), Usage::default());
        let clock = Clock::start();
        let thread = Thread { db, queue, runtime, ends, audit, usage, closed, tap: None, writes, clock };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || thread.run());
        let thread = thread.expect("the process may start a thread");
        Self { commands: Some(commands), thread: Some(thread) }
    }

    pub(super) async fn accept(
        &self,
        batch: Vec<Accept>,
    ) -> Result<Vec<Result<Accepted, Conflict>>, StoreError> {
        self.send(|answer| Command::Accept(batch, answer)).await
    }

    pub(super) async fn settle(&self, settlement: Settlement) -> Result<(), StoreError> {
        self.send(|answer| Command::Settle(settlement, answer)).await
    }

    /// Writes rows, together with the audit record of who changed them.
    pub(super) async fn write(
        &self,
        writes: Vec<Write>,
        audit: Option<audit::Entry>,
    ) -> Result<(), StoreError> {
        self.change(Change { rows: writes, audit, ..Change::default() }).await
    }

    /// As [`Writer::write`], of a tenant that must not be being deleted.
    pub(super) async fn write_of(
        &self,
        tenant: &TenantId,
        rows: Vec<Write>,
        audit: Option<audit::Entry>,
    ) -> Result<(), StoreError> {
        self.change(Change { rows, audit, tenant: Some(tenant.clone()), ..Change::default() }).await
    }

    pub(super) async fn change(&self, change: Change) -> Result<(), StoreError> {
        self.send(|answer| Command::Change(change, answer)).await
    }

    /// Ends the thread after what is queued.
    pub(super) async fn close(&self) {
        let (answer, done) = oneshot::channel();
        let Some(commands) = &self.commands else { return };
        if commands.send(Command::Between(Between::Close, answer)).await.is_ok() {
            let _closed = done.await;
        }
    }

    /// For a backup, which may be at work when this is dropped.
    pub(super) fn handle(&self) -> WriterHandle {
        WriterHandle(self.commands.as_ref().map(mpsc::Sender::downgrade))
    }

    async fn send<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable("it is closed".to_owned());
        let (answer, result) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(gone)?;
        commands.send(command(answer)).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

/// Reaches the thread as long as the store is open.
pub(super) struct WriterHandle(Option<mpsc::WeakSender<Command>>);

impl WriterHandle {
    /// Returns between two batches: a backup is told of the next one and those that follow, or of none any more.
    pub(super) async fn tap(&self, tap: Option<Tap>) -> Result<(), StoreError> {
        let gone = || StoreError::Unavailable("it is closed".to_owned());
        let commands = self.0.as_ref().and_then(mpsc::WeakSender::upgrade).ok_or_else(gone)?;
        let (answer, done) = oneshot::channel();
        commands.send(Command::Between(Between::Tap(tap), answer)).await.map_err(|_| gone())?;
        drop(commands);
        done.await.map_err(|_| gone())
    }
}

struct Thread {
    db: sled::Db,
    queue: mpsc::Receiver<Command>,
    runtime: Handle,
    /// One past the last number of each lane that was written to since the start.
    ends: HashMap<SubscriptionId, u64>,
    /// Where audit records go.
    audit: Ends,
    /// What tenants' stored events count for.
    usage: Usage,
    /// The tenants that are being deleted, and those that were since the start: what still comes for them is late.
    closed: HashSet<TenantId>,
    /// The backup that is told of every batch.
    tap: Option<Tap>,
    writes: Writes,
    clock: Clock,
}

impl Thread {
    fn run(mut self) {
        while let Some(command) = self.queue.blocking_recv() {
            let mut group = Group {
                audit_before: self.audit.head(),
                told: self.tap.as_ref().map(|_| Vec::new()),
                ..Group::default()
            };
            let mut between = self.add(command, &mut group);
            while between.is_none() && group.rows < GROUP_ROWS {
                let Some(command) = self.gathered(group.urgent) else { break };
                between = self.add(command, &mut group);
            }
            self.commit(group);
            let Some((between, answer)) = between else { continue };
            let ends = match between {
                Between::Close => true,
                Between::Tap(tap) => {
                    self.tap = tap;
                    false
                }
            };
            let _nobody_waits = answer.send(());
            if ends {
                return;
            }
        }
    }

    /// What has queued up; settlements alone wait a moment for it.
    fn gathered(&mut self, urgent: bool) -> Option<Command> {
        match self.queue.try_recv() {
            Ok(command) => Some(command),
            Err(_) if urgent => None,
            Err(_) => {
                let queue = &mut self.queue;
                self.runtime
                    .block_on(async { tokio::time::timeout(LINGER, queue.recv()).await.ok().flatten() })
            }
        }
    }

    fn add(&mut self, command: Command, group: &mut Group) -> Option<(Between, oneshot::Sender<()>)> {
        match command {
            Command::Accept(batch, answer) => match self.accept(batch, group) {
                Ok(accepted) => group.accepts.push((accepted, answer)),
                Err(error) => drop(answer.send(Err(error))),
            },
            Command::Settle(mut settlement, answer) => {
                match self.prepare_settlement(&mut settlement, group) {
                    Ok(()) => {
                        settle(&settlement, group);
                        settlement.audit.into_iter().for_each(|entry| self.audit(entry, group));
                        group.others.push(answer);
                    }
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Command::Change(change, answer) => match self.change(change, group) {
                Ok(()) => group.others.push(answer),
                Err(error) => drop(answer.send(Err(error))),
            },
            Command::Between(between, answer) => return Some((between, answer)),
        }
        None
    }

    /// Reads what records need, before anything is written to the group: a failed read must leave no half batch behind.
    fn prepare<'a>(&mut self, entries: impl IntoIterator<Item = &'a audit::Entry>) -> Result<(), StoreError> {
        entries.into_iter().try_for_each(|entry| self.audit.prepare(&self.db, entry))
    }

    /// Chains a record to the log, in the same batch as what it tells of.
    fn audit(&mut self, entry: audit::Entry, group: &mut Group) {
        for (key, value) in self.audit.append(entry) {
            group.put(key, value);
        }
    }

    fn change(&mut self, change: Change, group: &mut Group) -> Result<(), StoreError> {
        if let Some(tenant) = change.tenant.filter(|tenant| self.closed.contains(tenant)) {
            return Err(StoreError::Deleting(tenant));
        }
        self.prepare(&change.audit)?;
        for (tenant, _) in &change.freed {
            self.usage.load(&self.db, tenant)?;
        }
        group.urgent = true;
        group.closed.extend(change.closes.filter(|tenant| self.closed.insert(tenant.clone())));
        if let Some(tenant) = &change.opens {
            self.closed.remove(tenant);
            self.usage.forget(tenant);
        }
        for (tenant, freed) in &change.freed {
            self.usage.free(tenant, *freed);
        }
        for (key, value) in change.rows {
            if value.is_none() && !self.closed.is_empty() {
                group.removed.insert(key.clone());
            }
            group.put(key, value);
        }
        change.audit.into_iter().for_each(|entry| self.audit(entry, group));
        Ok(())
    }

    /// Leaves out what is of no use any more: a tenant is deleted while attempts are under way.
    fn prepare_settlement(&mut self, settlement: &mut Settlement, group: &Group) -> Result<(), StoreError> {
        self.prepare(&settlement.audit)?;
        if self.closed.is_empty() {
            return Ok(());
        }
        let is_there = |key: Vec<u8>| -> Result<bool, StoreError> {
            Ok(!group.removed.contains(&key) && self.db.contains_key(key).map_err(failure)?)
        };
        let mut kept = Vec::with_capacity(settlement.deliveries.len());
        for settle in settlement.deliveries.drain(..) {
            if is_there(key::delivery(settle.id))? {
                kept.push(settle);
            }
        }
        settlement.deliveries = kept;
        let mut kept = Vec::with_capacity(settlement.low_water.len());
        for (lane, low_water) in settlement.low_water.drain(..) {
            if is_there(key::subscription(lane))? {
                kept.push((lane, low_water));
            }
        }
        settlement.low_water = kept;
        Ok(())
    }

    fn accept(
        &mut self,
        batch: Vec<Accept>,
        group: &mut Group,
    ) -> Result<Vec<Result<Accepted, Conflict>>, StoreError> {
        group.urgent = true;
        self.prepare(batch.iter().filter_map(|accept| accept.audit.as_deref()))?;
        // Looked up before anything is written to the group: a failed read must leave no half batch behind.
        let mut known = Vec::with_capacity(batch.len());
        for accept in &batch {
            for lane in &accept.subscriptions {
                self.load_end(*lane)?;
            }
            self.usage.load(&self.db, &accept.event.tenant)?;
            let by_key = self.stored_name(name_of_key(accept))?;
            let in_time =
                |(first, _): &(EventKey, _)| first.created() + IDEMPOTENCY_WINDOW > accept.event.accepted;
            known.push((by_key.filter(in_time), self.stored_name(name_of_id(accept))?));
        }
        let mut results = Vec::with_capacity(batch.len());
        for (accept, (by_key, by_id)) in batch.into_iter().zip(known) {
            let by_key = by_key.or_else(|| group.name(name_of_key(&accept)));
            let by_id = by_id.or_else(|| group.name(name_of_id(&accept)));
            if self.closed.contains(&accept.event.tenant) {
                results.push(Err(Conflict::TenantDeleting));
                continue;
            }
            results.push(match (by_key, by_id) {
                (Some((_, content)), _) if content != accept.content => Err(Conflict::IdempotencyKey),
                (Some((first, _)), _) => Ok(self.duplicate(&accept, first, group)?),
                (None, Some((_, content))) if content != accept.content => Err(Conflict::EventId),
                (None, Some((first, _))) => Ok(self.duplicate(&accept, first, group)?),
                (None, None) => match self.usage.charge(&accept) {
                    Ok(()) => Ok(self.insert(accept, group)),
                    Err(conflict) => Err(conflict),
                },
            });
        }
        Ok(results)
    }

    fn insert(&mut self, accept: Accept, group: &mut Group) -> Accepted {
        let event = &accept.event;
        let mut deliveries = Vec::with_capacity(accept.subscriptions.len());
        let pending = codec::pending(event);
        for subscription in &accept.subscriptions {
            let end = self.ends.entry(*subscription).or_insert(1);
            let id = DeliveryId { subscription: *subscription, sequence: *end };
            *end += 1;
            group.put(key::delivery(id), Some(pending.clone()));
            deliveries.push(id);
        }
        group.put(key::event(&event.tenant, event.key), Some(codec::event(&accept, &deliveries)));
        for name in [name_of_key(&accept), name_of_id(&accept)].into_iter().flatten() {
            group.put(name.clone(), Some(codec::name(event.key, accept.content)));
            group.names.insert(name, (event.key, accept.content));
        }
        group.deliveries.insert(event.key, deliveries.clone());
        if let Some(entry) = &accept.audit {
            self.audit((**entry).clone(), group);
        }
        Accepted { key: event.key, id: event.id.clone(), duplicate: false, deliveries }
    }

    fn duplicate(&self, accept: &Accept, first: EventKey, group: &Group) -> Result<Accepted, StoreError> {
        let deliveries = match group.deliveries.get(&first) {
            Some(deliveries) => Some((deliveries.clone(), None)),
            None => read::event(&self.db, &accept.event.tenant, first)?
                .map(|row| (row.deliveries, Some(row.event.id))),
        };
        let (deliveries, id) = deliveries.unwrap_or_default();
        let own = if accept.client_chosen { accept.event.id.clone() } else { EventId::from(first) };
        Ok(Accepted { key: first, id: id.unwrap_or(own), duplicate: true, deliveries })
    }

    fn stored_name(&self, name: Option<Vec<u8>>) -> Result<Option<(EventKey, [u8; 16])>, StoreError> {
        name.map_or(Ok(None), |name| read::name(&self.db, &name))
    }

    fn load_end(&mut self, lane: SubscriptionId) -> Result<(), StoreError> {
        if !self.ends.contains_key(&lane) {
            self.ends.insert(lane, read::lane(&self.db, lane)?.end);
        }
        Ok(())
    }

    fn commit(&mut self, mut group: Group) {
        if group.position > 0 {
            let position = group.position.to_be_bytes().to_vec();
            group.put(key::last_position(), Some(position));
        }
        for (key, value) in self.usage.changed() {
            group.put(key, value);
        }
        let began = self.clock.since_start();
        let done = self.db.apply_batch(group.batch).and_then(|()| self.db.flush().map(drop));
        self.writes.done(done.is_ok(), self.clock.since_start() - began);
        free_replaced(group.rows);
        if let Err(error) = &done {
            // What was numbered is not there: number anew from what is.
            self.ends.clear();
            self.usage = Usage::default();
            self.closed.retain(|tenant| !group.closed.contains(tenant));
            self.audit.reset(group.audit_before);
            tracing::error!(%error, "the store could not be written");
        }
        // Before anybody is told that it is written: what was acknowledged before a backup ends is in it.
        if let Some(told) = group.told.filter(|told| !told.is_empty()) {
            self.tap = self.tap.take().filter(|tap| tap.hand(told, done.is_ok()));
        }
        let result = || done.clone().map_err(failure);
        for (accepted, answer) in group.accepts {
            let _nobody_waits = answer.send(result().map(|()| accepted));
        }
        for answer in group.others {
            let _nobody_waits = answer.send(result());
        }
    }
}

/// Frees the memory of tree nodes that a batch of so many rows has replaced.
///
/// sled copies a node at each insert and leaves the old one to crossbeam-epoch, which frees a bounded number of
/// objects every so many operations, not in proportion to what is left to it. A thread that inserts thousands of rows
/// in one operation leaves more than it frees: without this, memory grows by 3 KiB a row for as long as rows come.
pub(super) fn free_replaced(rows: usize) {
    // One flush frees up to 8 bags of 64 objects; a row leaves about two.
    for _ in 0..rows / 128 + 3 {
        crossbeam_epoch::pin().flush();
    }
}

fn name_of_key(accept: &Accept) -> Option<Vec<u8>> {
    accept.idempotency.as_ref().map(|digest| key::idempotency(digest))
}

fn name_of_id(accept: &Accept) -> Option<Vec<u8>> {
    accept.client_chosen.then(|| key::client_id(&accept.event.tenant, &accept.event.id))
}

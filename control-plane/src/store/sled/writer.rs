//! The one thread that writes: it gathers what has queued up and makes one commit of it, which is synced once.
//!
//! That is the group commit: while one sync runs, the next group gathers. A group of settlements alone waits a
//! moment for an accept to share its sync with, because nobody waits for a settlement.
//!
//! The thread answers whatever the disk does: an error of the disk is the answer to the group that met it, and while sled is
//! closed after an error every command is answered with that error until sled is open again.

mod grouping;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _, HashSet};
use postrider_domain::audit;
use postrider_domain::id::{SubscriptionId, TenantId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::audit::Ends;
use super::commits::Commits;
use super::engine::{Engine, guarded};
pub(super) use super::group::Write;
use super::group::{Answer, Group, Results, settle};
use super::key;
use super::opening::again;
use super::pulse::{self, Pulse};
use super::tap::Tap;
use super::usage::Usage;
use crate::clock::Clock;
use crate::metrics::Writes;
use crate::store::space::Space;
use crate::store::{Accept, Accepted, Conflict, Settlement, StoreError};

/// Commands that may wait for the thread. Each caller waits for its answer, so callers bound this too.
const QUEUE: usize = 1024;
/// Rows of one batch, about: it bounds how long the first of a group waits for the last.
const GROUP_ROWS: usize = 4096;
/// How long settlements wait for company.
const LINGER: Duration = Duration::from_millis(3);
/// How long the thread may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How long files that this process still holds itself may keep sled from being opened again.
const FREE_WITHIN: Duration = Duration::from_secs(15);
/// How long after a failed attempt sled is opened again.
const REOPEN_EVERY: Duration = Duration::from_millis(500);
/// Steps of cleaning that are made at a time while commands wait, and while none does; each takes about 15 µs.
const CLEANED_AT_ONCE: usize = 4;
const CLEANED_WHILE_IDLE: usize = 8;
/// How often that is while commands wait, and while none does.
const CLEAN_EVERY: Duration = Duration::from_millis(4);
const CLEAN_EVERY_IDLE: Duration = Duration::from_millis(1);
/// How often the journal is asked to give space back while the disk is nearly full.
const MAKE_ROOM_EVERY: Duration = Duration::from_secs(10);

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

/// What the thread does next.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the thread's stack")]
enum Next {
    Command(Command),
    /// sled has failed while its log was cleaned.
    Closed,
    /// Nobody is left who could send a command.
    End,
}

/// What is done between two batches.
enum Between {
    /// From the next batch on a backup is told of each, or none is any more.
    Tap(Option<Tap>),
    /// A read has failed: sled may have to be opened again.
    Probe,
    /// The thread ends.
    Close,
}

/// Hands commands to the thread. Dropped, it waits for the thread's end: then the store can be opened again.
pub(super) struct Writer {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    /// Why the thread cannot go on, once it cannot.
    failed: watch::Receiver<Option<String>>,
    /// Whether the thread has not answered for so long that nobody is left waiting for it.
    silent: watch::Receiver<bool>,
    /// Ends the thread that watches it, when it is dropped.
    _watching: std::sync::mpsc::Sender<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.commands.take());
        let Some(thread) = self.thread.take() else { return };
        let mut looks = END_WITHIN.as_millis();
        while !thread.is_finished() {
            if looks == 0 {
                tracing::error!("the store's thread did not stop: the disk does not respond");
                return;
            }
            looks -= 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.join().is_err() {
            tracing::error!("the store's thread panicked");
        }
    }
}

impl Writer {
    /// Starts the thread. Must be called within a tokio runtime.
    pub(super) fn spawn(
        commits: Commits,
        audit: Ends,
        closed: HashSet<TenantId>,
        space: Space,
        writes: Writes,
    ) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (failing, failed) = watch::channel(None);
        let failing = Arc::new(failing);
        let (pulse, (silences, silent)) = (Pulse::default(), watch::channel(false));
        let (watching, stop) = std::sync::mpsc::channel();
        let (watched, fails) = (pulse.clone(), Arc::downgrade(&failing));
        start("store-watch", move || pulse::watch(&watched, &silences, &fails, &stop));
        let thread = Thread {
            engine: commits.engine(),
            commits,
            queue,
            runtime: Handle::current(),
            ends: HashMap::new(),
            audit,
            usage: Usage::default(),
            closed,
            tap: None,
            space,
            made_room: None,
            cleaned: Duration::ZERO,
            failing,
            pulse,
            writes,
            clock: Clock::start(),
        };
        let thread = start("store", move || thread.run());
        Self { commands: Some(commands), thread: Some(thread), failed, silent, _watching: watching }
    }

    /// Returns when the thread cannot go on, and why.
    pub(super) async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_else(|| "the store's thread has ended".to_owned())
    }

    /// Has the thread look whether sled still works. Nobody waits for it.
    pub(super) fn probe(&self) {
        let (answer, _) = oneshot::channel();
        if let Some(commands) = &self.commands {
            let _full_or_closed = commands.try_send(Command::Between(Between::Probe, answer));
        }
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
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let (answer, done) = oneshot::channel();
        let Some(commands) = &self.commands else { return Ok(()) };
        let closed = async {
            if commands.send(Command::Between(Between::Close, answer)).await.is_ok() {
                let _closed = done.await;
            }
        };
        self.unless_silent(closed).await
    }

    /// For a backup, which may be at work when this is dropped.
    pub(super) fn handle(&self) -> WriterHandle {
        WriterHandle(self.commands.as_ref().map(mpsc::Sender::downgrade))
    }

    async fn send<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable("it is closed".to_owned());
        let (answer, result) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(gone)?;
        let answered = async {
            commands.send(command(answer)).await.map_err(|_| gone())?;
            result.await.map_err(|_| gone())?
        };
        self.unless_silent(answered).await?
    }

    /// What comes of work, unless the thread does not answer.
    async fn unless_silent<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let mut silent = self.silent.clone();
        tokio::select! {
            biased;
            done = work => Ok(done),
            Ok(_) = silent.wait_for(|silent| *silent) => Err(StoreError::Unavailable(pulse::silence())),
        }
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.expect("the process may start a thread")
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
    commits: Commits,
    engine: Engine,
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
    space: Space,
    /// When the journal was last asked to give space back.
    made_room: Option<Duration>,
    /// When sled's log was last cleaned a little.
    cleaned: Duration,
    failing: Arc<watch::Sender<Option<String>>>,
    pulse: Pulse,
    writes: Writes,
    clock: Clock,
}

impl Thread {
    fn run(mut self) {
        loop {
            if !self.commits.is_open() && self.reopen() {
                return;
            }
            let command = match self.next() {
                Next::Command(command) => command,
                Next::Closed => continue,
                Next::End => break,
            };
            self.pulse.begin();
            let mut group = Group::after(self.audit.head());
            let mut between = self.add(command, &mut group);
            while between.is_none() && group.rows.len() < GROUP_ROWS {
                let Some(command) = self.gathered(group.urgent) else { break };
                between = self.add(command, &mut group);
            }
            self.commit(group);
            let ends = between.is_some_and(|(between, answer)| {
                let ends = self.between(between);
                let _nobody_waits = answer.send(());
                ends
            });
            self.pulse.end();
            if ends {
                return;
            }
        }
        self.close();
    }

    /// The next command. sled's log is cleaned a little now and then, and more while no command waits.
    fn next(&mut self) -> Next {
        while self.commits.needs_cleaning() {
            if self.clock.since_start() > self.cleaned + CLEAN_EVERY {
                self.clean(CLEANED_AT_ONCE);
            }
            for _ in 0..CLEANED_WHILE_IDLE {
                if let Ok(command) = self.queue.try_recv() {
                    return Next::Command(command);
                }
                if !self.commits.needs_cleaning() {
                    break;
                }
                self.clean(1);
            }
            let queue = &mut self.queue;
            let next = async { tokio::time::timeout(CLEAN_EVERY_IDLE, queue.recv()).await };
            if let Ok(next) = self.runtime.block_on(next) {
                return next.map_or(Next::End, Next::Command);
            }
        }
        if !self.commits.is_open() {
            return Next::Closed;
        }
        self.queue.blocking_recv().map_or(Next::End, Next::Command)
    }

    fn clean(&mut self, steps: usize) {
        self.pulse.begin();
        self.commits.clean(steps);
        self.pulse.end();
        self.cleaned = self.clock.since_start();
    }

    /// Does what is to be done between two commits; whether the thread ends.
    fn between(&mut self, between: Between) -> bool {
        match between {
            Between::Tap(tap) => self.tap = tap,
            Between::Probe => self.commits.probe(),
            Between::Close => {
                self.close();
                return true;
            }
        }
        false
    }

    fn close(&mut self) {
        if let Err(error) = self.commits.close() {
            tracing::error!(%error, "the store was not closed cleanly; the next start recovers it from the journal");
        }
    }

    /// Opens sled again as soon as that works, and meanwhile answers everybody with why it does not; whether the thread ends.
    fn reopen(&mut self) -> bool {
        self.forget_what_is_numbered();
        // What a backup is told must follow from what it reads.
        self.tap = self.tap.take().filter(|tap| tap.hand(Vec::new(), false));
        let closed_at = self.clock.since_start();
        loop {
            self.pulse.begin();
            let reopened = self.commits.reopen();
            self.pulse.end();
            let Err(error) = reopened else { return false };
            self.engine.close(Some(again(&error)));
            let is_final = match error {
                StoreError::Lost(_) | StoreError::Damaged { .. } => true,
                StoreError::Busy(_) => self.clock.since_start() > closed_at + FREE_WITHIN,
                _ => false,
            };
            if is_final {
                tracing::error!(%error, "failed to reopen the embedded store in this process");
                let _nobody_looks = self.failing.send(Some(error.to_string()));
            }
            if self.refuse_for(REOPEN_EVERY) {
                return true;
            }
        }
    }

    /// Answers all commands with why the store is closed, for so long; whether the thread ends.
    fn refuse_for(&mut self, time: Duration) -> bool {
        let end = self.clock.since_start() + time;
        loop {
            let left = end.saturating_sub(self.clock.since_start());
            let queue = &mut self.queue;
            let next = self.runtime.block_on(async { tokio::time::timeout(left, queue.recv()).await });
            let Ok(command) = next else { return false };
            let error = || self.engine.problem();
            match command {
                None => return true,
                Some(Command::Accept(_, answer)) => drop(answer.send(Err(error()))),
                Some(Command::Settle(_, answer) | Command::Change(_, answer)) => {
                    drop(answer.send(Err(error())))
                }
                Some(Command::Between(between, answer)) => {
                    let ends = matches!(between, Between::Close);
                    let _nobody_waits = answer.send(());
                    if ends {
                        return true;
                    }
                }
            }
        }
    }

    /// Forgets what was derived from rows, because they may not be there.
    fn forget_what_is_numbered(&mut self) {
        self.ends.clear();
        self.usage = Usage::default();
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
            Command::Accept(batch, answer) => {
                match self.admit().and_then(|()| guarded(|| self.accept(batch, group))) {
                    Ok(accepted) => group.accepts.push((accepted, answer)),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Command::Settle(mut settlement, answer) => {
                match guarded(|| self.prepare_settlement(&mut settlement, group)) {
                    Ok(()) => {
                        settle(&settlement, group);
                        settlement.audit.into_iter().for_each(|entry| self.audit(entry, group));
                        group.others.push(answer);
                    }
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Command::Change(change, answer) => match guarded(|| self.change(change, group)) {
                Ok(()) => group.others.push(answer),
                Err(error) => drop(answer.send(Err(error))),
            },
            Command::Between(between, answer) => return Some((between, answer)),
        }
        None
    }

    /// Refuses events while the disk is nearly full.
    fn admit(&mut self) -> Result<(), StoreError> {
        let now = self.clock.since_start();
        let Some(short) = self.space.short(now) else { return Ok(()) };
        if self.made_room.is_none_or(|made| made + MAKE_ROOM_EVERY < now) {
            self.made_room = Some(now);
            self.commits.make_room();
        }
        Err(StoreError::Full(short.to_string()))
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
        let done = self.commits.commit(&group.rows);
        self.writes.done(done.is_ok(), self.clock.since_start() - began);
        if done.is_err() {
            // What was numbered is not there: number anew from what is.
            self.forget_what_is_numbered();
            self.closed.retain(|tenant| !group.closed.contains(tenant));
            self.audit.reset(group.audit_before);
        }
        // Before anybody is told that it is written: what was acknowledged before a backup ends is in it.
        if !group.rows.is_empty() {
            self.tap = self.tap.take().filter(|tap| tap.hand(group.rows, done.is_ok()));
        }
        let result = || done.as_ref().copied().map_err(again);
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

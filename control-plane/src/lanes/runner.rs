//! Runs the schedule: takes in what happened, asks it what follows, and carries that out.
//!
//! One task owns it. Everybody else talks to it through [`super::Lanes`]; it talks to links through their command
//! queues and to the store through reads of its own and the settle queue. It never waits for any of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::id::{DeliveryId, PoolName, SubscriptionId};
use postrider_domain::lane::health::{Turn, View};
use postrider_domain::lane::{Breaker, Load};
use postrider_domain::time::Timestamp;
use postrider_telemetry::tasks::caught;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{Instrument as _, debug, error, info, warn};

use super::{Asked, Inbox, Input, LinkCommand, Question};
use crate::clock::Clock;
use crate::disabler::{Change, Changes};
use crate::operational::{About, Notice, Notices};
use crate::schedule::{Answer, Effect, HolderId, Reported, Scheduler, Ticket, Why};
use crate::settle::{Item, Stored};
use crate::store::{Store, StoreError};

/// Inputs taken at once.
const GROUP: usize = 256;
/// Reads under way at once for lanes and people: lanes that are behind share them.
const READS: usize = 8;
/// Reads under way at once for what agents claim and report late: however much that is, lanes and people do not wait for it.
const READS_FOR_AGENTS: usize = 2;
/// The process was suspended when it wakes so much later than it wanted to.
const SUSPENDED: Duration = Duration::from_secs(2);
/// How long a failed read waits before the schedule hears of it and asks again.
const READ_RETRY: Duration = Duration::from_millis(250);

/// The task that owns the schedule.
pub struct Runner {
    scheduler: Scheduler,
    inbox: mpsc::Receiver<Input>,
    store: Arc<dyn Store>,
    settle: mpsc::Sender<Item>,
    /// What the settle queue had no room for, in order: nothing is dropped, so nothing stays counted as unwritten.
    unsent: VecDeque<Item>,
    changes: Changes,
    notices: Notices,
    clock: Clock,
    reads: JoinSet<Input>,
    read_permits: Arc<Semaphore>,
    agent_permits: Arc<Semaphore>,
    links: HashMap<HolderId, mpsc::Sender<LinkCommand>>,
    tickets: HashMap<Ticket, Asked>,
    next_ticket: Ticket,
    /// Answered after the effects of a Hello are carried out, so that they come first.
    welcomes: Vec<(oneshot::Sender<HolderId>, HolderId)>,
    drained: Vec<oneshot::Sender<()>>,
}

impl Runner {
    /// A runner of this schedule. Subscriptions that are to be disabled or enabled become `changes`, what people want to
    /// know becomes `notices`.
    #[must_use]
    pub fn new(
        scheduler: Scheduler,
        inbox: Inbox,
        store: Arc<dyn Store>,
        settle: mpsc::Sender<Item>,
        changes: Changes,
        notices: Notices,
        clock: Clock,
    ) -> Self {
        Self {
            scheduler,
            inbox: inbox.0,
            store,
            settle,
            unsent: VecDeque::new(),
            changes,
            notices,
            clock,
            reads: JoinSet::new(),
            read_permits: Arc::new(Semaphore::new(READS)),
            agent_permits: Arc::new(Semaphore::new(READS_FOR_AGENTS)),
            links: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            welcomes: Vec::new(),
            drained: Vec::new(),
        }
    }

    /// Runs until it is cancelled.
    pub async fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            let now = self.clock.now();
            self.scheduler.tick(now);
            self.carry_out(now);
            let wait = self.scheduler.next_tick(now).since(now);
            tokio::select! {
                taken = self.inbox.recv_many(&mut group, GROUP) => if taken == 0 { return },
                Some(read) = self.reads.join_next() => {
                    group.push(read.expect("a read catches its panics and is never aborted"));
                }
                room = self.settle.reserve(), if !self.unsent.is_empty() => {
                    match room {
                        Ok(room) => {
                            if let Some(item) = self.unsent.pop_front() {
                                room.send(item);
                            }
                        }
                        // The settle task is gone: the program is ending, and agents will report again.
                        Err(_) => self.unsent.clear(),
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
            let late = self.clock.now().since(now + wait);
            let now = self.clock.now();
            if late > SUSPENDED {
                self.scheduler.stalled(now);
            }
            for input in group.drain(..) {
                self.take_in(input, now);
            }
        }
    }

    fn take_in(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Accepted(deliveries) => self.scheduler.accepted(&deliveries, now),
            Input::Changed(settings) => self.scheduler.changed(settings, now),
            Input::Deleted(id) => self.scheduler.deleted(id),
            Input::Connected(hello, commands, answer) => {
                let holder = self.scheduler.connected(hello, now);
                self.links.insert(holder, commands);
                self.welcomes.push((answer, holder));
            }
            Input::Disconnected(holder) => {
                self.links.remove(&holder);
                self.scheduler.disconnected(holder, now);
            }
            Input::AgentDraining(holder, answer) => {
                self.scheduler.agent_draining(holder, now);
                let _left_already = answer.send(());
            }
            Input::SetDrained(holders, drained) => {
                holders.into_iter().for_each(|id| self.scheduler.set_drained(id, drained, now));
            }
            Input::PoolChanged(name, terms) => self.scheduler.pool_changed(&name, terms, now),
            Input::Reported(holder, reports, _room) => {
                for (sequence, key, report) in reports {
                    let reported = Reported { holder, sequence };
                    self.scheduler.reported(reported, key, report, rand::random(), now);
                }
            }
            Input::Stored(stored) => self.take_in_stored(&stored, now),
            Input::Retry(id, asked) => {
                let ticket = self.ticket(asked);
                self.scheduler.retry(id, ticket, now);
            }
            Input::Cancel(id, asked) => {
                let ticket = self.ticket(asked);
                self.scheduler.cancel(id, ticket, now);
            }
            Input::Ask(question) => self.tell_how_it_is(question, now),
            Input::Drain(answer) => {
                self.scheduler.drain();
                self.drained.push(answer);
            }
            Input::Fresh(lane, rows) => self.scheduler.loaded_fresh(lane, rows, now),
            Input::Due(lane, rows) => self.scheduler.loaded_due(lane, rows, now),
            Input::Row(id, why, row) => self.scheduler.row(id, *why, *row, now),
        }
    }

    fn tell_how_it_is(&self, question: Question, now: Timestamp) {
        match question {
            Question::Pools(answer) => {
                let _nobody_waits = answer.send(self.scheduler.pools(now));
            }
            Question::Unserved(ids, answer) => {
                let _nobody_waits = answer.send(self.scheduler.unserved(&ids));
            }
            Question::Conditions(ids, answer) => {
                let conditions = ids.into_iter().map(|id| self.scheduler.condition(id, now)).collect();
                let _nobody_waits = answer.send(conditions);
            }
            Question::Health(ids, answer) => {
                let health = ids.into_iter().map(|id| self.scheduler.health(id, now)).collect();
                let _nobody_waits = answer.send(health);
            }
            Question::Survey(answer) => drop(answer.send(self.scheduler.survey())),
            Question::Beat(answer) => drop(answer.send(())),
            Question::Levels(answer) => drop(answer.send(self.scheduler.levels())),
            Question::JobsHeld(holders, answer) => {
                let _nobody_waits =
                    answer.send(holders.into_iter().map(|id| self.scheduler.jobs_held(id)).sum());
            }
        }
    }

    fn take_in_stored(&mut self, stored: &Stored, now: Timestamp) {
        self.scheduler.stored(&stored.ids, now);
        for ticket in &stored.answers {
            self.answer(*ticket, Ok(()));
        }
        self.acknowledge(&stored.acknowledge);
    }

    fn carry_out(&mut self, now: Timestamp) {
        let mut acknowledge = Vec::new();
        for effect in self.scheduler.effects(now) {
            match effect {
                Effect::Dispatch { holder, jobs } => self.command(holder, LinkCommand::Jobs(jobs)),
                Effect::Load { lane, load } => self.load(lane, load),
                Effect::Read { id, why } => self.read(id, why),
                Effect::Settle { settle, acknowledge, answer } => {
                    let asked = answer.and_then(|ticket| self.tickets.get_mut(&ticket));
                    let audit = asked.and_then(|asked| asked.audit.take());
                    self.write(Item::Delivery { settle, acknowledge, answer, audit });
                }
                Effect::Acknowledge(reported) => acknowledge.push(reported),
                Effect::Withdraw { holder, key } => self.command(holder, LinkCommand::Forget(vec![key])),
                Effect::Forget { holder, keys } => self.command(holder, LinkCommand::Forget(keys)),
                Effect::Replace { holder, by_another_process } => {
                    self.command(holder, LinkCommand::Replaced(by_another_process));
                    self.links.remove(&holder);
                }
                Effect::ForeignReport { holder, key } => {
                    self.command(holder, LinkCommand::ForeignReport(key))
                }
                Effect::Disable(id) => self.changes.want(Change::Gone(id)),
                Effect::Enable(id) => self.changes.want(Change::Enable(id)),
                Effect::Turned { id, turn, view, was_disabled } => self.turned(id, turn, view, was_disabled),
                Effect::Trouble(lane, trouble) => self.write(Item::Trouble(lane, trouble)),
                Effect::Breaker(id, turned) => tell(id, turned),
                Effect::Fallback { pool, taken_over_by } => tell_of_fallback(&pool, taken_over_by.as_ref()),
                Effect::LowWater(lane, number) => self.write(Item::LowWater(lane, number)),
                Effect::Answer(ticket, answer) => self.answer(ticket, answer),
            }
        }
        self.acknowledge(&acknowledge);
        for (answer, holder) in self.welcomes.drain(..) {
            let _left_already = answer.send(holder);
        }
        if self.scheduler.is_quiet() {
            for answer in self.drained.drain(..) {
                let _nobody_waits = answer.send(());
            }
        }
    }

    fn turned(&self, id: SubscriptionId, turn: Turn, view: Box<View>, was_disabled: bool) {
        let about = match turn {
            Turn::GivenUp => return self.changes.want(Change::Failing(id, view)),
            Turn::Failing(step) => About::Failing(step, view),
            Turn::Recovering => About::Recovering(view, was_disabled),
            Turn::Recovered => About::Recovered(view),
        };
        self.notices.tell(Notice::Subscription(id, about));
    }

    fn acknowledge(&mut self, reported: &[Reported]) {
        let mut by_holder: HashMap<HolderId, Vec<u64>> = HashMap::new();
        for reported in reported {
            by_holder.entry(reported.holder).or_default().push(reported.sequence);
        }
        for (holder, sequences) in by_holder {
            self.command(holder, LinkCommand::Acknowledge(sequences));
        }
    }

    /// A link that does not take its commands is stuck: dropping the sender ends it.
    fn command(&mut self, holder: HolderId, command: LinkCommand) {
        let Some(link) = self.links.get(&holder) else {
            debug!(?holder, "the link is gone");
            return;
        };
        if link.try_send(command).is_err() {
            warn!(?holder, "the link does not take commands; closing it");
            self.links.remove(&holder);
        }
    }

    fn write(&mut self, item: Item) {
        if self.settle.is_closed() {
            error!(
                "failed to store an outcome because the settle task has ended; the agent will report it again"
            );
            return;
        }
        self.unsent.push_back(item);
        while let Ok(room) = self.settle.try_reserve() {
            let Some(item) = self.unsent.pop_front() else { return };
            room.send(item);
        }
    }

    fn load(&mut self, lane: SubscriptionId, load: Load) {
        let (store, permits) = (self.store.clone(), self.read_permits.clone());
        let read = async move {
            let _permit = permits.acquire().await;
            match load {
                Load::Fresh { from, limit } => {
                    Input::Fresh(lane, slow_if_failed(store.fresh(lane, from, limit)).await)
                }
                Load::Open { from, limit } => {
                    Input::Fresh(lane, slow_if_failed(store.open(lane, from, limit)).await)
                }
                Load::Due { limit } => Input::Due(lane, slow_if_failed(store.due(lane, limit)).await),
            }
        };
        self.reads.spawn(read.in_current_span());
    }

    fn read(&mut self, id: DeliveryId, why: Box<Why>) {
        let permits = match &*why {
            Why::Recognise(..) | Why::Report { .. } => &self.agent_permits,
            Why::Retry(_) | Why::Cancel(_) => &self.read_permits,
        };
        let (store, permits) = (self.store.clone(), permits.clone());
        let read = async move {
            let _permit = permits.acquire().await;
            let row = slow_if_failed(store.delivery(id)).await;
            Input::Row(id, why, Box::new(row.ok_or(())))
        };
        self.reads.spawn(read.in_current_span());
    }

    fn ticket(&mut self, asked: Asked) -> Ticket {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, asked);
        self.next_ticket
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if let Some(asked) = self.tickets.remove(&ticket) {
            let _nobody_waits = asked.answer.send(answer);
        }
    }
}

fn tell(id: SubscriptionId, breaker: Breaker) {
    match breaker {
        Breaker::Open => {
            warn!(subscription = %id, "the endpoint keeps failing: circuit open, one delivery at a time probes it");
        }
        Breaker::HalfOpen => {
            info!(subscription = %id, "the endpoint responds again: circuit half-open, few deliveries at once at first");
        }
        Breaker::Closed => info!(subscription = %id, "the endpoint is healthy: circuit closed"),
    }
}

fn tell_of_fallback(pool: &PoolName, taken_over_by: Option<&PoolName>) {
    match taken_over_by {
        Some(fallback) => {
            warn!(%pool, %fallback, "no agent of the pool takes jobs; its fallback pool delivers for subscriptions that allow it");
        }
        None => info!(%pool, "the fallback pool no longer delivers for the pool"),
    }
}

/// What a read gives. A read that fails or panics is lost only for now: the lane hears of it and asks again.
async fn slow_if_failed<T>(read: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    match caught(read).await {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(error)) => warn!(%error, "failed to read the store; retrying"),
        Err(error) => error!(%error, "a read of the store panicked; retrying"),
    }
    tokio::time::sleep(READ_RETRY).await;
    None
}

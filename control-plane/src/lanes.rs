//! Where everybody tells and asks the task that owns the schedule, its [`Runner`].

mod runner;

use std::sync::Arc;

use ahash::{HashMap, HashSet};
use postrider_domain::audit::Entry;
use postrider_domain::delivery::Delivery;
use postrider_domain::id::{DeliveryId, PoolName, SubscriptionId};
use postrider_domain::lane::health::View;
use postrider_proto::session::{JobKey, Report};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub use self::runner::Runner;
use crate::schedule::{
    Answer, Assignment, Condition, Connected, HolderId, LaneSettings, Levels, PoolTerms, PoolView, Refusal,
    Survey, Why,
};
use crate::settle::Stored;
use crate::store::{DeliveryRow, DueRows, FreshRows};

/// Inputs that may wait. Senders wait when it is full, and with them whoever they serve.
const QUEUE: usize = 4096;

/// KiB of reports that may wait, with at least one for each: few enough to be worked through in some milliseconds.
const REPORTS_KIB: u32 = 4 * 1024;

/// What a report weighs, in KiB.
fn weight(report: &Report) -> u32 {
    let Report::Made(outcome) = report else { return 1 };
    let response = outcome.response.as_ref().map_or(0, |response| {
        let headers = response.headers.iter().map(|(name, value)| name.len() + value.len());
        response.body.len() + headers.sum::<usize>()
    });
    u32::try_from((response + outcome.detail.len()) / 1024).unwrap_or(REPORTS_KIB).saturating_add(1)
}

/// What a link is told.
#[derive(Debug)]
pub enum LinkCommand {
    /// Sign and send these.
    Jobs(Vec<Assignment>),
    /// These outcomes are stored.
    Acknowledge(Vec<u64>),
    /// These jobs are not needed any more.
    Forget(Vec<JobKey>),
    /// The agent has reported of a job that it does not have.
    ForeignReport(JobKey),
    /// Another connection takes this one's place; `true` when it is another process's.
    Replaced(bool),
}

enum Input {
    Accepted(Vec<(SubscriptionId, Delivery)>),
    Changed(LaneSettings),
    Deleted(SubscriptionId),
    Connected(Connected, mpsc::Sender<LinkCommand>, oneshot::Sender<HolderId>),
    Disconnected(HolderId),
    AgentDraining(HolderId, oneshot::Sender<()>),
    SetDrained(Vec<HolderId>, bool),
    PoolChanged(PoolName, PoolTerms),
    Reported(HolderId, Vec<(u64, JobKey, Report)>, OwnedSemaphorePermit),
    Stored(Stored),
    Retry(DeliveryId, Asked),
    Cancel(DeliveryId, Asked),
    Ask(Question),
    Drain(oneshot::Sender<()>),
    Fresh(SubscriptionId, Option<FreshRows>),
    Due(SubscriptionId, Option<DueRows>),
    Row(DeliveryId, Box<Why>, Box<Result<Option<DeliveryRow>, ()>>),
}

/// What somebody wants to know of how things are now; nothing changes by it.
enum Question {
    Pools(oneshot::Sender<HashMap<PoolName, PoolView>>),
    Unserved(Vec<SubscriptionId>, oneshot::Sender<HashSet<SubscriptionId>>),
    Conditions(Vec<DeliveryId>, oneshot::Sender<Vec<Condition>>),
    Health(Vec<SubscriptionId>, oneshot::Sender<Vec<Option<View>>>),
    Survey(oneshot::Sender<Survey>),
    JobsHeld(Vec<HolderId>, oneshot::Sender<usize>),
    Beat(oneshot::Sender<()>),
    Levels(oneshot::Sender<Levels>),
}

/// Somebody wants a delivery changed, and waits for an answer.
struct Asked {
    answer: oneshot::Sender<Answer>,
    /// Written with the change; nothing is when there is none.
    audit: Option<Box<Entry>>,
}

/// Where others hand in what happened.
#[derive(Clone)]
pub struct Lanes {
    inputs: mpsc::Sender<Input>,
    /// Room for reports.
    reports: Arc<Semaphore>,
}

/// The queue that belongs to a [`Lanes`].
pub struct Inbox(mpsc::Receiver<Input>);

impl Lanes {
    /// A queue, and its receiving end for [`Runner::new`].
    #[must_use]
    pub fn new() -> (Self, Inbox) {
        let (inputs, inbox) = mpsc::channel(QUEUE);
        (Self { inputs, reports: Arc::new(Semaphore::new(REPORTS_KIB as usize)) }, Inbox(inbox))
    }

    /// Deliveries were accepted, in the order of their numbers.
    pub async fn accepted(&self, deliveries: Vec<(SubscriptionId, Delivery)>) {
        self.send(Input::Accepted(deliveries)).await;
    }

    /// A subscription was created or changed.
    pub async fn changed(&self, settings: LaneSettings) {
        self.send(Input::Changed(settings)).await;
    }

    /// A subscription was deleted.
    pub async fn deleted(&self, id: SubscriptionId) {
        self.send(Input::Deleted(id)).await;
    }

    /// An agent's stream said Hello; what it is told comes through `commands`.
    pub async fn connected(&self, hello: Connected, commands: mpsc::Sender<LinkCommand>) -> Option<HolderId> {
        self.ask(|answer| Input::Connected(hello, commands, answer)).await
    }

    /// An agent's stream ended.
    pub async fn disconnected(&self, holder: HolderId) {
        self.send(Input::Disconnected(holder)).await;
    }

    /// An agent wants no more jobs. When this returns, those it will get are in its link's command queue.
    pub async fn agent_draining(&self, holder: HolderId) {
        self.ask(|answer| Input::AgentDraining(holder, answer)).await;
    }

    /// Somebody wants an agent's holders to get no more jobs, or to get some again.
    pub async fn set_drained(&self, holders: Vec<HolderId>, drained: bool) {
        self.send(Input::SetDrained(holders, drained)).await;
    }

    /// A pool was created, changed or deleted.
    pub async fn pool_changed(&self, name: PoolName, terms: PoolTerms) {
        self.send(Input::PoolChanged(name, terms)).await;
    }

    /// How pools are now.
    pub async fn pools(&self) -> HashMap<PoolName, PoolView> {
        self.ask(|answer| Input::Ask(Question::Pools(answer))).await.unwrap_or_default()
    }

    /// Which of these subscriptions have no agent that takes jobs.
    pub async fn unserved(&self, ids: Vec<SubscriptionId>) -> HashSet<SubscriptionId> {
        self.ask(|answer| Input::Ask(Question::Unserved(ids, answer))).await.unwrap_or_default()
    }

    /// An agent reports of jobs: the outcome's sequence, the job, what happened.
    pub async fn reported(&self, holder: HolderId, reports: Vec<(u64, JobKey, Report)>) {
        let weight = reports.iter().fold(0, |sum: u32, (_, _, report)| sum.saturating_add(weight(report)));
        let room = self.reports.clone().acquire_many_owned(weight.min(REPORTS_KIB)).await;
        let room = room.expect("it is never closed");
        self.send(Input::Reported(holder, reports, room)).await;
    }

    /// New states were written.
    pub async fn stored(&self, stored: Stored) {
        self.send(Input::Stored(stored)).await;
    }

    /// Somebody wants another attempt of a delivery; the audit log is told in the same write, unless it knows already.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn retry(&self, id: DeliveryId, audit: Option<Entry>) -> Answer {
        let audit = audit.map(Box::new);
        self.ask(|answer| Input::Retry(id, Asked { answer, audit })).await.unwrap_or(Err(Refusal::Busy))
    }

    /// Somebody wants a delivery's end; the audit log is told in the same write, unless it knows already.
    ///
    /// # Errors
    /// Why it goes on.
    pub async fn cancel(&self, id: DeliveryId, audit: Option<Entry>) -> Answer {
        let audit = audit.map(Box::new);
        self.ask(|answer| Input::Cancel(id, Asked { answer, audit })).await.unwrap_or(Err(Refusal::Busy))
    }

    /// What is true of deliveries only now.
    pub async fn conditions(&self, ids: Vec<DeliveryId>) -> Vec<Condition> {
        let count = ids.len();
        self.ask(|answer| Input::Ask(Question::Conditions(ids, answer)))
            .await
            .unwrap_or_else(|| vec![Condition::None; count])
    }

    /// How the endpoints of subscriptions do.
    pub async fn health(&self, ids: Vec<SubscriptionId>) -> Vec<Option<View>> {
        let count = ids.len();
        self.ask(|answer| Input::Ask(Question::Health(ids, answer)))
            .await
            .unwrap_or_else(|| vec![None; count])
    }

    /// What waits, all over.
    pub async fn survey(&self) -> Survey {
        self.ask(|answer| Input::Ask(Question::Survey(answer))).await.unwrap_or_default()
    }

    /// How many jobs these holders have together.
    pub async fn jobs_held(&self, holders: Vec<HolderId>) -> usize {
        self.ask(|answer| Input::Ask(Question::JobsHeld(holders, answer))).await.unwrap_or(0)
    }

    /// Returns when the schedule has taken in all that came before; `None` when it has ended.
    pub async fn beat(&self) -> Option<()> {
        self.ask(|answer| Input::Ask(Question::Beat(answer))).await
    }

    /// How things are now, all over; `None` when the schedule has ended.
    pub async fn levels(&self) -> Option<Levels> {
        self.ask(|answer| Input::Ask(Question::Levels(answer))).await
    }

    /// Hands nothing out any more; returns when no job is under way and everything is settled.
    pub async fn drain(&self) {
        self.ask(Input::Drain).await;
    }

    async fn send(&self, input: Input) {
        // The runner ends last; without it nothing that happens matters any more.
        let _stopping = self.inputs.send(input).await;
    }

    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.send(input(answer)).await;
        answered.await.ok()
    }
}

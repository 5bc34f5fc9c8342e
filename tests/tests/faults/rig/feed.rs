//! A load of single `Emit` calls that goes on through every fault: an event without an answer is sent again, with
//! its idempotency key, until it is acknowledged or the load is stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use postrider_proto::v1;
use postrider_tests::api::Api;
use postrider_tests::ledger::Ledger;
use postrider_tests::wait::{when, within};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// A call that takes longer has no answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Before an event is sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// By when a load is done.
const LIMIT: Duration = Duration::from_secs(120);

/// What to emit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many events.
    pub(crate) events: usize,
    /// Bytes of each event's data.
    pub(crate) bytes: usize,
    /// How many calls at once.
    pub(crate) at_once: usize,
    /// Between an answer and the next call of the same kind.
    pub(crate) every: Duration,
    /// Whether a refused event is sent again. Otherwise a worker ends with its first refusal.
    pub(crate) is_patient: bool,
}

impl Plan {
    /// A load of about 300 small events a second.
    pub(crate) fn steady(events: usize) -> Self {
        Self { events, bytes: 300, at_once: 4, every: Duration::from_millis(12), is_patient: true }
    }

    /// The same until it is stopped.
    pub(crate) fn endless() -> Self {
        Self::steady(usize::MAX)
    }

    /// A load of events of one size that ends when they are refused.
    pub(crate) fn until_refused(bytes: usize) -> Self {
        Self { events: usize::MAX, bytes, at_once: 8, every: Duration::ZERO, is_patient: false }
    }
}

/// A load under way. It ends with its value.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

struct Shared {
    api: Api,
    ledger: Ledger,
    plan: Plan,
    made: AtomicUsize,
    acknowledged: AtomicUsize,
    is_stopped: AtomicBool,
    refusals: Mutex<BTreeMap<String, usize>>,
    fatal: Mutex<Option<Status>>,
}

impl Feed {
    /// Starts to emit.
    pub(crate) fn start(api: Api, ledger: Ledger, plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            api,
            ledger,
            plan,
            made: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
            refusals: Mutex::default(),
            fatal: Mutex::default(),
        });
        let mut workers = JoinSet::new();
        for _ in 0..plan.at_once {
            workers.spawn(work(shared.clone()));
        }
        Self { shared, workers }
    }

    /// How many events of this load are acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more are acknowledged, or all.
    pub(crate) async fn more(&self, more: usize) -> Result<()> {
        let goal = self.acknowledged().saturating_add(more).min(self.shared.plan.events);
        within(LIMIT, &format!("{goal} events are acknowledged"), async || {
            if let Some(status) = &*self.shared.fatal.lock().await {
                bail!("an event was refused for good: {:?}: {}", status.code(), status.message());
            }
            Ok(when(self.acknowledged() >= goal))
        })
        .await
    }

    /// Waits until every worker has ended.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let all = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(LIMIT, all).await.is_err() {
            bail!("the load did not end within {LIMIT:?}");
        }
        match &*self.shared.fatal.lock().await {
            Some(status) => bail!("an event was refused for good: {:?}: {}", status.code(), status.message()),
            None => Ok(()),
        }
    }

    /// Stops it: what is under way is answered first.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        self.ended().await
    }

    /// Refusals so far, by code and message.
    pub(crate) async fn refusals(&self) -> BTreeMap<String, usize> {
        self.shared.refusals.lock().await.clone()
    }
}

async fn work(shared: Arc<Shared>) {
    let plan = shared.plan;
    while !shared.is_stopped.load(Ordering::Relaxed)
        && shared.made.fetch_add(1, Ordering::Relaxed) < plan.events
    {
        let event = new_event(plan.bytes);
        shared.ledger.sent(&event.id, &event.r#type, &String::from_utf8_lossy(&event.data));
        if !emit(&shared, &event).await {
            return;
        }
        tokio::time::sleep(plan.every).await;
    }
}

/// Sends one event until it is acknowledged; says whether to go on.
async fn emit(shared: &Shared, event: &v1::NewEvent) -> bool {
    loop {
        let answer = tokio::time::timeout(ANSWERS_WITHIN, shared.api.emit(event.clone())).await;
        let status = match answer {
            Ok(Ok(_)) => {
                shared.ledger.acknowledged(&event.id);
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer"),
        };
        let text = format!("{:?}: {}", status.code(), status.message());
        *shared.refusals.lock().await.entry(text).or_default() += 1;
        if !is_passing(status.code()) {
            *shared.fatal.lock().await = Some(status);
            return false;
        }
        if !shared.plan.is_patient || shared.is_stopped.load(Ordering::Relaxed) {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_passing(code: Code) -> bool {
    // A connection that breaks under a call is reported with any of these.
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}

/// An event with so many bytes of data that do not compress.
pub(crate) fn new_event(bytes: usize) -> v1::NewEvent {
    let id = format!("e-{:032x}", rand::random::<u128>());
    let mut data = format!(r#"{{"id":"{id}","text":""#);
    while data.len() + 2 < bytes {
        let more = format!("{:032x}", rand::random::<u128>());
        data.push_str(&more[..more.len().min(bytes - data.len() - 2)]);
    }
    data.push_str("\"}");
    v1::NewEvent {
        r#type: "fault.tried".to_owned(),
        data: data.into(),
        idempotency_key: format!("key-{id}"),
        id,
        ..v1::NewEvent::default()
    }
}

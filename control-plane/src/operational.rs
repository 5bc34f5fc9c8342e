//! Operational events: what Postrider tells of itself, as ordinary events of the tenant `postrider`.
//!
//! People subscribe to them as to any others. Whoever notices something hands in a [`Notice`] and never waits for it; a
//! task makes an event of it and emits it by the ordinary way. Trouble of the tenant's own subscriptions makes none: it
//! would be trouble about trouble.

mod body;
mod catalogue;
mod notice;
mod survey;

use std::num::NonZeroU32;
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::event::{Attributes, Event, EventTypeName, content_digest};
use postrider_domain::id::{EventId, EventKey, SubscriptionId, TenantId};
use postrider_domain::lane::Bounds;
use postrider_domain::pace::{Meter, Pace};
use postrider_domain::time::Timestamp;
use tokio::sync::mpsc;
use tracing::{debug, warn};

pub use self::catalogue::prepare;
pub use self::notice::{About, Away, Notice};
use crate::api::Api;
use crate::compute::Refused;
use crate::emit::EmitError;
use crate::judging::{JudgeError, Subject};
use crate::store::Accept;

/// Notices that may wait to become events.
const QUEUE: usize = 4096;
/// Events about one tenant's things: a second, and at once. Whoever has many endpoints that come and go must not drown what
/// is to be told of others.
const PER_SECOND: NonZeroU32 = NonZeroU32::MIN;
const AT_ONCE: NonZeroU32 = NonZeroU32::new(1000).expect("it is not zero");
/// How long an event waits for a store that fails.
const RETRY: Duration = Duration::from_secs(1);

/// When people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How long an agent may be without a stream, and a pool with work without an agent.
    pub agent_offline_after: Duration,
    /// What waits for a subscription.
    pub backlog: Bounds,
}

/// Where notices are handed in.
#[derive(Clone, Debug)]
pub struct Notices(mpsc::Sender<Notice>);

/// The queue that belongs to a [`Notices`].
#[derive(Debug)]
pub struct Queue(mpsc::Receiver<Notice>);

/// A queue, and its receiving end for [`run`].
#[must_use]
pub fn queue() -> (Notices, Queue) {
    let (notices, queue) = mpsc::channel(QUEUE);
    (Notices(notices), Queue(queue))
}

impl Notices {
    /// Hands in a notice. It never waits: what finds no room is in the log alone.
    pub fn tell(&self, notice: Notice) {
        if let Err(refused) = self.0.try_send(notice) {
            let notice = refused.into_inner();
            warn!(?notice, "dropped an operational event: queue full");
        }
    }
}

/// Emits notices until there are no more, and looks for those that nobody else notices.
pub async fn run(mut queue: Queue, api: Api, notices: Notices, thresholds: Thresholds) {
    let survey = survey::run(api.clone(), notices, thresholds);
    let emit = async {
        let (pace, mut meters) = (Pace::new(PER_SECOND, AT_ONCE), HashMap::<TenantId, Meter>::new());
        while let Some(notice) = queue.0.recv().await {
            let Some(told) = told(&api, &notice) else {
                debug!(?notice, "no operational event: the subscription is Postrider's own or deleted");
                continue;
            };
            let now = api.clock.since_start();
            let meter = told.about.clone().map(|tenant| meters.entry(tenant).or_default());
            if meter.is_some_and(|meter| pace.take(meter, now).is_err()) {
                warn!(?notice, "dropped an operational event: too many for this tenant");
                continue;
            }
            emit(&api, told).await;
        }
    };
    tokio::join!(survey, emit);
}

async fn emit(api: &Api, told: Told) {
    let accept = accept(api, told).await;
    loop {
        let submitted = api.emitter.submit(accept.clone()).await;
        let done = match submitted {
            Ok(submitted) => submitted.done().await,
            Err(error) => Err(error),
        };
        match done {
            // A conflict: it was told before, when something else about it was another.
            Ok(_) | Err(EmitError::Conflict(_) | EmitError::Stopping) => return,
            Err(error @ EmitError::TooWide(_)) => {
                return warn!(%error, "failed to emit an operational event; delete subscriptions of the tenant postrider");
            }
            Err(error) => {
                warn!(%error, "failed to emit an operational event; retrying");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What its event says; nothing when it is about a subscription that is gone, or is Postrider's own.
fn told(api: &Api, notice: &Notice) -> Option<Told> {
    match notice {
        Notice::Subscription(id, about) => {
            let row = api.registry.get(*id)?;
            let foreign = !row.subscription.tenant.is_postrider();
            foreign.then(|| body::of_subscription(about, &row.subscription))
        }
        Notice::Offline(away) => Some(body::of_agent(body::OFFLINE, away)),
        Notice::Online(away) => Some(body::of_agent(body::ONLINE, away)),
    }
}

/// What an event will say.
struct Told {
    /// Whose thing it is about, if it is a tenant's.
    about: Option<TenantId>,
    event_type: EventTypeName,
    /// Nothing when it need not be told only once.
    id: Option<EventId>,
    data: serde_json::Value,
    attributes: Vec<(&'static str, String)>,
}

async fn accept(api: &Api, told: Told) -> Accept {
    let now = api.clock.wall();
    let tenant = TenantId::postrider();
    let data: bytes::Bytes = told.data.to_string().into();
    let attributes = told.attributes.into_iter().map(|(name, value)| (name.to_owned(), value));
    let attributes = Attributes::new(attributes).unwrap_or_default();
    let key = EventKey::new(now, rand::random());
    let content = content_digest(&told.event_type, None, told.id.as_ref(), &data, &attributes, None);
    let subject = || Subject {
        name: told.event_type.clone(),
        timestamp: now.into(),
        attributes: attributes.clone(),
        data: data.clone(),
    };
    let subscriptions = subscribers(api, &tenant, subject, now).await;
    Accept {
        client_chosen: told.id.is_some(),
        idempotency: None,
        content,
        subscriptions,
        max_stored: None,
        event: Event {
            key,
            id: told.id.unwrap_or_else(|| key.into()),
            tenant,
            event_type: told.event_type,
            timestamp: now.into(),
            accepted: now,
            data,
            attributes,
            ordering_key: None,
            trace: None,
        },
    }
}

/// Whom an event is owed to. It is asked until there is an answer: what is told must not be lost because much is asked.
async fn subscribers(
    api: &Api,
    tenant: &TenantId,
    subject: impl Fn() -> Subject,
    now: Timestamp,
) -> Vec<SubscriptionId> {
    loop {
        let judged = api.judge.judge(tenant, vec![subject()], now).await;
        match judged {
            Ok(verdicts) => {
                let verdict = verdicts.into_iter().next().and_then(|(_, verdict)| verdict.ok());
                return verdict.and_then(|verdict| verdict.subscriptions).unwrap_or_default();
            }
            Err(JudgeError::Refused(Refused::Failed)) => return Vec::new(),
            Err(error) => {
                warn!(%error, "failed to evaluate an operational event; retrying");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

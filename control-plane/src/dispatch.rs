//! Turns an assignment into a job: the event's bytes, signed now with the keys that sign now.

use std::sync::Arc;
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};
use bytes::Bytes;
use postrider_domain::body;
use postrider_domain::event::Event;
use postrider_domain::id::{EventKey, KeyId, TenantId};
use postrider_domain::outcome::{Class, Outcome};
use postrider_domain::signing::{self, SigningKey};
use postrider_domain::time::Timestamp;
use postrider_domain::trace::TraceContext;
use postrider_proto::agent::{Header, Job};
use postrider_proto::session::Report;
use postrider_telemetry::traces::Traces;

use crate::clock::Clock;
use crate::key_uses::KeyUses;
use crate::recent::RecentEvents;
use crate::registry::Registry;
use crate::schedule::Assignment;
use crate::secrets::KeyedSubscription;
use crate::store::{Store, StoreError};
use crate::traced::Attempted;

/// A job is not started later than this after it was signed.
pub const START_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a response's body that are kept.
pub const KEPT_RESPONSE: u32 = 4096;
/// What every request of an agent's is from.
pub const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// What an assignment comes to.
pub enum Prepared {
    /// To be sent.
    Job {
        /// The job, without its key: who sends it writes that for its agent.
        job: Box<Job>,
        /// The key that has signed it, if it is the only one.
        alone: Option<KeyId>,
        /// When it was signed.
        signed: Timestamp,
        /// If it is sampled.
        traced: Option<Box<Attempted>>,
    },
    /// It cannot be sent; this is what the schedule is told instead.
    Unsent(Report),
}

/// What is needed to make jobs.
#[derive(Clone)]
pub struct Dispatcher {
    /// Subscriptions and keys.
    pub registry: Arc<Registry>,
    /// Events that were accepted a moment ago.
    pub recent: Arc<RecentEvents>,
    /// All others.
    pub store: Arc<dyn Store>,
    /// Told which keys sign.
    pub uses: Arc<KeyUses>,
    /// Where sampled attempts are told.
    pub traces: Traces,
    /// For signatures and start-by.
    pub clock: Clock,
}

impl Dispatcher {
    /// Makes jobs with these.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        recent: Arc<RecentEvents>,
        store: Arc<dyn Store>,
        uses: Arc<KeyUses>,
        traces: Traces,
        clock: Clock,
    ) -> Self {
        Self { registry, recent, store, uses, traces, clock }
    }

    /// Prepares assignments, each in its place.
    ///
    /// # Errors
    /// When events cannot be read; then nothing is prepared.
    pub async fn prepare(&self, assignments: &[Assignment]) -> Result<Vec<Prepared>, StoreError> {
        let rows: Vec<Option<Arc<KeyedSubscription>>> = assignments
            .iter()
            .map(|assignment| self.registry.get(assignment.key.delivery.subscription))
            .collect();
        let events = self.events(assignments, &rows).await?;
        let (now, stamp) = (self.clock.wall(), self.clock.machine_wall());
        let mut used = Vec::with_capacity(assignments.len());
        let prepared = assignments.iter().zip(rows).map(|(assignment, row)| {
            let Some(row) = row else { return Prepared::Unsent(Report::NotStarted) };
            let Some(event) = events.get(&assignment.delivery.event) else {
                return unsent("the event's data is no longer stored");
            };
            let keys = row.keys.signing(now);
            let due = assignment.delivery.state.due().unwrap_or(event.accepted);
            let traced = Attempted::begin(&self.traces, self.clock, event, due);
            let (job, signers) = self.job(&row, event, &keys, traced.as_deref(), stamp);
            let alone = if let [alone] = signers[..] { Some(alone) } else { None };
            used.push((row.subscription.id, signers));
            Prepared::Job { job: Box::new(job), alone, signed: now, traced }
        });
        let prepared = prepared.collect();
        self.uses.signed(used.iter().map(|(subscription, keys)| (*subscription, &keys[..])), now);
        Ok(prepared)
    }

    /// The events of these assignments, from memory where possible, all others in one read.
    async fn events(
        &self,
        assignments: &[Assignment],
        rows: &[Option<Arc<KeyedSubscription>>],
    ) -> Result<HashMap<EventKey, Arc<Event>>, StoreError> {
        let mut events = HashMap::with_capacity(assignments.len());
        let mut missing: Vec<(TenantId, EventKey)> = Vec::new();
        for (assignment, row) in assignments.iter().zip(rows) {
            let key = assignment.delivery.event;
            if let (false, Some(row)) = (events.contains_key(&key), row) {
                match self.recent.get(key) {
                    Some(event) => drop(events.insert(key, event)),
                    None => missing.push((row.subscription.tenant.clone(), key)),
                }
            }
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            let read = self.store.events(missing).await?;
            let stored = read.into_iter().flatten().filter(|row| !row.is_erased());
            events.extend(stored.map(|row| (row.event.key, Arc::new(row.event))));
        }
        Ok(events)
    }

    /// The job, and the keys that have signed it.
    fn job(
        &self,
        row: &KeyedSubscription,
        event: &Event,
        keys: &[&SigningKey],
        traced: Option<&Attempted>,
        stamp: Timestamp,
    ) -> (Job, Vec<KeyId>) {
        let (mut job, signers) = request(row, event, keys, stamp);
        job.start_by_ms = self.clock.monotonic_ms() + u64::from(millis(START_WITHIN));
        job.trace_parent = traced.map(Attempted::parent).unwrap_or_default();
        if !job.trace_parent.is_empty() {
            name_span(&mut job.headers, event, &job.trace_parent);
        }
        (job, signers)
    }
}

/// The POST of an event, signed now with these keys, and which of them have signed it. Whoever
/// sends it adds the job's key and its start-by time.
pub(crate) fn request(
    row: &KeyedSubscription,
    event: &Event,
    keys: &[&SigningKey],
    now: Timestamp,
) -> (Job, Vec<KeyId>) {
    let subscription = &row.subscription;
    let body = body::render(event, subscription.format);
    let (headers, signers) = headers(row, event, keys, &body, now);
    let job = Job {
        key: None,
        start_by_ms: 0,
        connect_timeout_ms: millis(subscription.connect_timeout),
        timeout_ms: millis(subscription.timeout),
        url: subscription.url.as_str().to_owned(),
        headers,
        body,
        keep_response_bytes: KEPT_RESPONSE,
        trace_parent: String::new(),
    };
    (job, signers)
}

fn unsent(why: &str) -> Prepared {
    Prepared::Unsent(Report::Made(Box::new(Outcome::failure(Class::Protocol, why))))
}

/// What is sent: ours, then the subscription's own; and the keys that have signed it.
fn headers(
    row: &KeyedSubscription,
    event: &Event,
    keys: &[&SigningKey],
    body: &Bytes,
    stamp: Timestamp,
) -> (Vec<Header>, Vec<KeyId>) {
    let format = row.subscription.format;
    let ours = [("content-type", format.content_type()), ("user-agent", USER_AGENT)];
    let (signed, signers) =
        row.subscription.profiles.sign(keys, signing::Request { id: &event.id, timestamp: stamp, body });
    let custom = row.subscription.headers.iter();
    let plain = |(name, value): (&str, &str)| Header { name: name.to_owned(), value: value.to_owned() };
    let owned = |(name, value)| Header { name, value };
    let headers = ours
        .into_iter()
        .map(plain)
        .chain(signed.into_iter().map(owned))
        .chain(traces(row, event).map(plain))
        .chain(body::headers(event, format).into_iter().map(owned))
        .chain(custom.map(plain))
        .collect();
    (headers, signers)
}

/// The trace that the event belongs to, unless the subscription's owner has set it as a header: that is the owner's wish.
fn traces<'a>(row: &'a KeyedSubscription, event: &'a Event) -> impl Iterator<Item = (&'a str, &'a str)> {
    let own = |name: &str| row.subscription.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let traces = event.trace.iter();
    let traces = traces.flat_map(|trace| [("traceparent", trace.parent()), ("tracestate", trace.state())]);
    traces.filter(move |(name, value)| !value.is_empty() && !own(name))
}

/// The span of this attempt takes the place of the event's, where that is told.
fn name_span(headers: &mut [Header], event: &Event, trace_parent: &str) {
    let told = event.trace.as_ref().map_or("", TraceContext::parent);
    if let Some(header) =
        headers.iter_mut().find(|header| header.name == "traceparent" && header.value == told)
    {
        trace_parent.clone_into(&mut header.value);
    }
}

pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

//! Turns an assignment into a job: the event's bytes, signed now with the keys that sign now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::body;
use postrider_domain::event::Event;
use postrider_domain::id::{EventKey, TenantId};
use postrider_domain::outcome::{Class, Outcome};
use postrider_domain::time::Timestamp;
use postrider_proto::agent::{Header, Job};
use postrider_proto::session::Report;

use crate::clock::Clock;
use crate::recent::RecentEvents;
use crate::registry::Registry;
use crate::schedule::Assignment;
use crate::secrets::KeyedSubscription;
use crate::store::{Store, StoreError};

/// A job is not started later than this after it was signed.
pub const START_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a response's body that are kept.
const KEPT_RESPONSE: u32 = 4096;
const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// What an assignment comes to.
pub enum Prepared {
    /// To be sent.
    Job(Box<Job>),
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
    /// For signatures and start-by.
    pub clock: Clock,
}

impl Dispatcher {
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
        let now = self.clock.wall();
        let prepared = assignments.iter().zip(rows).map(|(assignment, row)| {
            let Some(row) = row else { return Prepared::Unsent(Report::NotStarted) };
            match events.get(&assignment.delivery.event) {
                Some(event) => Prepared::Job(Box::new(self.job(assignment, &row, event, now))),
                None => Prepared::Unsent(Report::Made(Box::new(Outcome::failure(
                    Class::Protocol,
                    "the event's data is no longer stored",
                )))),
            }
        });
        Ok(prepared.collect())
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

    fn job(&self, assignment: &Assignment, row: &KeyedSubscription, event: &Event, now: Timestamp) -> Job {
        let subscription = &row.subscription;
        let body = body::render(event, subscription.format);
        let start_within = u64::try_from(START_WITHIN.as_millis()).unwrap_or(u64::MAX);
        Job {
            key: Some(assignment.key.write()),
            start_by_ms: self.clock.monotonic_ms() + start_within,
            connect_timeout_ms: millis(subscription.connect_timeout),
            timeout_ms: millis(subscription.timeout),
            url: subscription.url.as_str().to_owned(),
            headers: headers(row, event, &body, now),
            body,
            keep_response_bytes: KEPT_RESPONSE,
        }
    }
}

/// What is sent: ours, then the subscription's own.
fn headers(row: &KeyedSubscription, event: &Event, body: &Bytes, now: Timestamp) -> Vec<Header> {
    let ours = [
        ("content-type", row.subscription.format.content_type().to_owned()),
        ("user-agent", USER_AGENT.to_owned()),
        ("webhook-id", event.id.to_string()),
        ("webhook-timestamp", now.as_seconds().to_string()),
        ("webhook-signature", row.keys.sign(&event.id, now, body)),
    ];
    let traces = event.trace.iter().flat_map(|trace| {
        [("traceparent", trace.parent().to_owned()), ("tracestate", trace.state().to_owned())]
    });
    // A trace that the subscription's owner has set as a header is the owner's wish.
    let custom = &row.subscription.headers;
    let own = |name: &str| custom.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let ours = ours.into_iter().chain(traces.filter(|(name, value)| !value.is_empty() && !own(name)));
    let ours = ours.map(|(name, value)| Header { name: name.to_owned(), value });
    let of_format = body::headers(event, row.subscription.format);
    let of_format = of_format.into_iter().map(|(name, value)| Header { name, value });
    ours.chain(of_format)
        .chain(custom.iter().map(|(name, value)| Header { name: name.to_owned(), value: value.to_owned() }))
        .collect()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

//! From an event that was sent to one that can be handed in: it is checked, judged by schemas and filters, and
//! put together.

use std::time::SystemTime;

use bytes::Bytes;
use postrider_domain::catalogue::Refusal;
use postrider_domain::event::{
    Attributes, Event, EventTypeName, MAX_IDEMPOTENCY_KEY, check_data, content_digest, idempotency_digest,
};
use postrider_domain::id::{EventId, EventKey, TenantId};
use postrider_domain::order::OrderingKey;
use postrider_domain::time::Timestamp;
use postrider_domain::trace::TraceContext;
use postrider_domain::violation::Violation;
use postrider_proto::time;
use postrider_proto::v1::NewEvent;
use tonic::Status;

use super::About;
use crate::api::{Api, status};
use crate::judging::{Subject, Verdict};
use crate::store::Accept;
use crate::traced::Emission;

/// An event that is well formed, and not judged yet.
pub(super) struct Prepared {
    tenant: TenantId,
    subject: Subject,
    rest: Rest,
}

/// What judges need not see.
struct Rest {
    client_id: Option<EventId>,
    idempotency: Option<[u8; 16]>,
    ordering_key: Option<OrderingKey>,
    trace: Option<TraceContext>,
    content: [u8; 16],
    /// When work on it began.
    start: SystemTime,
    now: Timestamp,
}

/// What can be handed in.
type Accepted = Result<(Accept, About), Status>;

impl Api {
    /// Checks an event. When it cannot wait for room and there is none, it is refused before it is looked into. Without a
    /// trace of its own it belongs to the one that is carried beside it.
    pub(super) fn prepare(
        &self,
        tenant: &str,
        event: Option<NewEvent>,
        carried: Option<&TraceContext>,
        can_wait: bool,
    ) -> Result<Prepared, Status> {
        self.check(tenant, event, carried, can_wait).inspect_err(|_| self.emitter.refused())
    }

    fn check(
        &self,
        tenant: &str,
        event: Option<NewEvent>,
        carried: Option<&TraceContext>,
        can_wait: bool,
    ) -> Result<Prepared, Status> {
        let start = self.clock.precise();
        if self.stopping.is_cancelled() {
            return Err(status::stopping());
        }
        let event = event.ok_or_else(|| status::invalid_field("event", "must be set"))?;
        let tenant: TenantId = status::parse("tenant", tenant)?;
        let name: EventTypeName = status::parse("event.type", &event.r#type)?;
        self.check_tenant(&tenant)?;
        Self::check_not_own(&tenant)?;
        if !can_wait {
            let room = self.emitter.would_take(&tenant, event.data.len());
            room.map_err(|error| status::emit(&tenant, &error))?;
        }
        let within = |violation: Violation| status::invalid(&[violation.within("event")]);
        check_data(&event.data, self.max_event_bytes).map_err(within)?;
        let timestamp = event.timestamp.as_ref().map(|given| time::read_event("event.timestamp", given));
        let timestamp = timestamp.transpose().map_err(|violation| status::invalid(&[violation]))?;
        let client_id = client_id(&event.id)?;
        let idempotency = idempotency(&tenant, &event.idempotency_key)?;
        let attributes = Attributes::new(event.attributes).map_err(within)?;
        let trace = trace(&event.trace_parent, &event.trace_state, carried).map_err(within)?;
        let ordering_key = OrderingKey::new(&event.ordering_key).map_err(within)?;
        let content = content_digest(
            &name,
            timestamp,
            client_id.as_ref(),
            &event.data,
            &attributes,
            ordering_key.as_ref(),
        );
        let now = self.clock.wall();
        let timestamp = timestamp.unwrap_or(now.into());
        let subject = Subject { name, timestamp, attributes, data: own(&event.data) };
        let rest = Rest { client_id, idempotency, ordering_key, trace, content, start, now };
        Ok(Prepared { tenant, subject, rest })
    }

    /// Judges events of one tenant and finds whom they are owed to.
    ///
    /// An error when none of them was judged.
    pub(super) async fn accept(
        &self,
        tenant: &TenantId,
        prepared: Vec<Result<Prepared, Status>>,
    ) -> Result<Vec<Accepted>, Status> {
        let (mut subjects, mut rests) = (Vec::new(), Vec::with_capacity(prepared.len()));
        for prepared in prepared {
            rests.push(prepared.map(|prepared| {
                subjects.push(prepared.subject);
                prepared.rest
            }));
        }
        let count = subjects.len();
        let verdicts = self.judge.judge(tenant, subjects, self.clock.wall()).await;
        let verdicts = verdicts.map_err(|error| {
            (0..count).for_each(|_| self.emitter.refused());
            status::not_judged(tenant, &error)
        })?;
        let mut verdicts = verdicts.into_iter();
        let accepted = rests.into_iter().map(|rest| {
            let rest = rest?;
            let (subject, verdict) = verdicts.next().ok_or_else(status::fault)?;
            let accepted = verdict
                .map_err(|refusal| refused(tenant, refusal))
                .and_then(|verdict| self.put_together(tenant, subject, rest, verdict));
            accepted.inspect_err(|_| self.emitter.refused())
        });
        Ok(accepted.collect())
    }

    /// The same of one event.
    pub(super) async fn accept_one(&self, prepared: Prepared) -> Accepted {
        let tenant = prepared.tenant.clone();
        let accepted = self.accept(&tenant, vec![Ok(prepared)]).await?;
        accepted.into_iter().next().unwrap_or_else(|| Err(status::fault()))
    }

    fn put_together(&self, tenant: &TenantId, subject: Subject, rest: Rest, verdict: Verdict) -> Accepted {
        let Rest { client_id, idempotency, ordering_key, trace, content, start, now } = rest;
        let Verdict { warnings, subscriptions } = verdict;
        let subscriptions = subscriptions.ok_or_else(|| status::not_found("tenant", tenant.as_str()))?;
        let key = EventKey::new(now, rand::random());
        let mut accept = Accept {
            client_chosen: client_id.is_some(),
            idempotency,
            content,
            subscriptions,
            max_stored: self.registry.quota(tenant).max_stored,
            event: Event {
                key,
                id: client_id.unwrap_or_else(|| key.into()),
                tenant: tenant.clone(),
                event_type: subject.name,
                timestamp: subject.timestamp,
                accepted: now,
                data: subject.data,
                attributes: subject.attributes,
                ordering_key,
                trace,
            },
        };
        let emission = Emission::begin(&self.traces, self.clock, start, &mut accept.event);
        Ok((accept, About { warnings, emission }))
    }
}

fn refused(tenant: &TenantId, refusal: Refusal) -> Status {
    match refusal {
        Refusal::Broken(violation) => status::invalid(&[violation.within("event")]),
        Refusal::Unusable(problem) => status::precondition("SCHEMA_UNUSABLE", problem),
        Refusal::Stopped(_) => status::not_judged(tenant, &crate::judging::JudgeError::TooCostly),
    }
}

/// A copy that holds on to nothing else. What was decoded is a part of the buffer of the whole call, at least 8 KiB, which
/// would stay in memory for as long as the event does.
fn own(data: &Bytes) -> Bytes {
    Bytes::copy_from_slice(data)
}

fn client_id(id: &str) -> Result<Option<EventId>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    let parsed: EventId = status::parse("event.id", id)?;
    if parsed.is_reserved() {
        return Err(status::invalid_field(
            "event.id",
            "must not begin with evt_: such ids are made by the server",
        ));
    }
    Ok(Some(parsed))
}

fn idempotency(tenant: &TenantId, key: &str) -> Result<Option<[u8; 16]>, Status> {
    if key.len() > MAX_IDEMPOTENCY_KEY {
        return Err(status::invalid_field("event.idempotency_key", "must have at most 128 bytes"));
    }
    Ok((!key.is_empty()).then(|| idempotency_digest(tenant, key)))
}

/// The trace of an event: its own, or the one that is carried beside it.
fn trace(
    parent: &str,
    state: &str,
    carried: Option<&TraceContext>,
) -> Result<Option<TraceContext>, Violation> {
    Ok(TraceContext::new(parent, state)?.or_else(|| carried.cloned()))
}

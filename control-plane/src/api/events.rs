//! `EventService`.

mod accepting;

use std::pin::Pin;

use futures::stream::{Stream, StreamExt as _};
use postrider_domain::catalogue::Warning;
use postrider_domain::id::{EventId, EventKey, TenantId};
use postrider_domain::time::Timestamp;
use postrider_domain::trace::TraceContext;
use postrider_proto::time;
use postrider_proto::v1::emit_result::Result as Emitted;
use postrider_proto::v1::event_service_server::EventService;
use postrider_proto::v1::{self, EmitResponse, EmitResult, EmitWarning};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::info_span;

use super::streams::{fed, while_valid};
use super::{Api, page, status};
use crate::emit::{Emitter, Submitted};
use crate::store::{Accept, Accepted, EventHead, EventQuery, EventRow};
use crate::traced::Emission;

const LIST: &str = "events";
/// Events of one batch.
const MAX_BATCH: usize = 1000;
/// Bytes of a batch's events that are looked into before others have their turn on the thread, and what an event counts for
/// beside its data.
const YIELD_BYTES: usize = 64 * 1024;
const EVENT_BYTES: usize = 1024;
/// Events of one stream that wait for their commit: what a pipelined client can have under way.
const STREAM_WINDOW: usize = 2048;

/// An event of a stream: its reference, and what will become of it; or why the stream ends.
type Pipelined = Result<(u64, Result<Handed, Status>), Status>;

/// An event on its way to disk.
struct Handed {
    submitted: Submitted,
    about: About,
}

/// What is to be said of an event that is accepted.
struct About {
    /// To its emitter.
    warnings: Vec<Warning>,
    /// To whoever looks at its trace.
    emission: Option<Emission>,
}

#[tonic::async_trait]
impl EventService for Api {
    type EmitStreamStream = Pin<Box<dyn Stream<Item = Result<v1::EmitStreamResponse, Status>> + Send>>;

    async fn emit(&self, request: Request<v1::EmitRequest>) -> Result<Response<EmitResponse>, Status> {
        let carried = carried(request.metadata());
        let (api, request) = self.call(request);
        let prepared = api.prepare(&request.tenant, request.event, carried.as_ref(), false)?;
        let (accept, about) = api.accept_one(prepared).await?;
        Ok(Response::new(answer(api.hand_in(accept, about)?).await?))
    }

    async fn emit_batch(
        &self,
        request: Request<v1::EmitBatchRequest>,
    ) -> Result<Response<v1::EmitBatchResponse>, Status> {
        let carried = carried(request.metadata());
        let (api, request) = self.call(request);
        if !(1..=MAX_BATCH).contains(&request.events.len()) {
            return Err(status::invalid_field("events", "must hold 1 to 1000 events"));
        }
        let tenant = api.tenant(&request.tenant)?;
        let mut prepared = Vec::with_capacity(request.events.len());
        let mut bytes = 0;
        for event in request.events {
            bytes += event.data.len() + EVENT_BYTES;
            prepared.push(api.prepare(&request.tenant, Some(event), carried.as_ref(), false));
            if bytes >= YIELD_BYTES {
                bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        let mut submitted = Vec::with_capacity(prepared.len());
        for accepted in api.accept(&tenant, prepared).await? {
            submitted.push(accepted.and_then(|(accept, about)| api.hand_in(accept, about)));
        }
        let mut results = Vec::with_capacity(submitted.len());
        for submitted in submitted {
            results.push(result(submitted).await);
        }
        Ok(Response::new(v1::EmitBatchResponse { results }))
    }

    async fn emit_stream(
        &self,
        request: Request<Streaming<v1::EmitStreamRequest>>,
    ) -> Result<Response<Self::EmitStreamStream>, Status> {
        let (api, requests) = self.call(request);
        // What is submitted waits here for its commit, in order; when it is full, reading stops.
        let (sender, pipeline) = mpsc::channel(STREAM_WINDOW);
        let token_status = api.caller.token_status.clone();
        let reader = read_stream(api, requests, sender);
        let answers = fed(pipeline, reader, info_span!("emit_stream")).then(|next: Pipelined| async move {
            let (reference, submitted) = next?;
            Ok(v1::EmitStreamResponse { reference, result: Some(result(submitted).await) })
        });
        Ok(Response::new(Box::pin(while_valid(answers, &token_status))))
    }

    async fn get_event(
        &self,
        request: Request<v1::GetEventRequest>,
    ) -> Result<Response<v1::GetEventResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant(&request.tenant)?;
        let row = api.event_row(&tenant, &request.event).await?;
        Ok(Response::new(v1::GetEventResponse { event: Some(view(row, true)) }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant(&request.tenant)?;
        let list = page::of(LIST, &tenant);
        let query = EventQuery {
            tenant,
            event_type: match request.r#type.as_str() {
                "" => None,
                name => Some(status::parse("type", name)?),
            },
            start: bound("start_time", request.start_time.as_ref(), Timestamp::default())?,
            end: bound("end_time", request.end_time.as_ref(), Timestamp::MAX)?,
            limit: page::size(request.page_size)?,
            after: page::read(&list, &request.page_token)?,
        };
        let found = api.store.list_events(query).await.map_err(|error| status::store(&error))?;
        let events = found.items.into_iter().map(|row| (row.event.key, view(row, false))).collect();
        let (events, next) = page::fit(events, found.next);
        Ok(Response::new(v1::ListEventsResponse { events, next_page_token: page::write(&list, next) }))
    }

    async fn explain_match(
        &self,
        request: Request<v1::ExplainMatchRequest>,
    ) -> Result<Response<v1::ExplainMatchResponse>, Status> {
        let (api, request) = self.call(request);
        Ok(Response::new(api.explain(request).await?))
    }
}

/// Hands in what a stream brings, until it ends or nobody hears the answers any more.
async fn read_stream(
    api: Api,
    mut requests: Streaming<v1::EmitStreamRequest>,
    pipeline: mpsc::Sender<Pipelined>,
) {
    let mut tenants = Tenants::default();
    let stopping = api.stopping.clone();
    loop {
        let next = async {
            let Some(request) = requests.message().await.map_err(|status| status::unread(&status))? else {
                return Ok(None);
            };
            let prepared = api.prepare(&request.tenant, request.event, None, !tenants.several);
            let accepted = match prepared {
                Ok(prepared) => api.accept_one(prepared).await,
                Err(status) => Err(status),
            };
            let submitted = match accepted {
                Ok((accept, about)) => {
                    tenants.submit(&api.emitter, accept).await.map(|submitted| Handed { submitted, about })
                }
                Err(status) => Err(status),
            };
            Ok(Some((request.reference, submitted)))
        };
        let next = tokio::select! {
            biased;
            // The token has ended, or the client is gone.
            () = pipeline.closed() => return,
            () = stopping.cancelled() => Err(status::stopping()),
            next = next => next,
        };
        let sent = match next {
            Ok(Some(submitted)) => pipeline.send(Ok(submitted)).await,
            Ok(None) => return,
            // It is not known whether events without an answer were accepted; the client must not take the end for success.
            Err(status) => {
                let _already_gone = pipeline.send(Err(status)).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Whose events a stream has brought. While they are one tenant's, the stream waits for that tenant's room: it is the
/// tenant's own. Once there were several, it does not: one must not hold up the others, so what finds no room is refused.
#[derive(Default)]
struct Tenants {
    first: Option<TenantId>,
    several: bool,
}

impl Tenants {
    async fn submit(&mut self, emitter: &Emitter, accept: Accept) -> Result<Submitted, Status> {
        let tenant = accept.event.tenant.clone();
        let first = self.first.get_or_insert_with(|| tenant.clone());
        self.several |= *first != tenant;
        let submitted = if self.several { emitter.try_submit(accept) } else { emitter.submit(accept).await };
        submitted.map_err(|error| status::emit(&tenant, &error))
    }
}

impl Api {
    /// Hands in an event, if there is room.
    fn hand_in(&self, accept: Accept, about: About) -> Result<Handed, Status> {
        let tenant = accept.event.tenant.clone();
        let submitted = self.emitter.try_submit(accept).map_err(|error| status::emit(&tenant, &error))?;
        Ok(Handed { submitted, about })
    }

    pub(super) async fn event_row(&self, tenant: &TenantId, id: &str) -> Result<EventRow, Status> {
        let key = self.event_key(tenant, id).await?;
        let rows =
            self.store.events(vec![(tenant.clone(), key)]).await.map_err(|error| status::store(&error))?;
        rows.into_iter().flatten().next().ok_or_else(|| status::not_found("event", id))
    }

    /// What deliveries tell of an event.
    pub(super) async fn event_head(
        &self,
        tenant: &TenantId,
        id: &str,
    ) -> Result<(EventKey, EventHead), Status> {
        let key = self.event_key(tenant, id).await?;
        let heads = self.store.event_heads(tenant, vec![key]).await.map_err(|error| status::store(&error))?;
        let head = heads.into_iter().flatten().next().ok_or_else(|| status::not_found("event", id))?;
        Ok((key, head))
    }

    pub(super) async fn event_key(&self, tenant: &TenantId, id: &str) -> Result<EventKey, Status> {
        let parsed: EventId = status::parse("event", id)?;
        let key = match parsed.key() {
            Some(key) => Some(key),
            None => self.store.event_key(tenant, &parsed).await.map_err(|error| status::store(&error))?,
        };
        key.ok_or_else(|| status::not_found("event", id))
    }
}

/// The trace in a call's metadata, as OpenTelemetry's libraries write it. What is none is not the caller's problem.
fn carried(metadata: &MetadataMap) -> Option<TraceContext> {
    let lines = |name| metadata.get_all(name).iter().map(|line| line.to_str().ok()).collect::<Vec<_>>();
    TraceContext::carried(&lines("traceparent"), &lines("tracestate"))
}

/// What became of an event that was handed in.
async fn answer(handed: Handed) -> Result<EmitResponse, Status> {
    let tenant = handed.submitted.tenant().clone();
    let accepted = handed.submitted.done().await.map_err(|error| status::emit(&tenant, &error));
    if let Some(emission) = handed.about.emission {
        emission.end(&accepted);
    }
    Ok(emitted(&accepted?, handed.about.warnings))
}

async fn result(handed: Result<Handed, Status>) -> EmitResult {
    let answered = match handed {
        Ok(handed) => answer(handed).await,
        Err(status) => Err(status),
    };
    let result = match answered {
        Ok(accepted) => Emitted::Accepted(accepted),
        Err(status) => Emitted::Error(status::as_emit_error(&status)),
    };
    EmitResult { result: Some(result) }
}

fn emitted(accepted: &Accepted, warnings: Vec<Warning>) -> EmitResponse {
    let warning =
        |warning: Warning| EmitWarning { reason: warning.reason.to_owned(), message: warning.message };
    EmitResponse {
        event_id: accepted.id.to_string(),
        duplicate: accepted.duplicate,
        deliveries: u32::try_from(accepted.deliveries.len()).unwrap_or(u32::MAX),
        accept_time: Some(time::write(accepted.key.created())),
        warnings: warnings.into_iter().map(warning).collect(),
    }
}

fn view(row: EventRow, with_data: bool) -> v1::Event {
    let data_erased = row.is_erased();
    let event = row.event;
    v1::Event {
        id: event.id.to_string(),
        tenant: event.tenant.to_string(),
        r#type: event.event_type.to_string(),
        timestamp: Some(time::write_event(event.timestamp)),
        accept_time: Some(time::write(event.accepted)),
        data: if with_data { event.data } else { bytes::Bytes::new() },
        data_erased,
        data_size: row.data_size,
        deliveries: row.deliveries.iter().map(ToString::to_string).collect(),
        attributes: event
            .attributes
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ordering_key: event.ordering_key.as_ref().map(|key| key.as_str().to_owned()).unwrap_or_default(),
        trace_parent: event.trace.as_ref().map(|trace| trace.parent().to_owned()).unwrap_or_default(),
        trace_state: event.trace.as_ref().map(|trace| trace.state().to_owned()).unwrap_or_default(),
    }
}

/// A bound of a search by time.
pub(super) fn bound(
    field: &str,
    given: Option<&prost_types::Timestamp>,
    default: Timestamp,
) -> Result<Timestamp, Status> {
    let read = given.map(|given| time::read(field, given)).transpose();
    read.map(|read| read.unwrap_or(default)).map_err(|violation| status::invalid(&[violation]))
}

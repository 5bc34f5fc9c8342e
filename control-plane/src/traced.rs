//! The spans of an event that is sampled: `emit` when it comes in and `store` within it; then, below `emit`, for each attempt
//! `lane` while it waits for its turn, and `attempt` from dispatch to outcome with `dispatch` and `settle` in it. The agent
//! adds its POST below `attempt`. Whatever lies between is in the event itself: its `traceparent` names `emit`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postrider_domain::event::Event;
use postrider_domain::time::Timestamp;
use postrider_domain::trace::TraceContext;
use postrider_telemetry::traces::{Context, Kind, Span, Traces};
use tonic::Status;

use crate::clock::Clock;
use crate::store::Accepted;

/// An event on its way in.
pub struct Emission {
    traces: Traces,
    clock: Clock,
    context: Context,
    start: SystemTime,
    submitted: SystemTime,
    tenant: String,
    event_type: String,
}

impl Emission {
    /// What is to be known of an event that came in at `start`, if it is sampled. From now on it belongs to this span.
    pub fn begin(traces: &Traces, clock: Clock, start: SystemTime, event: &mut Event) -> Option<Self> {
        let context = traces.begin(event.trace.as_ref().map(TraceContext::parent))?;
        let state = event.trace.as_ref().map_or("", TraceContext::state);
        event.trace = TraceContext::new(&context.write(), state).ok().flatten();
        let (tenant, event_type) = (event.tenant.to_string(), event.event_type.to_string());
        let (traces, submitted) = (traces.clone(), clock.precise());
        Some(Self { traces, clock, context, start, submitted, tenant, event_type })
    }

    /// It has been answered.
    pub fn end(self, answer: &Result<Accepted, Status>) {
        let end = self.clock.precise();
        let failed = answer.as_ref().err().map(|status| status.message().to_owned());
        let stored = Span::new("store", Kind::Internal, self.context.child(), self.submitted, end);
        self.traces.record(stored.failed(failed.clone()));
        let mut emit = Span::new("emit", Kind::Server, self.context, self.start, end)
            .with("postrider.tenant", self.tenant)
            .with("postrider.event.type", self.event_type)
            .failed(failed);
        if let Ok(accepted) = answer {
            let deliveries = i64::try_from(accepted.deliveries.len()).unwrap_or(i64::MAX);
            emit = emit
                .with("postrider.event.id", accepted.id.to_string())
                .with("postrider.event.duplicate", accepted.duplicate)
                .with("postrider.event.deliveries", deliveries);
        }
        self.traces.record(emit);
    }
}

/// An attempt that is sampled, from when its job is made.
#[derive(Clone, Copy, Debug)]
pub struct Attempted {
    emit: Context,
    context: Context,
    due: SystemTime,
    signed: SystemTime,
}

impl Attempted {
    /// An attempt of a delivery of this event, due since then, if that is sampled.
    #[must_use]
    pub fn begin(traces: &Traces, clock: Clock, event: &Event, due: Timestamp) -> Option<Box<Self>> {
        let parent = event.trace.as_ref()?.parent();
        let context = traces.below(parent)?;
        let emit = Context::read(parent)?;
        Some(Box::new(Self { emit, context, due: system_time(due), signed: clock.precise() }))
    }

    /// What those below are told: a `traceparent`.
    #[must_use]
    pub fn parent(&self) -> String {
        self.context.write()
    }

    /// Its job was given to the transport just now.
    pub fn sent(&self, traces: &Traces, clock: Clock) {
        let (due, end) = (self.due.min(self.signed), clock.precise());
        traces.record(Span::new("lane", Kind::Internal, self.emit.child(), due, self.signed));
        traces.record(Span::new("dispatch", Kind::Internal, self.context.child(), self.signed, end));
    }

    /// Its outcome is known since `heard`, and stored.
    pub fn settled(&self, traces: &Traces, clock: Clock, attempt: &Ended, heard: SystemTime) {
        let settle = Span::new("settle", Kind::Internal, self.context.child(), heard, clock.precise());
        traces.record(settle);
        let whole = Span::new("attempt", Kind::Producer, self.context, self.signed, heard)
            .with("postrider.delivery.id", attempt.delivery.clone())
            .with("postrider.attempt", i64::from(attempt.number))
            .with("postrider.outcome", attempt.outcome)
            .failed((!attempt.success).then(|| attempt.outcome.to_owned()));
        traces.record(whole);
    }
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Of which delivery.
    pub delivery: String,
    /// Which attempt.
    pub number: u32,
    /// The outcome's class.
    pub outcome: &'static str,
    /// Whether it is a success.
    pub success: bool,
}

fn system_time(time: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or_default())
}

//! Traces: spans that have ended are handed to an OpenTelemetry collector, in batches, by a thread of their own. What the
//! collector does not take in time is dropped; nobody waits for it.
//!
//! A program makes spans of what it knows anyhow, when it is over. Only what belongs to a sampled trace is recorded: see
//! [`Traces::begin`].

mod settings;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceId, Value};
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithTonicConfig as _, tonic_types::metadata::MetadataMap,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use rand::Rng as _;

pub use self::settings::{Problem, Settings};

/// Spans that wait for the collector. About 1 KiB each.
const QUEUE: usize = 8192;
/// How long a span waits for others to be sent with.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const EXPORT_WITHIN: Duration = Duration::from_secs(10);

/// Where spans go. Without a collector there are none, and that costs nothing.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Collector>>);

struct Collector {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    /// The share of new traces that are sampled, 0 to 1.
    ratio: f64,
}

/// A span's place in a sampled trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: TraceId,
    span: SpanId,
    parent: Option<SpanId>,
}

/// Whether a span calls somebody, is called, or is neither.
pub type Kind = SpanKind;

/// Something that is over.
#[derive(Debug)]
pub struct Span(SpanData);

impl Traces {
    /// Sends spans to a collector from now on, of `service`, and samples `ratio` (0 to 1) of the traces that begin here. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn start(
        settings: &Settings,
        ratio: f64,
        service: &'static str,
        version: &'static str,
    ) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(settings.endpoint())
            .with_timeout(EXPORT_WITHIN)
            .with_metadata(MetadataMap::from_headers(settings.headers()));
        let exporter = match settings.tls() {
            Some(tls) => exporter.with_tls_config(tls),
            None => exporter,
        };
        let exporter = exporter.build().map_err(|error| error.to_string())?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(512)
            .with_scheduled_delay(GATHER)
            .build();
        let mut processor = BatchSpanProcessor::new(exporter, batches);
        let about = [KeyValue::new("service.name", service), KeyValue::new("service.version", version)];
        processor.set_resource(&Resource::builder().with_attributes(about).build());
        let scope = InstrumentationScope::builder("postrider").with_version(version).build();
        Ok(Self(Some(Arc::new(Collector { processor, scope, ratio }))))
    }

    /// The place of a span that begins here: below `parent`, a `traceparent`, or of a new trace. `None` when the trace is not
    /// sampled: whoever began it has decided that, and here the ratio does.
    #[must_use]
    pub fn begin(&self, parent: Option<&str>) -> Option<Context> {
        let collector = self.0.as_ref()?;
        match parent {
            Some(parent) => Context::read(parent).map(|parent| parent.child()),
            None => rand::rng().random_bool(collector.ratio).then(Context::root),
        }
    }

    /// The place of a span below `parent`, if that is sampled.
    #[must_use]
    pub fn below(&self, parent: &str) -> Option<Context> {
        self.0.as_ref().and_then(|_| Context::read(parent)).map(|parent| parent.child())
    }

    /// Hands a span to the collector. Never waits.
    pub fn record(&self, span: Span) {
        if let Some(collector) = &self.0 {
            let mut span = span.0;
            span.instrumentation_scope = collector.scope.clone();
            collector.processor.on_end(span);
        }
    }

    /// Sends what is left, and nothing afterwards. Blocks for some seconds at most.
    pub fn end(&self) {
        if let Some(collector) = &self.0 {
            let _not_taken = collector.processor.shutdown_with_timeout(Duration::from_secs(5));
        }
    }
}

impl Context {
    fn root() -> Self {
        let trace = TraceId::from_bytes(rand::rng().random());
        Self { trace, span: SpanId::from_bytes(rand::rng().random()), parent: None }
    }

    /// The place of a span within this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: SpanId::from_bytes(rand::rng().random()), parent: Some(self.span), ..*self }
    }

    /// A span's place as a valid `traceparent` has it. `None` when the trace is not sampled.
    #[must_use]
    pub fn read(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-').skip(1);
        let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let context = || Some((TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?));
        let (trace, span) = context().filter(|_| sampled)?;
        Some(Self { trace, span, parent: None })
    }

    /// As a `traceparent`, for those below.
    #[must_use]
    pub fn write(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }
}

impl Span {
    /// Something that took from `start` to `end`.
    #[must_use]
    pub fn new(name: &'static str, kind: Kind, context: Context, start: SystemTime, end: SystemTime) -> Self {
        let sampled = TraceFlags::SAMPLED;
        let own = SpanContext::new(context.trace, context.span, sampled, false, TraceState::default());
        Self(SpanData {
            span_context: own,
            parent_span_id: context.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: false,
            span_kind: kind,
            name: name.into(),
            start_time: start,
            end_time: end.max(start),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        })
    }

    /// Says more of it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.attributes.push(KeyValue::new(name, value));
        self
    }

    /// It failed, if there is a reason.
    #[must_use]
    pub fn failed(mut self, why: Option<String>) -> Self {
        if let Some(why) = why {
            self.0.status = Status::error(why);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_as_it_is_written_and_only_when_sampled() {
        let context = Context::read(SAMPLED).unwrap();
        assert_eq!(context.write(), SAMPLED);
        let child = context.child();
        assert_eq!((child.trace, child.parent), (context.trace, Some(context.span)));
        assert_ne!(child.span, context.span);
        assert_eq!(Context::read(&child.write()).unwrap().span, child.span);
        assert_eq!(Context::read(&SAMPLED.replace("-01", "-03")), Some(context), "other flags do not matter");
        for not_sampled in [&SAMPLED.replace("-01", "-00"), "", "nonsense", "00-xyz-01-01"] {
            assert_eq!(Context::read(not_sampled), None, "{not_sampled}");
        }
    }

    #[test]
    fn without_a_collector_nothing_is_sampled() {
        let traces = Traces::default();
        assert_eq!(traces.begin(None), None);
        assert_eq!(traces.begin(Some(SAMPLED)), None);
        assert_eq!(traces.below(SAMPLED), None);
    }

    #[tokio::test]
    async fn whoever_began_a_trace_decides_and_the_ratio_decides_here() {
        let settings = Settings::read("http://127.0.0.1:9", None, None).unwrap();
        let all = Traces::start(&settings, 1.0, "test", "1").unwrap();
        assert!(all.begin(None).is_some());
        assert!(all.begin(Some(&SAMPLED.replace("-01", "-00"))).is_none());
        let none = Traces::start(&settings, 0.0, "test", "1").unwrap();
        assert!(none.begin(None).is_none());
        assert_eq!(
            none.begin(Some(SAMPLED)).unwrap().parent,
            Context::read(SAMPLED).map(|parent| parent.span)
        );
    }
}

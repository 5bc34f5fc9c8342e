//! An OpenTelemetry collector that keeps what it is sent: OTLP over gRPC, by OpenTelemetry's own definitions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A span as it was received, with its ids in hex; `parent` is empty for a root.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name`.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// The span that it is in.
    pub parent: String,
    /// From when to when, in nanoseconds since 1970.
    pub time: (u64, u64),
    /// What is said of it.
    pub attributes: Vec<(String, String)>,
    /// Why it failed; empty when it did not.
    pub failure: String,
}

impl Span {
    /// What is said of it under a name; empty when nothing is.
    #[must_use]
    pub fn said(&self, name: &str) -> &str {
        self.attributes.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// As those below it are told.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

/// The collector. It ends with its value.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Kept,
    server: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// One that listens on a port of its own.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> Result<Self> {
        Self::at("127.0.0.1:0".parse()?).await
    }

    /// One that listens there.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn at(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.context("the collector cannot listen")?;
        let (address, spans) = (listener.local_addr()?, Kept::default());
        let server = Server::builder().add_service(TraceServiceServer::new(spans.clone()));
        let server = tokio::spawn(async move {
            let _ended = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Ok(Self { address, spans, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was received of a trace, in the order of their beginnings.
    #[must_use]
    pub fn trace(&self, id: &str) -> Vec<Span> {
        let mut spans = self.all();
        spans.retain(|span| span.trace == id);
        spans.sort_by_key(|span| span.time.0);
        spans
    }

    /// All that was received.
    #[must_use]
    pub fn all(&self) -> Vec<Span> {
        self.spans.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let about = resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
            let service = about.into_iter().find(|(name, _)| name == "service.name");
            let service = service.map(|(_, value)| value).unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace: hex::encode(span.trace_id),
                    id: hex::encode(span.span_id),
                    parent: hex::encode(span.parent_span_id),
                    time: (span.start_time_unix_nano, span.end_time_unix_nano),
                    attributes: texts(span.attributes),
                    failure: span.status.map(|status| status.message).unwrap_or_default(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    let value =
        |attribute: KeyValue| attribute.value.and_then(|value| value.value).map(text).unwrap_or_default();
    attributes.into_iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

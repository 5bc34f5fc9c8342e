//! The span of a POST, for jobs whose trace is sampled: a [`Transport`] around another.
//!
//! It never holds a path or a query: they are the subscription's, and may have a secret in them.

use std::sync::Arc;

use async_trait::async_trait;
use http::Uri;
use http::header::HeaderValue;
use postrider_telemetry::traces::{Context, Kind, Span, Traces};

use super::{Look, Report, Request, Sight, Transport};
use crate::clock::precise;

/// Tells of what the transport inside does.
pub struct Traced {
    inner: Arc<dyn Transport>,
    traces: Traces,
}

impl Traced {
    /// As `inner`, with a span for each POST that is sampled.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>, traces: Traces) -> Self {
        Self { inner, traces }
    }
}

#[async_trait]
impl Transport for Traced {
    async fn post(&self, mut request: Request) -> Report {
        let Some(context) = self.traces.below(&request.trace_parent) else {
            return self.inner.post(request).await;
        };
        name_span(&mut request, &context);
        let (url, start) = (request.url.clone(), precise());
        let report = self.inner.post(request).await;
        let post = Span::new("POST", Kind::Client, context, start, precise());
        self.traces.record(described(post, &url, &report));
        report
    }

    async fn look(&self, look: Look) -> Sight {
        self.inner.look(look).await
    }
}

/// The receiver is told this span where it would be told the attempt's; what the subscription's owner has set stays.
fn name_span(request: &mut Request, context: &Context) {
    let told = request.headers.get_mut("traceparent").filter(|told| **told == request.trace_parent);
    if let (Some(told), Ok(value)) = (told, HeaderValue::try_from(context.write())) {
        *told = value;
    }
}

/// By the names of OpenTelemetry's conventions for HTTP clients, and a few of our own.
fn described(mut span: Span, url: &str, report: &Report) -> Span {
    span = span.with("http.request.method", "POST").with("postrider.outcome", report.kind.as_str_name());
    if let Ok(url) = url.parse::<Uri>()
        && let Some(host) = url.host()
    {
        let usual = if url.scheme_str() == Some("http") { 80 } else { 443 };
        let port = url.port_u16().unwrap_or(usual);
        span = span.with("server.address", host.to_owned()).with("server.port", i64::from(port));
    }
    if let Some(response) = &report.response {
        span = span.with("http.response.status_code", i64::from(response.status));
    }
    let trace = &report.trace;
    let phases = [
        ("postrider.dns_seconds", trace.dns),
        ("postrider.connect_seconds", trace.connect),
        ("postrider.tls_seconds", trace.tls),
        ("postrider.first_byte_seconds", trace.first_byte),
    ];
    for (name, took) in phases {
        if let Some(took) = took {
            span = span.with(name, took.as_secs_f64());
        }
    }
    span.failed(failure(report))
}

/// Nothing, if the receiver has taken it.
fn failure(report: &Report) -> Option<String> {
    match &report.response {
        Some(response) if (200..300).contains(&response.status) => None,
        Some(response) => Some(format!("HTTP {}", response.status)),
        None if report.detail.is_empty() => Some(report.kind.as_str_name().to_owned()),
        None => Some(report.detail.clone().into_owned()),
    }
}

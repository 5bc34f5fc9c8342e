//! One request to the admin port, and what is answered.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tracing::info;

use super::{Program, Verdict};
use crate::log;
use crate::metrics::TEXT_FORMAT;

/// The longest log filter.
const MAX_FILTER: usize = 4 * 1024;
/// What most answers are.
const TEXT: &str = "text/plain; charset=utf-8";
/// Where there is something.
const PATHS: &str = "/livez, /readyz, /version, /metrics and /log";

/// Who answers.
pub(super) struct AdminHandler {
    pub(super) program: Arc<dyn Program>,
    pub(super) filter: Option<log::Filter>,
}

type Answer = Response<Full<Bytes>>;

impl AdminHandler {
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let path = request.uri().path();
        let changes = request.method() == Method::PUT;
        let reads = request.method() == Method::GET || request.method() == Method::HEAD;
        match path {
            "/log" if changes => self.change_log(request, peer).await,
            "/livez" | "/readyz" | "/version" | "/metrics" | "/log" if reads => self.tell(path).await,
            "/log" => wrong_method("GET, HEAD, PUT"),
            "/livez" | "/readyz" | "/version" | "/metrics" => wrong_method("GET, HEAD"),
            _ => text(StatusCode::NOT_FOUND, format!("there is nothing here; there are {PATHS}")),
        }
    }

    async fn tell(&self, path: &str) -> Answer {
        match path {
            "/livez" => verdict(self.program.alive().await, &[]),
            "/readyz" => verdict(self.program.ready().await, &self.program.warnings().await),
            "/metrics" => respond(StatusCode::OK, TEXT_FORMAT, self.program.metrics().await),
            "/version" => {
                let (name, version) = (self.program.name(), self.program.version());
                let json = format!("{{\"program\":\"{name}\",\"version\":\"{version}\"}}\n");
                respond(StatusCode::OK, "application/json", json)
            }
            _ => match &self.filter {
                Some(filter) => text(StatusCode::OK, filter.get()),
                None => text(StatusCode::CONFLICT, NOT_OURS),
            },
        }
    }

    async fn change_log(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        if !may_change(peer.ip()) {
            return text(
                StatusCode::FORBIDDEN,
                "the log's filter is changed from this machine only: by loopback, or kubectl port-forward",
            );
        }
        let Some(filter) = &self.filter else { return text(StatusCode::CONFLICT, NOT_OURS) };
        let Ok(body) = Limited::new(request.into_body(), MAX_FILTER).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "a log filter has at most 4096 bytes");
        };
        let body = body.to_bytes();
        let Ok(wanted) = std::str::from_utf8(&body) else {
            return text(StatusCode::BAD_REQUEST, "a log filter is text, such as info,h2=warn");
        };
        if wanted.trim().is_empty() {
            return text(StatusCode::BAD_REQUEST, "send the wanted filter as the body, such as info,h2=warn");
        }
        let before = filter.get();
        match filter.set(wanted.trim()) {
            Ok(()) => {
                let now = filter.get();
                info!(%peer, before, now, "log filter changed");
                text(StatusCode::OK, now)
            }
            Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

const NOT_OURS: &str =
    "another subscriber writes this process's log; its filter cannot be read or changed here";

/// Whether a caller may change what is logged.
fn may_change(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// The first line of a yes is `ok`, whatever warnings follow.
fn verdict(verdict: Verdict, warnings: &[String]) -> Answer {
    let (status, reasons) = match verdict {
        Ok(()) => (StatusCode::OK, vec!["ok".to_owned()]),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons),
    };
    let mut lines = String::new();
    for reason in reasons {
        let _infallible = writeln!(lines, "{}", reason.replace('\n', " "));
    }
    for warning in warnings {
        let _infallible = writeln!(lines, "warning: {}", warning.replace('\n', " "));
    }
    text(status, lines.trim_end())
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed} can be asked here"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut text = text.into();
    text.push('\n');
    respond(status, TEXT, text)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn warnings_follow_the_verdict_and_do_not_change_it() {
        let warnings = ["a certificate\nexpires".to_owned()];
        let table = [
            (Ok(()), StatusCode::OK, "ok\nwarning: a certificate expires\n"),
            (
                Err(vec!["the disk is full".to_owned()]),
                StatusCode::SERVICE_UNAVAILABLE,
                "the disk is full\nwarning: a certificate expires\n",
            ),
        ];
        for (given, status, expected) in table {
            let answer = verdict(given, &warnings);
            assert_eq!(answer.status(), status);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected);
        }
        let answer = verdict(Ok(()), &[]);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok\n");
    }

    #[test]
    fn only_this_machine_may_change_what_is_logged() {
        for (peer, may) in [
            ("127.0.0.1", true),
            ("127.8.9.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("192.168.1.7", false),
            ("::ffff:10.0.0.1", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("::", false),
        ] {
            assert_eq!(may_change(peer.parse().unwrap()), may, "{peer}");
        }
    }
}

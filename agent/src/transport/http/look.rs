//! A look at an endpoint: the way of a job up to the response's headers, step by step, with a witness.
//!
//! The guard judges the URL, the name is looked up once, the guard judges its addresses, and one of those is dialled: the
//! same rooms and the same doors as for a job. What differs is that the connection is always a new one and is not kept, so
//! that every phase is seen, and that nothing of the response's body is read.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;
use postrider_domain::validation::{ALLOWED_ORIGIN, ALLOWED_RATE, REQUEST_ORIGIN};
use postrider_proto::agent::OutcomeKind;
use tokio::time::timeout_at;

use super::repeats::{NotProcessed, Repeats};
use super::send::{Unanswered, send};
use super::{HttpTransport, Post};
use crate::clock::now;
use crate::transport::connector::Aim;
use crate::transport::credentials::HostCredentials;
use crate::transport::failure::Failure;
use crate::transport::{Look, Seen, Sight, Trace};

/// The headers of a response that answer a validation handshake.
const ANSWERS: [&str; 2] = [ALLOWED_ORIGIN, ALLOWED_RATE];

/// What came back.
struct Answered {
    status: u16,
    headers: Vec<(&'static str, String)>,
}

impl HttpTransport {
    pub(super) async fn look_at(&self, mut look: Look) -> Sight {
        let began = now();
        let deadline = began + look.timeout;
        let mut trace = Trace { seen: Some(Box::default()), ..Trace::default() };
        let answered = match timeout_at(deadline, self.see(&mut look, &mut trace)).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(Failure::deadline(trace.phase)),
        };
        trace.total = now() - began;
        let seen = trace.seen.take().map(|seen| *seen).unwrap_or_default();
        match answered {
            Ok(Answered { status, headers }) => {
                Sight { status: Some(status), headers, ..Sight::of(OutcomeKind::Response, trace, seen) }
            }
            Err(Failure { kind, detail, refusal, cause, .. }) => {
                Sight { detail, refusal, cause, ..Sight::of(kind, trace, seen) }
            }
        }
    }

    async fn see(&self, look: &mut Look, trace: &mut Trace) -> Result<Answered, Failure> {
        let target = self.guard.target(&look.url).map_err(Failure::refused)?;
        let credentials = self.credentials.of(&target.url);
        let credentials = credentials.as_deref();
        let (key, late) = self.key(&target, credentials, trace).await?;
        let connect_timeout = look.connect_timeout;
        let mut aim =
            Aim { target: &target, key: &key, credentials, connect_timeout, late, only_http1: false };
        let asked = look.headers.get(REQUEST_ORIGIN).cloned();
        let request = request(look, credentials);
        let mut repeats = Repeats::default();
        let (response, _open) = loop {
            aim.only_http1 = self.pool.speaks_only_http1(&key, now());
            let mut lease = Box::pin(self.connector.connect(&mut aim, trace)).await?;
            let why = match send(&mut lease, request.clone(), &target, trace).await {
                Ok(response) => break (response, lease),
                Err(Unanswered::Failed(failure)) => return Err(failure),
                Err(Unanswered::NotProcessed(why)) => why,
            };
            let pause = repeats.next(why, rand::random()).ok_or_else(|| Failure::not_processed(why))?;
            if why == NotProcessed::Http1Required {
                self.pool.speak_http1(&key, now());
            }
            tokio::time::sleep(pause).await;
        };
        let mut headers = answers(response.headers());
        if credentials.is_some_and(|credentials| credentials.hide_responses) {
            // What the agent's owner sends must not come back in a header that only seems to answer.
            let asked = asked.as_ref().and_then(|origin| origin.to_str().ok());
            let harmless = |value: &str| {
                value == "*"
                    || value.bytes().all(|byte| byte.is_ascii_digit())
                    || asked.is_some_and(|asked| value.eq_ignore_ascii_case(asked))
            };
            headers.retain(|(_, value)| harmless(value.trim()));
        }
        if let Some(credentials) = credentials {
            headers.iter_mut().for_each(|(_, value)| credentials.echo.hide_in_text(value));
        }
        Ok(Answered { status: response.status().as_u16(), headers })
    }
}

/// What the agent's owner sends to this host wins over what the control plane says, as with a job.
fn request(look: &mut Look, credentials: Option<&HostCredentials>) -> Post {
    let mut request = Post::new(Full::new(Bytes::new()));
    *request.method_mut() = look.method.clone();
    *request.headers_mut() = std::mem::take(&mut look.headers);
    for (name, value) in credentials.iter().flat_map(|credentials| &credentials.headers) {
        request.headers_mut().insert(name, value.clone());
    }
    request
}

fn answers(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let text = |name| Some((name, headers.get(name)?.to_str().ok()?.to_owned()));
    ANSWERS.into_iter().filter_map(text).collect()
}

impl Sight {
    fn of(kind: OutcomeKind, trace: Trace, seen: Seen) -> Sight {
        Sight { kind, detail: "", refusal: None, cause: None, status: None, headers: Vec::new(), trace, seen }
    }
}

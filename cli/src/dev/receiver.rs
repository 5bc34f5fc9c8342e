//! The sample receiver: what a customer of DocuRift would run.
//!
//! It verifies each POST with `standardwebhooks`, the reference library, which shares no code with
//! Postrider, and answers 204, or 401 when the signature is not right.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use postrider_proto::v1;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::seed::reveal;
use crate::client::Client;

/// No body of Postrider is larger.
const LARGEST_BODY: usize = 2 << 20;
/// POSTs wait here to be printed; when the terminal is slow, the senders wait too.
const TO_PRINT: usize = 64;

/// A POST that has arrived.
#[derive(Debug)]
pub(crate) struct Post {
    /// As in `POST /webhooks HTTP/1.1`.
    pub(crate) request_line: String,
    /// All of them.
    pub(crate) headers: HeaderMap,
    /// As received.
    pub(crate) body: String,
    /// Whether the signature verifies; otherwise why not.
    pub(crate) verdict: Result<(), String>,
}

impl Post {
    /// The event's id.
    pub(crate) fn webhook_id(&self) -> &str {
        self.headers.get("webhook-id").and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The receiver.
pub(crate) struct Receiver {
    secrets: Mutex<Vec<String>>,
    client: Client,
    port: u16,
    posts: mpsc::Sender<Post>,
}

impl Receiver {
    /// Serves in the background until the process ends.
    pub(crate) fn start(listener: TcpListener, client: Client) -> (Arc<Self>, mpsc::Receiver<Post>) {
        let (posts, to_print) = mpsc::channel(TO_PRINT);
        let port = listener.local_addr().map_or(0, |address| address.port());
        let receiver = Arc::new(Self { secrets: Mutex::default(), client, port, posts });
        tokio::spawn(Arc::clone(&receiver).serve(listener));
        (receiver, to_print)
    }

    /// Tells it a secret. A real receiver is told by whoever created the subscription.
    pub(crate) fn learn(&self, secret: String) -> bool {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let new = !secrets.contains(&secret);
        if new {
            secrets.push(secret);
        }
        new
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors: they come back.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let receiver = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(|request| Arc::clone(&receiver).answer(request));
                // A connection that breaks is the sender's to report.
                let _broken =
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return Ok(reply(StatusCode::METHOD_NOT_ALLOWED, "only POST\n"));
        }
        let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
            return Ok(reply(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or incomplete\n"));
        };
        let body = body.to_bytes();
        let verdict = self.verify(&head.headers, &body).await;
        let answer = match &verdict {
            Ok(()) => reply(StatusCode::NO_CONTENT, ""),
            Err(reason) => reply(StatusCode::UNAUTHORIZED, &format!("{reason}\n")),
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let post = Post {
            request_line: format!("POST {path} {:?}", head.version),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            verdict,
        };
        // A closed channel means that the process is ending.
        let _closed = self.posts.send(post).await;
        Ok(answer)
    }

    /// Tries the secrets it knows; when none fits, learns those that have been made since.
    async fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
        match self.verify_with_known(headers, body) {
            Err(_) if self.learn_new_secrets().await => self.verify_with_known(headers, body),
            verdict => verdict,
        }
    }

    fn verify_with_known(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
        let mut verdict = Err("no secret is known yet".to_owned());
        for secret in self.secrets.lock().unwrap_or_else(PoisonError::into_inner).iter().rev() {
            let verified = Webhook::new(secret).and_then(|webhook| webhook.verify(body, headers));
            verdict = verified.map_err(|error| error.to_string());
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }

    /// Asks for the secrets of all subscriptions that lead here, so that rotated keys and new subscriptions
    /// can be tried out without restarting. Only a development receiver may do this.
    async fn learn_new_secrets(&self) -> bool {
        let here = format!("http://127.0.0.1:{}/", self.port);
        let tenants = self.client.tenants().list_tenants(v1::ListTenantsRequest::default()).await;
        let mut learned = false;
        for tenant in tenants.map(|answer| answer.into_inner().tenants).unwrap_or_default() {
            let request = v1::ListSubscriptionsRequest { tenant: tenant.id.clone(), ..Default::default() };
            let found = self.client.subscriptions().list_subscriptions(request).await;
            let found = found.map(|answer| answer.into_inner().subscriptions).unwrap_or_default();
            for subscription in found.iter().filter(|subscription| subscription.url.starts_with(&here)) {
                if let Ok(secret) = reveal(&self.client, &tenant.id, &subscription.id).await {
                    learned |= self.learn(secret);
                }
            }
        }
        learned
    }
}

fn reply(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

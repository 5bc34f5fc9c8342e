//! The real transport: judge, find or open a connection, send once, read the answer, by one deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::HOST;
use http::{Method, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;
use tokio::time::{timeout, timeout_at};

use super::connector::{Connector, MAX_HEADERS};
use super::failure::Failure;
use super::guard::{Guard, Target};
use super::pool::{IDLE_TIMEOUT, Key, Lease, Pool, Sender};
use super::resolver::{Resolver, SetUpError};
use super::{Phase, Report, Request, Trace, Transport, response};
use crate::clock::{Instant, now};
use crate::gate::Gate;

/// How long a job waits for another's connection to the same server before it opens its own.
const SHARED_OPENING: Duration = Duration::from_millis(500);

type Post = http::Request<Full<Bytes>>;

/// POSTs over HTTP/1.1 and HTTP/2, to what the agent owner's policy allows.
pub struct HttpTransport {
    guard: Arc<Guard>,
    resolver: Resolver,
    pool: Arc<Pool>,
    connector: Connector,
}

/// The transport could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No resolver.
    #[error(transparent)]
    Resolver(#[from] SetUpError),
    /// No TLS.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
}

/// A response's headers, and the connection that its body is still on.
struct Answered {
    response: http::Response<Incoming>,
    lease: Lease,
    key: Arc<Key>,
}

/// What decides whether a request may still be sent.
struct Permit<'a> {
    gate: &'a Gate,
    start_by: Instant,
    deadline: Instant,
}

impl HttpTransport {
    /// A transport that trusts `roots`, and asks `dns_servers` or, if there are none, the machine's.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if the machine's DNS settings cannot be read.
    pub fn new(
        guard: Arc<Guard>,
        roots: RootCertStore,
        dns_servers: &[SocketAddr],
    ) -> Result<HttpTransport, TransportError> {
        let pool = Arc::<Pool>::default();
        let tls = super::tls::client_config(roots)?;
        let connector = Connector::new(Arc::clone(&guard), tls, Arc::clone(&pool));
        Ok(HttpTransport { guard, resolver: Resolver::new(dns_servers)?, pool, connector })
    }

    /// Closes connections that were idle for too long, for ever. One of the agent's tasks.
    pub async fn sweep(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.pool.sweep(now());
        }
    }

    /// All up to the response's headers.
    async fn exchange(
        &self,
        request: Request,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Answered, Failure> {
        let Request { url, headers, body, start_by, connect_timeout, gate, .. } = request;
        let target = self.guard.target(&url)?;
        let key = self.key(&target, trace).await?;
        let mut post = Post::new(Full::new(body));
        *post.method_mut() = Method::POST;
        *post.headers_mut() = headers;
        let permit = Permit { gate: &gate, start_by, deadline };
        if let Some(lease) = self.pool.take(&key, now()) {
            match send(lease, post, &target, &permit, trace).await? {
                Sent::Answered(response, lease) => return Ok(Answered { response, lease, key }),
                // The connection was closed while it was idle, and the request never left.
                Sent::Never(unsent) => post = unsent,
            }
        }
        let lease = self.open(&target, &key, connect_timeout, trace).await?;
        match send(lease, post, &target, &permit, trace).await? {
            Sent::Answered(response, lease) => Ok(Answered { response, lease, key }),
            Sent::Never(_) => {
                Err(Failure::protocol("the endpoint closed the connection before the request was sent"))
            }
        }
    }

    /// The judged addresses to connect to, with all else that makes connections alike.
    async fn key(&self, target: &Target, trace: &mut Trace) -> Result<Arc<Key>, Failure> {
        if let Some(key) = &target.literal {
            return Ok(Arc::clone(key));
        }
        let postrider_domain::egress::Host::Name(name) = target.url.host() else {
            unreachable!("a target whose host is an address has its key");
        };
        let began = now();
        let resolved = self.resolver.resolve(name).await;
        trace.dns = Some(now() - began);
        let addresses = resolved?;
        self.guard.judge_addresses(target, &addresses)?;
        Ok(Arc::new(Key::new(&target.url, addresses)))
    }

    /// A connection that was not there a moment ago: a new one, or a shared one that another job opened
    /// while this one waited to open its own.
    async fn open(
        &self,
        target: &Target,
        key: &Arc<Key>,
        connect_timeout: Duration,
        trace: &mut Trace,
    ) -> Result<Lease, Failure> {
        let Some(opening) = self.pool.opening(key) else {
            return self.connector.connect(target, key, connect_timeout, trace).await;
        };
        trace.phase = Phase::Connect;
        // When the wait is over without the lock, this job opens its own: one lost packet must not hold up all.
        let turn = timeout(SHARED_OPENING, opening.lock()).await;
        if let Some(lease) = self.pool.take(key, now()) {
            return Ok(Lease { reused: false, ..lease });
        }
        let turn = turn.ok().filter(|_| self.pool.opening(key).is_some());
        let lease = self.connector.connect(target, key, connect_timeout, trace).await?;
        self.pool.share(key, &lease, now());
        drop(turn);
        Ok(lease)
    }

    async fn finish(&self, answered: Answered, keep: usize) -> super::Response {
        let Answered { response, lease, key } = answered;
        let idle_time = response::idle_time(response.headers()).min(IDLE_TIMEOUT);
        let (response, complete) = response::read(response, keep).await;
        if complete && !idle_time.is_zero() {
            self.pool.put(&key, lease, now() + idle_time);
        }
        response
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn post(&self, request: Request) -> Report {
        let began = now();
        if began > request.start_by || request.gate.is_shut() {
            return Report::not_started("the job came too late or is not wanted any more");
        }
        let deadline = began + request.timeout;
        let keep = request.keep_response_bytes;
        let mut trace = Trace::default();
        let exchanged = match timeout_at(deadline, self.exchange(request, deadline, &mut trace)).await {
            Ok(exchanged) => exchanged,
            Err(_elapsed) => Err(Failure::deadline(trace.phase)),
        };
        match exchanged {
            Ok(answered) => {
                let response = self.finish(answered, keep).await;
                trace.total = now() - began;
                let kind = OutcomeKind::Response;
                Report { kind, detail: "".into(), response: Some(response), trace, refusal: None }
            }
            Err(Failure { kind, detail, refusal }) => {
                trace.total = now() - began;
                Report { kind, detail: detail.into(), response: None, trace, refusal }
            }
        }
    }
}

enum Sent {
    /// The response's headers are here.
    Answered(http::Response<Incoming>, Lease),
    /// No byte of the request was sent; here it is.
    Never(Post),
}

/// Sends `post` once. It comes back only if the connection never began to send it.
async fn send(
    mut lease: Lease,
    post: Post,
    target: &Target,
    permit: &Permit<'_>,
    trace: &mut Trace,
) -> Result<Sent, Failure> {
    let began = now();
    permit.check(began)?;
    trace.phase = Phase::Response;
    trace.request_sent = true;
    trace.peer = Some(lease.facts.peer);
    trace.tls_version = lease.facts.tls_version;
    let post = addressed(post, target, &lease.sender);
    let sent = match &mut lease.sender {
        Sender::Http1(sender) => {
            trace.http_version = "HTTP/1.1";
            sender.try_send_request(post).await
        }
        Sender::Http2(sender, _) => {
            trace.http_version = "HTTP/2";
            sender.try_send_request(post).await
        }
    };
    match sent {
        Ok(response) if response.headers().len() > MAX_HEADERS => {
            Err(Failure::protocol("the response's headers are too large"))
        }
        Ok(response) => {
            trace.first_byte = Some(now() - began);
            Ok(Sent::Answered(response, lease))
        }
        Err(mut error) => {
            let Some(post) = error.take_message() else { return Err(Failure::http(error.error())) };
            trace.request_sent = false;
            if lease.reused { Ok(Sent::Never(post)) } else { Err(Failure::http(error.error())) }
        }
    }
}

/// Gives the request the form that the connection's protocol wants.
fn addressed(mut post: Post, target: &Target, sender: &Sender) -> Post {
    match sender {
        Sender::Http1(_) => {
            *post.uri_mut() = target.origin_form.clone();
            post.headers_mut().insert(HOST, target.host.clone());
        }
        Sender::Http2(..) => {
            *post.uri_mut() = target.absolute_form.clone();
            *post.version_mut() = Version::HTTP_2;
            post.headers_mut().remove(HOST);
        }
    }
    post
}

impl Permit<'_> {
    /// Says whether the request may be sent now. What is sent after this is under way.
    fn check(&self, now: Instant) -> Result<(), Failure> {
        // Getting here has taken time, and this process may have been stopped meanwhile: a timer that has
        // passed is not proof that its task was woken in time.
        if now > self.start_by.min(self.deadline) {
            return Err(Failure::stale());
        }
        if !self.gate.pass() {
            return Err(Failure::not_started("the job was not wanted any more before it was sent"));
        }
        Ok(())
    }
}

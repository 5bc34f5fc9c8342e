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

    /// All up to the response's headers. Takes the headers and the body out of `request`.
    async fn exchange(
        &self,
        request: &mut Request,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Answered, Failure> {
        let target = self.guard.target(&request.url)?;
        let key = self.key(&target, trace).await?;
        let mut unsent = Some(post(request));
        let mut pooled = self.pool.take(&key, now());
        loop {
            let mut lease = match pooled.take() {
                Some(lease) => lease,
                // Boxed, because it is large and seldom needed: every job would carry room for it.
                None => Box::pin(self.open(&target, &key, request.connect_timeout, trace)).await?,
            };
            let permit = Permit { gate: &request.gate, start_by: request.start_by, deadline };
            if let Some(response) = send(&mut lease, &mut unsent, &target, &permit, trace).await? {
                return Ok(Answered { response, lease, key });
            }
            // The connection was closed while it was idle, and the request never left. A new one follows,
            // and if that cannot send it either, that is a failure: so this comes round once only.
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
        // Boxed for the same reason as a new connection is.
        let resolved = Box::pin(self.resolver.resolve(name)).await;
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
    async fn post(&self, mut request: Request) -> Report {
        let began = now();
        if began > request.start_by || request.gate.is_shut() {
            return Report::not_started("the job came too late or is not wanted any more");
        }
        let deadline = began + request.timeout;
        let keep = request.keep_response_bytes;
        let mut trace = Trace::default();
        // Boxed, so that both this future and the one inside are small enough for the allocator's fast path.
        let exchange = Box::pin(self.exchange(&mut request, deadline, &mut trace));
        let exchanged = match timeout_at(deadline, exchange).await {
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

/// The request without its target, which depends on the connection.
fn post(request: &mut Request) -> Post {
    let mut post = Post::new(Full::new(std::mem::take(&mut request.body)));
    *post.method_mut() = Method::POST;
    *post.headers_mut() = std::mem::take(&mut request.headers);
    post
}

/// Sends what is `unsent`, once. `None`, and it is back there, if the connection had been used before and never
/// began to send it.
async fn send(
    lease: &mut Lease,
    unsent: &mut Option<Post>,
    target: &Target,
    permit: &Permit<'_>,
    trace: &mut Trace,
) -> Result<Option<http::Response<Incoming>>, Failure> {
    let began = now();
    permit.check(began)?;
    let post = addressed(unsent.take().expect("it is unsent"), target, &lease.sender);
    trace.sending(lease);
    let sent = match &mut lease.sender {
        Sender::Http1(sender) => sender.try_send_request(post).await,
        Sender::Http2(sender, _) => sender.try_send_request(post).await,
    };
    match sent {
        Ok(response) if response.headers().len() > MAX_HEADERS => {
            Err(Failure::protocol("the response's headers are too large"))
        }
        Ok(response) => {
            trace.first_byte = Some(now() - began);
            Ok(Some(response))
        }
        Err(mut error) => {
            *unsent = error.take_message();
            trace.request_sent = unsent.is_none();
            if unsent.is_some() && lease.reused { Ok(None) } else { Err(Failure::http(error.error())) }
        }
    }
}

impl Trace {
    /// Notes that a request is on its way over `lease`.
    fn sending(&mut self, lease: &Lease) {
        self.phase = Phase::Response;
        self.request_sent = true;
        self.peer = Some(lease.facts.peer);
        self.tls_version = lease.facts.tls_version;
        self.http_version = match lease.sender {
            Sender::Http1(_) => "HTTP/1.1",
            Sender::Http2(..) => "HTTP/2",
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_in_time_or_not_at_all() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let gate = Gate::default();
        let permit = Permit { gate: &gate, start_by: at(20), deadline: at(30) };
        assert_eq!(permit.check(at(21)).unwrap_err().kind, OutcomeKind::Timeout);
        let permit = Permit { gate: &gate, start_by: at(20), deadline: at(10) };
        assert_eq!(permit.check(at(11)).unwrap_err().kind, OutcomeKind::Timeout);
        assert!(permit.check(at(10)).is_ok());
        gate.shut();
        assert!(permit.check(at(10)).is_ok(), "it is under way");
        let shut = Gate::default();
        shut.shut();
        let permit = Permit { gate: &shut, start_by: at(20), deadline: at(30) };
        assert_eq!(permit.check(at(0)).unwrap_err().kind, OutcomeKind::NotStarted);
    }
}

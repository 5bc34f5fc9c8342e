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
use super::credentials::{Credentials, HostCredentials, Mistake};
use super::failure::Failure;
use super::guard::{Guard, Target};
use super::pool::{IDLE_TIMEOUT, Key, Lease, Pool, Sender};
use super::proxy::Proxy;
use super::resolver::{Resolver, SetUpError};
use super::response::Keep;
use super::{Look, Phase, Report, Request, Sight, Trace, Transport, credentials, machine, proxy, response};
use crate::clock::{Instant, now};
use crate::gate::Gate;

mod look;

/// How long a job waits for another's connection to the same server before it opens its own.
const SHARED_OPENING: Duration = Duration::from_millis(500);

type Post = http::Request<Full<Bytes>>;

/// How often what the transport knows of its surroundings is looked at again.
const UPKEEP: Duration = Duration::from_secs(5);

/// POSTs over HTTP/1.1 and HTTP/2, to what the agent owner's policy allows.
pub struct HttpTransport {
    guard: Arc<Guard>,
    resolver: Resolver,
    pool: Pool,
    connector: Connector,
    credentials: Arc<Credentials>,
}

/// What a transport needs besides a policy.
#[derive(Debug)]
pub struct Settings {
    /// The authorities to trust.
    pub roots: RootCertStore,
    /// The name servers to ask. None: the machine's.
    pub dns_servers: Vec<SocketAddr>,
    /// The owner's egress proxy.
    pub proxy: Option<proxy::Settings>,
    /// The owner's credentials.
    pub credentials: Vec<credentials::Settings>,
}

impl Settings {
    /// Trusts `roots`, and has nothing else.
    #[must_use]
    pub fn trusting(roots: RootCertStore) -> Settings {
        Settings { roots, dns_servers: Vec::new(), proxy: None, credentials: Vec::new() }
    }
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
    /// A file with credentials went away or is no good.
    #[error("credentials cannot be used: {0}")]
    Credentials(Mistake),
}

/// A response's headers, and the connection that its body is still on.
struct Answered {
    response: http::Response<Incoming>,
    lease: Lease,
    key: Arc<Key>,
    hidden: bool,
}

/// A connection on which a request may be under way. If this is dropped before there is an answer, the connection is
/// not lent again.
struct Pending<'a> {
    pool: &'a Pool,
    key: &'a Arc<Key>,
    lease: Option<Lease>,
}

/// What decides whether a request may still be sent.
struct Permit<'a> {
    gate: &'a Gate,
    start_by: Instant,
    deadline: Instant,
}

impl HttpTransport {
    /// A transport that calls what `guard` lets pass.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if the machine's DNS settings or a file with credentials cannot be read.
    pub fn new(guard: Arc<Guard>, settings: Settings) -> Result<HttpTransport, TransportError> {
        let Settings { roots, dns_servers, proxy, credentials } = settings;
        let resolver = Resolver::new(&dns_servers)?;
        let credentials =
            Credentials::load(credentials, roots.clone()).map_err(TransportError::Credentials)?;
        let tls = super::tls::client_config(roots, None)?;
        let proxy = proxy.map(|settings| Proxy::new(settings, resolver.clone()));
        let connector = Connector::new(Arc::clone(&guard), tls, proxy);
        Ok(HttpTransport {
            guard,
            resolver,
            pool: Pool::default(),
            connector,
            credentials: Arc::new(credentials),
        })
    }

    /// Closes connections that were idle for too long, notices when this machine's addresses or the files with
    /// credentials have changed, for ever. One of the agent's tasks.
    pub async fn keep_up(&self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.pool.sweep(now());
            if let Ok(addresses) = machine::addresses() {
                self.guard.set_machine(addresses);
            }
            self.refresh_credentials().await;
        }
    }

    /// Reads the files with credentials again.
    pub async fn refresh_credentials(&self) {
        if self.credentials.is_empty() {
            return;
        }
        let credentials = Arc::clone(&self.credentials);
        // It cannot fail but by a panic, which leaves the credentials as they were.
        drop(tokio::task::spawn_blocking(move || credentials.refresh()).await);
    }

    /// All up to the response's headers. Takes the headers and the body out of `request`.
    async fn exchange(
        &self,
        request: &mut Request,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Answered, Failure> {
        let target = self.guard.target(&request.url).map_err(Failure::refused)?;
        let credentials = self.credentials.of(target.url.host());
        let credentials = credentials.as_deref();
        let key = self.key(&target, credentials, trace).await?;
        let mut unsent = Some(post(request, credentials));
        let mut pooled = self.pool.take(&key, now());
        loop {
            let lease = match pooled.take() {
                Some(lease) => lease,
                // Boxed, because it is large and seldom needed: every job would carry room for it.
                None => {
                    Box::pin(self.open(&target, &key, credentials, request.connect_timeout, trace)).await?
                }
            };
            Permit { gate: &request.gate, start_by: request.start_by, deadline }.check(now())?;
            let mut pending = Pending { pool: &self.pool, key: &key, lease: Some(lease) };
            if let Some(response) = send(pending.lease(), &mut unsent, &target, trace).await? {
                let lease = pending.answered();
                let hidden = credentials.is_some_and(|credentials| credentials.hide_responses);
                return Ok(Answered { response, lease, key, hidden });
            }
            // The connection was closed while it was idle, and the request never left. A new one follows,
            // and if that cannot send it either, that is a failure: so this comes round once only.
        }
    }

    /// The judged addresses to connect to, with all else that makes connections alike.
    async fn key(
        &self,
        target: &Target,
        credentials: Option<&HostCredentials>,
        trace: &mut Trace,
    ) -> Result<Arc<Key>, Failure> {
        let with_credentials = |key: Key| match credentials {
            Some(credentials) => key.with_credentials(credentials.id),
            None => key,
        };
        if let Some(key) = &target.literal {
            return Ok(match credentials {
                Some(credentials) => Arc::new(key.with_credentials(credentials.id)),
                None => Arc::clone(key),
            });
        }
        if self.connector.leaves_to_proxy(target) {
            return Ok(Arc::new(with_credentials(Key::new(&target.url, Vec::new()))));
        }
        let postrider_domain::egress::Host::Name(name) = target.url.host() else {
            unreachable!("a target whose host is an address has its key");
        };
        let began = now();
        // Boxed for the same reason as a new connection is.
        let resolved = Box::pin(self.resolver.resolve(name)).await;
        trace.dns = Some(now() - began);
        let addresses = resolved?;
        if let Some(seen) = &mut trace.seen {
            seen.addresses.clone_from(&addresses);
        }
        self.guard.judge_addresses(target, &addresses).map_err(Failure::refused)?;
        Ok(Arc::new(with_credentials(Key::new(&target.url, addresses))))
    }

    /// A connection that was not there a moment ago: a new one, or a shared one that another job opened
    /// while this one waited to open its own.
    async fn open(
        &self,
        target: &Target,
        key: &Arc<Key>,
        credentials: Option<&HostCredentials>,
        connect_timeout: Duration,
        trace: &mut Trace,
    ) -> Result<Lease, Failure> {
        let Some(opening) = self.pool.opening(key) else {
            return self.connector.connect(target, key, credentials, connect_timeout, trace).await;
        };
        trace.phase = Phase::Connect;
        // When the wait is over without the lock, this job opens its own: one lost packet must not hold up all.
        let turn = timeout(SHARED_OPENING, opening.lock()).await;
        if let Some(lease) = self.pool.take(key, now()) {
            return Ok(Lease { reused: false, ..lease });
        }
        let turn = turn.ok().filter(|_| self.pool.opening(key).is_some());
        let lease = self.connector.connect(target, key, credentials, connect_timeout, trace).await?;
        self.pool.share(key, &lease, now());
        drop(turn);
        Ok(lease)
    }

    async fn finish(&self, answered: Answered, bytes: usize, deadline: Instant) -> super::Response {
        let Answered { response, lease, key, hidden } = answered;
        let idle_time = response::idle_time(response.headers()).min(IDLE_TIMEOUT);
        let keep = if hidden { Keep::Hidden } else { Keep::Shown { bytes } };
        let until = response::body_deadline(now(), deadline);
        let (response, complete) = response::read(response, keep, until).await;
        if complete && !idle_time.is_zero() {
            self.pool.put(&key, lease, now() + idle_time);
        }
        response
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn look(&self, look: Look) -> Sight {
        self.look_at(look).await
    }

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
                let head = &answered.response;
                let refusal = response::redirect(head.status(), head.headers()).map(Box::new);
                let response = Some(self.finish(answered, keep, deadline).await);
                trace.total = now() - began;
                Report {
                    kind: OutcomeKind::Response,
                    detail: "".into(),
                    response,
                    trace,
                    refusal,
                    cause: None,
                }
            }
            Err(Failure { kind, detail, refusal, cause }) => {
                trace.total = now() - began;
                Report { kind, detail: detail.into(), response: None, trace, refusal, cause }
            }
        }
    }
}

/// The request without its target, which depends on the connection. What the agent's owner sends to this host wins over
/// what the job says.
fn post(request: &mut Request, credentials: Option<&HostCredentials>) -> Post {
    let mut post = Post::new(Full::new(std::mem::take(&mut request.body)));
    *post.method_mut() = Method::POST;
    *post.headers_mut() = std::mem::take(&mut request.headers);
    for (name, value) in credentials.iter().flat_map(|credentials| &credentials.headers) {
        post.headers_mut().insert(name, value.clone());
    }
    post
}

impl Pending<'_> {
    fn lease(&mut self) -> &mut Lease {
        self.lease.as_mut().expect("it is taken out when there is an answer, and not before")
    }

    fn answered(mut self) -> Lease {
        self.lease.take().expect("it is taken out here only")
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease {
            self.pool.retire(self.key, lease);
        }
    }
}

/// Sends what is `unsent`, once. `None`, and it is back there, if the connection had been used before and never
/// began to send it.
async fn send(
    lease: &mut Lease,
    unsent: &mut Option<Post>,
    target: &Target,
    trace: &mut Trace,
) -> Result<Option<http::Response<Incoming>>, Failure> {
    let began = now();
    let post = addressed(unsent.take().expect("it is unsent"), target, &lease.sender);
    trace.sending(lease);
    let sent = match &mut lease.sender {
        Sender::Http1(connection) => {
            connection.head_limit.set();
            let sent = connection.sender.try_send_request(post).await;
            connection.head_limit.lift();
            sent
        }
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
            Sender::Http1(..) => "HTTP/1.1",
            Sender::Http2(..) => "HTTP/2",
        };
    }
}

/// Gives the request the form that the connection's protocol wants.
fn addressed(mut post: Post, target: &Target, sender: &Sender) -> Post {
    match sender {
        Sender::Http1(..) => {
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

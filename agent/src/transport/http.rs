//! The real transport: judge, find or open a connection, send once, read the answer, by one deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper::body::Incoming;
use postrider_domain::headers::echo::Echo;
use postrider_proto::agent::OutcomeKind;
use postrider_telemetry::blocking;
use rustls::RootCertStore;
use tokio::time::{timeout, timeout_at};

use self::repeats::{NotProcessed, Repeats};
use self::send::{Unanswered, send};
use self::waiting::Waiting;
use super::connector::{Aim, Connector};
use super::credentials::{Credentials, HostCredentials, Problem};
use super::failure::Failure;
use super::guard::{Guard, Target};
use super::pool::{IDLE_TIMEOUT, Key, Lease, Pool};
use super::proxy::Proxy;
use super::resolver::{Late, Resolved, Resolver, SetUpError};
use super::response::Keep;
use super::{Look, Phase, Report, Request, Sight, Trace, Transport, credentials, machine, proxy, response};
use crate::clock::{Instant, now};
use crate::gate::Gate;
use crate::shortage::{Room, Shortages};

mod look;
pub(crate) mod repeats;
mod send;
mod waiting;

/// How long a job waits for another's connection to the same server before it opens its own.
const SHARED_OPENING: Duration = Duration::from_millis(500);

type Post = http::Request<Full<Bytes>>;

/// A request that is larger than this may be answered before it was read, by an endpoint that then closes the connection,
/// with a reset that is still on its way. So the connection is lent again only after a moment.
const LARGE: usize = 16 << 10;
const MOMENT: Duration = Duration::from_millis(30);

/// How often what the transport knows of its surroundings is looked at again.
const UPKEEP: Duration = Duration::from_secs(5);

/// POSTs over HTTP/1.1 and HTTP/2, to what the agent owner's policy allows.
pub struct HttpTransport {
    guard: Arc<Guard>,
    resolver: Resolver,
    pool: Pool,
    connector: Connector,
    credentials: Arc<Credentials>,
    shortages: Shortages,
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
    /// What the limit of open files leaves room for.
    pub room: Room,
    /// Receives reports of what the machine lacks.
    pub shortages: Shortages,
}

impl Settings {
    /// Trusts `roots`, and has nothing else.
    #[must_use]
    pub fn trusting(roots: RootCertStore) -> Settings {
        Settings {
            roots,
            dns_servers: Vec::new(),
            proxy: None,
            credentials: Vec::new(),
            room: Room::make(),
            shortages: Shortages::default(),
        }
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
    Credentials(Problem),
}

/// A response's headers, and the connection that its body is still on.
struct Answered {
    response: http::Response<Incoming>,
    lease: Lease,
    key: Arc<Key>,
    hidden: bool,
    /// What of the agent owner's headers is taken out of what is kept.
    echo: Option<Arc<Echo>>,
    /// Whether the request was large.
    large: bool,
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
        let Settings { roots, dns_servers, proxy, credentials, room, shortages } = settings;
        let resolver = Resolver::new(&dns_servers, room.lookups)?;
        let credentials =
            Credentials::load(credentials, roots.clone()).map_err(TransportError::Credentials)?;
        let tls = super::tls::client_config(roots, None)?;
        let proxy = proxy.map(|settings| Proxy::new(settings, resolver.clone()));
        let connector = Connector::new(Arc::clone(&guard), tls, proxy);
        Ok(HttpTransport {
            guard,
            resolver,
            pool: Pool::new(room.idle),
            connector,
            credentials: Arc::new(credentials),
            shortages,
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

    /// The owner's credentials.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials)
    }

    /// Reads the files with credentials again.
    pub async fn refresh_credentials(&self) {
        if self.credentials.is_empty() {
            return;
        }
        let credentials = Arc::clone(&self.credentials);
        if let Err(lost) = blocking::run(move || credentials.refresh()).await {
            tracing::error!("failed to reload credential files; keeping the previous credentials: {lost}");
        }
    }

    /// All up to the response's headers. Takes the headers and the body out of `request`.
    async fn exchange(
        &self,
        request: &mut Request,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Answered, Failure> {
        let target = self.guard.target(&request.url).map_err(Failure::refused)?;
        let credentials = self.credentials.of(&target.url);
        let credentials = credentials.as_deref();
        let gate = Arc::clone(&request.gate);
        let permit = Permit { gate: &gate, start_by: request.start_by, deadline };
        let mut waiting = Waiting::new(now(), request.timeout, permit.end());
        let (key, late) = loop {
            match self.key(&target, credentials, trace).await {
                Ok(found) => break found,
                Err(failure) => self.wait_for_room(failure, &mut waiting).await?,
            }
        };
        let connect_timeout = request.connect_timeout;
        let mut aim =
            Aim { target: &target, key: &key, credentials, connect_timeout, late, only_http1: false };
        let large = request.body.len() > LARGE;
        let post = post(request, credentials);
        let mut repeats = Repeats::default();
        let mut pooled = self.pool.take(&key, now());
        loop {
            let lease = match pooled {
                Some(lease) => lease,
                // Boxed, because it is large and seldom needed: every job would carry room for it.
                None => match Box::pin(self.open(&mut aim, trace)).await {
                    Ok(lease) => lease,
                    Err(failure) => {
                        self.wait_for_room(failure, &mut waiting).await?;
                        pooled = self.pool.take(&key, now());
                        continue;
                    }
                },
            };
            let mut pending = Pending { pool: &self.pool, key: &key, lease: Some(lease) };
            // A connection that took too long is not kept for others either.
            permit.check(now())?;
            // Cloned, since the request may have to be sent again. Its body is shared.
            let why = match send(pending.lease(), post.clone(), &target, trace).await {
                Ok(response) => {
                    let lease = pending.answered();
                    let hidden = credentials.is_some_and(|credentials| credentials.hide_responses);
                    let echo = credentials.map(|credentials| Arc::clone(&credentials.echo));
                    return Ok(Answered { response, lease, key, hidden, echo, large });
                }
                Err(Unanswered::Failed(failure)) => return Err(failure),
                Err(Unanswered::NotProcessed(why)) => why,
            };
            let pause = repeats.next(why, rand::random()).ok_or_else(|| Failure::not_processed(why))?;
            if now() + pause >= permit.end() {
                return Err(Failure::not_processed(why));
            }
            self.learn(why, pending);
            tokio::time::sleep(pause).await;
            // A connection that was closed while it was idle is seldom the only one.
            let closed = matches!(why, NotProcessed::Closed { .. });
            pooled = if closed { None } else { self.pool.take(&key, now()) };
        }
    }

    /// Waits a moment after something was lacking on this machine, with as much of it freed as can be.
    async fn wait_for_room(&self, failure: Failure, waiting: &mut Waiting) -> Result<(), Failure> {
        let Some(shortage) = failure.shortage else { return Err(failure) };
        self.shortages.report(shortage);
        self.pool.close_idle();
        let pause = waiting.next(now(), rand::random()).ok_or(failure)?;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Draws from a request that was not processed what is to be known before it is sent again.
    fn learn(&self, why: NotProcessed, pending: Pending<'_>) {
        match why {
            // The connection is fine.
            NotProcessed::Refused => drop(pending.answered()),
            NotProcessed::Http1Required => self.pool.speak_http1(pending.key, now()),
            NotProcessed::Closed { .. } | NotProcessed::GoingAway => {}
        }
    }

    /// The judged addresses to connect to, with all else that makes connections alike; and what else the name may lead
    /// to.
    async fn key(
        &self,
        target: &Target,
        credentials: Option<&HostCredentials>,
        trace: &mut Trace,
    ) -> Result<(Arc<Key>, Option<Late>), Failure> {
        let with_credentials = |key: Key| match credentials {
            Some(credentials) => key.with_credentials(credentials.id),
            None => key,
        };
        if let Some(key) = &target.literal {
            let key = match credentials {
                Some(credentials) => Arc::new(key.with_credentials(credentials.id)),
                None => Arc::clone(key),
            };
            return Ok((key, None));
        }
        if self.connector.leaves_to_proxy(target) {
            return Ok((Arc::new(with_credentials(Key::new(&target.url, Vec::new()))), None));
        }
        let postrider_domain::egress::Host::Name(name) = target.url.host() else {
            unreachable!("a target whose host is an address has its key");
        };
        let began = now();
        // Boxed for the same reason as a new connection is.
        let resolved = Box::pin(self.resolver.resolve(name)).await;
        trace.dns = Some(now() - began);
        let Resolved { addresses, late } = resolved?;
        if let Some(seen) = &mut trace.seen {
            seen.addresses.clone_from(&addresses);
        }
        self.guard.judge_addresses(target, &addresses).map_err(Failure::refused)?;
        Ok((Arc::new(with_credentials(Key::new(&target.url, addresses))), late))
    }

    /// A connection that was not there a moment ago: a new one, or a shared one that another job opened
    /// while this one waited to open its own.
    async fn open(&self, aim: &mut Aim<'_>, trace: &mut Trace) -> Result<Lease, Failure> {
        let key = aim.key;
        aim.only_http1 = self.pool.speaks_only_http1(key, now());
        let Some(opening) = self.pool.opening(key) else {
            return self.connector.connect(aim, trace).await;
        };
        trace.phase = Phase::Connect;
        // When the wait is over without the lock, this job opens its own: one lost packet must not hold up all.
        let turn = timeout(SHARED_OPENING, opening.lock()).await;
        if let Some(lease) = self.pool.take(key, now()) {
            return Ok(lease);
        }
        let turn = turn.ok().filter(|_| self.pool.opening(key).is_some());
        let lease = self.connector.connect(aim, trace).await?;
        self.pool.share(key, &lease, now());
        drop(turn);
        Ok(lease)
    }

    async fn finish(&self, answered: Answered, bytes: usize, deadline: Instant) -> super::Response {
        let Answered { response, lease, key, hidden, echo, large } = answered;
        let idle_time = response::idle_time(response.headers()).min(IDLE_TIMEOUT);
        let keep = if hidden { Keep::Hidden } else { Keep::Shown { bytes } };
        let until = response::body_deadline(now(), deadline);
        let (mut response, complete) = response::read(response, keep, until).await;
        if let Some(echo) = echo {
            response.headers.iter_mut().for_each(|(_, value)| echo.hide_in_text(value));
            response.body = echo.hide(&response.body).map_or(response.body, Bytes::from);
        }
        if complete && !idle_time.is_zero() {
            let from = if large { now() + MOMENT } else { now() };
            self.pool.put(&key, lease, from, now() + idle_time);
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
                    not_processed: false,
                    shortage: None,
                }
            }
            Err(Failure { kind, detail, refusal, cause, not_processed, shortage }) => {
                trace.total = now() - began;
                let detail = detail.into();
                Report { kind, detail, response: None, trace, refusal, cause, not_processed, shortage }
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

impl Permit<'_> {
    /// After this, nothing is sent any more.
    fn end(&self) -> Instant {
        self.start_by.min(self.deadline)
    }

    /// Says whether the request may be sent now. What is sent after this is under way.
    fn check(&self, now: Instant) -> Result<(), Failure> {
        // Getting here has taken time, and this process may have been stopped meanwhile: a timer that has
        // passed is not proof that its task was woken in time.
        if now > self.end() {
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

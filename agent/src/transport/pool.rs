//! Connections that can be used again, by the very addresses they may lead to.
//!
//! The key holds the judged addresses beside scheme, host and port, and the credentials of the agent's owner, if
//! there are any for the host: a connection is only lent to an attempt whose own lookup gave, and whose own judgement
//! passed, the same set, and that brings the same credentials. An HTTP/1.1 connection is lent to one attempt at a time
//! and comes back when its response was read to the end; an HTTP/2 connection is shared.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use postrider_domain::egress::{EndpointUrl, Host, Scheme};

use super::driver::Driver;
use super::frames::{Frames, Turn};
use super::paced::HeadLimit;
use super::socket::Wire;
use crate::clock::Instant;

/// Idle HTTP/1.1 connections kept for one key: as many as an agent by default holds jobs. Outcomes and jobs come
/// in batches, so connections that were all in use a moment ago are all idle now, and all in use again soon;
/// a lower bound would close and open some at every turn. A true surplus is closed by its age.
const MAX_IDLE_PER_KEY: usize = 512;
/// And for all keys: each holds a socket and some 10 KiB of buffers, more with TLS.
const MAX_IDLE: usize = 1024;
/// An idle connection is closed after this, or sooner if the server says so: a request sent into a connection
/// that the server is closing is an unknown outcome, and many servers close theirs after 60 s.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long HTTP/2 is not offered to a server that wants HTTP/1.1.
const ONLY_HTTP1: Duration = Duration::from_secs(3600);
/// Attempts that share an HTTP/2 connection before another is opened, if the server allows that many.
pub(crate) const MAX_STREAMS: usize = 100;

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    tls: bool,
    host: Box<str>,
    port: u16,
    /// Sorted, as the resolver gives them. None, if the egress proxy looks the name up.
    addresses: Box<[IpAddr]>,
    /// The id of the owner's credentials for the host. 0: there are none.
    credentials: u64,
}

/// What is known about a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// The TLS version's name, or empty.
    pub(crate) tls_version: &'static str,
}

/// The sending half of a connection.
pub(crate) enum Sender {
    /// One request at a time.
    Http1(Exclusive),
    /// Many at once, what bounds them, and this one's part of what the server may send.
    Http2(http2::SendRequest<Full<Bytes>>, Arc<Streams>, Turn),
}

/// An HTTP/1.1 connection.
pub(crate) struct Exclusive {
    pub(crate) sender: http1::SendRequest<Full<Bytes>>,
    pub(crate) head_limit: Arc<HeadLimit>,
    _driver: Driver,
}

impl Exclusive {
    pub(crate) fn new(
        sender: http1::SendRequest<Full<Bytes>>,
        head_limit: Arc<HeadLimit>,
        driver: Driver,
    ) -> Exclusive {
        Exclusive { sender, head_limit, _driver: driver }
    }
}

/// How many streams a shared connection may carry. Each attempt on it holds one of these, which counts them.
#[derive(Debug)]
pub(crate) struct Streams {
    /// As the server says; the connection's driver keeps it up to date.
    allowed: Arc<AtomicUsize>,
    frames: Arc<Frames>,
    _driver: Driver,
}

/// A connection for one attempt.
pub(crate) struct Lease {
    pub(crate) sender: Sender,
    pub(crate) wire: Arc<Wire>,
    pub(crate) facts: Facts,
    /// Whether it has carried a request before. The first failure to send on such a one may be its age.
    pub(crate) reused: bool,
}

/// See the [module](self).
pub(crate) struct Pool {
    most_idle: usize,
    shelves: Mutex<Shelves>,
}

#[derive(Default)]
struct Shelves {
    by_key: HashMap<Arc<Key>, Shelf>,
    /// Idle HTTP/1.1 connections on all shelves.
    idle: usize,
}

#[derive(Default)]
struct Shelf {
    /// The youngest last; it is taken first, so that a surplus grows old and goes.
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Held while a connection is opened that others may share: see [`Pool::opening`].
    opening: Weak<tokio::sync::Mutex<()>>,
    /// The server chose HTTP/1.1, so no connection can be shared.
    speaks_http1: bool,
    /// The server wants HTTP/1.1 though it chose HTTP/2: until when it is not offered.
    only_http1_until: Option<Instant>,
}

struct Idle {
    connection: Exclusive,
    wire: Arc<Wire>,
    facts: Facts,
    /// Not lent before.
    from: Instant,
    until: Instant,
}

struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    wire: Arc<Wire>,
    facts: Facts,
    streams: Arc<Streams>,
    since: Instant,
}

impl Key {
    pub(crate) fn new(url: &EndpointUrl, addresses: Vec<IpAddr>) -> Key {
        let host = match url.host() {
            Host::Name(name) => name.into(),
            // The address is in `addresses`.
            Host::Address(_) => Box::default(),
        };
        let tls = url.scheme() == Scheme::Https;
        Key { tls, host, port: url.port(), addresses: addresses.into(), credentials: 0 }
    }

    /// The key of the same connections, but with these credentials.
    pub(crate) fn with_credentials(&self, id: u64) -> Key {
        Key { credentials: id, ..self.clone() }
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether a connection to `peer` may be lent to others with this key. An address that became known only while the
    /// connection was made is not in the key.
    fn leads_to(&self, peer: SocketAddr) -> bool {
        self.addresses.is_empty() || self.addresses.contains(&peer.ip())
    }
}

impl Streams {
    /// For a connection whose driver keeps `allowed` up to date with what the server says, and whose reads `frames` bounds.
    pub(crate) fn new(allowed: Arc<AtomicUsize>, frames: Arc<Frames>, driver: Driver) -> Streams {
        Streams { allowed, frames, _driver: driver }
    }

    fn most(&self) -> usize {
        self.allowed.load(Ordering::Relaxed).clamp(1, MAX_STREAMS)
    }
}

impl Pool {
    /// Keeps so many idle connections at most.
    pub(crate) fn new(most_idle: usize) -> Pool {
        Pool { most_idle: most_idle.min(MAX_IDLE), shelves: Mutex::default() }
    }

    /// Closes all idle connections, whose files others need.
    pub(crate) fn close_idle(&self) {
        let mut shelves = self.shelves();
        shelves.by_key.values_mut().for_each(|shelf| shelf.idle.clear());
        shelves.idle = 0;
    }

    /// A connection that is ready now, if there is one.
    pub(crate) fn take(&self, key: &Arc<Key>, now: Instant) -> Option<Lease> {
        self.shelves().take(key, now)
    }

    /// Puts back an HTTP/1.1 connection whose response was read to the end, to be lent again `from` then and to be idle
    /// `until` then. It may not be ready for the next request yet; the next user checks that.
    pub(crate) fn put(&self, key: &Arc<Key>, lease: Lease, from: Instant, until: Instant) {
        if let Sender::Http1(connection) = lease.sender
            && key.leads_to(lease.facts.peer)
            && !connection.sender.is_closed()
            && !lease.wire.is_broken()
        {
            self.shelves().put(
                self.most_idle,
                key,
                Idle { connection, wire: lease.wire, facts: lease.facts, from, until },
            );
        }
    }

    /// Lends a shared connection no more, on which an attempt has failed: it may lead nowhere any more, or to a server
    /// that floods it. Attempts that are under way on it go on.
    pub(crate) fn retire(&self, key: &Arc<Key>, lease: &Lease) {
        if let Sender::Http2(_, streams, _) = &lease.sender
            && let Some(shelf) = self.shelves().by_key.get_mut(key)
        {
            shelf.shared.retain(|shared| !Arc::ptr_eq(&shared.streams, streams));
        }
    }

    /// HTTP/2 is not offered to this server for a while. Attempts that are under way over it go on.
    pub(crate) fn speak_http1(&self, key: &Arc<Key>, now: Instant) {
        let mut shelves = self.shelves();
        let shelf = shelves.by_key.entry(Arc::clone(key)).or_default();
        shelf.shared.clear();
        shelf.speaks_http1 = true;
        shelf.only_http1_until = Some(now + ONLY_HTTP1);
    }

    /// Whether HTTP/2 is not to be offered.
    pub(crate) fn speaks_only_http1(&self, key: &Key, now: Instant) -> bool {
        self.shelves().by_key.get(key).is_some_and(|shelf| shelf.speaks_only_http1(now))
    }

    /// Makes a new HTTP/2 connection known to all who want one with this key.
    pub(crate) fn share(&self, key: &Arc<Key>, lease: &Lease, now: Instant) {
        let mut shelves = self.shelves();
        let shelf = shelves.by_key.entry(Arc::clone(key)).or_default();
        match &lease.sender {
            Sender::Http1(..) => shelf.speaks_http1 = true,
            Sender::Http2(sender, streams, _)
                if key.leads_to(lease.facts.peer) && !shelf.speaks_only_http1(now) =>
            {
                shelf.speaks_http1 = false;
                let (sender, streams) = (sender.clone(), Arc::clone(streams));
                let wire = Arc::clone(&lease.wire);
                shelf.shared.push(Shared { sender, wire, facts: lease.facts, streams, since: now });
            }
            Sender::Http2(..) => {}
        }
    }

    /// A lock to hold while opening a connection with TLS, so that a burst of jobs to a server that speaks
    /// HTTP/2 makes one handshake and not one each. `None` if the server is known to speak HTTP/1.1.
    pub(crate) fn opening(&self, key: &Arc<Key>) -> Option<Arc<tokio::sync::Mutex<()>>> {
        if !key.tls {
            return None;
        }
        let mut shelves = self.shelves();
        let shelf = shelves.by_key.entry(Arc::clone(key)).or_default();
        if shelf.speaks_http1 {
            return None;
        }
        Some(shelf.opening.upgrade().unwrap_or_else(|| {
            let opening = Arc::default();
            shelf.opening = Arc::downgrade(&opening);
            opening
        }))
    }

    /// Closes what was idle for too long. To be called every few seconds.
    pub(crate) fn sweep(&self, now: Instant) {
        self.shelves().sweep(now);
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().expect("nothing panics while it holds this lock")
    }
}

impl Shelves {
    fn take(&mut self, key: &Arc<Key>, now: Instant) -> Option<Lease> {
        let shelf = self.by_key.get_mut(key)?;
        if let Some(lease) = shelf.take_shared(now) {
            return Some(lease);
        }
        let before = shelf.idle.len();
        let found = shelf.take_idle(now);
        self.idle -= before - shelf.idle.len();
        found
    }

    fn put(&mut self, most: usize, key: &Arc<Key>, idle: Idle) {
        if self.idle >= most {
            return;
        }
        if !self.by_key.contains_key(key) {
            self.by_key.insert(Arc::clone(key), Shelf::default());
        }
        let shelf = self.by_key.get_mut(key).expect("it is there, or was put there just now");
        if shelf.idle.len() < MAX_IDLE_PER_KEY {
            shelf.idle.push(idle);
            self.idle += 1;
        }
    }

    fn sweep(&mut self, now: Instant) {
        let mut idle = 0;
        self.by_key.retain(|_, shelf| {
            shelf.idle.retain(|idle| idle.is_usable(now));
            shelf.shared.retain(|shared| {
                let used = Arc::strong_count(&shared.streams) > 1;
                !shared.sender.is_closed() && (used || now < shared.since + IDLE_TIMEOUT)
            });
            idle += shelf.idle.len();
            !shelf.idle.is_empty()
                || !shelf.shared.is_empty()
                || shelf.opening.strong_count() > 0
                || shelf.speaks_only_http1(now)
        });
        self.idle = idle;
    }
}

impl Idle {
    fn is_usable(&self, now: Instant) -> bool {
        !self.connection.sender.is_closed() && !self.wire.is_broken() && now < self.until
    }
}

impl Shelf {
    fn speaks_only_http1(&self, now: Instant) -> bool {
        self.only_http1_until.is_some_and(|until| now < until)
    }

    fn take_idle(&mut self, now: Instant) -> Option<Lease> {
        let mut at = self.idle.len();
        while at > 0 {
            at -= 1;
            let idle = &self.idle[at];
            if !idle.is_usable(now) {
                self.idle.remove(at);
            } else if now >= idle.from && idle.connection.sender.is_ready() {
                let Idle { connection, wire, facts, .. } = self.idle.remove(at);
                return Some(Lease { sender: Sender::Http1(connection), wire, facts, reused: true });
            }
        }
        None
    }

    fn take_shared(&mut self, now: Instant) -> Option<Lease> {
        self.shared.retain(|shared| !shared.sender.is_closed() && !shared.wire.is_broken());
        let shared = self.shared.iter_mut().find(|shared| {
            // One count is the shelf's own.
            shared.sender.is_ready() && Arc::strong_count(&shared.streams) <= shared.streams.most()
        })?;
        shared.since = now;
        let turn = shared.streams.frames.begin();
        let sender = Sender::Http2(shared.sender.clone(), Arc::clone(&shared.streams), turn);
        Some(Lease { sender, wire: Arc::clone(&shared.wire), facts: shared.facts, reused: true })
    }
}

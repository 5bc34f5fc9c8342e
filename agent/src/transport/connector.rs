//! Makes a new connection to one of the addresses that were judged, and to nothing else.
//!
//! This is the only place where the agent opens a socket towards an endpoint. It gets addresses, never a
//! name, and asks the guard about each once more right before it dials, or has the owner's proxy dial it. No
//! proxy of the environment applies.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::credentials::HostCredentials;
use super::driver::Driver;
use super::failure::Failure;
use super::guard::{Guard, Target};
use super::paced::Paced;
use super::pool::{Exclusive, Facts, Key, Lease, MAX_STREAMS, Sender, Streams};
use super::proxy::Proxy;
use super::resolver::Late;
use super::socket::{Socket, Wire};
use super::tls::Tls;
use super::{Phase, Trace};
use crate::clock::now;
use crate::dial::Address;

/// How many of a name's addresses are dialled in one attempt.
const MAX_DIALLED: usize = 8;
/// How long an address has before the next is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// The same behind a proxy, which has to dial too before it answers.
const HEAD_START_BY_PROXY: Duration = Duration::from_secs(1);

/// The largest header block of a response.
pub(crate) const MAX_HEADER_BYTES: usize = 32 << 10;
/// The most header fields of a response. hyper's HTTP/1.1 parser has this limit by itself, and is slower
/// when it is told so.
pub(crate) const MAX_HEADERS: usize = 100;
/// What a server may send on an HTTP/2 stream before we read it: the part of a body that is ever kept.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// See the [module](self).
pub(crate) struct Connector {
    guard: Arc<Guard>,
    tls: Tls,
    proxy: Option<Proxy>,
}

/// What a connection is to lead to.
pub(crate) struct Aim<'a> {
    pub(crate) target: &'a Target,
    /// With the judged addresses.
    pub(crate) key: &'a Arc<Key>,
    pub(crate) credentials: Option<&'a HostCredentials>,
    /// For the TCP connection.
    pub(crate) connect_timeout: Duration,
    /// The addresses that are not known yet. They are judged before they are dialled.
    pub(crate) late: Option<Late>,
    /// HTTP/2 is not offered.
    pub(crate) only_http1: bool,
}

/// A TCP connection, and the other end of it as far as is known: what was dialled, here or by the proxy.
type Dialled = (TcpStream, SocketAddr);

impl Connector {
    pub(crate) fn new(guard: Arc<Guard>, tls: Tls, proxy: Option<Proxy>) -> Connector {
        Connector { guard, tls, proxy }
    }

    /// Whether the proxy finds out where the target is, so that there are no addresses to judge here.
    pub(crate) fn leaves_to_proxy(&self, target: &Target) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.looks_up(target.url.host()))
    }

    /// A new connection, with its phases noted in `trace`.
    pub(crate) async fn connect(&self, aim: &mut Aim<'_>, trace: &mut Trace) -> Result<Lease, Failure> {
        let Aim { target, credentials, .. } = *aim;
        trace.phase = Phase::Connect;
        let began = now();
        if let Some(seen) = &mut trace.seen {
            let (host, addresses) = (target.url.host(), aim.key.addresses());
            seen.through_proxy = self.proxy.as_ref().is_some_and(|proxy| proxy.is_for(host, addresses));
        }
        let dialled = timeout(aim.connect_timeout, self.dial(aim)).await;
        let connected = now();
        trace.connect = Some(connected - began);
        let (tcp, peer) = dialled.map_err(|_| Failure::connect_deadline())??;
        trace.peer = Some(peer);
        // Without it, a small request that is written in two pieces waits for an acknowledgement.
        tcp.set_nodelay(true).map_err(|_| Failure::no_connection())?;
        let socket = Socket::new(tcp);
        let wire = Arc::clone(socket.wire());
        let Some(server_name) = &target.server_name else {
            return speak_http1(socket, wire, Facts { peer, tls_version: "" }).await;
        };
        trace.phase = Phase::Tls;
        let tls = credentials.and_then(|credentials| credentials.tls.as_ref()).unwrap_or(&self.tls);
        let secured = match &mut trace.seen {
            None => secure(tls.connector(aim.only_http1), socket, server_name.clone()).await,
            Some(seen) => {
                let (connector, witness) = tls.witnessed(aim.only_http1);
                let secured = secure(&connector, socket, server_name.clone()).await;
                seen.certificates = witness.seen();
                secured
            }
        };
        trace.tls = Some(now() - connected);
        let stream = secured?;
        let session = stream.get_ref().1;
        let facts = Facts { peer, tls_version: super::tls::version_name(session.protocol_version()) };
        match session.alpn_protocol() {
            Some(b"h2") => speak_http2(stream, wire, facts).await,
            _ => speak_http1(stream, wire, facts).await,
        }
    }

    async fn dial(&self, aim: &mut Aim<'_>) -> Result<Dialled, Failure> {
        let host = aim.target.url.host();
        let proxy = self.proxy.as_ref().filter(|proxy| proxy.is_for(host, aim.key.addresses()));
        match (aim.key.addresses(), proxy) {
            ([], Some(proxy)) if proxy.looks_up(host) => {
                proxy.tunnel(&Address::of_endpoint(&aim.target.url)).await
            }
            ([address], _) if aim.late.is_none() => self.dial_one(*address, aim.key.port(), proxy).await,
            _ => self.dial_any(aim, proxy).await,
        }
    }

    /// Tries the addresses in turn, each with a head start before the next joins in. The first to answer wins. Addresses
    /// that become known meanwhile join in too.
    async fn dial_any(&self, aim: &mut Aim<'_>, proxy: Option<&Proxy>) -> Result<Dialled, Failure> {
        let port = aim.key.port();
        let head_start = if proxy.is_some() { HEAD_START_BY_PROXY } else { HEAD_START };
        let mut waiting = VecDeque::from(in_dialling_order(aim.key.addresses()));
        let mut dialling = FuturesUnordered::new();
        let mut last = Failure::no_connection();
        loop {
            if dialling.is_empty() {
                match waiting.pop_front() {
                    Some(address) => dialling.push(self.dial_one(address, port, proxy)),
                    None if aim.late.is_none() => return Err(last),
                    None => {}
                }
            }
            tokio::select! {
                Some(done) = dialling.next() => match done {
                    Ok(dialled) => return Ok(dialled),
                    Err(failure) => {
                        // What the agent lacks says nothing about the endpoint, whatever else went wrong.
                        if last.shortage.is_none() {
                            last = failure;
                        }
                        dialling.extend(waiting.pop_front().map(|address| self.dial_one(address, port, proxy)));
                    }
                },
                addresses = late_addresses(&mut aim.late) => {
                    waiting.extend(self.judged(aim.target, proxy, addresses));
                }
                () = sleep(head_start), if !waiting.is_empty() => {
                    dialling.extend(waiting.pop_front().map(|address| self.dial_one(address, port, proxy)));
                }
            }
        }
    }

    /// The late addresses that may be dialled: none, if one of them is forbidden, or if the owner's proxy would have to
    /// be judged by again.
    fn judged(&self, target: &Target, proxy: Option<&Proxy>, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let by_proxy = self.proxy.as_ref().is_some_and(|proxy| proxy.is_for(target.url.host(), &addresses));
        if by_proxy != proxy.is_some() || self.guard.judge_addresses(target, &addresses).is_err() {
            return Vec::new();
        }
        in_dialling_order(&addresses)
    }

    async fn dial_one(&self, address: IpAddr, port: u16, proxy: Option<&Proxy>) -> Result<Dialled, Failure> {
        self.guard.judge_address(address).map_err(Failure::refused)?;
        let peer = SocketAddr::new(address, port);
        match proxy {
            Some(proxy) => Ok((proxy.tunnel(&peer.into()).await?.0, peer)),
            None => match TcpStream::connect(peer).await {
                Ok(tcp) => Ok((tcp, peer)),
                Err(error) => Err(Failure::connecting(&error, peer)),
            },
        }
    }
}

/// The addresses of the family that had not answered, once. Never, if there is no such family.
async fn late_addresses(late: &mut Option<Late>) -> Vec<IpAddr> {
    let Some(open) = late else { return std::future::pending().await };
    let addresses = open.addresses().await;
    *late = None;
    addresses
}

async fn speak_http1<T>(io: T, wire: Arc<Wire>, facts: Facts) -> Result<Lease, Failure>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (io, head_limit) = Paced::with_head_limit(io);
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEADER_BYTES)
        .max_header_size(MAX_HEADER_BYTES)
        // The status decides, and a few fields are kept: others may be as they are.
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| Failure::http(&error))?;
    let driver = Driver::default();
    driver.run(async move {
        // The attempt that used the connection has the same error as its outcome.
        let _ended = connection.await;
    });
    Ok(Lease {
        sender: Sender::Http1(Exclusive::new(sender, head_limit, driver)),
        wire,
        facts,
        reused: false,
    })
}

async fn speak_http2<T>(io: T, wire: Arc<Wire>, facts: Facts) -> Result<Lease, Failure>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let driver = Driver::default();
    let (io, frames) = Paced::with_frames(io);
    let (sender, mut connection) = http2::Builder::new(driver.executor())
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).expect("it is far below 4 GiB"))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| Failure::http(&error))?;
    let allowed = Arc::new(AtomicUsize::new(MAX_STREAMS));
    let noted = Arc::clone(&allowed);
    driver.run(poll_fn(move |context| {
        let ended = Pin::new(&mut connection).poll(context).map(|_ended| ());
        noted.store(connection.current_max_send_streams(), Ordering::Relaxed);
        ended
    }));
    let turn = frames.begin();
    let streams = Arc::new(Streams::new(allowed, frames, driver));
    Ok(Lease { sender: Sender::Http2(sender, streams, turn), wire, facts, reused: false })
}

async fn secure(
    tls: &TlsConnector,
    socket: Socket,
    server_name: ServerName<'static>,
) -> Result<tokio_rustls::client::TlsStream<Socket>, Failure> {
    tls.connect(server_name, socket).await.map_err(|error: io::Error| Failure::tls(&error))
}

/// IPv6 and IPv4 in turn, IPv6 first: where one family does not work, the other is the second to be tried.
fn in_dialling_order(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut v6 = addresses.iter().filter(|address| address.is_ipv6());
    let mut v4 = addresses.iter().filter(|address| address.is_ipv4());
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(v6.next());
        order.extend(v4.next());
    }
    order.truncate(MAX_DIALLED);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = ["1.1.1.1", "1.1.1.2", "1.1.1.3", "2606::1"].map(address);
        let order = ["2606::1", "1.1.1.1", "1.1.1.2", "1.1.1.3"].map(address);
        assert_eq!(in_dialling_order(&all), order);
        assert_eq!(in_dialling_order(&vec![all[0]; 20]).len(), MAX_DIALLED);
    }
}

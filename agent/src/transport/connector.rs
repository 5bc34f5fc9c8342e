//! Makes a new connection to one of the addresses that were judged, and to nothing else.
//!
//! This is the only place where the agent opens a socket towards an endpoint. It gets addresses, never a
//! name, and asks the guard about each once more right before it dials. No proxy of the environment applies.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::failure::Failure;
use super::guard::{Guard, Target};
use super::pool::{Facts, Key, Lease, Pool, Sender, Streams};
use super::{Phase, Trace};
use crate::clock::now;

/// How many of a name's addresses are dialled in one attempt.
const MAX_DIALLED: usize = 8;
/// How long an address has before the next is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

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
    tls: TlsConnector,
    /// Runs the connections.
    pool: Arc<Pool>,
}

impl Connector {
    pub(crate) fn new(guard: Arc<Guard>, tls: Arc<ClientConfig>, pool: Arc<Pool>) -> Connector {
        Connector { guard, tls: TlsConnector::from(tls), pool }
    }

    /// A new connection, with its phases noted in `trace`.
    pub(crate) async fn connect(
        &self,
        target: &Target,
        key: &Key,
        connect_timeout: Duration,
        trace: &mut Trace,
    ) -> Result<Lease, Failure> {
        trace.phase = Phase::Connect;
        let began = now();
        let dialled = timeout(connect_timeout, self.dial(key)).await;
        let connected = now();
        trace.connect = Some(connected - began);
        let tcp = dialled.map_err(|_| Failure::connect_deadline())??;
        let peer = tcp.peer_addr().map_err(|error| Failure::connect(&error))?;
        trace.peer = Some(peer);
        // Without it, a small request that is written in two pieces waits for an acknowledgement.
        tcp.set_nodelay(true).map_err(|error| Failure::connect(&error))?;
        let Some(server_name) = &target.server_name else {
            return self.speak_http1(tcp, Facts { peer, tls_version: "" }).await;
        };
        trace.phase = Phase::Tls;
        let secured = self.secure(tcp, server_name.clone()).await;
        trace.tls = Some(now() - connected);
        let stream = secured?;
        let session = stream.get_ref().1;
        let facts = Facts { peer, tls_version: super::tls::version_name(session.protocol_version()) };
        match session.alpn_protocol() {
            Some(b"h2") => self.speak_http2(stream, facts).await,
            _ => self.speak_http1(stream, facts).await,
        }
    }

    async fn dial(&self, key: &Key) -> Result<TcpStream, Failure> {
        match key.addresses() {
            [address] => self.dial_one(*address, key.port()).await,
            addresses => self.dial_any(addresses, key.port()).await,
        }
    }

    /// Tries the addresses in turn, each with a head start before the next joins in. The first to answer wins.
    async fn dial_any(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Failure> {
        let mut waiting = in_dialling_order(addresses).into_iter();
        let mut dialling = FuturesUnordered::new();
        dialling.extend(waiting.next().map(|address| self.dial_one(address, port)));
        let mut last = Failure::dns("the endpoint's name has no address");
        loop {
            let next = tokio::select! {
                done = dialling.next() => match done {
                    Some(Ok(stream)) => return Ok(stream),
                    Some(Err(failure)) => {
                        last = failure;
                        waiting.next()
                    }
                    None => return Err(last),
                },
                () = sleep(HEAD_START), if waiting.len() > 0 => waiting.next(),
            };
            dialling.extend(next.map(|address| self.dial_one(address, port)));
        }
    }

    async fn dial_one(&self, address: IpAddr, port: u16) -> Result<TcpStream, Failure> {
        self.guard.judge_address(address).map_err(Failure::refused)?;
        TcpStream::connect(SocketAddr::new(address, port)).await.map_err(|error| Failure::connect(&error))
    }

    async fn secure(
        &self,
        tcp: TcpStream,
        server_name: ServerName<'static>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        self.tls.connect(server_name, tcp).await.map_err(|error: io::Error| Failure::tls(&error))
    }

    async fn speak_http1<T>(&self, io: T, facts: Facts) -> Result<Lease, Failure>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADER_BYTES)
            .max_header_size(MAX_HEADER_BYTES)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| Failure::http(&error))?;
        self.pool.drive(async move {
            // The attempt that used the connection has the same error as its outcome.
            let _ended = connection.await;
        });
        Ok(Lease { sender: Sender::Http1(sender), facts, reused: false })
    }

    async fn speak_http2<T>(&self, io: T, facts: Facts) -> Result<Lease, Failure>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).expect("it is far below 4 GiB"))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| Failure::http(&error))?;
        let streams = Arc::<Streams>::default();
        let lease = Lease { sender: Sender::Http2(sender, Arc::clone(&streams)), facts, reused: false };
        // The driver must not count as a user of the connection.
        let streams = Arc::downgrade(&streams);
        self.pool.drive(poll_fn(move |context| {
            let ended = Pin::new(&mut connection).poll(context).map(|_ended| ());
            if let Some(streams) = streams.upgrade() {
                streams.allow(connection.current_max_send_streams());
            }
            ended
        }));
        Ok(lease)
    }
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

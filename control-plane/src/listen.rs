//! Where connections come in: bounded in number, through TLS, each handshake within its deadline.
//!
//! One task a port accepts, which belongs to the caller; each connection has a task of its own until it has shown that it speaks HTTP/2, so that a
//! slow one holds up nobody. What comes out is ready for tonic, which serves it. `slots` says how many there may be and
//! who makes room, `usage` what a client must do to keep its connection, `calls` is where that is seen.

mod calls;
pub mod certificate;
mod connection;
mod files;
mod frames;
mod incoming;
mod slots;
mod socket;
pub mod tls;
mod usage;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postrider_telemetry::metrics::Counters;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{Instrument as _, debug, error, warn};

pub use self::calls::Calls;
pub(crate) use self::connection::network_of;
pub use self::connection::{AgentCertificate, Connection, Peer};
pub use self::files::connections;
use self::frames::Floods;
use self::slots::{ConnectionSlot, ConnectionSlots, SlotGrant};
pub use self::slots::{Holder, SlotMetrics};
use self::socket::Socket;

/// How long TLS and the first bytes of HTTP/2 may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Connections that are ready and not taken yet.
const READY: usize = 64;
/// After the machine refused to accept: it may be out of file descriptors for a moment.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often it is said that connections were turned away.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// TLS settings that can be replaced while connections come in.
pub type SharedTls = Arc<ArcSwap<ServerConfig>>;

/// A port.
pub struct Listener {
    /// For the log: `api` or `agents`.
    pub name: &'static str,
    /// Where it listens.
    pub listener: TcpListener,
    /// Without it, plaintext.
    pub tls: Option<SharedTls>,
    /// Connections at once.
    pub max_connections: usize,
    /// Whether those who have shown who they are share them, or keep those that they have.
    pub shared: bool,
    /// Shows how many there are, and who had to make room.
    pub shown: SlotMetrics,
    /// Counts those that were closed for their frames.
    pub floods: Counters,
    /// Servers that the connections are spread over by chance.
    pub servers: usize,
}

impl Listener {
    /// The connections that come in for each server, and the task that accepts them until the streams are dropped.
    pub fn open(
        self,
    ) -> (
        Vec<impl Stream<Item = Result<Connection, Infallible>> + Unpin + use<>>,
        impl Future<Output = ()> + Send + use<>,
    ) {
        let channels = (0..self.servers.max(1)).map(|_| mpsc::channel(READY));
        let (ready, connections): (Vec<_>, Vec<_>) = channels.unzip();
        (connections.into_iter().map(ReceiverStream::new).collect(), self.accept(Ready(ready.into())))
    }

    async fn accept(self, ready: Ready) {
        let shown = Some(self.shown);
        let slots = match self.shared {
            true => ConnectionSlots::shared(self.max_connections, shown),
            false => ConnectionSlots::counted(self.max_connections, shown),
        };
        let mut handshakes = JoinSet::new();
        let floods = Arc::new(Floods::new(self.name, self.floods));
        let mut turned_away = TurnedAway { port: self.name, count: 0, told: None };
        loop {
            while let Some(ended) = handshakes.try_join_next() {
                if let Err(error) = ended {
                    error!(port = self.name, %error, "the task of a handshake failed");
                }
            }
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = ready.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(port = self.name, %error, "failed to accept a connection");
                    slots.evict_oldest();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let slot = match slots.take() {
                SlotGrant::Free(slot) => slot,
                SlotGrant::Evicted(slot) => {
                    turned_away.note();
                    slot
                }
                SlotGrant::Refused => {
                    turned_away.note();
                    continue;
                }
            };
            let handshake =
                handshake(self.name, stream, self.tls.clone(), slot, floods.clone(), ready.clone());
            handshakes.spawn(handshake.in_current_span());
        }
    }
}

/// Where connections go that can be served.
#[derive(Clone)]
struct Ready(Arc<[mpsc::Sender<Result<Connection, Infallible>>]>);

impl Ready {
    /// Hands one to any of the servers.
    async fn send(&self, connection: Connection) {
        let server = &self.0[rand::random_range(0..self.0.len())];
        // Nobody takes it: the port is being closed.
        let _nobody_takes_it = server.send(Ok(connection)).await;
    }

    /// All servers end together.
    async fn closed(&self) {
        for server in &*self.0 {
            server.closed().await;
        }
    }
}

async fn handshake(
    port: &'static str,
    stream: TcpStream,
    tls: Option<SharedTls>,
    slot: ConnectionSlot,
    floods: Arc<Floods>,
    ready: Ready,
) {
    let lost = slot.handle().lost();
    let admitted = tokio::select! {
        admitted = timeout(HANDSHAKE_WITHIN, admit(stream, tls, slot, floods)) => admitted,
        () = lost.cancelled() => return debug!(port, "evicted a handshake to free a slot"),
    };
    match admitted {
        Ok(Ok(connection)) => ready.send(connection).await,
        Ok(Err(error)) => debug!(port, %error, "handshake failed"),
        Err(_) => debug!(port, "handshake timed out"),
    }
}

async fn admit(
    stream: TcpStream,
    tls: Option<SharedTls>,
    slot: ConnectionSlot,
    floods: Arc<Floods>,
) -> std::io::Result<Connection> {
    let socket = Socket::new(stream)?;
    let address = socket.peer_addr()?;
    let connection = match tls {
        Some(tls) => {
            let stream = TlsAcceptor::from(tls.load_full()).accept(socket).await?;
            Connection::secured(stream, address, slot)?
        }
        None => Connection::plain(socket, address, slot),
    };
    connection.reporting(floods).greet().await
}

/// Connections that were closed at once, or had to make room, since it was last said.
struct TurnedAway {
    port: &'static str,
    count: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    fn note(&mut self) {
        self.count += 1;
        let now = usage::now();
        if self.told.is_none_or(|told| told + TELL_EVERY <= now) {
            let (port, count) = (self.port, self.count);
            warn!(port, count, "connection limit reached: closed unauthenticated or new connections");
            *self = Self { port, count: 0, told: Some(now) };
        }
    }
}

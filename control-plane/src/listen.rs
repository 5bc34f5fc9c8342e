//! Where connections come in: bounded in number, through TLS, each handshake within its deadline.
//!
//! One task a port accepts; each connection has a task of its own until it has shown that it speaks HTTP/2, so that a
//! slow one holds up nobody. What comes out is ready for tonic, which serves it. `places` says how many there may be and
//! who makes room, `usage` what a client must do to keep its connection, `calls` is where that is seen.

mod calls;
mod connection;
mod files;
mod incoming;
mod places;
mod socket;
pub mod tls;
mod usage;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postrider_telemetry::metrics::IntGauge;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

pub use self::calls::Calls;
pub(crate) use self::connection::network_of;
pub use self::connection::{AgentCertificate, Connection, Peer};
pub use self::files::connections;
use self::places::{Place, Places, Taking};
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
pub struct Door {
    /// For the log: `api` or `agents`.
    pub name: &'static str,
    /// Where it listens.
    pub listener: TcpListener,
    /// Without it, plaintext.
    pub tls: Option<SharedTls>,
    /// Connections at once.
    pub max_connections: usize,
    /// Shows how many there are.
    pub connections: IntGauge,
}

impl Door {
    /// The connections that come in, until the stream is dropped.
    pub fn open(self) -> impl Stream<Item = Result<Connection, Infallible>> + use<> {
        let (ready, connections) = mpsc::channel(READY);
        tokio::spawn(self.accept(ready));
        ReceiverStream::new(connections)
    }

    async fn accept(self, ready: mpsc::Sender<Result<Connection, Infallible>>) {
        let places = Places::counted(self.max_connections, Some(self.connections));
        let mut handshakes = JoinSet::new();
        let mut turned_away = TurnedAway { port: self.name, count: 0, told: None };
        loop {
            while handshakes.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = ready.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(port = self.name, %error, "a connection could not be accepted");
                    places.push_out();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let place = match places.take() {
                Taking::Free(place) => place,
                Taking::PushedOut(place) => {
                    turned_away.note();
                    place
                }
                Taking::None => {
                    turned_away.note();
                    continue;
                }
            };
            handshakes.spawn(handshake(self.name, stream, self.tls.clone(), place, ready.clone()));
        }
    }
}

async fn handshake(
    port: &'static str,
    stream: TcpStream,
    tls: Option<SharedTls>,
    place: Place,
    ready: mpsc::Sender<Result<Connection, Infallible>>,
) {
    let lost = place.seat().lost();
    let admitted = tokio::select! {
        admitted = timeout(HANDSHAKE_WITHIN, admit(stream, tls, place)) => admitted,
        () = lost.cancelled() => return debug!(port, "a handshake had to make room"),
    };
    match admitted {
        // Nobody takes it: the port is being closed.
        Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
        Ok(Err(error)) => debug!(port, %error, "a handshake failed"),
        Err(_) => debug!(port, "a handshake took too long"),
    }
}

async fn admit(stream: TcpStream, tls: Option<SharedTls>, place: Place) -> std::io::Result<Connection> {
    let socket = Socket::new(stream)?;
    let address = socket.peer_addr()?;
    let connection = match tls {
        Some(tls) => {
            let stream = TlsAcceptor::from(tls.load_full()).accept(socket).await?;
            Connection::secured(stream, address, place)?
        }
        None => Connection::plain(socket, address, place),
    };
    connection.greet().await
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
            warn!(
                port,
                count,
                "there are too many connections: some were closed that have not shown who they are, or new ones"
            );
            *self = Self { port, count: 0, told: Some(now) };
        }
    }
}

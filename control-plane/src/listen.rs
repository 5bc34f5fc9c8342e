//! Where connections come in: bounded in number, through TLS, each handshake within its deadline.
//!
//! One task a port accepts; each connection has a task of its own until it has shown that it speaks HTTP/2, so that a
//! slow one holds up nobody. What comes out is ready for tonic, which serves it.

mod connection;
pub mod tls;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

pub use self::connection::{AgentCertificate, Connection, Peer};

/// How long TLS and the first bytes of HTTP/2 may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Connections of one port that may be in their handshake at once; others are closed.
const HANDSHAKES: usize = 512;
/// Connections that are ready and not taken yet.
const READY: usize = 64;
/// After the machine refused to accept: it may be out of file descriptors for a moment.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// What a connection to the agents' port may last without a certificate: enrolling takes one call.
pub const STRANGERS_LAST: Duration = Duration::from_secs(60);

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
    /// How long one without a client certificate may last; `None`: as long as it likes.
    pub strangers_last: Option<Duration>,
}

impl Door {
    /// The connections that come in, until the stream is dropped.
    pub fn open(self) -> impl Stream<Item = Result<Connection, Infallible>> + use<> {
        let (ready, connections) = mpsc::channel(READY);
        tokio::spawn(self.accept(ready));
        ReceiverStream::new(connections)
    }

    async fn accept(self, ready: mpsc::Sender<Result<Connection, Infallible>>) {
        let connections = Arc::new(Semaphore::new(self.max_connections));
        let mut handshakes = JoinSet::new();
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
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let slot = connections.clone().try_acquire_owned();
            let (Ok(slot), true) = (slot, handshakes.len() < HANDSHAKES) else {
                debug!(port = self.name, "a connection was closed at once: there are too many");
                continue;
            };
            let admit = admit(stream, self.tls.clone(), self.strangers_last, slot);
            let (name, ready) = (self.name, ready.clone());
            handshakes.spawn(async move {
                match timeout(HANDSHAKE_WITHIN, admit).await {
                    // Nobody takes it: the port is being closed.
                    Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                    Ok(Err(error)) => debug!(port = name, %error, "a handshake failed"),
                    Err(_) => debug!(port = name, "a handshake took too long"),
                }
            });
        }
    }
}

async fn admit(
    stream: TcpStream,
    tls: Option<SharedTls>,
    strangers_last: Option<Duration>,
    slot: OwnedSemaphorePermit,
) -> std::io::Result<Connection> {
    stream.set_nodelay(true)?;
    let address = stream.peer_addr()?;
    let connection = match tls {
        Some(tls) => {
            let stream = TlsAcceptor::from(tls.load_full()).accept(stream).await?;
            Connection::secured(stream, address, slot)
        }
        None => Connection::plain(stream, address, slot),
    };
    connection.greet(strangers_last).await
}

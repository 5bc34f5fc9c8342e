//! The admin port: health, version, metrics and the log's filter, as plain HTTP/1.1 for probes, Prometheus and people.
//!
//! It is not a way in: it tells and changes nothing, but for what is logged, and that only for callers on this machine
//! (or behind `kubectl port-forward`, which comes from there). It says nothing of events, endpoints and secrets.
//! It must answer when all else is in trouble, so it waits for nobody: one request a connection, which must come
//! within seconds; when there are too many connections the oldest makes room.

mod answer;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Instrument as _, debug, error, warn};

use crate::log;

/// Connections at once. Those who ask here are few.
const CONNECTIONS: usize = 64;
/// How long a request's headers may take to come.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may last, with its request, the answer, and whoever reads that.
const CONNECTION_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a request's first line and headers.
const MAX_HEADERS: usize = 8 * 1024;
/// After the machine refused to accept: it may be out of file descriptors for a moment.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a program says of itself.
#[async_trait]
pub trait Program: Send + Sync + 'static {
    /// Its name, such as `postrider-agent`.
    fn name(&self) -> &'static str;
    /// Its version.
    fn version(&self) -> &'static str;
    /// Whether it makes progress. When it does not, only a restart helps.
    async fn alive(&self) -> Verdict;
    /// Whether it can do its work now.
    async fn ready(&self) -> Verdict;
    /// What does not keep it from its work now, and people should know: a sentence each.
    async fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Its metrics, in Prometheus' text format.
    async fn metrics(&self) -> String;
}

/// Yes; or no, and for people the reasons, each a sentence.
pub type Verdict = Result<(), Vec<String>>;

/// The admin port: listening, and not served yet.
pub struct Port(TcpListener);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("admin_listen {address} cannot be listened on; choose another address, or stop who uses it")]
pub struct PortError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl Port {
    /// Listens there, and says so in the log.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> Result<Self, PortError> {
        let failed = |source| PortError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let admin = listener.local_addr().map_err(failed)?;
        tracing::info!(%admin, "admin port listening: /livez, /readyz, /version, /metrics, /log");
        Ok(Self(listener))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until it is dropped. Without a filter, lines are not this process's own, and stay as they are.
    pub async fn serve(self, program: Arc<dyn Program>, filter: Option<log::Filter>) {
        let handler = Arc::new(answer::AdminHandler { program, filter });
        let mut connections = JoinSet::new();
        let mut oldest = VecDeque::new();
        loop {
            let (stream, peer) = match self.0.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "failed to accept a connection to the admin port");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            while let Some(ended) = connections.try_join_next() {
                if let Err(failed) = ended
                    && failed.is_panic()
                {
                    error!(%failed, "the task of a connection to the admin port failed");
                }
            }
            make_room(&mut oldest);
            oldest.push_back(connections.spawn(talk(stream, peer, handler.clone()).in_current_span()));
        }
    }
}

/// Ends the oldest connection when there are too many.
fn make_room(oldest: &mut VecDeque<AbortHandle>) {
    oldest.retain(|connection| !connection.is_finished());
    if oldest.len() >= CONNECTIONS
        && let Some(connection) = oldest.pop_front()
    {
        connection.abort();
    }
}

async fn talk(stream: TcpStream, peer: SocketAddr, handler: Arc<answer::AdminHandler>) {
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.answer(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_WITHIN, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "a connection to the admin port failed"),
        Err(_) => debug!(%peer, "a connection to the admin port took too long"),
    }
}

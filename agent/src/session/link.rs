//! Opens one connection to the control plane, up to its Welcome.
//!
//! Every stream has a connection of its own, so that behind a load balancer two streams reach two replicas.

use std::sync::Arc;
use std::time::Duration;

use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::session_service_client::SessionServiceClient;
use postrider_proto::agent::{AgentMessage, ControlMessage, Hello, Welcome};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{End, PROTOCOL};
use crate::clock::{Instant, now};
use crate::transport::guard::Guard;
use crate::with_causes;

/// For the TCP connection and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From Hello to Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence on an idle connection after which HTTP/2 asks whether anybody is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Messages that wait for the connection. Few, since outcomes gather into one message while they wait.
const OUTBOUND: usize = 8;
/// Room for the rest of a message beside the bodies that credit allows.
const MESSAGE_OVERHEAD: u64 = 32 << 20;

/// Where the control plane is.
#[derive(Debug, Clone)]
pub struct Link {
    endpoint: Endpoint,
    guard: Arc<Guard>,
    max_message_bytes: usize,
}

/// A session.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) outbound: mpsc::Sender<AgentMessage>,
    pub(super) inbound: Streaming<ControlMessage>,
    /// When Hello was sent.
    pub(super) asked: Instant,
    pub(super) welcome: Welcome,
}

impl Link {
    /// A link to `endpoint`, whose addresses `guard` will keep jobs from, for streams that hold at most
    /// `max_in_flight_bytes` of bodies.
    #[must_use]
    pub fn new(endpoint: Endpoint, guard: Arc<Guard>, max_in_flight_bytes: u64) -> Link {
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(4 << 20);
        let max_message_bytes = usize::try_from(max_in_flight_bytes + MESSAGE_OVERHEAD).unwrap_or(usize::MAX);
        Link { endpoint, guard, max_message_bytes }
    }

    /// Connects, says Hello and waits for Welcome.
    pub(super) async fn open(&self, hello: Hello) -> Result<Opened, End> {
        self.keep_jobs_away().await;
        let channel = timeout(CONNECT_TIMEOUT, self.endpoint.connect())
            .await
            .map_err(|_| End::lost("no connection within 10 s"))?
            .map_err(|error| End::lost(with_causes(&error)))?;
        timeout(WELCOME_TIMEOUT, self.greet(channel, hello))
            .await
            .unwrap_or_else(|_| Err(End::lost("no Welcome within 10 s")))
    }

    async fn greet(&self, channel: Channel, hello: Hello) -> Result<Opened, End> {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let asked = now();
        let hello = AgentMessage { message: Some(Said::Hello(hello)) };
        outbound.try_send(hello).expect("a new channel has room");
        let mut client = SessionServiceClient::new(channel).max_decoding_message_size(self.max_message_bytes);
        let mut inbound = client
            .connect(ReceiverStream::new(messages))
            .await
            .map_err(|status| End::lost(status.to_string()))?
            .into_inner();
        match inbound.message().await.map_err(|status| End::lost(status.to_string()))?.map(|m| m.message) {
            Some(Some(Heard::Welcome(welcome))) if welcome.protocol == PROTOCOL => {
                Ok(Opened { outbound, inbound, asked, welcome })
            }
            Some(Some(Heard::Welcome(welcome))) => Err(End::lost(format!(
                "the control plane chose protocol {}, which this agent did not offer",
                welcome.protocol
            ))),
            Some(Some(Heard::Reject(reject))) => Err(End::Rejected(reject)),
            Some(_) => Err(End::lost("the control plane's first message was not Welcome")),
            None => Err(End::lost("the control plane closed the stream before Welcome")),
        }
    }

    /// Tells the guard the control plane's present addresses. If they cannot be found out, connecting will
    /// fail as well, and say why.
    async fn keep_jobs_away(&self) {
        let uri = self.endpoint.uri();
        let Some(host) = uri.host() else { return };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(Ok(addresses)) = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, 0))).await {
            self.guard.set_control_plane(addresses.map(|address| address.ip()).collect());
        }
    }
}

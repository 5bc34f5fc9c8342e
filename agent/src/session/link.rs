//! Opens one connection to the control plane, up to its Welcome.
//!
//! Every stream has a connection of its own, so that behind a load balancer two streams reach two replicas.
//!
//! After a renewal each stream moves to a connection that shows the new certificate. The new connection is made while
//! the old one is in use; then, in one step, nothing more is read from the old one and Hello is said on the new one. So
//! Hello names exactly the jobs that this side knows of, and whatever was still under way to it on the old connection is
//! never started. For the control plane it is the same as a stream that was cut and came back, only without the gap.

use std::sync::Arc;
use std::time::Duration;

use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::session_service_client::SessionServiceClient;
use postrider_proto::agent::{AgentMessage, ControlMessage, Hello, Welcome};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{End, PROTOCOL};
use crate::admin::Live;
use crate::backoff::Backoff;
use crate::clock::{Instant, now};
use crate::dial::{Address, DialError, Dialer};
use crate::identity::Trust;
use crate::identity::refusals::{Open, RefusalCount};
use crate::with_causes;

/// From Hello to Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that wait for the connection. Few, since outcomes gather into one message while they wait.
const OUTBOUND: usize = 8;
/// Room for the rest of a message beside the bodies that credit allows.
const MESSAGE_OVERHEAD: u64 = 32 << 20;

/// Where the control plane is, and as whom to talk to it.
#[derive(Debug, Clone)]
pub struct Link {
    dialer: Arc<Dialer>,
    trust: watch::Receiver<Trust>,
    refusals: Arc<RefusalCount>,
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
    /// Says that the stream is open, as long as this connection lasts.
    pub(super) live: Option<Live>,
    _open: Open,
}

impl Link {
    /// Connects with `dialer` and the identity in `trust`, for streams whose job bodies have at most `max_in_flight_bytes`.
    /// Counts handshakes that the control plane refuses in `refusals`.
    #[must_use]
    pub fn new(
        dialer: Arc<Dialer>,
        trust: watch::Receiver<Trust>,
        refusals: Arc<RefusalCount>,
        max_in_flight_bytes: u64,
    ) -> Link {
        let max_message_bytes = usize::try_from(max_in_flight_bytes + MESSAGE_OVERHEAD).unwrap_or(usize::MAX);
        Link { dialer, trust, refusals, max_message_bytes }
    }

    /// Where the control plane is.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.dialer.address()
    }

    /// Waits for a renewed identity, then for this stream's turn, and connects with it. Never ends without one.
    pub(super) async fn successor(&mut self) -> Channel {
        if self.trust.changed().await.is_err() {
            // Nobody renews it: it is not one that ends.
            std::future::pending::<()>().await;
        }
        let spread = self.trust.borrow_and_update().spread;
        sleep(spread.mul_f64(rand::random())).await;
        let mut backoff = Backoff::default();
        loop {
            match self.connect().await {
                Ok(channel) => return channel,
                Err(error) => {
                    let wait = backoff.next(Duration::ZERO, rand::random());
                    tracing::warn!(
                        retry_in_ms = wait.as_millis(),
                        "failed to connect with the renewed certificate; keeping the old connection: {}",
                        with_causes(&error)
                    );
                    sleep(wait).await;
                }
            }
        }
    }

    /// Says Hello on a connection and waits for Welcome.
    pub(super) async fn greet(&self, channel: Channel, hello: Hello) -> Result<Opened, End> {
        timeout(WELCOME_TIMEOUT, self.say_hello(channel, hello))
            .await
            .unwrap_or_else(|_| Err(End::lost("no Welcome within 10 s")))
    }

    /// A connection on which nothing was said yet.
    pub(super) async fn connect(&mut self) -> Result<Channel, DialError> {
        let security = self.trust.borrow_and_update().security.clone();
        let connected = self.dialer.dial(&security).await;
        if let Some(alert) = connected.as_ref().err().and_then(DialError::refused) {
            self.refusals.refused(alert);
        }
        connected
    }

    async fn say_hello(&self, channel: Channel, hello: Hello) -> Result<Opened, End> {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let asked = now();
        let hello = AgentMessage { message: Some(Said::Hello(hello)) };
        outbound.try_send(hello).expect("a new channel has room");
        let mut client = SessionServiceClient::new(channel).max_decoding_message_size(self.max_message_bytes);
        let mut inbound = client
            .connect(ReceiverStream::new(messages))
            .await
            .map_err(|status| End::of(&status))?
            .into_inner();
        match inbound.message().await.map_err(|status| End::of(&status))?.map(|message| message.message) {
            Some(Some(Heard::Welcome(welcome))) if welcome.protocol == PROTOCOL => {
                Ok(Opened { outbound, inbound, asked, welcome, live: None, _open: self.refusals.accepted() })
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
}

//! A control plane on 127.0.0.1 that says what a test tells it to.

use std::net::SocketAddr;

use postrider_proto::agent::agent_message::Message as Heard;
use postrider_proto::agent::control_message::Message as Said;
use postrider_proto::agent::session_service_server::{SessionService, SessionServiceServer};
use postrider_proto::agent::{
    AgentMessage, ControlMessage, Header, HeartbeatAck, Hello, Job, JobKey, Jobs, Outcome, OutcomeAck,
    Reject, RejectCode, Welcome,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::tls_control_plane::shown;

/// It ends with this value.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    _server: JoinSet<()>,
}

/// A stream whose Hello has come. Dropping it closes the stream.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    /// The certificate that the agent has shown.
    pub(crate) certificate: Option<Vec<u8>>,
    to: mpsc::Sender<Result<ControlMessage, Status>>,
    from: Streaming<AgentMessage>,
}

/// The server's time in every stamp of this control plane.
pub(crate) const SERVER_TIME_MS: u64 = 1_000_000;

impl ControlPlane {
    pub(crate) async fn start() -> ControlPlane {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(16);
        let mut server = JoinSet::new();
        server.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(SessionServiceServer::new(SessionStub { sender }))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        ControlPlane { address, sessions, _server: server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next stream, with its Hello and without a Welcome yet.
    pub(crate) async fn session(&mut self) -> Session {
        self.sessions.recv().await.unwrap()
    }

    /// The next stream, welcomed.
    pub(crate) async fn welcomed(&mut self) -> Session {
        let session = self.session().await;
        session.welcome().await;
        session
    }
}

/// A Welcome with long intervals.
pub(crate) fn welcome() -> Welcome {
    Welcome {
        protocol: 1,
        epoch: 7,
        server_time_ms: SERVER_TIME_MS,
        heartbeat_interval_ms: 10_000,
        silence_limit_ms: 30_000,
        forget: Vec::new(),
    }
}

impl Session {
    pub(crate) async fn welcome(&self) {
        self.say(Said::Welcome(welcome())).await;
    }

    pub(crate) async fn say(&self, message: Said) {
        // The agent may be gone, which some tests want.
        let _gone = self.to.send(Ok(ControlMessage { message: Some(message) })).await;
    }

    pub(crate) async fn send_jobs(&self, jobs: Vec<Job>) {
        self.say(Said::Jobs(Jobs { jobs })).await;
    }

    pub(crate) async fn acknowledge(&self, sequence: u64) {
        self.say(Said::OutcomeAck(OutcomeAck { sequence })).await;
    }

    pub(crate) async fn reject(&self, permanent: bool, retry_after_ms: u32) {
        let message = "update this agent".to_owned();
        let code = RejectCode::ProtocolVersion.into();
        self.say(Said::Reject(Reject { code, message, permanent, retry_after_ms })).await;
    }

    pub(crate) async fn revoke(&self) {
        let message = "by the operator".to_owned();
        let code = RejectCode::Revoked.into();
        self.say(Said::Reject(Reject { code, message, permanent: true, retry_after_ms: 0 })).await;
    }

    /// The next message. `None` when the agent has closed its side or is gone.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        self.from.message().await.ok()??.message
    }

    /// The next `count` outcomes, by sequence. Heartbeats in between are answered.
    pub(crate) async fn outcomes(&mut self, count: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            match self.hear().await.unwrap() {
                Heard::Outcomes(more) => outcomes.extend(more.outcomes),
                Heard::Heartbeat(heartbeat) => self.answer(heartbeat.nonce).await,
                other => panic!("expected outcomes, got {other:?}"),
            }
        }
        assert_eq!(outcomes.len(), count);
        outcomes
    }

    pub(crate) async fn answer(&self, nonce: u64) {
        self.say(Said::HeartbeatAck(HeartbeatAck { nonce, server_time_ms: SERVER_TIME_MS })).await;
    }
}

/// A job that may start for the next 20 seconds.
pub(crate) fn job(number: u32, url: &str) -> Job {
    Job {
        key: Some(key(number)),
        start_by_ms: SERVER_TIME_MS + 20_000,
        connect_timeout_ms: 1_000,
        timeout_ms: 5_000,
        url: url.to_owned(),
        headers: vec![Header { name: "webhook-id".into(), value: format!("evt_{number}") }],
        body: "{}".into(),
        keep_response_bytes: 100,
        trace_parent: String::new(),
    }
}

pub(crate) fn key(number: u32) -> JobKey {
    JobKey {
        delivery_id: format!("dlv_{number}"),
        attempt: 1,
        epoch: 7,
        tag: number.to_be_bytes().to_vec().into(),
    }
}

/// Takes sessions in.
pub(crate) struct SessionStub {
    pub(crate) sender: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl SessionService for SessionStub {
    type ConnectStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let certificate = shown(&request);
        let mut from = request.into_inner();
        let (to, messages) = mpsc::channel(64);
        let Some(Heard::Hello(hello)) = from.message().await?.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("Hello comes first"));
        };
        self.sender.send(Session { hello, certificate, to, from }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

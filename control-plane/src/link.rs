//! The link to agents: `SessionService.Connect`. One task a stream; it reads what the agent says, sends what the
//! schedule commands, and never waits for work to finish. Beside it, the services by which agents get their identity.

mod acks;
mod callers;
mod enrollment;
pub mod hello;
mod looks;
mod misconduct;
mod outbox;
mod session;
mod signed;
mod traced;
mod trust;
mod visits;

use std::sync::Arc;
use std::time::Duration;

use postrider_proto::agent::session_service_server::SessionService;
use postrider_proto::agent::{AgentMessage, ControlMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, info_span};

pub use self::enrollment::Registrar;
pub use self::misconduct::Misconduct;
pub use self::visits::Visits;
use crate::agents::Agents;
use crate::api::status;
use crate::diagnoses::Diagnoses;
use crate::dispatch::Dispatcher;
use crate::identities::Identities;
use crate::job_tags::JobTags;
use crate::lanes::Lanes;
use crate::listen::Peer;
use crate::metrics::Metrics;

/// How soon a new stream must say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How often agents are asked to be heard.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// A stream that is silent for this long is lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Messages to an agent that the transport has not taken: a stuck one ends by the silence limit.
const OUTBOUND: usize = 16;

/// What sessions share.
#[derive(Clone)]
pub struct Links {
    /// Where what happened goes.
    pub lanes: Lanes,
    /// Makes jobs.
    pub dispatcher: Dispatcher,
    /// Who is connected.
    pub agents: Arc<Agents>,
    /// Who may connect.
    pub identities: Arc<Identities>,
    /// Looks at endpoints.
    pub diagnoses: Arc<Diagnoses>,
    /// How often agents come.
    pub visits: Arc<Visits>,
    /// Shows to whom jobs were given.
    pub tags: JobTags,
    /// What agents do that none of ours does.
    pub misconduct: Arc<Misconduct>,
    /// Where what happens is counted.
    pub metrics: Arc<Metrics>,
    /// Cancelled when sessions must end.
    pub closing: CancellationToken,
    /// Every session's task.
    pub sessions: TaskTracker,
}

#[tonic::async_trait]
impl SessionService for Links {
    type ConnectStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request.extensions().get::<Peer>().ok_or_else(status::no_certificate)?;
        // Plaintext is served on loopback only, for development: there the agent is believed.
        let certificate = if peer.secured { Some(enrollment::certificate(peer)?) } else { None };
        let visit = certificate.as_ref().map(|shown| self.visits.begin(&shown.identity.agent)).transpose();
        let visit = match (visit, &certificate) {
            (Ok(visit), Some(shown)) => trust::use_key(self, shown, peer).await.map(|()| visit),
            (visit, _) => visit,
        };
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        match visit {
            Ok(visit) => {
                let session = session::run(self.clone(), certificate, request.into_inner(), outbound);
                let session = async move {
                    session.await;
                    drop(visit);
                };
                self.sessions.spawn(session.instrument(info_span!("agent_stream")));
            }
            Err(reject) => session::reject(&outbound, reject).await,
        }
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

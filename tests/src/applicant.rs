//! Whoever wants to be an agent, step by step: what a real agent does at once, so that each step can go wrong.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use postrider_domain::join::Join;
use postrider_proto::agent::ControlMessage;
use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::enrollment_service_client::EnrollmentServiceClient;
use postrider_proto::agent::identity_service_client::IdentityServiceClient;
use postrider_proto::agent::session_service_client::SessionServiceClient;
use postrider_proto::agent::{AgentMessage, EnrollRequest, Hello, Identity, RenewRequest};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as ClientIdentity};
use tonic::{Status, Streaming};

use crate::wait::PATIENCE;

/// The agents' port, as a client sees it.
#[derive(Clone, Debug)]
pub struct AgentPort {
    /// Its URL.
    pub url: String,
    /// The authorities that its certificate may be from, PEM.
    pub trust: String,
}

/// A certificate chain and its key.
#[derive(Clone)]
pub struct Credentials {
    /// The chain, PEM.
    pub chain: String,
    /// The key.
    pub key: Arc<KeyPair>,
}

/// A session: what is said on it and what is heard.
pub struct Session {
    /// Messages to the control plane.
    pub to: mpsc::Sender<AgentMessage>,
    /// Messages from it.
    pub from: Streaming<ControlMessage>,
}

impl Session {
    /// The next message.
    ///
    /// # Errors
    /// When the stream ends.
    pub async fn hear(&mut self) -> Result<Heard> {
        let heard =
            tokio::time::timeout(PATIENCE, self.from.message()).await.context("nothing is heard")??;
        heard.and_then(|heard| heard.message).context("the stream has ended")
    }
}

/// A key of an agent.
///
/// # Errors
/// When the system has no random numbers.
pub fn new_key() -> Result<Arc<KeyPair>> {
    Ok(Arc::new(KeyPair::generate()?))
}

/// A certificate request for a key.
///
/// # Errors
/// When it cannot be made.
pub fn request(key: &KeyPair) -> Result<Bytes> {
    Ok(CertificateParams::default().serialize_request(key)?.der().to_vec().into())
}

/// What a new agent says of itself.
#[must_use]
pub fn hello(identity: &Identity) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        agent_version: "test".to_owned(),
        agent_id: identity.agent_id.clone(),
        pool: identity.pool.clone(),
        instance_id: format!("{:x}", rand::random::<u128>()),
        max_in_flight: 8,
        max_in_flight_bytes: 1 << 20,
        next_outcome_sequence: 1,
        ..Hello::default()
    }
}

/// The credentials that an answer makes of a key.
#[must_use]
pub fn credentials(identity: &Identity, key: &Arc<KeyPair>) -> Credentials {
    let pem = |der: &Bytes| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
    Credentials { chain: identity.certificate_chain.iter().map(pem).collect(), key: key.clone() }
}

impl AgentPort {
    /// A connection, opened by its first use.
    ///
    /// # Errors
    /// When the credentials are no good.
    pub fn channel(&self, credentials: Option<&Credentials>) -> Result<Channel> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.trust));
        if let Some(credentials) = credentials {
            tls = tls.identity(ClientIdentity::from_pem(&credentials.chain, credentials.key.serialize_pem()));
        }
        Ok(Endpoint::from_shared(self.url.clone())?.timeout(PATIENCE).tls_config(tls)?.connect_lazy())
    }

    /// Asks to become an agent.
    ///
    /// # Errors
    /// The control plane's refusal.
    pub async fn enroll(&self, join: &Join, key: &KeyPair) -> Result<Identity, Status> {
        let broken = |error: anyhow::Error| Status::internal(error.to_string());
        let request = EnrollRequest {
            token: join.token().expose_text().to_string(),
            certificate_request: request(key).map_err(broken)?,
            display_name: "applicant".to_owned(),
            agent_version: "test".to_owned(),
        };
        let mut client = EnrollmentServiceClient::new(self.channel(None).map_err(broken)?);
        let answer = client.enroll(request).await?.into_inner();
        answer.identity.ok_or_else(|| Status::internal("no identity in the answer"))
    }

    /// Asks for a certificate for another key.
    ///
    /// # Errors
    /// The control plane's refusal.
    pub async fn renew(&self, credentials: Option<&Credentials>, key: &KeyPair) -> Result<Identity, Status> {
        let broken = |error: anyhow::Error| Status::internal(error.to_string());
        let request = RenewRequest { certificate_request: request(key).map_err(broken)? };
        let mut client = IdentityServiceClient::new(self.channel(credentials).map_err(broken)?);
        let answer = client.renew(request).await?.into_inner();
        answer.identity.ok_or_else(|| Status::internal("no identity in the answer"))
    }

    /// Opens a session and says Hello.
    ///
    /// # Errors
    /// The control plane's refusal.
    pub async fn connect(&self, credentials: Option<&Credentials>, hello: Hello) -> Result<Session, Status> {
        let broken = |error: anyhow::Error| Status::internal(error.to_string());
        let (to, messages) = mpsc::channel(16);
        let first = AgentMessage { message: Some(Said::Hello(hello)) };
        to.send(first).await.map_err(|_| Status::internal("the session is closed"))?;
        let mut client = SessionServiceClient::new(self.channel(credentials).map_err(broken)?);
        let from = client.connect(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Session { to, from })
    }
}

//! A control plane behind TLS, with an authority of its own, that answers enrollments and renewals as a test tells it to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider_proto::agent::enrollment_service_server::{EnrollmentService, EnrollmentServiceServer};
use postrider_proto::agent::identity_service_server::{IdentityService, IdentityServiceServer};
use postrider_proto::agent::session_service_server::SessionServiceServer;
use postrider_proto::agent::{EnrollRequest, EnrollResponse, Identity, RenewRequest, RenewResponse};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TlsConnectInfo;
use tonic::{Request, Response, Status};

use crate::authority::Authority;
use crate::control_plane::{Session, SessionStub};

/// It ends with this value.
pub(crate) struct TlsControlPlane {
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    /// What was asked, in order.
    pub(crate) asked: mpsc::Receiver<Asked>,
    /// How each handshake went.
    pub(crate) handshakes: mpsc::Receiver<Result<(), String>>,
    sessions: mpsc::Receiver<Session>,
    _server: JoinSet<()>,
}

/// An enrollment or a renewal.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The token, for an enrollment.
    pub(crate) token: Option<String>,
    pub(crate) request: Vec<u8>,
    pub(crate) name: String,
    /// The certificate that was shown.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// What to say to an enrollment or a renewal.
pub(crate) enum Answer {
    /// A certificate.
    Grant,
    /// A certificate, but the answer does not arrive.
    Lose,
    Refuse(Status),
    /// Nothing.
    Never,
}

/// What tests change while it runs.
pub(crate) struct Shared {
    state: Mutex<State>,
    asked: mpsc::Sender<Asked>,
}

pub(crate) struct State {
    /// Issues agents' certificates.
    pub(crate) authority: Arc<Authority>,
    /// What agents are told to trust.
    pub(crate) bundle: Vec<CertificateDer<'static>>,
    /// Shown by the server.
    pub(crate) tls: Arc<ServerConfig>,
    /// Whose agents are let in.
    pub(crate) trusted: RootCertStore,
    /// Every agent's certificate is refused for this.
    pub(crate) refuse: Option<CertificateError>,
    /// For the next calls; without one, it grants.
    pub(crate) answers: VecDeque<Answer>,
    /// Who enrolls next.
    pub(crate) agent: String,
    pub(crate) renew_after: Duration,
    pub(crate) valid_for: Duration,
}

/// What most servers are called here.
pub(crate) const NAMES: &[&str] = &["127.0.0.1", "localhost", "control-plane.test"];

impl TlsControlPlane {
    pub(crate) async fn start() -> TlsControlPlane {
        TlsControlPlane::with(NAMES, None).await
    }

    /// With a certificate for these names, which ended so long ago.
    pub(crate) async fn with(names: &[&str], ended: Option<Duration>) -> TlsControlPlane {
        let authority = Arc::new(Authority::new());
        let (asking, asked) = mpsc::channel(64);
        let (sender, sessions) = mpsc::channel(16);
        let (shaken, handshakes) = mpsc::channel(256);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new_cyclic(|shared: &std::sync::Weak<Shared>| {
            let verifier = Verifier(shared.clone());
            let tls = server_config(&authority, names, ended, Arc::new(verifier));
            let state = State {
                bundle: vec![authority.certificate()],
                tls,
                trusted: authority.roots(),
                refuse: None,
                answers: VecDeque::new(),
                agent: "agent-1".to_owned(),
                renew_after: Duration::from_secs(1800),
                valid_for: Duration::from_secs(3600),
                authority,
            };
            Shared { state: Mutex::new(state), asked: asking }
        });
        let (ready, incoming) = mpsc::channel(16);
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(&shared), ready, shaken));
        let services = tonic::transport::Server::builder()
            .add_service(SessionServiceServer::new(SessionStub { sender }))
            .add_service(EnrollmentServiceServer::new(Registrar(Arc::clone(&shared))))
            .add_service(IdentityServiceServer::new(Registrar(Arc::clone(&shared))));
        server.spawn(async move {
            services.serve_with_incoming(ReceiverStream::new(incoming)).await.unwrap();
        });
        TlsControlPlane { address, shared, asked, handshakes, sessions, _server: server }
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.shared.lock())
    }

    /// A join token for it.
    pub(crate) fn join(&self) -> String {
        let authority = self.change(|state| Arc::clone(&state.authority));
        authority.join(&self.address.to_string())
    }

    /// Shows a certificate of this authority from now on.
    pub(crate) fn show(&self, authority: &Authority, names: &[&str]) {
        let tls = server_config(authority, names, None, Arc::new(Verifier(Arc::downgrade(&self.shared))));
        self.change(|state| state.tls = tls);
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

    /// The next enrollment or renewal.
    pub(crate) async fn asked(&mut self) -> Asked {
        self.asked.recv().await.unwrap()
    }

    /// Waits for a handshake that fails, and says why it did.
    pub(crate) async fn failed_handshake(&mut self) -> String {
        loop {
            if let Err(why) = self.handshakes.recv().await.unwrap() {
                return why;
            }
        }
    }
}

fn server_config(
    authority: &Authority,
    names: &[&str],
    ended: Option<Duration>,
    verifier: Arc<Verifier>,
) -> Arc<ServerConfig> {
    let identity = authority.server(names, ended);
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    ready: mpsc::Sender<Result<TlsStream<TcpStream>, Infallible>>,
    shaken: mpsc::Sender<Result<(), String>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::clone(&shared.lock().tls));
        let (ready, shaken) = (ready.clone(), shaken.clone());
        handshakes.spawn(async move {
            let accepted = acceptor.accept(stream).await;
            // Few tests ask how it went.
            let _full = shaken.try_send(accepted.as_ref().map(|_| ()).map_err(ToString::to_string));
            if let Ok(stream) = accepted {
                let _stopped = ready.send(Ok(stream)).await;
            }
        });
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(&self, asked: Asked) -> Result<Identity, Status> {
        let answer = self.lock().answers.pop_front().unwrap_or(Answer::Grant);
        let identity = self.grant(&asked.request);
        self.asked.send(asked).await.unwrap();
        match answer {
            Answer::Grant => Ok(identity),
            Answer::Lose => Err(Status::unavailable("the answer was lost")),
            Answer::Refuse(status) => Err(status),
            Answer::Never => std::future::pending().await,
        }
    }

    fn grant(&self, request: &[u8]) -> Identity {
        let state = self.lock();
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap();
        let certificate = state.authority.agent(request, &state.agent, "acme", state.valid_for, false);
        Identity {
            agent_id: state.agent.clone(),
            pool: "acme".to_owned(),
            certificate_chain: vec![certificate.to_vec().into()],
            trust_bundle: state.bundle.iter().map(|certificate| certificate.to_vec().into()).collect(),
            renew_after_seconds: seconds(state.renew_after),
            valid_for_seconds: seconds(state.valid_for),
        }
    }
}

/// The certificate that was shown on a request's connection.
pub(crate) fn shown<T>(request: &Request<T>) -> Option<Vec<u8>> {
    let info = request.extensions().get::<TlsConnectInfo<tonic::transport::server::TcpConnectInfo>>()?;
    info.peer_certs().map(|certificates| certificates[0].to_vec())
}

struct Registrar(Arc<Shared>);

#[tonic::async_trait]
impl EnrollmentService for Registrar {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let certificate = shown(&request);
        let request = request.into_inner();
        let asked = Asked {
            token: Some(request.token),
            request: request.certificate_request.to_vec(),
            name: request.display_name,
            certificate,
        };
        Ok(Response::new(EnrollResponse { identity: Some(self.0.answer(asked).await?) }))
    }
}

#[tonic::async_trait]
impl IdentityService for Registrar {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let certificate = shown(&request);
        if certificate.is_none() {
            return Err(Status::unauthenticated("an agent's certificate is needed"));
        }
        let request = request.into_inner().certificate_request.to_vec();
        let asked = Asked { token: None, request, name: String::new(), certificate };
        Ok(Response::new(RenewResponse { identity: Some(self.0.answer(asked).await?) }))
    }
}

/// Lets in who shows nothing, and agents of the trusted authorities unless they are to be refused.
#[derive(Debug)]
struct Verifier(std::sync::Weak<Shared>);

impl Verifier {
    fn inner(&self) -> Arc<dyn ClientCertVerifier> {
        let roots = Arc::new(self.0.upgrade().unwrap().lock().trusted.clone());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(refuse) = &self.0.upgrade().unwrap().lock().refuse {
            return Err(refuse.clone().into());
        }
        self.inner().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner().supported_verify_schemes()
    }
}

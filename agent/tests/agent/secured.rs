//! Endpoints behind TLS, with an authority of the test's own, that tell what they have seen.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use postrider_agent::transport::http::HttpTransport;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::endpoint::{Endpoint, policy, with};

pub(crate) const BOTH: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// An authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a server shows: a certificate and its key, from an authority.
pub(crate) struct Identity {
    roots: RootCertStore,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// If clients have to show a certificate, the authority it must be from.
    clients: Option<RootCertStore>,
}

/// A server that answers every request with what it was.
pub(crate) struct Secured {
    pub(crate) endpoint: Endpoint,
    pub(crate) roots: RootCertStore,
    seen: mpsc::Receiver<Seen>,
}

/// A request as the server saw it.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Of SNI.
    pub(crate) server_name: Option<String>,
    /// Of the client, or none.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    /// Counts connections.
    pub(crate) connection: usize,
    pub(crate) host: String,
    pub(crate) headers: HeaderMap,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For a server with these names.
    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.identity(params(names))
    }

    /// For a server, but long ago.
    pub(crate) fn expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.identity(params)
    }

    /// A certificate that is its own authority, as many tools make it.
    pub(crate) fn self_signed(names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = params(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Identity {
            roots,
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            clients: None,
        }
    }

    /// For a client: certificate and key, in PEM, and the certificate as servers see it.
    pub(crate) fn client(&self, name: &str) -> (String, String, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params(&[name]).signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem(), certificate.der().clone())
    }

    fn identity(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            roots: self.roots(),
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            clients: None,
        }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|&name| name.into()).collect::<Vec<String>>()).unwrap()
}

impl Identity {
    /// Demands certificates of clients.
    pub(crate) fn demanding(self, clients: &Authority) -> Identity {
        Identity { clients: Some(clients.roots()), ..self }
    }

    /// What does the handshakes of a server.
    pub(crate) fn acceptor(
        self,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap(),
            ),
        };
        let mut config = builder.with_single_cert(vec![self.certificate], self.key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Secured {
    /// With an authority of its own.
    pub(crate) async fn start(
        names: &[&str],
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Secured {
        Secured::with(Authority::new().server(names), alpn, versions).await
    }

    pub(crate) async fn with(
        identity: Identity,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Secured {
        let roots = identity.roots.clone();
        let acceptor = identity.acceptor(alpn, versions);
        let (sender, seen) = mpsc::channel(1000);
        let endpoint = Endpoint::start(move |stream, connection| {
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, connection, sender).await;
                }
            }
        })
        .await;
        Secured { endpoint, roots, seen }
    }

    pub(crate) fn transport(&self) -> HttpTransport {
        with(policy(&[self.endpoint.address.port()]), self.roots.clone(), &[])
    }

    /// The next request.
    pub(crate) async fn seen(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }
}

async fn serve(stream: TlsStream<TcpStream>, connection: usize, sender: mpsc::Sender<Seen>) {
    let session = stream.get_ref().1;
    let server_name = session.server_name().map(str::to_owned);
    let certificate = session.peer_certificates().map(|chain| chain[0].clone().into_owned());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
        let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap();
        let headers = request.headers().clone();
        let (server_name, certificate) = (server_name.clone(), certificate.clone());
        // Most tests do not ask what was seen.
        let _full =
            sender.try_send(Seen { server_name, certificate, connection, host: host.clone(), headers });
        echo(request, host)
    });
    // The client ends the connection, in whatever way.
    let _ended =
        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Gives back the method, the host as the server sees it, the path and the body.
async fn echo(
    request: hyper::Request<Incoming>,
    host: String,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {host} {} ", request.method(), request.uri().path());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(hyper::Response::new(Full::from([line.as_bytes(), &body].concat())))
}

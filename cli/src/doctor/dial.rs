//! How far a connection to the API comes: name, TCP, TLS. A certificate that cannot be trusted ends it, and is kept to be looked
//! at.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use postrider_domain::certificate::Validity;
use postrider_domain::time::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Finding;
use crate::client::Connection;

/// A connection that came about.
pub(super) struct Dialled {
    /// Who answered.
    pub(super) address: SocketAddr,
    /// What it has shown.
    pub(super) tls: Option<Shown>,
}

/// The certificate that a server has shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// When it is valid.
    pub(super) validity: Validity,
    /// For which names and addresses it is.
    pub(super) names: Vec<String>,
    /// By which name the server was called.
    pub(super) called: String,
    /// Why it cannot be trusted.
    pub(super) problem: Option<Error>,
}

const ABOUT: &str = "reach";

pub(super) async fn dial(connection: &Connection) -> Result<Dialled, Finding> {
    let wrong =
        |why: String| Finding::problem(ABOUT, why, "give --server as http://host:port or https://host:port");
    let server: Uri = connection.server.parse().map_err(|error| wrong(format!("--server: {error}")))?;
    let host = server.host().ok_or_else(|| wrong("--server has no host".to_owned()))?.to_owned();
    let secured = server.scheme_str() == Some("https");
    let port = server.port_u16().unwrap_or(if secured { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let socket = connect(connection, &bare, port).await?;
    let address = socket.peer_addr().map_err(|error| wrong(error.to_string()))?;
    let tls = if secured { Some(shake_hands(connection, socket, bare).await?) } else { None };
    Ok(Dialled { address, tls })
}

async fn connect(connection: &Connection, host: &str, port: u16) -> Result<TcpStream, Finding> {
    let found = timeout(connection.timeout, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            return Err(Finding::problem(
                ABOUT,
                format!("the name {host} is not found: {error}"),
                "correct --server, or this machine's DNS",
            ));
        }
        Err(_) => {
            return Err(Finding::problem(
                ABOUT,
                format!("nobody says in time which address {host} has"),
                "look at this machine's DNS",
            ));
        }
    };
    match timeout(connection.timeout, TcpStream::connect(&addresses[..])).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => Err(Finding::problem(
            ABOUT,
            format!("{host}:{port} cannot be reached: {error}"),
            "is the control plane running, does its api_listen have this address, and does no firewall or NetworkPolicy forbid the way?",
        )),
        Err(_) => Err(Finding::problem(
            ABOUT,
            format!("{host}:{port} does not answer within {}s", connection.timeout.as_secs_f32()),
            "something on the way drops packets: look at firewalls, security groups and NetworkPolicies",
        )),
    }
}

async fn shake_hands(connection: &Connection, socket: TcpStream, host: String) -> Result<Shown, Finding> {
    const TLS: &str = "certificate";
    let unusable = |why: String| Finding::problem(TLS, why, "correct --ca, --cert and --key");
    let name = ServerName::try_from(host.clone()).map_err(|error| unusable(format!("{host}: {error}")))?;
    let witness = Arc::new(Witness::new(connection).map_err(unusable)?);
    let config = config(connection, witness.clone()).map_err(unusable)?;
    let shaken =
        timeout(connection.timeout, TlsConnector::from(Arc::new(config)).connect(name, socket)).await;
    let seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    let why = match (shaken, &seen) {
        (Ok(Ok(_)), _) | (Ok(Err(_)), Some((_, Some(_)))) => None,
        (Ok(Err(error)), _) => Some(error.to_string()),
        (Err(_), _) => Some(format!("nothing within {}s", connection.timeout.as_secs_f32())),
    };
    if let Some(why) = why {
        let next = "does the server speak TLS at this port? If it does not, use http://; a proxy before it must pass HTTP/2 on";
        return Err(Finding::problem(TLS, format!("no TLS handshake with {host}: {why}"), next));
    }
    let Some((certificate, problem)) = seen else {
        return Err(unusable("the server has shown no certificate".to_owned()));
    };
    let (validity, names) =
        read(&certificate).ok_or_else(|| unusable("the server's certificate cannot be read".to_owned()))?;
    Ok(Shown { validity, names, called: host, problem })
}

fn config(connection: &Connection, witness: Arc<Witness>) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(witness);
    let mut config = match (&connection.cert, &connection.key) {
        (Some(cert), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
            let chain = chain.map_err(|error| format!("--cert: {error}"))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("--key: {error}"))?;
            config.with_client_auth_cert(chain, key).map_err(|error| format!("--cert and --key: {error}"))?
        }
        _ => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(connection: &Connection) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match &connection.ca {
        Some(path) => {
            let mut read = CertificateDer::pem_file_iter(path).map_err(|error| format!("--ca: {error}"))?;
            read.try_for_each(|certificate| {
                let certificate = certificate.map_err(|error| format!("--ca: {error}"))?;
                roots.add(certificate).map_err(|error| format!("--ca: {error}"))
            })?;
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

/// When it is valid, and for whom it is.
fn read(der: &CertificateDer<'_>) -> Option<(Validity, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let time = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
    let validity = Validity {
        from: time(certificate.validity().not_before.timestamp()),
        until: time(certificate.validity().not_after.timestamp()),
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
        GeneralName::IPAddress(bytes) => {
            <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string())
        }
        _ => None,
    });
    Some((validity, names.collect()))
}

type Seen = (CertificateDer<'static>, Option<Error>);

/// Judges as ever, and keeps what was judged.
#[derive(Debug)]
struct Witness {
    /// `None` when no authority is known.
    judge: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Option<Seen>>,
}

impl Witness {
    fn new(connection: &Connection) -> Result<Self, String> {
        let roots = Arc::new(roots(connection)?);
        let judge = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().ok();
        let algorithms = provider().signature_verification_algorithms;
        Ok(Self { judge, algorithms, seen: Mutex::default() })
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = match &self.judge {
            Some(judge) => {
                judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        };
        let seen = (end_entity.clone().into_owned(), judged.as_ref().err().cloned());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

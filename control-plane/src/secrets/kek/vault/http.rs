//! One HTTP POST on a connection of its own: this program asks Vault at its start and at a rewrap, and no more.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};
use zeroize::Zeroizing;

/// How much of an answer is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Knows where Vault is, and how it is told from others.
pub(super) struct Client {
    /// A host and a port, as `connect` takes them.
    address: (String, u16),
    authority: String,
    /// Absent on loopback without TLS.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// What Vault answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Client {
    /// A client for the origin of a URL. The problem is the end of a sentence.
    pub(super) fn new(url: &Url, ca_file: Option<&Path>) -> Result<Self, String> {
        let host = url.host().ok_or("names no host")?;
        let port = url.port_or_known_default().ok_or("names no port")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user name or password".to_owned());
        }
        let tls = match url.scheme() {
            "https" => Some((TlsConnector::from(tls(ca_file)?), server_name(&host)?)),
            "http" if is_loopback(&host) => None,
            "http" => return Err("is without TLS, which only a loopback address may be".to_owned()),
            _ => return Err("is neither https nor http".to_owned()),
        };
        let name = host.to_string().trim_matches(['[', ']']).to_owned();
        Ok(Self { address: (name, port), authority: format!("{host}:{port}"), tls })
    }

    /// Posts JSON. The problem is a sentence.
    pub(super) async fn post(
        &self,
        path: &str,
        token: &str,
        namespace: Option<&str>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, String> {
        let mut request = http::Request::new(Full::new(Bytes::from_owner(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|_| "its path is none".to_owned())?;
        let mut put = |name: &'static str, value: &str, secret: bool| {
            let mut value = HeaderValue::from_str(value).map_err(|_| format!("{name} cannot be sent"))?;
            value.set_sensitive(secret);
            request.headers_mut().insert(name, value);
            Ok::<(), String>(())
        };
        put(header::HOST.as_str(), &self.authority, false)?;
        put(header::CONTENT_TYPE.as_str(), "application/json", false)?;
        // Vault refuses requests without it when it is asked to, as a guard against forged ones.
        put("x-vault-request", "true", false)?;
        put("x-vault-token", token, true)?;
        if let Some(namespace) = namespace {
            put("x-vault-namespace", namespace, false)?;
        }
        let unreachable =
            |error: &dyn std::fmt::Display| format!("Vault at {} cannot be reached: {error}", self.authority);
        let (host, port) = &self.address;
        let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| unreachable(&error))?;
        match &self.tls {
            None => self.send(tcp, request).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                self.send(tls.map_err(|error| unreachable(&error))?, request).await
            }
        }
    }

    async fn send<S>(&self, stream: S, request: http::Request<Full<Bytes>>) -> Result<Answer, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error: &dyn std::fmt::Display| {
            format!("what listens at {} does not answer as Vault does: {error}", self.authority)
        };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| failed(&error))?.to_bytes();
            Ok(Answer { status, body: Zeroizing::new(body.to_vec()) })
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection may end before its answer is read whole.
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(failed(&error)),
            },
        }
    }
}

fn server_name(host: &Host<&str>) -> Result<ServerName<'static>, String> {
    match host {
        Host::Domain(name) => {
            ServerName::try_from((*name).to_owned()).map_err(|_| "names no host".to_owned())
        }
        Host::Ipv4(address) => Ok(ServerName::IpAddress(IpAddr::from(*address).into())),
        Host::Ipv6(address) => Ok(ServerName::IpAddress(IpAddr::from(*address).into())),
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn tls(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unusable = |problem: &dyn std::fmt::Display| {
                format!("cannot be told from others: vault_ca {} {problem}", path.display())
            };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))?;
            for certificate in certificates {
                let added = certificate.map(|certificate| roots.add(certificate));
                added.map_err(|error| unusable(&error))?.map_err(|error| unusable(&error))?;
            }
            if roots.is_empty() {
                return Err(unusable(&"holds no certificate"));
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err("cannot be told from others: this machine has no certificate authorities; set vault_ca"
            .to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

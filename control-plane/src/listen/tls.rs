//! The TLS settings of both ports: TLS 1.2 and newer for the API, from files that may change; TLS 1.3 for agents.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tracing::{info, warn};

use super::SharedTls;
use crate::authority::verifier::AgentVerifier;

/// How often files are looked at: a certificate that a tool has renewed is in use this soon.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting}: {path} cannot be read: {source}", path = path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{setting}: {path} holds no {expected} in PEM", path = path.display())]
    Content {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// They do not go together, or are of a kind that is not supported.
    #[error("{setting} cannot be used: {problem}")]
    Unusable {
        /// The setting.
        setting: &'static str,
        /// Why.
        problem: String,
    },
}

/// The files of the API's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFiles {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities of clients' certificates, PEM; with it, clients must have one.
    pub client_ca: Option<PathBuf>,
}

/// What stands in the files.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl ApiFiles {
    /// The settings that the files make now.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(&self) -> Result<ServerConfig, TlsError> {
        self.settings(&self.read()?)
    }

    /// Shares the settings, and the task that replaces them whenever the files change.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn share(self) -> Result<(SharedTls, impl Future<Output = ()> + use<>), TlsError> {
        let contents = self.read()?;
        let shared: SharedTls = Arc::new(ArcSwap::from_pointee(self.settings(&contents)?));
        Ok((shared.clone(), self.follow(contents, shared)))
    }

    async fn follow(self, mut contents: Contents, shared: SharedTls) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let read = self.read().and_then(|found| {
                let settings = (found != contents).then(|| self.settings(&found)).transpose()?;
                Ok(settings.map(|settings| (found, settings)))
            });
            match read {
                Ok(None) => told.clear(),
                Ok(Some((found, settings))) => {
                    contents = found;
                    shared.store(Arc::new(settings));
                    told.clear();
                    info!(file = %self.cert.display(), "the API's certificate was read anew");
                }
                // The files may be half written: what was read before stays in use.
                Err(error) if error.to_string() != told => {
                    told = error.to_string();
                    warn!("the API's former certificate stays in use: {told}");
                }
                Err(_) => {}
            }
        }
    }

    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            cert: read("tls_cert", &self.cert)?,
            key: read("tls_key", &self.key)?.into(),
            client_ca: self.client_ca.as_deref().map(|path| read("tls_client_ca", path)).transpose()?,
        })
    }

    fn settings(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        let chain = certificates("tls_cert", &self.cert, &contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| TlsError::Content {
            setting: "tls_key",
            path: self.key.clone(),
            expected: "private key",
        })?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| unusable("TLS", &error))?;
        let builder = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(pem)) => {
                let roots = roots(certificates("tls_client_ca", path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                let verifier = verifier.build().map_err(|error| unusable("tls_client_ca", &error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| unusable("tls_cert with tls_key", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        if self.client_ca.is_some() {
            never_resume(&mut config);
        }
        Ok(config)
    }
}

/// The settings of the agents' port.
///
/// Sessions are not resumed: each handshake asks the verifier anew, so that a revoked agent does not get in by a ticket.
///
/// # Errors
/// When rustls cannot use the certificate.
pub fn for_agents(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Arc<AgentVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    never_resume(&mut config);
    Ok(config)
}

/// Each handshake asks for the client's certificate.
fn never_resume(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// The cryptography that all of TLS here uses.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A store of these certificates; those that cannot be read are left out.
#[must_use]
pub fn roots(certificates: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (_added, _ignored) = roots.add_parsable_certificates(certificates);
    roots
}

/// Reads a file that a setting names.
pub(crate) fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { setting, path: path.to_owned(), source })
}

/// The certificates in a PEM text: at least one.
pub(crate) fn certificates(
    setting: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let content = || TlsError::Content { setting, path: path.to_owned(), expected: "certificate" };
    let found = found.map_err(|_| content())?;
    if found.is_empty() { Err(content()) } else { Ok(found) }
}

fn unusable(setting: &'static str, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable { setting, problem: error.to_string() }
}

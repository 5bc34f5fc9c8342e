//! The TLS settings of both ports: TLS 1.2 and newer for the API, from files that may change; TLS 1.3 for agents.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postrider_domain::certificate::Facts;
use postrider_domain::time::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::SharedTls;
use super::certificate::{ApiCertificate, Reminder, authorities_fault, facts};
use crate::authority::verifier::AgentVerifier;
use crate::clock::Clock;
use crate::secret_file::{self, SecretFileError};

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
    /// A private key is not read.
    #[error("{setting}: {source}")]
    Key {
        /// The setting that names it.
        setting: &'static str,
        /// Why.
        source: SecretFileError,
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
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl ApiFiles {
    /// Whether the files can be used, and what people must know of the certificates in them: what
    /// has expired, or is not valid yet, as problems, and what expires soon.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn check(&self, now: Timestamp) -> Result<(Vec<String>, Option<String>), TlsError> {
        let contents = self.read()?;
        self.settings(&contents)?;
        let leaf = self.facts(&contents)?.map(|facts| facts.validity);
        let expired = leaf.and_then(|validity| validity.fault(now));
        let expired = expired.map(|fault| {
            format!(
                "tls_cert: the certificate in {} {fault}; clients refuse it: renew it",
                self.cert.display()
            )
        });
        let authorities = self.client_ca_fault(&contents, now)?;
        let authorities = authorities.map(|fault| format!("tls_client_ca: {fault}"));
        let soon =
            leaf.filter(|validity| validity.is_valid(now)).and_then(|validity| validity.complaint(now));
        let soon = soon.map(|soon| format!("tls_cert: the certificate {soon}: renew it"));
        Ok((expired.into_iter().chain(authorities).collect(), soon))
    }

    /// The settings that the files make now.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(&self) -> Result<ServerConfig, TlsError> {
        self.settings(&self.read()?)
    }

    /// Shares the settings, and the task that replaces them whenever the files change.
    /// `certificate` shows what is in use.
    ///
    /// A certificate that has expired is taken at a start: deliveries and agents do not depend on
    /// it, and a restart must not stop them.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn share(
        self,
        certificate: ApiCertificate,
        clock: Clock,
    ) -> Result<(SharedTls, impl Future<Output = ()> + use<>), TlsError> {
        let contents = self.read()?;
        let shared: SharedTls = Arc::new(ArcSwap::from_pointee(self.settings(&contents)?));
        certificate.serve(self.facts(&contents)?);
        let mut reminder = Reminder::default();
        reminder.tell(certificate.facts().as_ref(), clock.wall());
        if let Some(fault) = self.client_ca_fault(&contents, clock.wall())? {
            error!("tls_client_ca cannot verify any client certificate: {fault}");
        }
        Ok((shared.clone(), self.follow(contents, shared, certificate, reminder, clock)))
    }

    async fn follow(
        self,
        mut contents: Contents,
        shared: SharedTls,
        certificate: ApiCertificate,
        mut reminder: Reminder,
        clock: Clock,
    ) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = clock.wall();
            match self.changed(&contents, &certificate, now) {
                Ok(None) if certificate.refused().is_some() => {
                    certificate.refuse(None);
                    info!("tls_cert, tls_key and tls_client_ca match the certificate in use again");
                }
                Ok(None) => {}
                Ok(Some((found, settings))) => {
                    let facts = self.facts(&found).ok().flatten();
                    let expires = facts.as_ref().map(|facts| facts.validity.until.to_string());
                    contents = found;
                    shared.store(Arc::new(settings));
                    certificate.serve(facts);
                    info!(file = %self.cert.display(), expires, "the API's certificate was reloaded");
                }
                // The files may be half written, or wrong: what was read before stays in use.
                Err(error) => {
                    let why = error.to_string();
                    if certificate.refused().as_ref() != Some(&why) {
                        warn!("keeping the API's previous certificate: {why}");
                        certificate.refuse(Some(why));
                    }
                }
            }
            reminder.tell(certificate.facts().as_ref(), now);
        }
    }

    /// What the files hold now, and the settings that they make, if they have changed and may be
    /// used.
    fn changed(
        &self,
        known: &Contents,
        certificate: &ApiCertificate,
        now: Timestamp,
    ) -> Result<Option<(Contents, ServerConfig)>, TlsError> {
        let found = self.read()?;
        if found == *known {
            return Ok(None);
        }
        let settings = self.settings(&found)?;
        if found.cert != known.cert
            && let Some(former) = certificate.facts()
        {
            let new = self.facts(&found)?.ok_or_else(|| TlsError::Content {
                setting: "tls_cert",
                path: self.cert.clone(),
                expected: "certificate that can be read",
            })?;
            if let Some(refusal) = new.refusal(&former, now) {
                let problem = format!(
                    "the certificate in {} {refusal}; replace it, or restart the control plane to use it all the same",
                    self.cert.display()
                );
                return Err(TlsError::Unusable { setting: "tls_cert", problem });
            }
        }
        match self.client_ca_fault(&found, now)? {
            Some(problem) if found.client_ca != known.client_ca => {
                Err(TlsError::Unusable { setting: "tls_client_ca", problem })
            }
            _ => Ok(Some((found, settings))),
        }
    }

    /// What the certificate says that clients are shown; nothing when it cannot be read.
    fn facts(&self, contents: &Contents) -> Result<Option<Facts>, TlsError> {
        Ok(certificates("tls_cert", &self.cert, &contents.cert)?.first().and_then(facts))
    }

    /// Why no client's certificate could be accepted.
    fn client_ca_fault(&self, contents: &Contents, now: Timestamp) -> Result<Option<String>, TlsError> {
        let (Some(path), Some(pem)) = (&self.client_ca, &contents.client_ca) else { return Ok(None) };
        let fault = authorities_fault(&certificates("tls_client_ca", path, pem)?, now);
        Ok(fault.map(|fault| {
            format!("no authority in {} is valid: the first one {fault}; replace the file", path.display())
        }))
    }

    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            cert: read("tls_cert", &self.cert)?,
            key: read_key("tls_key", &self.key)?,
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

/// Reads a private key that a setting names: only when nobody else can.
pub(crate) fn read_key(setting: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    match secret_file::read(path) {
        Ok(text) => Ok(Zeroizing::new(text.as_bytes().to_vec())),
        Err(SecretFileError::Unreadable { cause: source, .. }) => {
            Err(TlsError::File { setting, path: path.to_owned(), source })
        }
        Err(source) => Err(TlsError::Key { setting, source }),
    }
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

#[cfg(test)]
mod tests;

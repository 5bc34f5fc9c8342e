//! The operator's own authorities: folders with `tls.crt`, a certificate that may issue, and `tls.key`, both PEM: what a
//! Kubernetes secret of type `kubernetes.io/tls` holds, mounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use postrider_domain::time::Timestamp;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Authority, AuthorityError};
use crate::listen::certificate::facts;
use crate::listen::tls::{TlsError, certificates, read, read_key};

/// Where an authority of the operator's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// Its certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl AuthorityFiles {
    /// The files of one folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { cert: folder.join("tls.crt"), key: folder.join("tls.key") }
    }

    /// Whether they can be used now, and what people must know: that the certificate expires soon.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: Timestamp) -> Result<Option<String>, AuthorityError> {
        let authority = read_one(self, now)?;
        Ok(facts(&authority.certificate).and_then(|facts| facts.validity.complaint(now)))
    }
}

/// Why an operator's authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read, or holds no certificate.
    #[error(transparent)]
    Read(#[from] TlsError),
    /// The key is none.
    #[error("agent_ca: {path} holds no private key in PEM that can sign: {source}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// They do not belong together, or it may not issue.
    #[error("agent_ca: {path} {problem}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
}

/// All of them, in the order of the settings: the first one issues.
pub(super) fn read_all(
    files: &[AuthorityFiles],
    now: Timestamp,
) -> Result<Vec<Arc<Authority>>, AuthorityError> {
    files.iter().map(|files| read_one(files, now).map(Arc::new)).collect()
}

/// Whether these are the same authorities.
pub(super) fn same(one: &[Arc<Authority>], other: &[Arc<Authority>]) -> bool {
    one.iter()
        .map(|authority| &authority.certificate)
        .eq(other.iter().map(|authority| &authority.certificate))
}

/// When a certificate ends.
pub(super) fn end_of(certificate: &CertificateDer<'_>) -> Result<Timestamp, AuthorityError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    Ok(Timestamp::from_millis(certificate.validity().not_after.timestamp().saturating_mul(1000)))
}

/// Since when a certificate is valid.
pub(super) fn start_of(certificate: &CertificateDer<'_>) -> Result<Timestamp, AuthorityError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    Ok(Timestamp::from_millis(certificate.validity().not_before.timestamp().saturating_mul(1000)))
}

fn read_one(files: &AuthorityFiles, now: Timestamp) -> Result<Authority, AuthorityError> {
    let wrong = |problem| FilesError::Certificate { path: files.cert.clone(), problem };
    let pem = read("agent_ca", &files.cert).map_err(FilesError::from)?;
    let chain = certificates("agent_ca", &files.cert, &pem).map_err(FilesError::from)?;
    let certificate = chain.into_iter().next().ok_or(AuthorityError::None)?;
    let pem = read_key("agent_ca", &files.key).map_err(FilesError::from)?;
    let text = std::str::from_utf8(&pem).unwrap_or_default();
    let key =
        KeyPair::from_pem(text).map_err(|source| FilesError::Key { path: files.key.clone(), source })?;
    let (_, parsed) = X509Certificate::from_der(&certificate)
        .map_err(|_| wrong("holds a certificate that cannot be read"))?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(wrong("is not the certificate of that key").into());
    }
    if !parsed.is_ca() {
        return Err(wrong("may not issue: it is no authority's certificate").into());
    }
    if !parsed.validity().is_valid_at(asn1_time(now)) {
        return Err(wrong("is not valid now").into());
    }
    let authority = Authority::new(certificate, key, now)?;
    Ok(Authority { external: true, ..authority })
}

fn asn1_time(now: Timestamp) -> x509_parser::time::ASN1Time {
    // A timestamp is between 1970 and 9999, which this type covers.
    x509_parser::time::ASN1Time::from_timestamp(now.as_seconds())
        .unwrap_or(x509_parser::time::ASN1Time::from(time::OffsetDateTime::UNIX_EPOCH))
}

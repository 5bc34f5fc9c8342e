//! TLS towards the control plane: 1.3 only. Who the control plane is, is judged here; who this agent is, is shown.
//!
//! Before it has an identity the agent trusts the fingerprints in its join token. The server sends its authority's
//! certificate along; one that has such a fingerprint is the only authority there is. Later the agent trusts the
//! authorities that it was given with its identity. Either way the certificate must be for the name that was dialled.

use std::path::Path;
use std::sync::Arc;

use postrider_domain::join::Pin;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Who may have issued the control plane's certificate.
#[derive(Debug, Clone)]
pub enum Authorities {
    /// An authority whose key has one of these fingerprints.
    Pinned(Vec<Pin>),
    /// One of these.
    Known(RootCertStore),
}

/// Why a file does not say which authorities to trust.
#[derive(Debug, thiserror::Error)]
#[error("{path} holds no certificate of an authority that can be used: it must be PEM", path = .path.display())]
pub struct AuthorityFileError {
    path: std::path::PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The settings of connections on which the agent shows `identity`, its certificate chain and the key to it.
///
/// # Errors
///
/// When the identity cannot be used: its key is of another certificate, or no key.
pub fn client_config(
    authorities: Authorities,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match authorities {
        Authorities::Known(roots) => builder.with_root_certificates(roots),
        Authorities::Pinned(pins) => {
            let verifier = Pinned { pins, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would go by the certificate of the first one. Connections are few, so nothing is lost.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The authorities with these certificates.
///
/// # Errors
///
/// When one is not the certificate of an authority.
pub fn known(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    certificates.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
    Ok(roots)
}

/// The authorities in a PEM file.
///
/// # Errors
///
/// [`AuthorityFileError`].
pub fn read_authorities(path: &Path) -> Result<RootCertStore, AuthorityFileError> {
    let wrong = |source| AuthorityFileError { path: path.to_owned(), source };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| wrong(error.into()));
    let certificates = certificates?;
    if certificates.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
    }
    known(&certificates).map_err(|error| wrong(error.into()))
}

/// Trusts whatever has one of these fingerprints, and what that has issued.
#[derive(Debug)]
struct Pinned {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn matches(&self, certificate: &ParsedCertificate<'_>) -> bool {
        self.pins.contains(&Pin::of(&certificate.subject_public_key_info()))
    }

    fn anchors(&self, sent: &[CertificateDer<'_>]) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for certificate in sent {
            if ParsedCertificate::try_from(certificate).is_ok_and(|parsed| self.matches(&parsed)) {
                // One that is no authority has issued nothing.
                let _no_authority = roots.add(certificate.clone().into_owned());
            }
        }
        roots
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if self.matches(&certificate) {
            verify_server_name(&certificate, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let anchors = Arc::new(self.anchors(intermediates));
        match WebPkiServerVerifier::builder_with_provider(anchors, Arc::clone(&self.provider)).build() {
            Ok(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Err(VerifierBuilderError::NoRootAnchors) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            Err(error) => Err(Error::General(error.to_string())),
        }
    }

    /// TLS 1.2 is not offered.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;

//! Why there is no TLS session with an endpoint: the fault by its name, so that the endpoint's owner can correct it.
//!
//! [`explain`] has a fixed sentence for each fault, which may leave the agent: no name, no date, no byte of a certificate. What
//! the library says in detail is for the log of the agent's owner. [`Judge`] decides about certificates as the library
//! does, and only finds out whether a signature that does not match is one of a key that is too weak.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Signatures by RSA have algorithms below this identifier (RFC 8017).
const RSA: &str = "1.2.840.113549.1.1.";
/// Keys of RSA below this are not accepted.
const LEAST_RSA_BITS: usize = 2048;

/// A key that is too weak for its signatures to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an RSA key of {0} bits, of which at least 2048 are needed")]
struct WeakKey(usize);

/// Decides about the certificates of endpoints.
pub(crate) struct Judge {
    /// `None`: there is no authority at all to be trusted.
    inner: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    pub(crate) fn new(
        inner: Option<Arc<WebPkiServerVerifier>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Judge {
        Judge { inner, algorithms }
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge")
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let judged = inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        judged.map_err(|error| named(error, std::iter::once(end_entity).chain(intermediates)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = verify_tls12_signature(message, cert, dss, &self.algorithms);
        verified.map_err(|error| named(error, std::iter::once(cert)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = verify_tls13_signature(message, cert, dss, &self.algorithms);
        verified.map_err(|error| named(error, std::iter::once(cert)))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The error, or what is behind a signature that does not match.
fn named<'a>(error: Error, mut chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> Error {
    if error != Error::InvalidCertificate(CertificateError::BadSignature) {
        return error;
    }
    match chain.find_map(|der| weak_key(der)) {
        Some(weak) => Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(weak)))),
        None => error,
    }
}

/// Of the certificate's own key, or of the one that has signed it, which has the size of the signature.
fn weak_key(der: &[u8]) -> Option<WeakKey> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let own = match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    };
    let by_rsa = certificate.signature_algorithm.algorithm.to_id_string().starts_with(RSA);
    let signers = by_rsa.then_some(certificate.signature_value.data.len() * 8);
    [own, signers].into_iter().flatten().find(|bits| *bits < LEAST_RSA_BITS).map(WeakKey)
}

/// The fault of a TLS stream in a sentence that may leave the agent, and in the library's words. `None`: it is none of TLS.
pub(crate) fn explain(error: &io::Error) -> Option<(&'static str, String)> {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())?;
    let sentence = match error {
        Error::InvalidCertificate(fault) => of_certificate(fault),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(what) => of_peer(what),
        Error::InvalidMessage(_) => "the endpoint does not speak TLS on this port",
        _ => NO_SESSION,
    };
    Some((sentence, format!("{sentence}: {error}")))
}

pub(crate) const NO_SESSION: &str = "no TLS session with the endpoint could be made";
const NO_VERSION: &str = "the endpoint offers no TLS version that the agent accepts (1.2 or 1.3)";
const NO_CIPHER: &str =
    "the endpoint and the agent have no TLS cipher suite, key exchange or signature algorithm in common";

fn of_certificate(fault: &CertificateError) -> &'static str {
    use CertificateError as Fault;
    match fault {
        Fault::Expired | Fault::ExpiredContext { .. } => "the endpoint's certificate has expired",
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            "the endpoint's certificate is not valid yet"
        }
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            "the endpoint's certificate is for another name"
        }
        Fault::UnknownIssuer => "the endpoint's certificate is from an unknown authority",
        Fault::Revoked => "the endpoint's certificate is revoked",
        Fault::BadEncoding => "the endpoint's certificate cannot be read: it is not valid X.509",
        Fault::BadSignature => {
            "a signature in the endpoint's certificates does not match the key of the authority that it names"
        }
        Fault::UnsupportedSignatureAlgorithmContext { .. }
        | Fault::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => OLD_SIGNATURE,
        Fault::InvalidPurpose | Fault::InvalidPurposeContext { .. } => {
            "the endpoint's certificate is not for TLS servers (extended key usage)"
        }
        Fault::UnhandledCriticalExtension => CRITICAL,
        Fault::Other(other) => of_other(other),
        _ => "the endpoint's certificate is not valid",
    }
}

const OLD_SIGNATURE: &str =
    "the endpoint's certificate is signed with an algorithm that is not accepted, such as SHA-1 or MD5";
const CRITICAL: &str = "the endpoint's certificate has a critical extension that is not supported";

fn of_other(other: &OtherError) -> &'static str {
    use webpki::Error as Fault;
    if other.0.is::<WeakKey>() {
        return "a key in the endpoint's certificates is too weak: RSA needs at least 2048 bits";
    }
    match other.0.downcast_ref::<Fault>() {
        Some(Fault::CaUsedAsEndEntity) => {
            "the endpoint's certificate is marked as an authority's (CA:TRUE): a server needs one with CA:FALSE"
        }
        Some(Fault::EndEntityUsedAsCa) => {
            "the endpoint's certificate is from one that is not an authority's (CA:FALSE)"
        }
        Some(Fault::PathLenConstraintViolated | Fault::MaximumPathDepthExceeded) => {
            "the endpoint's certificate is at the end of a chain that is too long for its authorities"
        }
        Some(Fault::NameConstraintViolation) => {
            "the endpoint's certificate has a name that its authority may not certify (name constraints)"
        }
        Some(Fault::UnsupportedCertVersion) => {
            "the endpoint's certificate is of an old X.509 version: it must be of version 3"
        }
        Some(Fault::SignatureAlgorithmMismatch) => OLD_SIGNATURE,
        Some(Fault::UnsupportedCriticalExtension) => CRITICAL,
        Some(Fault::EmptyEkuExtension) => {
            "the endpoint's certificate is not for TLS servers (extended key usage)"
        }
        _ => "the endpoint's certificate is not valid",
    }
}

fn of_alert(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::ProtocolVersion => NO_VERSION,
        Alert::HandshakeFailure | Alert::InsufficientSecurity => NO_CIPHER,
        Alert::UnrecognisedName => {
            "the endpoint does not know the name in the URL (TLS alert unrecognized_name)"
        }
        Alert::NoApplicationProtocol => "the endpoint speaks neither HTTP/2 nor HTTP/1.1 over TLS (ALPN)",
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => "the endpoint demands a client certificate, or does not accept the agent's",
        _ => "the endpoint ended the TLS session with an alert",
    }
}

fn of_peer(what: &rustls::PeerIncompatible) -> &'static str {
    use rustls::PeerIncompatible as What;
    match what {
        What::ServerDoesNotSupportTls12Or13
        | What::ServerTlsVersionIsDisabledByOurConfig
        | What::ServerSentHelloRetryRequestWithUnknownExtension => NO_VERSION,
        _ => NO_CIPHER,
    }
}

#[cfg(test)]
mod tests;

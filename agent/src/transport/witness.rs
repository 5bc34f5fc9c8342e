//! Sees the certificates that an endpoint shows, whether they are accepted or not. It decides nothing: that is left to the
//! verifier that decides for jobs.

use std::fmt;
use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Certificates that are kept of a chain.
const MAX_SEEN: usize = 8;

/// See the [module](self).
pub(crate) struct Witness {
    /// Decides. `None`: there is no authority at all to be trusted.
    judge: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl Witness {
    pub(crate) fn new(
        judge: Option<Arc<WebPkiServerVerifier>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Arc<Witness> {
        Arc::new(Witness { judge, algorithms, seen: Mutex::default() })
    }

    /// The chain, the endpoint's own certificate first.
    pub(crate) fn seen(&self) -> Vec<CertificateDer<'static>> {
        std::mem::take(&mut *self.seen.lock().expect("nothing panics while it holds this lock"))
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
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
        let chain = std::iter::once(end_entity).chain(intermediates).take(MAX_SEEN);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        *self.seen.lock().expect("nothing panics while it holds this lock") = chain;
        let Some(judge) = &self.judge else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

//! Sees the certificates that an endpoint shows, whether they are accepted or not. It decides nothing: that is left to the
//! verifier that decides for jobs.

use std::fmt;
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::Judge;

/// Certificates that are kept of a chain.
const MAX_SEEN: usize = 8;

/// See the [module](self).
pub(crate) struct Witness {
    /// Decides.
    judge: Arc<Judge>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl Witness {
    pub(crate) fn new(judge: Arc<Judge>) -> Arc<Witness> {
        Arc::new(Witness { judge, seen: Mutex::default() })
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
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

//! Judges agents' certificates in the handshake: from an authority that is trusted now, of an agent that is known and
//! not revoked. A client without a certificate passes: it may enrol, and nothing else.

use std::sync::Arc;

use arc_swap::ArcSwap;
use postrider_domain::identity::TrustDomain;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use crate::identities::Identities;
use crate::listen::AgentCertificate;
use crate::listen::tls::provider;

/// See the [module](self).
#[derive(Debug)]
pub struct AgentVerifier {
    /// Judges by the authorities; replaced when they change.
    chains: ArcSwap<Chains>,
    identities: Arc<Identities>,
    trust_domain: TrustDomain,
}

#[derive(Debug)]
struct Chains(Arc<dyn ClientCertVerifier>);

impl AgentVerifier {
    /// One that trusts these authorities.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(
        roots: RootCertStore,
        identities: Arc<Identities>,
        trust_domain: TrustDomain,
    ) -> Result<Self, Error> {
        Ok(Self { chains: ArcSwap::from_pointee(chains(roots)?), identities, trust_domain })
    }

    /// Trusts these authorities from now on, and no others.
    ///
    /// # Errors
    /// When there are none; then nothing changes.
    pub fn trust(&self, roots: RootCertStore) -> Result<(), Error> {
        self.chains.store(Arc::new(chains(roots)?));
        Ok(())
    }
}

fn chains(roots: RootCertStore) -> Result<Chains, Error> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map(Chains)
        .map_err(|error| Error::General(error.to_string()))
}

impl ClientCertVerifier for AgentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: an agent has one certificate, and presents it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chains.load().0.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = AgentCertificate::read(end_entity)
            .ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        let identity = &certificate.identity;
        if identity.trust_domain == self.trust_domain && self.identities.admits(identity) {
            Ok(verified)
        } else {
            Err(Error::InvalidCertificate(CertificateError::Revoked))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.load().0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.load().0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.load().0.supported_verify_schemes()
    }
}

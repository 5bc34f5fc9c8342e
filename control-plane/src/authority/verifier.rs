//! Judges agents' certificates in the handshake: from an authority that is trusted now, of an agent that is known and
//! not revoked. A client without a certificate passes: it may enroll, and nothing else.
//!
//! A certificate of such an agent whose time has not come yet was issued here all the same, when our clock was ahead of what
//! it is now: the clock is wrong, or was. The agent stays in.

use std::sync::Arc;

use arc_swap::ArcSwap;
use postrider_domain::identity::TrustDomain;
use postrider_domain::time::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use crate::clock::Clock;
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
    clock: Clock,
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
        clock: Clock,
    ) -> Result<Self, Error> {
        Ok(Self { chains: ArcSwap::from_pointee(chains(roots)?), identities, trust_domain, clock })
    }

    fn admits(&self, certificate: &AgentCertificate) -> bool {
        let identity = &certificate.identity;
        identity.trust_domain == self.trust_domain && self.identities.admits(identity)
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

fn unix_time(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(time.since(Timestamp::default()))
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
        _machine: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (now, certificate) = (self.clock.wall(), AgentCertificate::read(end_entity));
        let admitted = certificate.as_ref().is_some_and(|certificate| self.admits(certificate));
        let begins = certificate.as_ref().filter(|_| admitted).map_or(now, |certificate| certificate.begins);
        let judged = unix_time(now.max(begins));
        let verified = self.chains.load().0.verify_client_cert(end_entity, intermediates, judged)?;
        match certificate {
            _ if admitted => Ok(verified),
            Some(_) => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            None => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
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

//! An authority of agents, and what it issues.

use std::time::{Duration, SystemTime};

use postrider_domain::join::{Join, Pin};
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData as _, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The token in every join token.
pub(crate) const SECRET: [u8; SECRET_BYTES] = [0xa7; SECRET_BYTES];
/// What of it a log must not hold.
pub(crate) const SECRET_TEXT: &str = "a7a7a7a7";

const DAY: Duration = Duration::from_secs(86_400);

/// See the [module](self).
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with what it was issued by, and its key.
pub(crate) struct ServerIdentity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl ServerIdentity {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

impl Authority {
    /// A new one. Each has a name of its own, as real ones do.
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = Pin::of(&key.subject_public_key_info()).to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin::of(&self.0.key().subject_public_key_info())
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()).unwrap();
        roots
    }

    /// A server's certificate that ended `ago`, or is good if that is `None`.
    pub(crate) fn server(&self, names: &[&str], ended: Option<Duration>) -> ServerIdentity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (now() - 2 * DAY).into();
        params.not_after = ended.map_or_else(|| now() + 30 * DAY, |ago| now() - ago).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
        ServerIdentity { chain: vec![certificate, self.certificate()], key: key.serialize_der() }
    }

    /// An agent's certificate for the key in a request, good for this long, or ended by that long if `is_over`.
    pub(crate) fn agent(
        &self,
        request: &[u8],
        agent: &str,
        pool: &str,
        valid_for: Duration,
        is_over: bool,
    ) -> CertificateDer<'static> {
        let request = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&request).unwrap();
        assert!(request.params.subject_alt_names.is_empty(), "an agent asks for no name");
        let name = format!("spiffe://test/pool/{pool}/agent/{agent}");
        request.params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params.not_before = (now() - 2 * DAY).into();
        request.params.not_after = if is_over { now() - valid_for } else { now() + valid_for }.into();
        request.signed_by(&self.0).unwrap().der().clone()
    }

    /// A join token for the control plane at `address` (a name or IP address, and a port).
    pub(crate) fn join(&self, address: &str) -> String {
        self.join_with(address, 1)
    }

    /// A join token with another token for each `number`.
    pub(crate) fn join_with(&self, address: &str, number: u128) -> String {
        let id = postrider_domain::id::TokenId::new(Timestamp::from_millis(1_770_028_200_000), number);
        let (host, port) = address.rsplit_once(':').unwrap();
        let token = Token::new(Kind::Join, id, SECRET);
        Join::new(host, port.parse().unwrap(), token, vec![self.pin()]).unwrap().expose_text().to_string()
    }
}

/// The key in a certificate request.
pub(crate) fn requested_key(request: &[u8]) -> Vec<u8> {
    let request = CertificateSigningRequestDer::from(request);
    CertificateSigningRequestParams::from_der(&request).unwrap().public_key.subject_public_key_info()
}

#[expect(clippy::disallowed_methods, reason = "tests have no clock.rs")]
fn now() -> SystemTime {
    SystemTime::now()
}

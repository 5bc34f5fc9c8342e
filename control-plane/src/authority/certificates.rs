//! Makes certificates: of authorities, of the control plane's port for agents, and of agents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use postrider_domain::identity::AgentIdentity;
use postrider_domain::join::Pin;
use postrider_domain::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData as _, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// How long an authority's certificate lasts.
const AUTHORITY_LASTS: Duration = Duration::from_secs(3650 * 86_400);
/// How long the certificate of the agents' port lasts. It is made anew at each start, and when half of it is over.
pub(super) const SERVER_LASTS: Duration = Duration::from_secs(397 * 86_400);
/// Certificates that machines with a wrong clock must accept begin this long ago: agents' clocks may be off by a day.
const BACKDATED: Duration = Duration::from_secs(2 * 86_400);
/// Agents' certificates are judged by our clock alone, and accepted before their time (see the verifier).
const AGENT_BACKDATED: Duration = Duration::from_secs(300);

/// How the serial numbers of agents' certificates begin. The first bit is zero, so that the number is positive.
const MARK: u8 = 0x50;

/// An authority with its key.
pub(super) type Signer = Issuer<'static, KeyPair>;

/// A public key that has signed a certificate request.
#[derive(Clone)]
pub struct RequestedKey {
    key: PublicKey,
    /// Its fingerprint.
    pub pin: Pin,
}

impl RequestedKey {
    /// Reads a PKCS#10 request and checks its signature. `None` when either is wrong. Of the request only the key counts.
    #[must_use]
    pub fn read(request: &[u8]) -> Option<Self> {
        // What follows the request is signed by nobody.
        let (rest, _) = X509CertificationRequest::from_der(request).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).ok()?;
        let pin = Pin::of(&request.public_key.subject_public_key_info());
        Some(Self { key: request.public_key, pin })
    }
}

/// A new authority: its certificate and its key.
pub(super) fn authority(now: Timestamp) -> Result<(CertificateDer<'static>, KeyPair), rcgen::Error> {
    let key = KeyPair::generate()?;
    let pin = Pin::of(&key.subject_public_key_info()).to_string();
    let mut params = params(now - BACKDATED, now + AUTHORITY_LASTS);
    params.distinguished_name = name(&format!("Postrider agents {}", &pin[..16]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.der().clone(), key))
}

/// Whether the port's certificate must be replaced: half of its lifetime is over, or the clock was ahead when it was made.
pub(super) fn is_to_be_replaced(made: Timestamp, now: Timestamp) -> bool {
    now.since(made) > SERVER_LASTS / 2 || made.since(now) > BACKDATED / 2
}

/// A certificate for the port that agents connect to, with these names beside those of this machine's loopback, and its key.
/// It is valid `since` its authority is: agents accept it, also when our clock is ahead of theirs.
pub(super) fn server(
    signer: &Signer,
    names: &[String],
    since: Timestamp,
    now: Timestamp,
) -> Result<(CertificateDer<'static>, KeyPair), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = params(since.min(now - BACKDATED), now + SERVER_LASTS);
    params.distinguished_name = name("Postrider control plane");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    let certificate = params.signed_by(&key, signer)?;
    Ok((certificate.der().clone(), key))
}

/// A certificate for an agent's key, which is the agent's `generation`th.
pub(super) fn agent(
    signer: &Signer,
    identity: &AgentIdentity,
    (key, generation): (&RequestedKey, u64),
    now: Timestamp,
    until: Timestamp,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut params = params(now - AGENT_BACKDATED, until);
    params.distinguished_name = name(identity.agent.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.serial_number = Some(SerialNumber::from_slice(&serial_of(generation)));
    Ok(params.signed_by(&key.key, signer)?.der().clone())
}

/// The serial number of an agent's certificate: the mark, the generation of its key, and 8 random bytes.
fn serial_of(generation: u64) -> Vec<u8> {
    [&[MARK], generation.to_be_bytes().as_slice(), &rand::random::<[u8; 8]>()].concat()
}

/// The generation of the key that a serial number carries; 0 when it carries none.
pub(crate) fn generation_of(serial: &[u8]) -> u64 {
    let [MARK, rest @ ..] = serial else { return 0 };
    match rest.split_first_chunk::<8>() {
        Some((generation, random)) if random.len() == 8 => u64::from_be_bytes(*generation),
        _ => 0,
    }
}

/// When an agent is to renew: at half of the certificate's life, more or less a tenth of that. `random` is from 0 to 1.
pub(super) fn renew_after(life: Duration, random: f64) -> Duration {
    life.mul_f64(0.45 + 0.1 * random.clamp(0.0, 1.0))
}

fn params(from: Timestamp, until: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date(from), date(until));
    params.use_authority_key_identifier_extension = true;
    // 16 random bytes, the first bit zero so that the number is positive.
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn date(time: Timestamp) -> OffsetDateTime {
    // A timestamp is between 1970 and 9999, which this type covers.
    OffsetDateTime::from_unix_timestamp(time.as_seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_agent_renews_about_half_way(seconds in 10_u64..10_000_000, random in 0.0_f64..=1.0) {
            let life = Duration::from_secs(seconds);
            let after = renew_after(life, random).as_secs_f64() / life.as_secs_f64();
            prop_assert!((0.449..0.551).contains(&after));
        }

        #[test]
        fn no_bytes_panic_as_a_request(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(RequestedKey::read(&bytes).is_none());
        }
    }

    #[test]
    fn a_serial_number_carries_the_generation_of_the_key() {
        for generation in [0, 1, 255, 256, u64::MAX] {
            assert_eq!(generation_of(&serial_of(generation)), generation);
        }
        let made = serial_of(7);
        for other in [&[][..], &made[..16], &[&made[..], &[0]].concat(), &[&[0x51], &made[1..]].concat()] {
            assert_eq!(generation_of(other), 0);
        }
    }

    #[test]
    fn a_request_counts_only_when_its_signature_does() {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let read = RequestedKey::read(request.der()).unwrap();
        assert_eq!(read.pin, Pin::of(&key.subject_public_key_info()));
        let mut altered = request.der().to_vec();
        *altered.last_mut().unwrap() ^= 1;
        assert!(RequestedKey::read(&altered).is_none());
        assert!(
            RequestedKey::read(&[request.der(), b"\n".as_slice()].concat()).is_none(),
            "more than a request"
        );
        assert!(Duration::from_secs(86_400) < BACKDATED, "agents' clocks may be a day behind");
    }
}

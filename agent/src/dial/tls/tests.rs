//! Whom a fingerprint lets in.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// When the test takes place, far from the present.
const NOW: Duration = Duration::from_secs(2_000_000_000);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn pin(&self) -> Pin {
        pin(&self.certificate())
    }

    /// A server's certificate, good for 2 days before and 30 days after it was issued.
    fn issue(&self, name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let at = |time: Duration| std::time::SystemTime::UNIX_EPOCH + time;
        params.not_before = at(NOW - 2 * DAY).into();
        params.not_after = at(NOW + 30 * DAY).into();
        params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
    }
}

fn pin(certificate: &CertificateDer<'_>) -> Pin {
    Pin::of(&ParsedCertificate::try_from(certificate).unwrap().subject_public_key_info())
}

fn judge(
    pins: &[Pin],
    leaf: &CertificateDer<'_>,
    sent: &[CertificateDer<'_>],
    name: &str,
    now: Duration,
) -> Result<(), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Pinned { pins: pins.to_vec(), provider };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(leaf, sent, &name, &[], UnixTime::since_unix_epoch(now)).map(|_| ())
}

#[test]
fn only_what_the_pinned_authority_issued_is_trusted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let leaf = authority.issue("cp.example.com");
    let good = |pins: &[Pin], sent: &[CertificateDer<'_>]| judge(pins, &leaf, sent, "cp.example.com", NOW);
    good(&[authority.pin()], &[authority.certificate()]).unwrap();
    good(&[stranger.pin(), authority.pin()], &[stranger.certificate(), authority.certificate()]).unwrap();

    let not_pinned = || Error::from(CertificateError::ApplicationVerificationFailure);
    assert_eq!(good(&[stranger.pin()], &[authority.certificate()]), Err(not_pinned()));
    assert_eq!(good(&[authority.pin()], &[]), Err(not_pinned()), "it must send the authority along");
    // The authority's certificate is no secret; whoever sends it along is not trusted for that.
    let theirs = stranger.issue("cp.example.com");
    let judged = judge(&[authority.pin()], &theirs, &[authority.certificate()], "cp.example.com", NOW);
    assert!(matches!(judged, Err(Error::InvalidCertificate(_))), "{judged:?}");
    // A certificate with the right key that is no authority has issued nothing.
    let judged = judge(&[pin(&leaf)], &theirs, std::slice::from_ref(&leaf), "cp.example.com", NOW);
    assert!(matches!(judged, Err(Error::InvalidCertificate(_))), "{judged:?}");
}

#[test]
fn name_and_time_count_and_a_clock_may_be_a_day_off() {
    let authority = Authority::new();
    let (pins, sent) = ([authority.pin()], [authority.certificate()]);
    let leaf = authority.issue("cp.example.com");
    for now in [NOW - DAY, NOW, NOW + DAY] {
        judge(&pins, &leaf, &sent, "cp.example.com", now).unwrap();
    }
    let problem = |name: &str, now| match judge(&pins, &leaf, &sent, name, now) {
        Err(Error::InvalidCertificate(error)) => crate::dial::CertificateProblem::from(&error).to_string(),
        other => panic!("{other:?}"),
    };
    assert!(problem("cp.example.com", NOW + 31 * DAY).contains("has expired"));
    assert!(problem("cp.example.com", NOW - 3 * DAY).contains("is not valid yet"));
    let name = problem("other.example.com", NOW);
    assert!(name.contains("`tls.server_name`") && name.contains("cp.example.com"), "{name}");
}

#[test]
fn a_pinned_leaf_is_trusted_by_itself_for_its_name() {
    let authority = Authority::new();
    let leaf = authority.issue("cp.example.com");
    judge(&[pin(&leaf)], &leaf, &[], "cp.example.com", NOW).unwrap();
    assert!(judge(&[pin(&leaf)], &leaf, &[], "other.example.com", NOW).is_err());
}

#[test]
fn a_file_without_an_authority_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    assert!(read_authorities(&path).unwrap_err().to_string().contains("ca.pem"));
    for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&path, text).unwrap();
        assert!(read_authorities(&path).is_err(), "{text}");
    }
    std::fs::write(&path, Authority::new().0.pem()).unwrap();
    assert_eq!(read_authorities(&path).unwrap().len(), 1);
}

use super::*;
use std::time::Duration;

use rustls::RootCertStore;

/// Late in the fixtures' life, and early in it.
const TIME: u64 = 1_900_000_000;

macro_rules! fixture {
    ($name:literal) => {
        CertificateDer::from(&include_bytes!(concat!("fixtures/", $name, ".der"))[..])
    };
}

fn sentence(error: Error) -> &'static str {
    explain(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap().0
}

#[test]
fn each_fault_has_its_sentence() {
    use CertificateError as Fault;
    let other = |error| Fault::Other(OtherError(Arc::new(error)));
    let table = [
        (Fault::Expired, "has expired"),
        (Fault::NotValidYet, "not valid yet"),
        (Fault::NotValidForName, "another name"),
        (Fault::UnknownIssuer, "unknown authority"),
        (Fault::Revoked, "revoked"),
        (Fault::BadEncoding, "not valid X.509"),
        (Fault::BadSignature, "does not match"),
        (Fault::InvalidPurpose, "extended key usage"),
        (Fault::UnhandledCriticalExtension, "critical extension"),
        (other(webpki::Error::CaUsedAsEndEntity), "CA:TRUE"),
        (other(webpki::Error::EndEntityUsedAsCa), "CA:FALSE"),
        (other(webpki::Error::NameConstraintViolation), "name constraints"),
        (other(webpki::Error::UnsupportedCertVersion), "version 3"),
        (other(webpki::Error::PathLenConstraintViolated), "too long"),
    ];
    for (fault, part) in table {
        let sentence = sentence(Error::InvalidCertificate(fault.clone()));
        assert!(sentence.contains(part), "{fault:?}: {sentence}");
    }
    let weak = Error::InvalidCertificate(Fault::Other(OtherError(Arc::new(WeakKey(1024)))));
    assert!(sentence(weak).contains("too weak"));
    let alerts = [
        (AlertDescription::ProtocolVersion, "no TLS version"),
        (AlertDescription::HandshakeFailure, "no TLS cipher suite"),
        (AlertDescription::CertificateRequired, "client certificate"),
        (AlertDescription::UnrecognisedName, "unrecognized_name"),
        (AlertDescription::InternalError, "alert"),
    ];
    for (alert, part) in alerts {
        assert!(sentence(Error::AlertReceived(alert)).contains(part), "{alert:?}");
    }
    assert!(explain(&io::Error::from(io::ErrorKind::UnexpectedEof)).is_none());
}

/// What is said of a certificate that one who trusts `root` sees at `time`.
fn judged(
    root: &CertificateDer<'static>,
    shown: &CertificateDer<'static>,
    name: &str,
    time: u64,
) -> &'static str {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let judge = Judge::new(inner.build().ok(), provider.signature_verification_algorithms);
    let time = UnixTime::since_unix_epoch(Duration::from_secs(time));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    judge.verify_server_cert(shown, &[], &name, &[], time).map_or_else(sentence, |_| "fine")
}

#[test]
fn certificates_as_owners_make_them() {
    let (root, rsa_root) = (fixture!("root"), fixture!("rroot"));
    let self_signed = fixture!("self_signed");
    for (root, shown, expected) in [
        (&root, fixture!("good"), "fine"),
        (&rsa_root, fixture!("good"), "unknown authority"),
        (&rsa_root, fixture!("sha1"), "such as SHA-1 or MD5"),
        (&rsa_root, fixture!("md5"), "such as SHA-1 or MD5"),
        (&root, fixture!("v1"), "version 3"),
        (&root, fixture!("client"), "extended key usage"),
        (&fixture!("nroot"), fixture!("constrained"), "name constraints"),
        (&fixture!("wroot"), fixture!("weaksigned"), "too weak"),
        (&self_signed, self_signed.clone(), "CA:TRUE"),
        (&root, CertificateDer::from(vec![1, 2, 3]), "not valid X.509"),
    ] {
        let said = judged(root, &shown, "hook.test", TIME);
        assert!(said.contains(expected), "{said} is not {expected}");
    }
    assert!(judged(&root, &fixture!("good"), "other.test", TIME).contains("another name"));
    assert!(judged(&root, &fixture!("good"), "hook.test", 1_000_000_000).contains("not valid yet"));
    assert!(judged(&root, &fixture!("good"), "hook.test", 10_000_000_000).contains("expired"));
}

#[test]
fn a_weak_key_is_found_behind_a_signature_that_does_not_match() {
    let does_not_match = || Error::InvalidCertificate(CertificateError::BadSignature);
    let (good, weak) = (fixture!("good"), fixture!("weak"));
    assert!(sentence(named(does_not_match(), [&good, &weak].into_iter())).contains("too weak"));
    assert!(sentence(named(does_not_match(), [&good].into_iter())).contains("does not match"));
    let expired = Error::InvalidCertificate(CertificateError::Expired);
    assert!(sentence(named(expired, [&weak].into_iter())).contains("expired"));
}

#[test]
fn what_leaves_the_agent_names_nothing_and_the_log_names_all() {
    let error = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        expected: ServerName::try_from("hook.test").unwrap(),
        presented: vec!["inside.corp".to_owned()],
    });
    let (sentence, cause) = explain(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap();
    assert!(!sentence.contains("inside.corp") && cause.contains("inside.corp"), "{cause}");
}

//! What strangers sign: certificate requests, and the certificates that they show.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider_control_plane::authority::RequestedKey;
use postrider_control_plane::listen::AgentCertificate;
use postrider_domain::identity::AgentIdentity;
use rustls_pki_types::CertificateDer;

fuzz_target!(|data: &[u8]| {
    if let Some(requested) = RequestedKey::read(data) {
        let again = RequestedKey::read(data).expect("what was read once is read again");
        assert_eq!(requested.pin, again.pin);
        altered(data);
    }
    if let Some(certificate) = AgentCertificate::read(&CertificateDer::from(data)) {
        let name = certificate.identity.to_string();
        assert_eq!(name.parse::<AgentIdentity>().as_ref(), Ok(&certificate.identity));
        let found = data.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(found, "the identity is not what the certificate says");
    }
});

/// A request whose signature, its last bytes, is another does not count.
fn altered(request: &[u8]) {
    let mut altered = request.to_vec();
    if let Some(last) = altered.last_mut() {
        *last ^= 1;
    }
    assert!(RequestedKey::read(&altered).is_none(), "a signature that is wrong is taken");
}

//! The agent's private key: made here, and never sent anywhere.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// A private key, as PKCS#8 DER. Wiped when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

/// A key cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[error("the agent's private key cannot be {0}")]
pub struct KeyError(&'static str, #[source] rcgen::Error);

impl Key {
    /// A new one: ECDSA on P-256, which every TLS library knows.
    ///
    /// # Errors
    ///
    /// When the machine gives no randomness.
    pub fn generate() -> Result<Key, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| KeyError("made", error))?;
        Ok(Key(Zeroizing::new(Zeroizing::new(pair).serialize_der())))
    }

    /// A stored one.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn from_pkcs8(der: Vec<u8>) -> Result<Key, KeyError> {
        let key = Key(Zeroizing::new(der));
        key.pair().map(|_| key)
    }

    /// A certificate request, PKCS#10 DER. It says nothing but the public key, and that its sender has the private one.
    ///
    /// # Errors
    ///
    /// When it cannot be signed.
    pub fn request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&*self.pair()?);
        Ok(request.map_err(|error| KeyError("used to sign a certificate request", error))?.der().to_vec())
    }

    /// The public key: the DER of its `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    ///
    /// When the key cannot be read.
    pub fn public(&self) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair()?.subject_public_key_info())
    }

    /// As stored.
    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.0
    }

    /// For TLS.
    pub(super) fn for_tls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.0.to_vec()))
    }

    fn pair(&self) -> Result<Zeroizing<KeyPair>, KeyError> {
        let der = PrivatePkcs8KeyDer::from(self.0.as_slice());
        KeyPair::try_from(&der).map(Zeroizing::new).map_err(|error| KeyError("read", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_is_the_same_key() {
        let key = Key::generate().unwrap();
        let stored = Key::from_pkcs8(key.pkcs8().to_vec()).unwrap();
        assert_eq!(stored.public().unwrap(), key.public().unwrap());
        assert_ne!(Key::generate().unwrap().public().unwrap(), key.public().unwrap());
        assert!(Key::from_pkcs8(vec![1, 2, 3]).is_err());
    }

    #[test]
    fn a_request_carries_the_public_key_and_not_the_private_one() {
        let key = Key::generate().unwrap();
        let request = key.request().unwrap();
        let contains = |part: &[u8]| request.windows(part.len()).any(|window| window == part);
        assert!(contains(&key.public().unwrap()));
        // Past its head, PKCS#8 of P-256 has 32 bytes of private key.
        assert!(!contains(&key.pkcs8()[36..68]));
    }
}

//! Authorities and certificates of a test's own, as PEM files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// An authority whose files are in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate.
    pub cert: PathBuf,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, with `ca.crt`, and with the pair `tls.crt` and `tls.key` that an issuing authority has.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        // Told apart by their names: a certificate of one is nothing to those who trust the other.
        params.distinguished_name.push(DnType::CommonName, folder.to_string_lossy());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let cert = folder.join("ca.crt");
        std::fs::write(&cert, issuer.pem())?;
        std::fs::write(folder.join("tls.crt"), issuer.pem())?;
        write_key(&folder.join("tls.key"), issuer.key())?;
        Ok(Self { folder: folder.to_owned(), issuer, cert })
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server with this name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn server(&self, name: &str) -> Result<Pair> {
        self.issue(name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self, name: &str) -> Result<Pair> {
        self.issue(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate for anything.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Result<rcgen::Certificate> {
        Ok(params.signed_by(key, &self.issuer)?)
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<Pair> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = self.sign(&params, &key)?;
        let pair = Pair {
            cert: self.folder.join(format!("{name}.crt")),
            key: self.folder.join(format!("{name}.key")),
        };
        std::fs::write(&pair.cert, certificate.pem())?;
        write_key(&pair.key, &key)?;
        Ok(pair)
    }
}

/// Writes a private key that nobody else can read: programs refuse any other.
fn write_key(path: &Path, key: &KeyPair) -> Result<()> {
    std::fs::write(path, key.serialize_pem())?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

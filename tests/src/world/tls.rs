//! Certificates for a test's own links.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

/// PEM files for both sides of a link.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority of everything below.
    pub ca: PathBuf,
    /// The control plane's certificate, for `localhost`.
    pub server_cert: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// A client's certificate.
    pub client_cert: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl TlsFiles {
    /// An authority in a folder, with a certificate for `localhost` and one for a client.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Told apart by their names: a certificate of one is nothing to those who trust the other.
        params.distinguished_name.push(DnType::CommonName, folder.to_string_lossy());
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let write = |name: &str, text: String| -> Result<_> {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let issue = |name: &str, usage: ExtendedKeyUsagePurpose| -> Result<_> {
            let mut params = CertificateParams::new(vec![name.to_owned()])?;
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &authority)?;
            Ok((
                write(&format!("{name}.crt"), certificate.pem())?,
                write(&format!("{name}.key"), key.serialize_pem())?,
            ))
        };
        let (server_cert, server_key) = issue("localhost", ExtendedKeyUsagePurpose::ServerAuth)?;
        let (client_cert, client_key) = issue("client", ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self { ca: write("ca.crt", authority.pem())?, server_cert, server_key, client_cert, client_key })
    }
}

//! The certificate of the API of a development setup, from an authority of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use super::home::write_secret;
use crate::failure::{Doing as _, Exit, Failure, Result};

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    /// The authority, for clients.
    pub(crate) ca: PathBuf,
    /// The API's certificate.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// Those of a folder; made when they are not there yet.
    pub(crate) fn keep_in(folder: &Path) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        let files = Self { ca: file("ca.crt"), cert: file("tls.crt"), key: file("tls.key") };
        // The authority is written last: with it everything is there.
        if !files.ca.exists() {
            let (ca, cert, key) = make().map_err(|error| {
                Failure::new(Exit::Unexpected, format!("certificates cannot be made: {error}"))
            })?;
            let _earlier_attempt = std::fs::remove_file(&files.key);
            write_secret(&files.key, &key).doing(format_args!("write {}", files.key.display()))?;
            for (path, text) in [(&files.cert, cert), (&files.ca, ca)] {
                std::fs::write(path, text).doing(format_args!("write {}", path.display()))?;
            }
        }
        Ok(files)
    }
}

/// The authority, a certificate for this machine's loopback, and its key. The authority's own key is forgotten.
fn make() -> std::result::Result<(String, String, String), rcgen::Error> {
    let mut params = params("Postrider for development");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = self::params("Postrider API for development");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names =
        vec![SanType::DnsName("localhost".try_into()?), SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;
    Ok((authority.pem(), certificate.pem(), key.serialize_pem()))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2044, 1, 1));
    params
}

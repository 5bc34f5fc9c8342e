//! TLS towards endpoints: 1.2 or newer, verified against the machine's certificate authorities, always.

use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tokio_rustls::TlsConnector;

use super::certificate::Judge;
use super::witness::Witness;

/// The machine's certificate authorities. None at all is not an error here: an agent may call only `http`
/// inside its own network. Then every TLS handshake fails, and the agent has said so when it started.
#[must_use]
pub fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            errors = found.errors.len(),
            "found no certificate authorities on this machine, so every https endpoint will fail; install the system's CA certificates (Debian and Alpine: ca-certificates)"
        );
    }
    roots
}

/// A certificate to show, with its chain, and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// How TLS is spoken, and by whom certificates are judged.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    /// The same without HTTP/2.
    only_http1: TlsConnector,
    config: Arc<ClientConfig>,
    judge: Arc<Judge>,
}

impl Tls {
    /// For jobs.
    pub(crate) fn connector(&self, only_http1: bool) -> &TlsConnector {
        if only_http1 { &self.only_http1 } else { &self.connector }
    }

    /// The same, seen by a witness. Sessions are not resumed: then no certificate would be shown.
    pub(crate) fn witnessed(&self, only_http1: bool) -> (TlsConnector, Arc<Witness>) {
        let witness = Witness::new(Arc::clone(&self.judge));
        let mut config =
            if only_http1 { without_http2(&self.config) } else { ClientConfig::clone(&self.config) };
        config.resumption = Resumption::disabled();
        config.dangerous().set_certificate_verifier(Arc::clone(&witness) as _);
        (TlsConnector::from(Arc::new(config)), witness)
    }
}

/// The settings for endpoints whose certificates are from `roots`. Each call's settings remember TLS sessions of
/// their own, so a session that was opened with an identity is not resumed without it.
pub(crate) fn client_config(roots: RootCertStore, identity: Option<Identity>) -> Result<Tls, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // None is made without roots: nothing is trusted then.
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let judge = Arc::new(Judge::new(judge.build().ok(), provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&judge) as _);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let only_http1 = TlsConnector::from(Arc::new(without_http2(&config)));
    Ok(Tls { connector: TlsConnector::from(Arc::clone(&config)), only_http1, config, judge })
}

fn without_http2(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols.retain(|protocol| protocol != b"h2");
    // A session of its own: a resumed one might go on with the protocol that was chosen before.
    config.resumption = Resumption::default();
    config
}

/// The version's name on the wire of the agent protocol.
pub(crate) fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    }
}

//! How the control plane is reached: over TLS with a token, as in production, or in the clear, to tell what TLS costs.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use postrider_domain::id::TokenId;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde::{Deserialize, Serialize};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

/// A connection that says with each call who makes it.
pub(crate) type Connection = InterceptedService<Channel, Caller>;

/// Where the API is, and what to bring. It is written to a worker's stdin.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Reach {
    port: u16,
    /// The authority of the API's certificate, PEM, and the admin's token; none in the clear.
    secured: Option<(String, String)>,
}

/// Adds the token.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Option<tonic::metadata::AsciiMetadataValue>);

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Reach {
    /// In the clear.
    pub(crate) fn plaintext(port: u16) -> Self {
        Self { port, secured: None }
    }

    /// Over TLS; what the control plane needs for it is written to a folder.
    pub(crate) fn secured(port: u16, folder: &Path) -> anyhow::Result<Self> {
        // The control plane refuses a secret that others can read.
        let write = |name: &str, text: &str| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write {name}"))
        };
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        write("tls.crt", &params.signed_by(&key, &authority)?.pem())?;
        write("tls.key", &key.serialize_pem())?;
        let id = TokenId::new(Timestamp::default(), rand::random());
        let token = Token::new(Kind::Api, id, rand::random::<[u8; SECRET_BYTES]>()).expose_text();
        write("admin-token", &token)?;
        Ok(Self { port, secured: Some((authority.pem(), token.to_string())) })
    }

    /// Whether TLS is on.
    pub(crate) fn is_secured(&self) -> bool {
        self.secured.is_some()
    }

    /// The lines of the control plane's settings.
    pub(crate) fn settings(&self, folder: &Path) -> String {
        let mut settings = format!("api_listen = \"127.0.0.1:{}\"\n", self.port);
        if self.secured.is_none() {
            settings.push_str("insecure_loopback = true\n");
            return settings;
        }
        let files =
            [("tls_cert", "tls.crt"), ("tls_key", "tls.key"), ("bootstrap_token_file", "admin-token")];
        for (setting, file) in files {
            // A basic string of TOML escapes as JSON's do.
            let path = serde_json::Value::from(folder.join(file).to_string_lossy().into_owned());
            writeln!(settings, "{setting} = {path}").expect("writes to a string");
        }
        settings
    }

    /// An endpoint of the API.
    pub(crate) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let scheme = if self.is_secured() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://127.0.0.1:{}", self.port))?;
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(Duration::from_secs(20));
        let Some((authority, _)) = &self.secured else { return Ok(endpoint) };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
        endpoint.tls_config(tls).context("TLS cannot be set up")
    }

    /// A connection by which calls say who makes them.
    pub(crate) fn identify(&self, channel: Channel) -> anyhow::Result<Connection> {
        let value = self.secured.as_ref().map(|(_, token)| format!("Bearer {token}").parse()).transpose();
        let caller = Caller(value.context("the token cannot be sent")?);
        Ok(InterceptedService::new(channel, caller))
    }
}

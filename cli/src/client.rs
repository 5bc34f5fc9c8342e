//! The connection to the control plane's API.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use postrider_domain::token::{Kind, Token};
use postrider_proto::v1;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::args::SHARED;
use crate::failure::{Exit, Failure, Result};
use crate::time::parse_duration;

/// How the control plane is reached.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Connection {
    /// Control plane to talk to: http://host:port or https://host:port
    #[arg(
        long,
        global = true,
        env = "POSTRIDER_SERVER",
        value_name = "URL",
        help_heading = SHARED
    )]
    #[arg(default_value = "http://127.0.0.1:7070")]
    pub(crate) server: String,
    /// Timeout of a call, such as 500ms, 10s or 1m
    #[arg(long, global = true, value_name = "DURATION", help_heading = SHARED)]
    #[arg(default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// A token that the control plane knows (prt_…); better in the environment than on the command line
    // Its id is not `token`: commands have arguments of that name.
    #[arg(id = "api_token", long = "token", global = true, env = "POSTRIDER_TOKEN", value_name = "TOKEN")]
    #[arg(hide_env_values = true, help_heading = SHARED)]
    pub(crate) token: Option<Hidden>,
    /// File with the token; only its owner may have access to it
    #[arg(long, global = true, env = "POSTRIDER_TOKEN_FILE", value_name = "FILE", help_heading = SHARED)]
    #[arg(conflicts_with = "api_token")]
    pub(crate) token_file: Option<PathBuf>,
    /// For https: file with the CA certificates (PEM) to trust instead of the system's
    #[arg(long, global = true, env = "POSTRIDER_CA", value_name = "FILE", help_heading = SHARED)]
    pub(crate) ca: Option<PathBuf>,
    /// For https: file with the client certificate chain (PEM); needs --key
    #[arg(long, global = true, env = "POSTRIDER_CERT", value_name = "FILE", help_heading = SHARED)]
    pub(crate) cert: Option<PathBuf>,
    /// For https: file with the client's private key (PEM); needs --cert
    #[arg(long, global = true, env = "POSTRIDER_KEY", value_name = "FILE", help_heading = SHARED)]
    pub(crate) key: Option<PathBuf>,
    /// Allow sending the token over http:// to another machine, in clear text
    #[arg(long, global = true, help_heading = SHARED)]
    pub(crate) allow_plaintext_token: bool,
}

/// A text that is not printed.
#[derive(Clone)]
pub(crate) struct Hidden(Zeroizing<String>);

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Connection {
    /// To this control plane, with a token and an authority from files.
    pub(crate) fn to(server: String, token_file: PathBuf, ca: PathBuf) -> Self {
        Self {
            server,
            timeout: Duration::from_secs(10),
            token: None,
            token_file: Some(token_file),
            ca: Some(ca),
            cert: None,
            key: None,
            allow_plaintext_token: false,
        }
    }

    /// The metadata that says who calls.
    fn authorization(&self) -> Result<Option<AsciiMetadataValue>> {
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => token.0.clone(),
            (None, Some(file)) => {
                let read = postrider_control_plane::secret_file::read(file);
                read.map_err(|error| {
                    Failure::new(Exit::Usage, format!("--token-file: {:#}", anyhow::Error::from(error)))
                })?
            }
            (None, None) => return Ok(None),
        };
        let token = Token::parse(Kind::Api, text.trim())
            .map_err(|error| Failure::new(Exit::Usage, format!("invalid token: it {error}")))?;
        let value = format!("Bearer {}", token.expose_text().as_str());
        let mut value = AsciiMetadataValue::try_from(value)
            .map_err(|_| Failure::new(Exit::Unexpected, "the token cannot be sent"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Clients of every service, over one connection that is opened by the first call.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    caller: Caller,
}

/// Says with each call who makes it.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Option<AsciiMetadataValue>);

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

macro_rules! service {
    ($(#[$doc:meta])* $name:ident, $module:ident :: $client:ident) => {
        $(#[$doc])*
        pub(crate) fn $name(&self) -> v1::$module::$client<InterceptedService<Channel, Caller>> {
            v1::$module::$client::with_interceptor(self.channel.clone(), self.caller.clone())
        }
    };
}

impl Client {
    /// Reads the options; no connection is opened yet.
    pub(crate) fn new(connection: &Connection) -> Result<Self> {
        let wrong = |error: tonic::transport::Error| {
            let cause =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Failure::new(Exit::Usage, format!("cannot use --server '{}': {cause}", connection.server))
                .note("give http://host:port or https://host:port")
        };
        let https = connection.server.starts_with("https://");
        if !https && !connection.server.starts_with("http://") {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "--server must be http://host:port or https://host:port, not '{}'",
                    connection.server
                ),
            ));
        }
        let mut endpoint = Endpoint::from_shared(connection.server.clone())
            .map_err(wrong)?
            .connect_timeout(connection.timeout)
            .timeout(connection.timeout)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .tcp_nodelay(true);
        if https {
            endpoint = endpoint.tls_config(tls(connection)?).map_err(wrong)?;
        } else if connection.ca.is_some() || connection.cert.is_some() || connection.key.is_some() {
            return Err(Failure::new(Exit::Usage, "--ca, --cert and --key need an https:// server"));
        }
        let authorization = connection.authorization()?;
        if authorization.is_some() && !https && !connection.allow_plaintext_token {
            check_is_loopback(&connection.server)?;
        }
        Ok(Self { channel: endpoint.connect_lazy(), caller: Caller(authorization) })
    }

    /// The raw channel, for services that are not Postrider's own.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    service!(
        /// Tenants.
        tenants, tenant_service_client::TenantServiceClient
    );
    service!(
        /// The catalogue.
        event_types, event_type_service_client::EventTypeServiceClient
    );
    service!(
        /// Subscriptions.
        subscriptions, subscription_service_client::SubscriptionServiceClient
    );
    service!(
        /// Signing keys.
        signing_keys, signing_key_service_client::SigningKeyServiceClient
    );
    service!(
        /// Events.
        events, event_service_client::EventServiceClient
    );
    service!(
        /// Deliveries.
        deliveries, delivery_service_client::DeliveryServiceClient
    );
    service!(
        /// Operations.
        operations, operation_service_client::OperationServiceClient
    );
    service!(
        /// Agents.
        agents, agent_service_client::AgentServiceClient
    );
    service!(
        /// Pools.
        pools, pool_service_client::PoolServiceClient
    );
    service!(
        /// Tokens.
        tokens, token_service_client::TokenServiceClient
    );
    service!(
        /// The audit log.
        audit, audit_service_client::AuditServiceClient
    );
    service!(
        /// The control plane itself.
        system, system_service_client::SystemServiceClient
    );
    service!(
        /// Copies of the store.
        backups, backup_service_client::BackupServiceClient
    );
    service!(
        /// Secrets at rest.
        secrets, secret_service_client::SecretServiceClient
    );
}

/// A token in clear text may go to this machine alone.
fn check_is_loopback(server: &str) -> Result<()> {
    let host = server.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().map(|address| address.to_canonical());
    if host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback()) {
        return Ok(());
    }
    let problem = format!(
        "refused to send the token in clear text to {host}; use an https:// server, or give --allow-plaintext-token"
    );
    Err(Failure::new(Exit::Usage, problem))
}

fn tls(connection: &Connection) -> Result<ClientTlsConfig> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|error| Failure::new(Exit::Usage, format!("cannot read {}: {error}", path.display())))
    };
    let config = match &connection.ca {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (&connection.cert, &connection.key) {
        (Some(cert), Some(key)) => {
            let key = postrider_control_plane::secret_file::read(key);
            let key = key.map_err(|error| {
                Failure::new(Exit::Usage, format!("--key: {:#}", anyhow::Error::from(error)))
            })?;
            Ok(config.identity(Identity::from_pem(read(cert)?, key.as_bytes())))
        }
        (None, None) => Ok(config),
        _ => Err(Failure::new(Exit::Usage, "--cert and --key belong together: give both or neither")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(server: &str, cert: Option<&str>) -> Option<String> {
        let connection = Connection {
            server: server.into(),
            timeout: Duration::from_secs(1),
            token: None,
            token_file: None,
            ca: None,
            cert: cert.map(PathBuf::from),
            key: None,
            allow_plaintext_token: false,
        };
        Client::new(&connection).err().map(|failure| failure.to_string())
    }

    #[tokio::test]
    async fn options_that_make_no_sense_are_refused() {
        assert_eq!(refused("http://127.0.0.1:1", None), None);
        assert!(refused("127.0.0.1:7070", None).unwrap().contains("--server must be http://"));
        assert!(refused("http://a:b:c", None).unwrap().contains("cannot use --server"));
        assert!(refused("http://127.0.0.1:1", Some("c.pem")).unwrap().contains("need an https://"));
        assert!(refused("https://127.0.0.1:1", Some("c.pem")).unwrap().contains("belong together"));
    }

    #[tokio::test]
    async fn a_token_goes_in_clear_text_to_this_machine_alone() {
        let id = "tok_01kgevqh2m00000000000000000".get(..30).unwrap().parse().unwrap();
        let token = Token::new(Kind::Api, id, [7; 32]).expose_text();
        let table = [
            ("http://127.0.0.1:7070", true),
            ("http://127.8.8.8:7070", true),
            ("http://localhost:7070", true),
            ("http://LOCALHOST", true),
            ("http://[::1]:7070", true),
            ("http://[::ffff:127.0.0.1]:7070", true),
            ("http://10.0.0.7:7070", false),
            ("http://[fd00::7]:7070", false),
            ("http://0.0.0.0:7070", false),
            ("http://postrider.example.com:7070", false),
            ("http://localhost.example.com:7070", false),
            ("http://127.0.0.1.example.com:7070", false),
            ("http://localhost:7070@example.com:7070", false),
        ];
        for (server, good) in table {
            let connection = |token: Option<&str>, allow_plaintext_token| Connection {
                server: server.into(),
                timeout: Duration::from_secs(1),
                token: token.map(Hidden::from),
                token_file: None,
                ca: None,
                cert: None,
                key: None,
                allow_plaintext_token,
            };
            let refused = Client::new(&connection(Some(&token), false)).err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), good, "{server}: {refused:?}");
            if let Some(refused) = refused.filter(|_| !server.contains('@')) {
                assert!(refused.contains("in clear text") && !refused.contains("prt_"), "{refused}");
                assert!(Client::new(&connection(Some(&token), true)).is_ok(), "{server}");
                assert!(Client::new(&connection(None, false)).is_ok(), "{server}");
            }
        }
    }
}

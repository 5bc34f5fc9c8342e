//! The flags, with the environment's variables behind them. clap only collects them as text: what they
//! mean, and whether it makes sense, is the same for every layer, and is judged in one go.

use std::fmt;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use zeroize::Zeroizing;

/// Flags of the agent.
///
/// Each can also be given as an environment variable and, by the name in backquotes, in the settings file.
/// A flag wins over the environment, the environment over the file. Lists are separated by commas; sizes
/// are bytes, or end in KiB, MiB or GiB; durations end in ms, s, m or h.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// The settings file, in TOML [default: none]
    #[arg(long, value_name = "FILE", env = "POSTRIDER_AGENT_CONFIG")]
    pub config: Option<PathBuf>,

    /// `join`: the join token from `postrider agents join-tokens create`. It contains the address of the control
    /// plane and the secret to enroll with. Prefer the environment or `join_file`: flags are visible to other users
    /// of the machine [default: none]
    #[arg(long, value_name = "TOKEN", env = "POSTRIDER_AGENT_JOIN", hide_env_values = true)]
    pub join: Option<Secret>,

    /// `join_file`: file with the join token [default: none]
    #[arg(long, value_name = "FILE", env = "POSTRIDER_AGENT_JOIN_FILE", value_parser = text())]
    pub join_file: Option<String>,

    /// `state_dir`: directory for the agent's key and certificate, used by this agent alone; with it, restarts need
    /// no join token [default: none, the agent enrolls at every start]
    #[arg(long, value_name = "DIRECTORY", env = "POSTRIDER_AGENT_STATE_DIR", value_parser = text())]
    pub state_dir: Option<String>,

    /// `name`: display name of the agent, at most 200 characters [default: the machine's name]
    #[arg(long, value_name = "NAME", env = "POSTRIDER_AGENT_NAME", value_parser = text())]
    pub name: Option<String>,

    /// `control_plane`: URL of the control plane, https://host:port. Plain http is for development, with a control
    /// plane on this machine [default: the address in the join token, then the one it enrolled at]
    #[arg(long, value_name = "URL", env = "POSTRIDER_AGENT_CONTROL_PLANE", value_parser = text())]
    pub control_plane: Option<String>,

    /// `agent_id`: only with a plain http control plane: ID of this agent, unique and stable across restarts: 1 to 63
    /// characters of a-z, 0-9 and '-' [default: none]
    #[arg(long, value_name = "NAME", env = "POSTRIDER_AGENT_AGENT_ID", value_parser = text())]
    pub agent_id: Option<String>,

    /// `pool`: only with a plain http control plane: the pool of this agent [default: default]
    #[arg(long, value_name = "NAME", env = "POSTRIDER_AGENT_POOL", value_parser = text())]
    pub pool: Option<String>,

    /// `streams`: number of connections to the control plane, 1 to 16; with two, the restart of one replica does not
    /// interrupt delivery [default: 2]
    #[arg(long, value_name = "NUMBER", env = "POSTRIDER_AGENT_STREAMS", value_parser = text())]
    pub streams: Option<String>,

    /// `max_in_flight`: maximum number of concurrent jobs over all streams, 1 to 65536; lower if the limit of open
    /// files requires it [default: 512]
    #[arg(long, value_name = "NUMBER", env = "POSTRIDER_AGENT_MAX_IN_FLIGHT", value_parser = text())]
    pub max_in_flight: Option<String>,

    /// `max_in_flight_bytes`: maximum total size of the bodies of these jobs [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "POSTRIDER_AGENT_MAX_IN_FLIGHT_BYTES", value_parser = text())]
    pub max_in_flight_bytes: Option<String>,

    /// `threads`: number of worker threads, 1 to 64 [default: 1 on up to two cores, else one per core, at most 4]
    #[arg(long, value_name = "NUMBER", env = "POSTRIDER_AGENT_THREADS", value_parser = text())]
    pub threads: Option<String>,

    /// `proxy.url`: HTTP proxy for the connection to the control plane, http://user:password@host:port, or none
    /// [default: HTTPS_PROXY from the environment]
    #[arg(long, value_name = "URL", env = "POSTRIDER_AGENT_PROXY_URL", hide_env_values = true)]
    pub proxy_url: Option<Secret>,

    /// `proxy.credentials_file`: file with one line, user:password, for this proxy; only the agent's user may have
    /// access to it [default: none]
    #[arg(long, value_name = "FILE", env = "POSTRIDER_AGENT_PROXY_CREDENTIALS_FILE", value_parser = text())]
    pub proxy_credentials_file: Option<String>,

    /// `proxy.no_proxy`: hosts to connect to without the proxy: names, .suffixes, ranges, or * [default: NO_PROXY
    /// from the environment, together with HTTPS_PROXY]
    #[arg(long, value_name = "HOST,…", env = "POSTRIDER_AGENT_PROXY_NO_PROXY")]
    pub proxy_no_proxy: Option<String>,

    /// `tls.ca`: PEM file with the CA certificates for the control plane's certificate [default: those in the join
    /// token, then those that the control plane sends]
    #[arg(long, value_name = "FILE", env = "POSTRIDER_AGENT_TLS_CA", value_parser = text())]
    pub tls_ca: Option<String>,

    /// `tls.server_name`: name in the control plane's certificate [default: the host of its address]
    #[arg(long, value_name = "NAME", env = "POSTRIDER_AGENT_TLS_SERVER_NAME", value_parser = text())]
    pub tls_server_name: Option<String>,

    /// `egress.allow_cidrs`: non-public address ranges that the agent may call [default: none]
    #[arg(long, value_name = "CIDR,…", env = "POSTRIDER_AGENT_EGRESS_ALLOW_CIDRS")]
    pub egress_allow_cidrs: Option<String>,

    /// `egress.allow_hosts`: names with one label or a special suffix that the agent may call, such as localhost or
    /// *.svc; the rules for addresses still apply [default: none]
    #[arg(long, value_name = "NAME,…", env = "POSTRIDER_AGENT_EGRESS_ALLOW_HOSTS")]
    pub egress_allow_hosts: Option<String>,

    /// `egress.allow_ports`: complete list of the ports that the agent may call [default: 443,8443]
    #[arg(long, value_name = "PORT,…", env = "POSTRIDER_AGENT_EGRESS_ALLOW_PORTS")]
    pub egress_allow_ports: Option<String>,

    /// `egress.allow_http`: allow http:// as well as https:// [default: false]
    #[arg(long, value_name = "BOOL", env = "POSTRIDER_AGENT_EGRESS_ALLOW_HTTP", num_args = 0..=1,
          default_missing_value = "true", value_parser = text())]
    pub egress_allow_http: Option<String>,

    /// `egress.deny_cidrs`: address ranges that the agent must never call; takes precedence over everything that
    /// allows them [default: none]
    #[arg(long, value_name = "CIDR,…", env = "POSTRIDER_AGENT_EGRESS_DENY_CIDRS")]
    pub egress_deny_cidrs: Option<String>,

    /// `egress.nat64_prefixes`: IPv6 prefixes of NAT64 translators in the agent's network, in addition to
    /// 64:ff9b::/96; the rules apply to the embedded IPv4 addresses [default: none]
    #[arg(long, value_name = "PREFIX,…", env = "POSTRIDER_AGENT_EGRESS_NAT64_PREFIXES")]
    pub egress_nat64_prefixes: Option<String>,

    /// `egress.dangerously_allow_link_local_and_metadata`: let `egress.allow_cidrs` also allow link-local addresses
    /// and cloud metadata services, which give credentials to any caller [default: false]
    #[arg(long, value_name = "BOOL", env = "POSTRIDER_AGENT_EGRESS_DANGEROUSLY_ALLOW_LINK_LOCAL_AND_METADATA",
          num_args = 0..=1, default_missing_value = "true", value_parser = text())]
    pub egress_dangerously_allow_link_local_and_metadata: Option<String>,

    /// `egress.proxy.url`: HTTP proxy for calls to endpoints, http://host:port or http://user:password@host:port.
    /// Flags are visible in the process list; prefer `egress.proxy.credentials_file` for the password [default: none]
    #[arg(long, value_name = "URL", env = "POSTRIDER_AGENT_EGRESS_PROXY_URL", hide_env_values = true,
          value_parser = text())]
    pub egress_proxy_url: Option<String>,

    /// `egress.proxy.credentials_file`: file with one line, user:password, for this proxy; only the agent's user may
    /// have access to it [default: none]
    #[arg(long, value_name = "FILE", env = "POSTRIDER_AGENT_EGRESS_PROXY_CREDENTIALS_FILE", value_parser = text())]
    pub egress_proxy_credentials_file: Option<String>,

    /// `egress.proxy.no_proxy`: hosts to call without the proxy: names, *.names, addresses or ranges; a range also
    /// covers names whose addresses are all in it [default: none]
    #[arg(long, value_name = "HOST,…", env = "POSTRIDER_AGENT_EGRESS_PROXY_NO_PROXY")]
    pub egress_proxy_no_proxy: Option<String>,

    /// `egress.proxy.dangerously_leave_names_to_proxy`: let the proxy resolve names; then only the proxy can refuse
    /// names that resolve to internal addresses [default: false]
    #[arg(long, value_name = "BOOL", env = "POSTRIDER_AGENT_EGRESS_PROXY_DANGEROUSLY_LEAVE_NAMES_TO_PROXY",
          num_args = 0..=1, default_missing_value = "true", value_parser = text())]
    pub egress_proxy_dangerously_leave_names_to_proxy: Option<String>,

    /// `dns_servers`: DNS servers, address or address:port [default: the machine's]
    #[arg(long, value_name = "ADDRESS,…", env = "POSTRIDER_AGENT_DNS_SERVERS")]
    pub dns_servers: Option<String>,

    /// `traces.endpoint`: URL of an OpenTelemetry collector (OTLP over gRPC), such as http://localhost:4317, for the
    /// spans of POSTs in traces that the control plane exports [default: none, no spans]
    #[arg(long, value_name = "URL", env = "POSTRIDER_AGENT_TRACES_ENDPOINT", value_parser = text())]
    pub traces_endpoint: Option<String>,

    /// `traces.headers_file`: file with lines `name: value`: headers for the collector, such as credentials [default:
    /// none]
    #[arg(long, value_name = "FILE", env = "POSTRIDER_AGENT_TRACES_HEADERS_FILE", value_parser = text())]
    pub traces_headers_file: Option<String>,

    /// `traces.ca`: PEM file with the CA certificates for the collector's certificate [default: those of this
    /// machine]
    #[arg(long, value_name = "FILE", env = "POSTRIDER_AGENT_TRACES_CA", value_parser = text())]
    pub traces_ca: Option<String>,
    /// `admin_listen`: address of the admin port: health, metrics and the log filter, over plain HTTP. It serves no
    /// secrets; do not expose it to the internet [default: none]
    #[arg(long, value_name = "IP:PORT", env = "POSTRIDER_AGENT_ADMIN_LISTEN", value_parser = text())]
    pub admin_listen: Option<String>,

    /// `log.format`: format of log lines: human or json [default: human]
    #[arg(long, value_name = "FORMAT", env = "POSTRIDER_AGENT_LOG_FORMAT", value_parser = text())]
    pub log_format: Option<String>,

    /// `log.filter`: log filter, such as warn or postrider_agent=debug; debug logs each attempt [default: info]
    #[arg(long, value_name = "FILTER", env = "POSTRIDER_AGENT_LOG_FILTER", value_parser = text())]
    pub log_filter: Option<String>,

    /// `shutdown_grace`: how long a shutdown waits until jobs have finished and are reported; longer than the longest
    /// attempt [default: 70s]
    #[arg(long, value_name = "DURATION", env = "POSTRIDER_AGENT_SHUTDOWN_GRACE", value_parser = text())]
    pub shutdown_grace: Option<String>,
}

/// A setting that is not to be seen. Wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Text that says something. An empty list does too, so lists take any text.
fn text() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

impl Args {
    /// The settings that are given, by name.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let secrets = [("join", &self.join), ("proxy.url", &self.proxy_url)]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?.0.as_str())));
        [
            ("join_file", &self.join_file),
            ("state_dir", &self.state_dir),
            ("name", &self.name),
            ("control_plane", &self.control_plane),
            ("agent_id", &self.agent_id),
            ("pool", &self.pool),
            ("streams", &self.streams),
            ("max_in_flight", &self.max_in_flight),
            ("max_in_flight_bytes", &self.max_in_flight_bytes),
            ("threads", &self.threads),
            ("proxy.credentials_file", &self.proxy_credentials_file),
            ("proxy.no_proxy", &self.proxy_no_proxy),
            ("tls.ca", &self.tls_ca),
            ("tls.server_name", &self.tls_server_name),
            ("egress.allow_cidrs", &self.egress_allow_cidrs),
            ("egress.allow_hosts", &self.egress_allow_hosts),
            ("egress.allow_ports", &self.egress_allow_ports),
            ("egress.allow_http", &self.egress_allow_http),
            ("egress.deny_cidrs", &self.egress_deny_cidrs),
            ("egress.nat64_prefixes", &self.egress_nat64_prefixes),
            (
                "egress.dangerously_allow_link_local_and_metadata",
                &self.egress_dangerously_allow_link_local_and_metadata,
            ),
            ("egress.proxy.url", &self.egress_proxy_url),
            ("egress.proxy.credentials_file", &self.egress_proxy_credentials_file),
            ("egress.proxy.no_proxy", &self.egress_proxy_no_proxy),
            (
                "egress.proxy.dangerously_leave_names_to_proxy",
                &self.egress_proxy_dangerously_leave_names_to_proxy,
            ),
            ("dns_servers", &self.dns_servers),
            ("traces.endpoint", &self.traces_endpoint),
            ("traces.headers_file", &self.traces_headers_file),
            ("traces.ca", &self.traces_ca),
            ("admin_listen", &self.admin_listen),
            ("log.format", &self.log_format),
            ("log.filter", &self.log_filter),
            ("shutdown_grace", &self.shutdown_grace),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref()?)))
        .chain(secrets)
    }
}

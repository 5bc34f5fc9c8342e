//! The control plane's settings: a file, then the environment, then flags, each taking precedence over the one
//! before. All problems are reported in one message, before a socket or a store is opened.

mod checker;
mod files;
mod quotas;
mod variables;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider_domain::pace::Pace;
use postrider_domain::quota::Quota;
use postrider_telemetry::log;
use postrider_telemetry::traces::{self, Traces};
use serde::Deserialize;

use self::checker::Checker;
pub use self::files::Look;
pub use self::variables::OF_THE_COMMAND;
use crate::listen::tls::ApiFiles;
use crate::operational::Thresholds;
use crate::secrets::Keks;
use crate::watchers::Allowed;
use crate::{audit_stream, authority};

/// The settings as they are given: any of them, in the file, the environment or as flags.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Directory of the embedded store; created if missing. Required.
    #[arg(long, env = "POSTRIDER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Key-encryption keys that encrypt the secrets in the store: file:PATH, env:NAME or
    /// vault:https://HOST:8200/transit/keys/NAME. The first one is current, the others only decrypt. Required
    #[arg(long, env = "POSTRIDER_KEK", value_name = "KEK,…", value_delimiter = ',')]
    pub kek: Option<Vec<String>>,
    /// File with the token for Vault [default: the token in the environment's VAULT_TOKEN]
    #[arg(long, env = "POSTRIDER_VAULT_TOKEN_FILE", value_name = "FILE")]
    pub vault_token_file: Option<PathBuf>,
    /// Namespace of Vault [default: none]
    #[arg(long, env = "POSTRIDER_VAULT_NAMESPACE", value_name = "NAME")]
    pub vault_namespace: Option<String>,
    /// CA certificates for Vault's certificate, PEM [default: those of this machine]
    #[arg(long, env = "POSTRIDER_VAULT_CA", value_name = "FILE")]
    pub vault_ca: Option<PathBuf>,
    /// Address of the API for services and admins [default: 127.0.0.1:7070]
    #[arg(long, env = "POSTRIDER_API_LISTEN", value_name = "IP:PORT")]
    pub api_listen: Option<String>,
    /// Address that agents connect to [default: 127.0.0.1:7071]
    #[arg(long, env = "POSTRIDER_AGENT_LISTEN", value_name = "IP:PORT")]
    pub agent_listen: Option<String>,
    /// Address of the admin port: health, metrics and the log filter, over plain HTTP. It serves no secrets; do not
    /// expose it to the internet. Use 0.0.0.0:7072 if probes and Prometheus run on other machines [default: none]
    #[arg(long, env = "POSTRIDER_ADMIN_LISTEN", value_name = "IP:PORT")]
    pub admin_listen: Option<String>,
    /// Certificate chain of the API, PEM; reloaded when it changes. Required, unless insecure_loopback is set
    #[arg(long, env = "POSTRIDER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM. Required, unless insecure_loopback is set
    #[arg(long, env = "POSTRIDER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CA certificates for client certificates of the API, PEM: clients then need a certificate as well as a token
    /// [default: none: tokens alone]
    #[arg(long, env = "POSTRIDER_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Public host and port of agent_listen, used in join tokens and in the server certificate for agents [default:
    /// agent_listen, unless that is `0.0.0.0` or `[::]`]
    #[arg(long, env = "POSTRIDER_AGENT_ADDRESS", value_name = "HOST:PORT")]
    pub agent_address: Option<String>,
    /// Additional names and IP addresses for the server certificate for agents [default: none]
    #[arg(long, env = "POSTRIDER_AGENT_NAMES", value_name = "NAME,…", value_delimiter = ',')]
    pub agent_names: Option<Vec<String>>,
    /// Your own CAs for agent certificates, instead of the built-in ones: directories with tls.crt (a CA certificate)
    /// and tls.key, PEM; reloaded when they change. The first one issues, all are trusted [default: none]
    #[arg(long, env = "POSTRIDER_AGENT_CA", value_name = "DIR,…", value_delimiter = ',')]
    pub agent_ca: Option<Vec<PathBuf>>,
    /// Lifetime of agent certificates; agents renew after half of it: 10s to 90days [default: 1day]
    #[arg(long, env = "POSTRIDER_AGENT_CERTIFICATE_LIFETIME", value_name = "DURATION")]
    pub agent_certificate_lifetime: Option<String>,
    /// Trust domain of agent identities: spiffe://TRUST_DOMAIN/pool/…/agent/… [default: postrider]
    #[arg(long, env = "POSTRIDER_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// DNS name sent in the CloudEvents validation handshake, such as postrider.example.com [default: none: no
    /// handshake is possible]
    #[arg(long, env = "POSTRIDER_WEBHOOK_ORIGIN", value_name = "NAME")]
    pub webhook_origin: Option<String>,
    /// Maximum number of concurrent connections to the API: 1 to 1000000 [default: 10000]
    #[arg(long, env = "POSTRIDER_MAX_API_CONNECTIONS", value_name = "NUMBER")]
    pub max_api_connections: Option<usize>,
    /// Maximum number of concurrent connections of agents: 1 to 1000000 [default: 10000]
    #[arg(long, env = "POSTRIDER_MAX_AGENT_CONNECTIONS", value_name = "NUMBER")]
    pub max_agent_connections: Option<usize>,
    /// Maximum age of a connection to the API, ± 20 %; the server then closes it once its calls have ended: 10s to
    /// 1day, or never [default: 5min]
    #[arg(long, env = "POSTRIDER_MAX_API_CONNECTION_AGE", value_name = "DURATION")]
    pub max_api_connection_age: Option<String>,
    /// Maximum number of concurrent API calls of one token, streams included: 1 to 1000000 [default: 256]
    #[arg(long, env = "POSTRIDER_MAX_TOKEN_CALLS", value_name = "NUMBER")]
    pub max_token_calls: Option<usize>,
    /// Maximum number of concurrent WatchDeliveries streams of one token: 1 to 100000 [default: 16]
    #[arg(long, env = "POSTRIDER_MAX_TOKEN_WATCHERS", value_name = "NUMBER")]
    pub max_token_watchers: Option<usize>,
    /// Maximum number of concurrent WatchDeliveries streams of all tokens confined to one tenant: 1 to 100000
    /// [default: 64]
    #[arg(long, env = "POSTRIDER_MAX_TENANT_WATCHERS", value_name = "NUMBER")]
    pub max_tenant_watchers: Option<usize>,
    /// File with the initial admin token, used if there is no valid admin token. Without it, a new control plane
    /// generates a token and prints it once. Delete the file after the first start [default: none]
    #[arg(long, env = "POSTRIDER_BOOTSTRAP_TOKEN_FILE", value_name = "FILE")]
    pub bootstrap_token_file: Option<PathBuf>,
    /// File outside the store to which the head of the audit log is written every minute; the control plane does not
    /// start with a log that ends before this head [default: none]
    #[arg(long, env = "POSTRIDER_AUDIT_HEAD_FILE", value_name = "FILE")]
    pub audit_head_file: Option<PathBuf>,
    /// Destination to stream audit records to: stdout, file:/PATH, syslog+tcp://HOST:PORT, syslog+udp://HOST:PORT or
    /// syslog+unix:/dev/log [default: none]
    #[arg(long, env = "POSTRIDER_AUDIT_STREAM", value_name = "RECEIVER")]
    pub audit_stream: Option<String>,
    /// For development: no TLS and no tokens, on loopback addresses only [default: false]
    #[arg(long, env = "POSTRIDER_INSECURE_LOOPBACK", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub insecure_loopback: Option<bool>,
    /// Memory for the page cache of the store, in MiB: 8 to 65536 [default: 32]
    #[arg(long, env = "POSTRIDER_CACHE_MIB", value_name = "MIB")]
    pub cache_mib: Option<u64>,
    /// Free disk space reserved for everything but new events, in MiB: events are refused when less is free: 0 to
    /// 1048576 [default: a tenth of the disk, at most 256]
    #[arg(long, env = "POSTRIDER_DISK_RESERVE_MIB", value_name = "MIB")]
    pub disk_reserve_mib: Option<u64>,
    /// Maximum size of an event's data, in KiB: 1 to 1024 [default: 256]
    #[arg(long, env = "POSTRIDER_MAX_EVENT_KIB", value_name = "KIB")]
    pub max_event_kib: Option<usize>,
    /// Maximum rate of events per tenant, per second: 1 to 1000000 [default: no limit]
    #[arg(long, env = "POSTRIDER_TENANT_EMIT_RATE", value_name = "EVENTS")]
    pub tenant_emit_rate: Option<u32>,
    /// Maximum burst of events per tenant: 1 to 1000000 [default: what the rate allows in a second]
    #[arg(long, env = "POSTRIDER_TENANT_EMIT_BURST", value_name = "EVENTS")]
    pub tenant_emit_burst: Option<u32>,
    /// Maximum rate of deliveries that the events of one tenant cause, per second, unless its quota says otherwise: 1
    /// to 1000000, or 0 for no limit [default: 1000]
    #[arg(long, env = "POSTRIDER_TENANT_DELIVERY_RATE", value_name = "DELIVERIES")]
    pub tenant_delivery_rate: Option<u32>,
    /// Maximum burst of these deliveries: 1 to 1000000 [default: what the rate allows in 2 seconds]
    #[arg(long, env = "POSTRIDER_TENANT_DELIVERY_BURST", value_name = "DELIVERIES")]
    pub tenant_delivery_burst: Option<u32>,
    /// Maximum number of subscriptions per tenant, unless its quota says otherwise: 1 to 1000000, or 0 for no limit
    /// [default: 1000]
    #[arg(long, env = "POSTRIDER_TENANT_MAX_SUBSCRIPTIONS", value_name = "NUMBER")]
    pub tenant_max_subscriptions: Option<u32>,
    /// Maximum number of event types per tenant, unless its quota says otherwise: 1 to 100000, or 0 for no limit
    /// [default: 1000]
    #[arg(long, env = "POSTRIDER_TENANT_MAX_EVENT_TYPES", value_name = "NUMBER")]
    pub tenant_max_event_types: Option<u32>,
    /// Maximum size of the stored events per tenant, in MiB, unless its quota says otherwise: 1 to 1073741824, or 0
    /// for no limit [default: 4096]
    #[arg(long, env = "POSTRIDER_TENANT_MAX_STORED_MIB", value_name = "MIB")]
    pub tenant_max_stored_mib: Option<u64>,
    /// Maximum rate of attempts to one host and port, per second, over all subscriptions of all tenants: 1 to
    /// 1000000, or 0 for no limit. Further deliveries wait; tenants share the rate fairly [default: 1000]
    #[arg(long, env = "POSTRIDER_DESTINATION_RATE", value_name = "ATTEMPTS")]
    pub destination_rate: Option<u32>,
    /// Maximum burst of attempts to one host and port: 1 to 1000000 [default: what the rate allows in a fifth of a
    /// second]
    #[arg(long, env = "POSTRIDER_DESTINATION_BURST", value_name = "ATTEMPTS")]
    pub destination_burst: Option<u32>,
    /// Retention of events and their history after all deliveries have ended, such as 30days: at least 1day, and
    /// longer than any retry window in use [default: 30days]
    #[arg(long, env = "POSTRIDER_RETAIN_EVENTS", value_name = "DURATION")]
    pub retain_events: Option<String>,
    /// Retention of the data of events that were delivered everywhere; at most the retention of events [default:
    /// 7days]
    #[arg(long, env = "POSTRIDER_RETAIN_DELIVERED_DATA", value_name = "DURATION")]
    pub retain_delivered_data: Option<String>,
    /// Retention of audit records, such as 2years: at least 30days, or forever [default: forever]
    #[arg(long, env = "POSTRIDER_RETAIN_AUDIT", value_name = "DURATION")]
    pub retain_audit: Option<String>,
    /// After a restart, how long earlier deliveries wait for agents that may still be working on them: 0s to 5min
    /// [default: 3s]
    #[arg(long, env = "POSTRIDER_RESUME_WINDOW", value_name = "DURATION")]
    pub resume_window: Option<String>,
    /// How long a shutdown (SIGTERM) waits for attempts in flight: 1s to 10min [default: 75s]
    #[arg(long, env = "POSTRIDER_SHUTDOWN_GRACE", value_name = "DURATION")]
    pub shutdown_grace: Option<String>,
    /// How long an agent may be disconnected unexpectedly, or deliveries may wait for a pool without agents, before
    /// an operational event is emitted: 1s to 1day [default: 5min]
    #[arg(long, env = "POSTRIDER_AGENT_OFFLINE_AFTER", value_name = "DURATION")]
    pub agent_offline_after: Option<String>,
    /// Number of waiting deliveries of a subscription at which an operational event is emitted: 1 to 1000000000
    /// [default: 10000]
    #[arg(long, env = "POSTRIDER_BACKLOG_WARN_COUNT", value_name = "NUMBER")]
    pub backlog_warn_count: Option<u64>,
    /// How long a delivery may wait for its first attempt before an operational event is emitted: 1s to 30days
    /// [default: 1h]
    #[arg(long, env = "POSTRIDER_BACKLOG_WARN_AGE", value_name = "DURATION")]
    pub backlog_warn_age: Option<String>,
    /// URL of an OpenTelemetry collector (OTLP over gRPC), such as http://localhost:4317 [default: none, no traces]
    #[arg(long, env = "POSTRIDER_TRACES_ENDPOINT", value_name = "URL")]
    pub traces_endpoint: Option<String>,
    /// Share of events without a traceparent that are traced: 0 to 1. Events with a traceparent keep its sampling
    /// decision [default: 1]
    #[arg(long, env = "POSTRIDER_TRACES_RATIO", value_name = "SHARE")]
    pub traces_ratio: Option<f64>,
    /// File with lines `name: value`: headers for the collector, such as credentials [default: none]
    #[arg(long, env = "POSTRIDER_TRACES_HEADERS_FILE", value_name = "FILE")]
    pub traces_headers_file: Option<PathBuf>,
    /// CA certificates for the collector's certificate, PEM [default: those of this machine]
    #[arg(long, env = "POSTRIDER_TRACES_CA", value_name = "FILE")]
    pub traces_ca: Option<PathBuf>,
    /// Format of log lines: human or json [default: human]
    #[arg(long, env = "POSTRIDER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log filter: a level, or directives such as info,postrider::attempt=warn [default: info]
    #[arg(long, env = "POSTRIDER_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// The settings in force: complete and within their bounds.
#[derive(Clone)]
pub struct Config {
    /// Folder of the embedded store.
    pub data_dir: PathBuf,
    /// Under which secrets in the store are sealed.
    pub keks: Keks,
    /// The token for Vault, if a file has it.
    pub vault_token_file: Option<PathBuf>,
    /// Address of the API.
    pub api_listen: SocketAddr,
    /// Address for agents.
    pub agent_listen: SocketAddr,
    /// Address of the admin port, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// TLS of the API; absent only with `insecure_loopback`.
    pub tls: Option<ApiFiles>,
    /// By which host and port agents reach theirs, if that is known.
    pub agent_address: Option<(String, u16)>,
    /// What agents' certificates are made with.
    pub authority: authority::Settings,
    /// By which name endpoints are asked for their consent.
    pub webhook_origin: Option<String>,
    /// Connections to the API at once.
    pub max_api_connections: usize,
    /// Connections of agents at once.
    pub max_agent_connections: usize,
    /// How old a connection to the API may become, about.
    pub max_api_connection_age: Option<Duration>,
    /// Calls under way at once with one token.
    pub max_token_calls: usize,
    /// Streams that watch deliveries at once.
    pub watchers: Allowed,
    /// The first admin's token.
    pub bootstrap_token_file: Option<PathBuf>,
    /// Where the head of the audit log is exported.
    pub audit_head_file: Option<PathBuf>,
    /// Where the records of the audit log are streamed.
    pub audit_stream: Option<audit_stream::Destination>,
    /// Whether there are neither TLS nor tokens.
    pub insecure_loopback: bool,
    /// Memory for cached pages, in bytes.
    pub cache_bytes: u64,
    /// Bytes of the disk that must be free for events to be accepted, if set.
    pub disk_reserve: Option<u64>,
    /// The most data an event may have, in bytes.
    pub max_event_bytes: usize,
    /// What a tenant may use unless its own quota says otherwise.
    pub tenant_quota: Quota,
    /// How often any one destination is called, unless there is no limit.
    pub destination_limit: Option<Pace>,
    /// How long events are kept.
    pub retain_events: Duration,
    /// How long delivered data is kept.
    pub retain_delivered_data: Duration,
    /// How long audit records are kept; `None`: for good.
    pub retain_audit: Option<Duration>,
    /// How long deliveries wait for agents after a restart.
    pub resume_window: Duration,
    /// How long a stop waits.
    pub shutdown_grace: Duration,
    /// When operational events tell of agents and backlogs.
    pub thresholds: Thresholds,
    /// Where traces go, and how many.
    pub traces: Option<(traces::Settings, f64)>,
    /// How log lines are written.
    pub log_format: log::Format,
    /// Which log lines are written.
    pub log: String,
}

impl Config {
    /// The agents' port listens there: unless the settings say otherwise, agents reach it there, if that is one address.
    pub fn listens_for_agents(&mut self, listen: SocketAddr) {
        if self.agent_address.is_none() && !listen.ip().is_unspecified() {
            self.agent_address = Some((listen.ip().to_string(), listen.port()));
        }
        self.authority.names.extend(self.agent_address.iter().map(|(host, _)| host.clone()));
    }

    /// Begins to export traces, if they are wanted. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the collector's settings are of no use.
    pub fn export_traces(&self) -> anyhow::Result<Traces> {
        let Some((settings, ratio)) = &self.traces else { return Ok(Traces::default()) };
        Traces::start(settings, *ratio, "postrider-control-plane", env!("CARGO_PKG_VERSION"))
            .map_err(|error| anyhow::anyhow!("traces cannot be exported: {error}"))
    }
}

/// Every problem in the settings.
#[derive(Debug, thiserror::Error)]
#[error("the settings are wrong:\n{}", .0.iter().map(|problem| format!("  - {problem}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

macro_rules! stronger {
    ($flags:ident, $file:ident, $($field:ident),+ $(,)?) => {
        Settings { $($field: $flags.$field.or($file.$field)),+ }
    };
}

/// Reads the file, if there is one, and puts the flags and the environment over it. `flags` holds what clap has found in both;
/// of the environment's `variables` the names are looked at, for those that no setting has.
///
/// # Errors
/// Every problem at once.
pub fn load(
    file: Option<&Path>,
    flags: Settings,
    variables: impl Iterator<Item = String>,
) -> Result<Config, ConfigError> {
    let settings = match file.map(read_file).transpose() {
        Ok(file) => merge(flags, file.unwrap_or_default()),
        Err(problem) => {
            // Nothing else is judged: what seems missing may be in the file.
            let unknown = variables::unknown(variables, flags.kek.as_deref().unwrap_or_default());
            return Err(ConfigError([vec![problem], unknown].concat()));
        }
    };
    let mut problems = variables::unknown(variables, settings.kek.as_deref().unwrap_or_default());
    let checked = check(settings);
    if problems.is_empty() {
        return checked;
    }
    problems.extend(checked.err().into_iter().flat_map(|ConfigError(more)| more));
    Err(ConfigError(problems))
}

fn merge(flags: Settings, file: Settings) -> Settings {
    stronger!(
        flags,
        file,
        data_dir,
        kek,
        vault_token_file,
        vault_namespace,
        vault_ca,
        api_listen,
        agent_listen,
        admin_listen,
        tls_cert,
        tls_key,
        tls_client_ca,
        agent_address,
        agent_names,
        agent_ca,
        agent_certificate_lifetime,
        trust_domain,
        webhook_origin,
        max_api_connections,
        max_agent_connections,
        max_api_connection_age,
        max_token_calls,
        max_token_watchers,
        max_tenant_watchers,
        bootstrap_token_file,
        audit_head_file,
        audit_stream,
        insecure_loopback,
        cache_mib,
        disk_reserve_mib,
        max_event_kib,
        tenant_emit_rate,
        tenant_emit_burst,
        tenant_delivery_rate,
        tenant_delivery_burst,
        tenant_max_subscriptions,
        tenant_max_event_types,
        tenant_max_stored_mib,
        destination_rate,
        destination_burst,
        retain_events,
        retain_delivered_data,
        retain_audit,
        resume_window,
        shutdown_grace,
        agent_offline_after,
        backlog_warn_count,
        backlog_warn_age,
        traces_endpoint,
        traces_ratio,
        traces_headers_file,
        traces_ca,
        log_format,
        log,
    )
}

fn read_file(path: &Path) -> Result<Settings, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("{} cannot be read: {error}; name an existing file with --config", path.display())
    })?;
    toml::from_str(&text).map_err(|error| format!("{}: {}", path.display(), error.to_string().trim_end()))
}

fn check(mut settings: Settings) -> Result<Config, ConfigError> {
    let mut checker = Checker::default();
    let tenant_quota = checker.tenant_quota(&settings);
    let data_dir = checker.data_dir(settings.data_dir.take());
    let vault_token_file = settings.vault_token_file.clone();
    let keks = checker.keks(&mut settings);
    let thresholds = checker.thresholds(&mut settings);
    let traces = checker.traces(&mut settings);
    let authority = checker.authority(&mut settings);
    let insecure_loopback = settings.insecure_loopback.unwrap_or(false);
    let tls = checker.tls(insecure_loopback, settings.tls_cert, settings.tls_key, settings.tls_client_ca);
    let api_listen = checker.listen("api_listen", settings.api_listen, 7070, insecure_loopback);
    let agent_listen = checker.listen("agent_listen", settings.agent_listen, 7071, insecure_loopback);
    let agent_address = checker.agent_address(settings.agent_address);
    let day = Duration::from_secs(86_400);
    let retain_events = checker.duration("retain_events", settings.retain_events, 30 * day, day..=3650 * day);
    let config = Config {
        data_dir,
        keks,
        vault_token_file,
        api_listen,
        agent_listen,
        admin_listen: checker.admin_listen(settings.admin_listen),
        tls,
        bootstrap_token_file: settings.bootstrap_token_file,
        audit_head_file: settings.audit_head_file,
        audit_stream: checker.audit_stream(settings.audit_stream),
        insecure_loopback,
        agent_address,
        authority,
        webhook_origin: checker.webhook_origin(settings.webhook_origin),
        max_api_connections: checker.connections("max_api_connections", settings.max_api_connections),
        max_agent_connections: checker.connections("max_agent_connections", settings.max_agent_connections),
        max_api_connection_age: checker.connection_age(settings.max_api_connection_age),
        max_token_calls: checker.token_calls(settings.max_token_calls),
        watchers: checker.watchers(settings.max_token_watchers, settings.max_tenant_watchers),
        cache_bytes: checker.number("cache_mib", settings.cache_mib, 32, 8..=65_536) * 1024 * 1024,
        disk_reserve: checker.disk_reserve(settings.disk_reserve_mib),
        max_event_bytes: checker.number("max_event_kib", settings.max_event_kib, 256, 1..=1024) * 1024,
        tenant_quota,
        destination_limit: checker.destination_limit(settings.destination_rate, settings.destination_burst),
        retain_events,
        retain_delivered_data: checker.duration(
            "retain_delivered_data",
            settings.retain_delivered_data,
            (7 * day).min(retain_events),
            Duration::ZERO..=retain_events,
        ),
        retain_audit: checker.retain_audit(settings.retain_audit),
        resume_window: checker.resume_window(settings.resume_window),
        shutdown_grace: checker.shutdown_grace(settings.shutdown_grace),
        thresholds,
        traces,
        log_format: checker.log_format(settings.log_format),
        log: checker.log_filter(settings.log),
    };
    if checker.problems.is_empty() { Ok(config) } else { Err(ConfigError(checker.problems)) }
}

#[cfg(test)]
mod tests;

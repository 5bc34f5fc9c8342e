//! The control plane's settings: a file, then the environment, then flags, each stronger than the one before. All
//! mistakes are told in one message, before a socket or a store is opened.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::authority::{self, AuthorityFiles};
use crate::emit::EmitRate;
use crate::listen::tls::ApiFiles;
use crate::secrets::{Keks, VaultSettings};

/// The settings as they are given: any of them, in the file, the environment or as flags.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Folder of the embedded store; made when absent. Required.
    #[arg(long, env = "POSTRIDER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Key-encryption keys, under which secrets in the store are sealed: file:PATH, env:NAME or
    /// vault:https://HOST:8200/transit/keys/NAME. The first is the current one, the others can still open. Required
    #[arg(long, env = "POSTRIDER_KEK", value_name = "KEK,…", value_delimiter = ',')]
    pub kek: Option<Vec<String>>,
    /// File with the token for Vault [default: the token in the environment's VAULT_TOKEN]
    #[arg(long, env = "POSTRIDER_VAULT_TOKEN_FILE", value_name = "FILE")]
    pub vault_token_file: Option<PathBuf>,
    /// Namespace of Vault [default: none]
    #[arg(long, env = "POSTRIDER_VAULT_NAMESPACE", value_name = "NAME")]
    pub vault_namespace: Option<String>,
    /// Certificates of the authority that Vault's certificate must be from, PEM [default: those of this machine]
    #[arg(long, env = "POSTRIDER_VAULT_CA", value_name = "FILE")]
    pub vault_ca: Option<PathBuf>,
    /// Address of the API for services and admins [default: 127.0.0.1:7070]
    #[arg(long, env = "POSTRIDER_API_LISTEN", value_name = "IP:PORT")]
    pub api_listen: Option<String>,
    /// Address that agents connect to [default: 127.0.0.1:7071]
    #[arg(long, env = "POSTRIDER_AGENT_LISTEN", value_name = "IP:PORT")]
    pub agent_listen: Option<String>,
    /// Certificate chain of the API, PEM; read anew when it changes. Required, unless insecure_loopback is set
    #[arg(long, env = "POSTRIDER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM. Required, unless insecure_loopback is set
    #[arg(long, env = "POSTRIDER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the authorities that the API's clients must have a certificate from, PEM [default: none: tokens
    /// alone]
    #[arg(long, env = "POSTRIDER_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Name or IP address, and port, by which agents reach agent_listen: it goes into join strings and the certificate
    /// that agents see [default: agent_listen, unless that is 0.0.0.0 or [::]]
    #[arg(long, env = "POSTRIDER_AGENT_ADDRESS", value_name = "HOST:PORT")]
    pub agent_address: Option<String>,
    /// More names and IP addresses for that certificate, where agents reach the port by several [default: none]
    #[arg(long, env = "POSTRIDER_AGENT_NAMES", value_name = "NAME,…", value_delimiter = ',')]
    pub agent_names: Option<Vec<String>>,
    /// Authorities of your own for agents' certificates, instead of built-in ones: folders that hold tls.crt (a certificate
    /// that may issue) and tls.key, PEM, read anew when they change. The first one issues, all are trusted [default: none]
    #[arg(long, env = "POSTRIDER_AGENT_CA", value_name = "DIR,…", value_delimiter = ',')]
    pub agent_ca: Option<Vec<PathBuf>>,
    /// How long agents' certificates last; agents renew at half of it: 10s to 90days [default: 1day]
    #[arg(long, env = "POSTRIDER_AGENT_CERTIFICATE_LIFETIME", value_name = "DURATION")]
    pub agent_certificate_lifetime: Option<String>,
    /// Trust domain in agents' identities, spiffe://TRUST_DOMAIN/pool/…/agent/… [default: postrider]
    #[arg(long, env = "POSTRIDER_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// Connections to the API at once: 1 to 1000000 [default: 10000]
    #[arg(long, env = "POSTRIDER_MAX_API_CONNECTIONS", value_name = "NUMBER")]
    pub max_api_connections: Option<usize>,
    /// Connections of agents at once: 1 to 1000000 [default: 10000]
    #[arg(long, env = "POSTRIDER_MAX_AGENT_CONNECTIONS", value_name = "NUMBER")]
    pub max_agent_connections: Option<usize>,
    /// File that holds the first admin's token, for when no admin's token is valid yet. Without it one is made then and
    /// printed once [default: none]
    #[arg(long, env = "POSTRIDER_BOOTSTRAP_TOKEN_FILE", value_name = "FILE")]
    pub bootstrap_token_file: Option<PathBuf>,
    /// For development: neither TLS nor tokens, on loopback addresses only [default: false]
    #[arg(long, env = "POSTRIDER_INSECURE_LOOPBACK", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub insecure_loopback: Option<bool>,
    /// Memory for cached pages of the store, in MiB: 8 to 65536 [default: 32]
    #[arg(long, env = "POSTRIDER_CACHE_MIB", value_name = "MIB")]
    pub cache_mib: Option<u64>,
    /// The most data an event may have, in KiB: 1 to 1024 [default: 256]
    #[arg(long, env = "POSTRIDER_MAX_EVENT_KIB", value_name = "KIB")]
    pub max_event_kib: Option<usize>,
    /// The most events a second that one tenant may emit: 1 to 1000000 [default: no limit]
    #[arg(long, env = "POSTRIDER_TENANT_EMIT_RATE", value_name = "EVENTS")]
    pub tenant_emit_rate: Option<u32>,
    /// The most events that one tenant may emit at once, before the rate counts: 1 to 1000000 [default: what the rate allows
    /// in a second]
    #[arg(long, env = "POSTRIDER_TENANT_EMIT_BURST", value_name = "EVENTS")]
    pub tenant_emit_burst: Option<u32>,
    /// How long events and their history are kept after all deliveries have ended, such as 30days or 12h: at least 1day,
    /// longer than any retry window in use [default: 30days]
    #[arg(long, env = "POSTRIDER_RETAIN_EVENTS", value_name = "DURATION")]
    pub retain_events: Option<String>,
    /// How long the data of an event is kept that is delivered everywhere; at most as long as events are [default: 7days]
    #[arg(long, env = "POSTRIDER_RETAIN_DELIVERED_DATA", value_name = "DURATION")]
    pub retain_delivered_data: Option<String>,
    /// How long audit records are kept, such as 2years: at least 30days, or forever [default: forever]
    #[arg(long, env = "POSTRIDER_RETAIN_AUDIT", value_name = "DURATION")]
    pub retain_audit: Option<String>,
    /// How long, after a restart, deliveries accepted before it wait for the agents that may still be at work on them: 0s to
    /// 5min [default: 3s]
    #[arg(long, env = "POSTRIDER_RESUME_WINDOW", value_name = "DURATION")]
    pub resume_window: Option<String>,
    /// How long a stop (SIGTERM) waits for attempts under way: 1s to 10min [default: 75s]
    #[arg(long, env = "POSTRIDER_SHUTDOWN_GRACE", value_name = "DURATION")]
    pub shutdown_grace: Option<String>,
    /// How log lines are written: human or json [default: human]
    #[arg(long, env = "POSTRIDER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Which log lines are written: a level, or a filter such as info,postrider_control_plane::settle=warn [default: info]
    #[arg(long, env = "POSTRIDER_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The settings in force: complete and within their bounds.
#[derive(Clone)]
pub struct Config {
    /// Folder of the embedded store.
    pub data_dir: PathBuf,
    /// Under which secrets in the store are sealed.
    pub keks: Keks,
    /// Address of the API.
    pub api_listen: SocketAddr,
    /// Address for agents.
    pub agent_listen: SocketAddr,
    /// TLS of the API; absent only with `insecure_loopback`.
    pub tls: Option<ApiFiles>,
    /// By which host and port agents reach theirs, if that is known.
    pub agent_address: Option<(String, u16)>,
    /// What agents' certificates are made with.
    pub authority: authority::Settings,
    /// Connections to the API at once.
    pub max_api_connections: usize,
    /// Connections of agents at once.
    pub max_agent_connections: usize,
    /// The first admin's token.
    pub bootstrap_token_file: Option<PathBuf>,
    /// Whether there are neither TLS nor tokens.
    pub insecure_loopback: bool,
    /// Memory for cached pages, in bytes.
    pub cache_bytes: u64,
    /// The most data an event may have, in bytes.
    pub max_event_bytes: usize,
    /// How fast one tenant may emit.
    pub tenant_emit_rate: Option<EmitRate>,
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
    /// How log lines are written.
    pub log_format: LogFormat,
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
}

/// Every mistake in the settings.
#[derive(Debug, thiserror::Error)]
#[error("the settings are wrong:\n{}", .0.iter().map(|mistake| format!("  - {mistake}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

macro_rules! stronger {
    ($flags:ident, $file:ident, $($field:ident),+ $(,)?) => {
        Settings { $($field: $flags.$field.or($file.$field)),+ }
    };
}

/// Reads the file, if there is one, and puts the flags and the environment over it.
///
/// # Errors
/// Every mistake at once.
pub fn load(file: Option<&Path>, flags: Settings) -> Result<Config, ConfigError> {
    let file = match file.map(read_file).transpose() {
        Ok(file) => file.unwrap_or_default(),
        Err(mistake) => return Err(ConfigError(vec![mistake])),
    };
    check(stronger!(
        flags,
        file,
        data_dir,
        kek,
        vault_token_file,
        vault_namespace,
        vault_ca,
        api_listen,
        agent_listen,
        tls_cert,
        tls_key,
        tls_client_ca,
        agent_address,
        agent_names,
        agent_ca,
        agent_certificate_lifetime,
        trust_domain,
        max_api_connections,
        max_agent_connections,
        bootstrap_token_file,
        insecure_loopback,
        cache_mib,
        max_event_kib,
        tenant_emit_rate,
        tenant_emit_burst,
        retain_events,
        retain_delivered_data,
        retain_audit,
        resume_window,
        shutdown_grace,
        log_format,
        log,
    ))
}

fn read_file(path: &Path) -> Result<Settings, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("{} cannot be read: {error}; name an existing file with --config", path.display())
    })?;
    toml::from_str(&text).map_err(|error| format!("{}: {}", path.display(), error.to_string().trim_end()))
}

fn check(settings: Settings) -> Result<Config, ConfigError> {
    let mut checker = Checker::default();
    let data_dir = settings.data_dir.unwrap_or_default();
    checker.require(
        !data_dir.as_os_str().is_empty(),
        "data_dir is not set; name the folder for the embedded store",
    );
    let vault = VaultSettings {
        token_file: settings.vault_token_file,
        token: std::env::var("VAULT_TOKEN").ok().map(Zeroizing::new),
        namespace: settings.vault_namespace,
        ca_file: settings.vault_ca,
        ..VaultSettings::default()
    };
    let keks = checker.keks(&settings.kek.unwrap_or_default(), &vault);
    let insecure_loopback = settings.insecure_loopback.unwrap_or(false);
    let tls = checker.tls(insecure_loopback, settings.tls_cert, settings.tls_key, settings.tls_client_ca);
    let api_listen = checker.address("api_listen", settings.api_listen, 7070);
    let agent_listen = checker.address("agent_listen", settings.agent_listen, 7071);
    for (name, address) in [("api_listen", api_listen), ("agent_listen", agent_listen)] {
        checker.require(
            !insecure_loopback || address.ip().is_loopback(),
            &format!(
                "{name} is {address}, which others can reach: unset insecure_loopback, or listen on 127.0.0.1"
            ),
        );
    }
    let agent_address = checker.agent_address(settings.agent_address);
    let lifetime = checker.duration(
        "agent_certificate_lifetime",
        settings.agent_certificate_lifetime,
        Duration::from_secs(86_400),
        Duration::from_secs(10)..=Duration::from_secs(90 * 86_400),
    );
    let authority = checker.authority(
        settings.trust_domain,
        settings.agent_names.unwrap_or_default(),
        lifetime,
        settings.agent_ca.unwrap_or_default(),
    );
    let day = Duration::from_secs(86_400);
    let retain_events = checker.duration("retain_events", settings.retain_events, 30 * day, day..=3650 * day);
    let config = Config {
        data_dir,
        keks,
        api_listen,
        agent_listen,
        tls,
        bootstrap_token_file: settings.bootstrap_token_file,
        insecure_loopback,
        agent_address,
        authority,
        max_api_connections: checker.number(
            "max_api_connections",
            settings.max_api_connections,
            10_000,
            1..=1_000_000,
        ),
        max_agent_connections: checker.number(
            "max_agent_connections",
            settings.max_agent_connections,
            10_000,
            1..=1_000_000,
        ),
        cache_bytes: checker.number("cache_mib", settings.cache_mib, 32, 8..=65_536) * 1024 * 1024,
        max_event_bytes: checker.number("max_event_kib", settings.max_event_kib, 256, 1..=1024) * 1024,
        tenant_emit_rate: checker.emit_rate(settings.tenant_emit_rate, settings.tenant_emit_burst),
        retain_events,
        retain_delivered_data: checker.duration(
            "retain_delivered_data",
            settings.retain_delivered_data,
            (7 * day).min(retain_events),
            Duration::ZERO..=retain_events,
        ),
        retain_audit: settings
            .retain_audit
            .filter(|given| given != "forever")
            .map(|given| checker.duration("retain_audit", Some(given), 365 * day, 30 * day..=36_500 * day)),
        resume_window: checker.duration(
            "resume_window",
            settings.resume_window,
            Duration::from_secs(3),
            Duration::ZERO..=Duration::from_secs(300),
        ),
        shutdown_grace: checker.duration(
            "shutdown_grace",
            settings.shutdown_grace,
            Duration::from_secs(75),
            Duration::from_secs(1)..=Duration::from_secs(600),
        ),
        log_format: checker.log_format(settings.log_format),
        log: checker.log_filter(settings.log),
    };
    if checker.mistakes.is_empty() { Ok(config) } else { Err(ConfigError(checker.mistakes)) }
}

/// How many events a second, or at once, a limit may allow.
const EMITS: std::ops::RangeInclusive<u32> = 1..=1_000_000;

#[derive(Default)]
struct Checker {
    mistakes: Vec<String>,
}

impl Checker {
    fn require(&mut self, good: bool, mistake: &str) {
        if !good {
            self.mistakes.push(mistake.to_owned());
        }
    }

    fn address(&mut self, name: &str, given: Option<String>, port: u16) -> SocketAddr {
        let default = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
        let Some(given) = given else { return default };
        given.parse().unwrap_or_else(|_| {
            self.mistakes
                .push(format!("{name} is «{given}»; it must be an IP address and a port, such as {default}"));
            default
        })
    }

    fn number<N>(&mut self, name: &str, given: Option<N>, default: N, range: std::ops::RangeInclusive<N>) -> N
    where
        N: PartialOrd + Copy + std::fmt::Display,
    {
        let number = given.unwrap_or(default);
        let bounds = format!("{name} is {number}; it must be {} to {}", range.start(), range.end());
        self.require(range.contains(&number), &bounds);
        number
    }

    fn emit_rate(&mut self, rate: Option<u32>, burst: Option<u32>) -> Option<EmitRate> {
        self.require(
            rate.is_some() || burst.is_none(),
            "tenant_emit_burst needs tenant_emit_rate; set both, or neither",
        );
        let per_second = self.number("tenant_emit_rate", Some(rate?), 1, EMITS);
        let burst = self.number("tenant_emit_burst", burst, per_second, EMITS);
        Some(EmitRate { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
    }

    fn duration(
        &mut self,
        name: &str,
        given: Option<String>,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(given) = given else { return default };
        let write = humantime::format_duration;
        match humantime::parse_duration(&given) {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(_) => self.mistakes.push(format!(
                "{name} is {given}; it must be {} to {}",
                write(*range.start()),
                write(*range.end())
            )),
            Err(error) => self
                .mistakes
                .push(format!("{name} is «{given}», which is no duration such as 30s or 7days: {error}")),
        }
        default
    }

    fn keks(&mut self, sources: &[String], vault: &VaultSettings) -> Keks {
        let keks = Keks::read(sources, vault);
        keks.map_err(|mistakes| self.mistakes.extend(mistakes)).unwrap_or_default()
    }

    fn tls(
        &mut self,
        insecure_loopback: bool,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Option<ApiFiles> {
        if insecure_loopback {
            let given = cert.is_some() || key.is_some() || client_ca.is_some();
            self.require(
                !given,
                "insecure_loopback and tls_cert, tls_key or tls_client_ca exclude each other",
            );
            return None;
        }
        let (Some(cert), Some(key)) = (cert, key) else {
            self.mistakes.push(
                "tls_cert and tls_key are not both set; name the API's certificate and key (PEM), or, for development \
                 on this machine alone, set insecure_loopback = true"
                    .to_owned(),
            );
            return None;
        };
        let files = ApiFiles { cert, key, client_ca };
        files.load().map_err(|error| self.mistakes.push(error.to_string())).ok()?;
        Some(files)
    }

    fn agent_address(&mut self, given: Option<String>) -> Option<(String, u16)> {
        let given = given?;
        let split = given.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            Some((host.to_owned(), port.parse().ok().filter(|port| *port != 0)?))
        });
        let good = split.filter(|(host, _)| is_name(host));
        self.require(
            good.is_some(),
            &format!("agent_address is «{given}»; it must be a name or IP address and a port, such as agents.example.com:7071"),
        );
        good
    }

    fn authority(
        &mut self,
        trust_domain: Option<String>,
        names: Vec<String>,
        lifetime: Duration,
        folders: Vec<PathBuf>,
    ) -> authority::Settings {
        for name in names.iter().filter(|name| !is_name(name)) {
            self.mistakes.push(format!("agent_names has «{name}», which is no name or IP address"));
        }
        let trust_domain = trust_domain.map(|text| text.parse().map_err(|why| (text, why))).transpose();
        let trust_domain = trust_domain.unwrap_or_else(|(text, why)| {
            self.mistakes.push(format!("trust_domain is «{text}»; it {why}"));
            None
        });
        let files = folders.iter().map(|folder| AuthorityFiles::in_folder(folder)).collect();
        authority::Settings { trust_domain: trust_domain.unwrap_or_default(), names, lifetime, files }
    }

    fn log_format(&mut self, given: Option<String>) -> LogFormat {
        match given.as_deref() {
            None | Some("human") => LogFormat::Human,
            Some("json") => LogFormat::Json,
            Some(other) => {
                self.mistakes.push(format!("log_format is «{other}»; it must be human or json"));
                LogFormat::Human
            }
        }
    }

    fn log_filter(&mut self, given: Option<String>) -> String {
        let filter = given.unwrap_or_else(|| "info".to_owned());
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&filter) {
            self.mistakes
                .push(format!("log is «{filter}», which is no filter such as info or warn: {error}"));
        }
        filter
    }
}

/// Whether a text can stand in a certificate as a DNS name or an IP address.
fn is_name(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || rustls::pki_types::DnsName::try_from(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../control-plane.example.toml");

    fn settings(toml: &str) -> Settings {
        toml::from_str(toml).unwrap()
    }

    /// A setting of one key-encryption key.
    fn kek(folder: &tempfile::TempDir) -> String {
        let path = folder.path().join("kek");
        std::fs::write(&path, crate::secrets::kek::generate().as_bytes()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        format!("file:{}", path.display())
    }

    #[test]
    fn the_example_shows_the_defaults() {
        // Every setting stands in the example, commented out with its default unless it is required.
        let folder = tempfile::tempdir().unwrap();
        let active = EXAMPLE.replace("\n#= ", "\n");
        let without_files = Settings {
            kek: Some(vec![kek(&folder)]),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            agent_ca: None,
            agent_address: None,
            agent_names: None,
            insecure_loopback: Some(true),
            ..settings(&active)
        };
        let shown = check(without_files).unwrap();
        let required = settings("data_dir = 'x'\ninsecure_loopback = true");
        let default = check(Settings { kek: Some(vec![kek(&folder)]), ..required }).unwrap();
        assert_eq!(shown.api_listen, default.api_listen);
        assert_eq!(shown.agent_listen, default.agent_listen);
        assert_eq!(shown.authority.lifetime, default.authority.lifetime);
        assert_eq!(shown.authority.trust_domain, default.authority.trust_domain);
        assert_eq!(shown.max_api_connections, default.max_api_connections);
        assert_eq!(shown.max_agent_connections, default.max_agent_connections);
        assert_eq!(shown.cache_bytes, default.cache_bytes);
        assert_eq!(shown.max_event_bytes, default.max_event_bytes);
        assert_eq!(shown.retain_events, default.retain_events);
        assert_eq!(shown.retain_delivered_data, default.retain_delivered_data);
        assert_eq!((shown.retain_audit, default.retain_audit), (None, None));
        assert_eq!(shown.resume_window, default.resume_window);
        assert_eq!(shown.shutdown_grace, default.shutdown_grace);
        assert_eq!(shown.log_format, default.log_format);
        assert_eq!(shown.log, default.log);
        assert_eq!(default.tenant_emit_rate, None);
        for line in [
            "data_dir",
            "kek",
            "vault_token_file",
            "vault_namespace",
            "vault_ca",
            "tls_cert",
            "tls_key",
            "tls_client_ca",
            "agent_address",
            "agent_names",
            "agent_ca",
            "insecure_loopback",
            "tenant_emit_rate",
            "tenant_emit_burst",
        ] {
            assert!(EXAMPLE.contains(&format!("{line} = ")), "{line}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let wrong = "api_listen = '0.0.0.0:1'\nagent_listen = 'x'\ncache_mib = 1\nmax_event_kib = 4096\n\
            retain_events = '1h'\nresume_window = 'soon'\nlog_format = 'xml'\ntls_client_ca = '/nowhere'\nlog = 'a=b=c'\n\
            agent_address = 'x'\nagent_names = ['a b']\ntrust_domain = 'A'\nagent_certificate_lifetime = '1s'\n\
            max_api_connections = 0\n\
            retain_audit = '1day'\ntenant_emit_rate = 0\ntenant_emit_burst = 2000000";
        let ConfigError(mistakes) = check(settings(wrong)).err().unwrap();
        let words = [
            "data_dir",
            "kek is not set",
            "tls_cert and tls_key are not both set",
            "agent_listen",
            "agent_address",
            "agent_names",
            "trust_domain",
            "agent_certificate_lifetime",
            "max_api_connections",
            "retain_events",
            "cache_mib",
            "max_event_kib",
            "resume_window",
            "log_format",
            "log is",
            "retain_audit is 1day",
            "tenant_emit_rate is 0",
            "tenant_emit_burst is 2000000",
        ];
        assert_eq!(mistakes.len(), words.len(), "{mistakes:#?}");
        for word in words {
            assert!(mistakes.iter().any(|mistake| mistake.contains(word)), "{word}");
        }
        let open = "data_dir = 'x'\napi_listen = '0.0.0.0:1'\ninsecure_loopback = true\ntls_cert = 'c'";
        let ConfigError(mistakes) = check(settings(open)).err().unwrap();
        assert!(mistakes.len() == 2 && mistakes[0].contains("exclude each other"), "{mistakes:?}");
        assert!(mistakes[1].contains("which others can reach"), "{mistakes:?}");
        let files = "data_dir = 'x'\ntls_cert = '/nowhere'\ntls_key = '/nowhere'";
        let ConfigError(mistakes) = check(settings(files)).err().unwrap();
        assert!(mistakes.len() == 1 && mistakes[0].contains("/nowhere cannot be read"), "{mistakes:?}");
    }

    #[test]
    fn a_tenants_burst_is_what_its_rate_allows_in_a_second_unless_it_is_set() {
        let rate =
            |lines: &str| check(settings(&format!("data_dir = 'x'\ninsecure_loopback = true\n{lines}")));
        let set = |per_second: u32, burst: u32| {
            Some(EmitRate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
        };
        assert_eq!(rate("").unwrap().tenant_emit_rate, None);
        assert_eq!(rate("tenant_emit_rate = 50").unwrap().tenant_emit_rate, set(50, 50));
        let both = rate("tenant_emit_rate = 50\ntenant_emit_burst = 5").unwrap();
        assert_eq!(both.tenant_emit_rate, set(50, 5));
        assert!(rate("tenant_emit_burst = 5").err().unwrap().to_string().contains("needs tenant_emit_rate"));
    }

    #[test]
    fn flags_are_stronger_than_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "data_dir = 'from-file'\ncache_mib = 16\ninsecure_loopback = true").unwrap();
        let flags = Settings { cache_mib: Some(24), kek: Some(vec![kek(&folder)]), ..Settings::default() };
        let config = load(Some(&file), flags).unwrap();
        assert_eq!(config.cache_bytes, 24 * 1024 * 1024);
        assert_eq!(config.data_dir, Path::new("from-file"));
        assert!(config.keks.current().source().ends_with("/kek"));
        std::fs::write(&file, "data_dri = 'x'").unwrap();
        assert!(load(Some(&file), Settings::default()).err().unwrap().to_string().contains("data_dri"));
        assert!(load(Some(Path::new("/nowhere")), Settings::default()).is_err());
    }
}

//! Judges settings one by one, and gathers the problems.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use postrider_domain::lane::Bounds;
use postrider_telemetry::{log, traces};
use zeroize::Zeroizing;

use super::Settings;
use crate::api::MAX_OF_TOKEN;
use crate::audit_stream::Destination;
use crate::authority::{self, AuthorityFiles};
use crate::listen::tls::ApiFiles;
use crate::operational::Thresholds;
use crate::secret_file;
use crate::secrets::{Keks, VaultSettings};
use crate::watchers::Allowed;

#[derive(Default)]
pub(super) struct Checker {
    pub(super) problems: Vec<String>,
}

impl Checker {
    pub(super) fn require(&mut self, good: bool, problem: &str) {
        if !good {
            self.problems.push(problem.to_owned());
        }
    }

    pub(super) fn data_dir(&mut self, given: Option<PathBuf>) -> PathBuf {
        let data_dir = given.unwrap_or_default();
        let is_set = !data_dir.as_os_str().is_empty();
        self.require(is_set, "data_dir is not set; name the folder for the embedded store");
        data_dir
    }

    /// An address to listen on, which only this machine reaches when it is insecure.
    pub(super) fn listen(
        &mut self,
        name: &str,
        given: Option<String>,
        port: u16,
        insecure_loopback: bool,
    ) -> SocketAddr {
        let address = self.address(name, given, port);
        self.require(
            !insecure_loopback || address.ip().is_loopback(),
            &format!(
                "{name} is {address}, which others can reach: unset insecure_loopback, or listen on 127.0.0.1"
            ),
        );
        address
    }

    /// The address of the admin port, if there is to be one.
    pub(super) fn admin_listen(&mut self, given: Option<String>) -> Option<SocketAddr> {
        given.map(|given| self.address("admin_listen", Some(given), 7072))
    }

    /// How many connections there may be at once.
    pub(super) fn connections(&mut self, name: &str, given: Option<usize>) -> usize {
        self.number(name, given, 10_000, 1..=1_000_000)
    }

    /// How many streams may watch at once, of a token and of a tenant.
    pub(super) fn watchers(&mut self, of_token: Option<usize>, of_tenant: Option<usize>) -> Allowed {
        let default = Allowed::default();
        Allowed {
            of_token: self.number("max_token_watchers", of_token, default.of_token, 1..=100_000),
            of_tenant: self.number("max_tenant_watchers", of_tenant, default.of_tenant, 1..=100_000),
        }
    }

    /// How long deliveries wait after a restart for the agents that may be at work on them.
    pub(super) fn resume_window(&mut self, given: Option<String>) -> Duration {
        let longest = Duration::from_secs(300);
        self.duration("resume_window", given, Duration::from_secs(3), Duration::ZERO..=longest)
    }

    /// How old a connection to the API may become; `None` for as old as its client likes.
    pub(super) fn connection_age(&mut self, given: Option<String>) -> Option<Duration> {
        const SECOND: Duration = Duration::from_secs(1);
        if given.as_deref() == Some("never") {
            return None;
        }
        let range = 10 * SECOND..=86_400 * SECOND;
        Some(self.duration("max_api_connection_age", given, 300 * SECOND, range))
    }

    /// How many calls one token may have under way.
    pub(super) fn token_calls(&mut self, given: Option<usize>) -> usize {
        self.number("max_token_calls", given, MAX_OF_TOKEN, 1..=1_000_000)
    }

    /// How long a stop waits.
    pub(super) fn shutdown_grace(&mut self, given: Option<String>) -> Duration {
        const SECOND: Duration = Duration::from_secs(1);
        self.duration("shutdown_grace", given, 75 * SECOND, SECOND..=600 * SECOND)
    }

    /// How long records of the audit log are kept; `None` for ever.
    pub(super) fn retain_audit(&mut self, given: Option<String>) -> Option<Duration> {
        let day = Duration::from_secs(86_400);
        let given = given.filter(|given| given != "forever")?;
        Some(self.duration("retain_audit", Some(given), 365 * day, 30 * day..=36_500 * day))
    }

    fn address(&mut self, name: &str, given: Option<String>, port: u16) -> SocketAddr {
        let default = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
        let Some(given) = given else { return default };
        given.parse().unwrap_or_else(|_| {
            self.problems
                .push(format!("{name} is '{given}'; it must be an IP address and a port, such as {default}"));
            default
        })
    }

    pub(super) fn number<N>(
        &mut self,
        name: &str,
        given: Option<N>,
        default: N,
        range: std::ops::RangeInclusive<N>,
    ) -> N
    where
        N: PartialOrd + Copy + std::fmt::Display,
    {
        let number = given.unwrap_or(default);
        let bounds = format!("{name} is {number}; it must be {} to {}", range.start(), range.end());
        self.require(range.contains(&number), &bounds);
        number
    }

    pub(super) fn disk_reserve(&mut self, mib: Option<u64>) -> Option<u64> {
        Some(self.number("disk_reserve_mib", Some(mib?), 0, 0..=1_048_576) * 1024 * 1024)
    }

    pub(super) fn thresholds(&mut self, settings: &mut Settings) -> Thresholds {
        const SECOND: Duration = Duration::from_secs(1);
        let (hour, day) = (3_600 * SECOND, 86_400 * SECOND);
        let (offline, age) = (settings.agent_offline_after.take(), settings.backlog_warn_age.take());
        let count = self.number("backlog_warn_count", settings.backlog_warn_count, 10_000, 1..=1_000_000_000);
        let age = self.duration("backlog_warn_age", age, hour, SECOND..=30 * day);
        Thresholds {
            agent_offline_after: self.duration("agent_offline_after", offline, 300 * SECOND, SECOND..=day),
            backlog: Bounds { count, age },
        }
    }

    pub(super) fn duration(
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
            Ok(_) => self.problems.push(format!(
                "{name} is {given}; it must be {} to {}",
                write(*range.start()),
                write(*range.end())
            )),
            Err(error) => self
                .problems
                .push(format!("{name} is '{given}', which is no duration such as 30s or 7days: {error}")),
        }
        default
    }

    pub(super) fn keks(&mut self, settings: &mut Settings) -> Keks {
        let vault = VaultSettings {
            token_file: settings.vault_token_file.take(),
            token: std::env::var("VAULT_TOKEN").ok().map(Zeroizing::new),
            namespace: settings.vault_namespace.take(),
            ca_file: settings.vault_ca.take(),
            ..VaultSettings::default()
        };
        let keks = Keks::read(&settings.kek.take().unwrap_or_default(), &vault);
        keks.map_err(|problems| self.problems.extend(problems)).unwrap_or_default()
    }

    pub(super) fn tls(
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
            self.problems.push(
                "tls_cert and tls_key are not both set; name the API's certificate and key (PEM), or, for development on this machine only, set insecure_loopback = true"
                    .to_owned(),
            );
            return None;
        };
        let files = ApiFiles { cert, key, client_ca };
        files.load().map_err(|error| self.problems.push(error.to_string())).ok()?;
        Some(files)
    }

    pub(super) fn agent_address(&mut self, given: Option<String>) -> Option<(String, u16)> {
        let given = given?;
        let split = given.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            Some((host.to_owned(), port.parse().ok().filter(|port| *port != 0)?))
        });
        let good = split.filter(|(host, _)| is_name(host));
        self.require(
            good.is_some(),
            &format!("agent_address is '{given}'; it must be a name or IP address and a port, such as agents.example.com:7071"),
        );
        good
    }

    pub(super) fn webhook_origin(&mut self, given: Option<String>) -> Option<String> {
        let given = given?;
        let good = postrider_domain::validation::is_origin(&given);
        self.require(
            good,
            &format!("webhook_origin is '{given}'; it must be a DNS name such as postrider.example.com"),
        );
        good.then_some(given)
    }

    /// The destination of the audit stream.
    pub(super) fn audit_stream(&mut self, given: Option<String>) -> Option<Destination> {
        let read = given?.parse().map_err(|error| self.problems.push(format!("audit_stream: {error}")));
        read.ok()
    }

    pub(super) fn authority(&mut self, settings: &mut Settings) -> authority::Settings {
        let trust_domain = settings.trust_domain.take();
        let names = settings.agent_names.take().unwrap_or_default();
        let folders = settings.agent_ca.take().unwrap_or_default();
        let lifetime = self.duration(
            "agent_certificate_lifetime",
            settings.agent_certificate_lifetime.take(),
            Duration::from_secs(86_400),
            Duration::from_secs(10)..=Duration::from_secs(90 * 86_400),
        );
        for name in names.iter().filter(|name| !is_name(name)) {
            self.problems.push(format!("agent_names has '{name}', which is no name or IP address"));
        }
        let trust_domain = trust_domain.map(|text| text.parse().map_err(|why| (text, why))).transpose();
        let trust_domain = trust_domain.unwrap_or_else(|(text, why)| {
            self.problems.push(format!("trust_domain is '{text}'; it {why}"));
            None
        });
        let files = folders.iter().map(|folder| AuthorityFiles::in_folder(folder)).collect();
        authority::Settings { trust_domain: trust_domain.unwrap_or_default(), names, lifetime, files }
    }

    pub(super) fn traces(&mut self, settings: &mut Settings) -> Option<(traces::Settings, f64)> {
        let ratio = settings.traces_ratio.unwrap_or(1.0);
        self.require((0.0..=1.0).contains(&ratio), &format!("traces_ratio is {ratio}; it must be 0 to 1"));
        let (headers, ca) = (settings.traces_headers_file.take(), settings.traces_ca.take());
        let Some(endpoint) = settings.traces_endpoint.take() else {
            let alone = headers.is_some() || ca.is_some();
            self.require(
                !alone,
                "traces_endpoint is not set, but other settings of traces are; set it, or none",
            );
            return None;
        };
        if let Some(Err(error)) = headers.as_deref().map(secret_file::read) {
            self.problems.push(format!("traces_headers_file: {:#}", anyhow::Error::from(error)));
            return None;
        }
        let read = traces::Settings::read(&endpoint, headers.as_deref(), ca.as_deref());
        let told = |problem: traces::Problem| format!("traces_{} {}", problem.setting, problem.why);
        read.map_err(|problems| self.problems.extend(problems.into_iter().map(told)))
            .ok()
            .map(|read| (read, ratio))
    }

    pub(super) fn log_format(&mut self, given: Option<String>) -> log::Format {
        match given.as_deref() {
            None | Some("human") => log::Format::Human,
            Some("json") => log::Format::Json,
            Some(other) => {
                self.problems.push(format!("log_format is '{other}'; it must be human or json"));
                log::Format::Human
            }
        }
    }

    pub(super) fn log_filter(&mut self, given: Option<String>) -> String {
        let filter = given.unwrap_or_else(|| "info".to_owned());
        if let Err(error) = log::check(&filter) {
            self.problems.push(format!("log: {error}"));
        }
        filter
    }
}

/// Whether a text can stand in a certificate as a DNS name or an IP address.
fn is_name(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || rustls::pki_types::DnsName::try_from(text).is_ok()
}

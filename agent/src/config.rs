//! The agent's settings: from a file, the environment and flags, in rising order.
//!
//! Every layer gives settings by the same names and in the same words, so each is read in one place only, by
//! [`Config::load`]. All problems come back in one message, before any socket opens.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use postrider_telemetry::{log, traces};

mod args;
mod control_plane;
mod egress;
mod files;
mod layers;
mod values;

pub use self::args::{Args, Secret};
use self::control_plane::ProxyVariables;
pub use self::control_plane::{ControlPlane, Enrolled, Plaintext};
pub use self::egress::Egress;
use self::egress::Files;
pub use self::files::Look;
use self::layers::Layers;
use self::values::{Bytes, Seconds};

/// The prefix of the environment's variables.
pub const ENV_PREFIX: &str = "POSTRIDER_AGENT_";

/// Everything the agent is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the control plane is, and how this agent is known to it.
    pub control_plane: ControlPlane,
    /// Connections to the control plane.
    pub streams: u32,
    /// Jobs at once, over all streams.
    pub max_in_flight: u32,
    /// Bytes of job bodies at once, over all streams.
    pub max_in_flight_bytes: u64,
    /// Threads of the runtime.
    pub threads: usize,
    /// What this agent may call, and how.
    pub egress: Egress,
    /// The name servers to ask. None: the machine's.
    pub dns_servers: Vec<SocketAddr>,
    /// Where spans of POSTs go.
    pub traces: Option<traces::Settings>,
    /// The address of the admin port, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// How to log.
    pub log: Log,
    /// Time to finish in when told to stop.
    pub shutdown_grace: Duration,
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// For whom.
    pub format: log::Format,
    /// What, as `tracing` directives.
    pub filter: String,
}

/// All that is wrong with the settings, one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the agent's settings cannot be used:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads the settings file that `args` names, the environment's `variables` and `args`, which hold what
    /// clap found in both of the latter.
    ///
    /// # Errors
    ///
    /// [`Problems`], all of them.
    pub fn load(args: &Args, variables: impl Iterator<Item = (String, String)>) -> Result<Config, Problems> {
        let (mut names, mut proxies) = (Vec::new(), ProxyVariables::default());
        for (name, value) in variables {
            proxies.note(&name, &value);
            names.push(name);
        }
        let mut layers = Config::layers(args, names.into_iter());
        let config = Config::from_layers(&mut layers, &proxies);
        let problems = layers.finish();
        if problems.is_empty() {
            Ok(config.expect("without a problem every setting has a value"))
        } else {
            Err(Problems(problems))
        }
    }

    /// As [`Config::load`], but reads the egress settings only, as they would be on the agent's machine: no other
    /// setting has to be there, and no file but the settings file. Of the environment's variables it needs the names.
    ///
    /// # Errors
    ///
    /// [`Problems`] in the egress settings, all of them.
    pub fn load_egress(args: &Args, variables: impl Iterator<Item = String>) -> Result<Egress, Problems> {
        let mut layers = Config::layers(args, variables);
        layers.keep_only("egress.");
        let egress = egress::read(&mut layers, Files::Ignored);
        let problems = layers.finish();
        if problems.is_empty() { Ok(egress) } else { Err(Problems(problems)) }
    }

    fn layers(args: &Args, variables: impl Iterator<Item = String>) -> Layers {
        let mut layers = Layers::default();
        layers.check_variables(variables);
        if let Some(path) = &args.config {
            match std::fs::read_to_string(path) {
                Ok(text) => layers.add_file(&text, path),
                Err(error) => layers.problem(format!("{} cannot be read: {error}", path.display())),
            }
        }
        layers.add_args(args);
        layers
    }

    /// Takes every setting out of `layers`, so that what is left over is unknown.
    fn from_layers(layers: &mut Layers, proxies: &ProxyVariables) -> Option<Config> {
        let control_plane = ControlPlane::from_layers(layers, proxies);
        let streams = layers.or("streams", 2, values::between(1, 16));
        let max_in_flight = layers.or("max_in_flight", 512, values::between(1, 65_536));
        let Bytes(max_in_flight_bytes) = layers.or("max_in_flight_bytes", Bytes(64 << 20), values::parsed);
        let threads = layers.or("threads", default_threads(), values::between(1, 64));
        let egress = egress::read(layers, Files::Read);
        let dns_servers = layers.list("dns_servers", Vec::new(), values::name_server);
        let traces = read_traces(layers);
        let admin_listen = layers.option("admin_listen", values::listen);
        let log = Log {
            format: layers.or("log.format", log::Format::Human, values::log_format),
            filter: layers.or("log.filter", "info".to_owned(), values::log_filter),
        };
        let Seconds(shutdown_grace) =
            layers.or("shutdown_grace", Seconds(Duration::from_secs(70)), values::parsed);
        if max_in_flight < streams {
            layers.problem("`max_in_flight` must be at least `streams`: each stream takes its share of it");
        }
        if max_in_flight_bytes / u64::from(streams) < 2 << 20 {
            layers.problem(
                "`max_in_flight_bytes` must be at least 2MiB for each of the `streams`, to hold any job",
            );
        }
        Some(Config {
            control_plane: control_plane?,
            streams,
            max_in_flight,
            max_in_flight_bytes,
            threads,
            egress,
            dns_servers,
            traces,
            admin_listen,
            log,
            shutdown_grace,
        })
    }
}

fn read_traces(layers: &mut Layers) -> Option<traces::Settings> {
    let headers = layers.option("traces.headers_file", values::path);
    let ca = layers.option("traces.ca", values::path);
    let Some(endpoint) = layers.option("traces.endpoint", values::parsed::<String>) else {
        if headers.is_some() || ca.is_some() {
            layers.problem("`traces.endpoint` is missing, but other settings of traces are given");
        }
        return None;
    };
    if let Some(Err(error)) = headers.as_deref().map(crate::transport::files::read_secret) {
        layers.problem(format!("`traces.headers_file` {error}"));
        return None;
    }
    let read = traces::Settings::read(&endpoint, headers.as_deref(), ca.as_deref());
    let problems = read.map_err(|problems| {
        problems
            .into_iter()
            .for_each(|problem| layers.problem(format!("`traces.{}` {}", problem.setting, problem.why)));
    });
    problems.ok()
}

/// One where there is little to share, and no more than a few: a POST is cheap.
fn default_threads() -> usize {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        0..=2 => 1,
        cores => cores.min(4),
    }
}

#[cfg(test)]
mod tests;

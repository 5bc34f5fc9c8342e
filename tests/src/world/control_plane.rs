//! A control plane as a process, restarted at the same addresses and on the same store.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use postrider_domain::id::TokenId;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_proto::v1;
use rustix::process::{Pid, Signal};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use crate::api::Api;
use crate::applicant::AgentPort;
use crate::binaries;
use crate::certificates::{Authority, Pair};
use crate::cli::Cli;
use crate::process::{Process, tail};
use crate::scrape::Admin;
use crate::wait::{PATIENCE, eventually, when, within};

/// How a control plane is reached.
#[derive(Clone, Debug)]
pub enum Security {
    /// In the clear, by everybody on this machine.
    Open,
    /// By TLS, with tokens.
    Tls(TlsFiles),
}

/// PEM files for the API's link.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority of the control plane's certificate.
    pub ca: PathBuf,
    /// The control plane's certificate, for `localhost`.
    pub server: Pair,
    /// The authority that clients must have a certificate from, and one of those.
    pub clients: Option<(PathBuf, Pair)>,
}

impl TlsFiles {
    /// New ones, in a folder.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make(folder: &Path) -> Result<Self> {
        let authority = Authority::new(folder)?;
        Ok(Self { ca: authority.cert.clone(), server: authority.server("localhost")?, clients: None })
    }

    /// New ones with which clients must show a certificate.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn with_clients(folder: &Path) -> Result<Self> {
        let authority = Authority::new(&folder.join("clients"))?;
        let clients = Some((authority.cert.clone(), authority.client("client")?));
        Ok(Self { clients, ..Self::make(folder)? })
    }
}

/// The control plane.
#[derive(Debug)]
pub struct ControlPlane {
    folder: PathBuf,
    /// Where its store is.
    data: PathBuf,
    lines: Vec<String>,
    security: Security,
    /// Whether its settings name the file with the first admin's token.
    has_token_file: bool,
    /// Files with key-encryption keys, the current one first.
    keks: Vec<PathBuf>,
    /// Of the API and of the agents' side; port 0 until it has chosen.
    addresses: (SocketAddr, SocketAddr),
    runs: usize,
    process: Option<Process>,
    /// Environment variables of the next start.
    environment: Vec<(String, OsString)>,
    /// A program and its arguments that run the control plane at the next start, such as `prlimit`.
    launcher: Vec<String>,
}

impl ControlPlane {
    /// Makes the settings of one in a folder without starting it; [`ControlPlane::restart`] does that.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn prepare(folder: &Path, lines: &[&str], security: Security) -> Result<Self> {
        let mut control_plane = Self::new(folder, lines, security)?;
        control_plane.give_token(token().as_str())?;
        Ok(control_plane)
    }

    /// Starts one in a folder, with lines of settings, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(folder: &Path, lines: &[&str], security: Security) -> Result<Self> {
        let mut control_plane = Self::prepare(folder, lines, security)?;
        control_plane.restart().await?;
        Ok(control_plane)
    }

    /// As [`ControlPlane::start`], without a file that holds the first admin's token.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_without_token(folder: &Path, tls: TlsFiles) -> Result<Self> {
        let mut control_plane = Self::new(folder, &[], Security::Tls(tls))?;
        control_plane.restart().await?;
        Ok(control_plane)
    }

    /// From its next start on the file with the first admin's token holds this.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn give_token(&mut self, token: &str) -> Result<()> {
        self.has_token_file = true;
        write_secret(&self.token_file(), token)
    }

    /// Starts it again, where it was.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        // Somebody may have got its port while it was away; that passes.
        within(PATIENCE, "the control plane listens at its addresses again", async || {
            let process = self.spawn()?;
            self.listening(process).await
        })
        .await
    }

    /// What it says when it must not start as it is set.
    ///
    /// # Errors
    /// When it starts.
    pub async fn refusal(&mut self) -> Result<String> {
        match self.restart().await {
            Ok(()) => bail!("the control plane has started"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Kills it: no goodbye.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("no control plane runs")?.kill()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("no control plane runs")?.signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut process = self.process.take().context("no control plane runs")?;
        process.exit(limit).await.with_context(|| tail(&process.log()))
    }

    /// Sets an environment variable of the next start, or removes it.
    pub fn set_env(&mut self, name: &str, value: Option<OsString>) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value)));
    }

    /// Sets the program that runs the control plane at the next start, with its arguments; empty for none.
    pub fn set_launcher(&mut self, launcher: &[&str]) {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
    }

    /// The exit status of a control plane that ended without being asked to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.process.as_mut().map(Process::ended).transpose()?.flatten();
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Process::pid)
    }

    /// What this run of it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// What the latest run of it has logged, also after its end.
    #[must_use]
    pub fn last_log(&self) -> String {
        std::fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join(format!("control-plane.{}.log", self.runs))
    }

    /// The admin port of this run of it, if it has one.
    #[must_use]
    pub fn admin(&self) -> Option<Admin> {
        Admin::of_log(&self.log())
    }

    /// Its memory that is resident, in MiB.
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory_mib(&self) -> Result<u64> {
        self.process.as_ref().context("no control plane runs")?.memory_mib()
    }

    /// The API's URL.
    #[must_use]
    pub fn api_url(&self) -> String {
        self.url(self.addresses.0)
    }

    /// The URL for agents.
    #[must_use]
    pub fn agents_url(&self) -> String {
        self.url(self.addresses.1)
    }

    /// The API's address.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        self.addresses.0
    }

    /// The most memory that it has had, in bytes, since that was last forgotten; and it is forgotten now.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn peak_memory(&self) -> Result<u64> {
        self.process.as_ref().context("no control plane runs")?.peak_memory()
    }

    /// The address for agents.
    #[must_use]
    pub fn agents_address(&self) -> SocketAddr {
        self.addresses.1
    }

    /// The file with the first admin's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.folder.join("admin-token")
    }

    /// The authority of the API's certificate, if it has one.
    #[must_use]
    pub fn ca(&self) -> Option<&Path> {
        match &self.security {
            Security::Open => None,
            Security::Tls(files) => Some(&files.ca),
        }
    }

    /// A new key-encryption key, in a file of this name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new_kek(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let key: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
        write_secret(&path, &key)?;
        Ok(path)
    }

    /// The key-encryption keys of the next start, the current one first.
    pub fn set_keks(&mut self, keks: &[PathBuf]) {
        self.keks = keks.to_vec();
    }

    /// The data directory of the next start.
    pub fn set_data_dir(&mut self, data: &Path) {
        self.data = data.to_owned();
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The file with its settings, as they were at the last start.
    #[must_use]
    pub fn settings_file(&self) -> PathBuf {
        self.folder.join("control-plane.toml")
    }

    /// Those of the last start.
    #[must_use]
    pub fn keks(&self) -> &[PathBuf] {
        &self.keks
    }

    /// The API as the first admin uses it, for a tenant.
    ///
    /// # Errors
    /// When the TLS files or the token are no good.
    pub fn api(&self, tenant: &str) -> Result<Api> {
        let token = std::fs::read_to_string(self.token_file()).context("the admin's token")?;
        Api::new(self.channel()?, tenant, &token)
    }

    /// The command, as the first admin uses it.
    #[must_use]
    pub fn cli(&self, tenant: &str) -> Cli {
        let cli = Cli::new(&self.api_url(), tenant).with("POSTRIDER_TOKEN_FILE", self.token_file());
        match &self.security {
            Security::Open => cli,
            Security::Tls(files) => cli.with("POSTRIDER_CA", &files.ca),
        }
    }

    /// A connection to the API, opened by its first use, and again after a restart.
    ///
    /// # Errors
    /// When the TLS files are no good.
    pub fn channel(&self) -> Result<Channel> {
        self.channel_from(None)
    }

    /// As [`ControlPlane::channel`], from one of this machine's own addresses.
    ///
    /// # Errors
    /// When the TLS files are no good.
    pub fn channel_from(&self, address: Option<IpAddr>) -> Result<Channel> {
        Ok(self.endpoint(address)?.timeout(PATIENCE).connect_lazy())
    }

    /// How the API is reached, from one of this machine's own addresses if it matters.
    ///
    /// # Errors
    /// When the TLS files are no good.
    pub fn endpoint(&self, address: Option<IpAddr>) -> Result<Endpoint> {
        let mut endpoint = Endpoint::from_shared(self.api_url())?.local_address(address);
        if let Security::Tls(files) = &self.security {
            let ca = Certificate::from_pem(std::fs::read(&files.ca)?);
            let mut tls = ClientTlsConfig::new().ca_certificate(ca);
            if let Some((_, pair)) = &files.clients {
                tls = tls.identity(Identity::from_pem(std::fs::read(&pair.cert)?, std::fs::read(&pair.key)?));
            }
            endpoint = endpoint.tls_config(tls)?;
        }
        Ok(endpoint)
    }

    fn new(folder: &Path, lines: &[&str], security: Security) -> Result<Self> {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut control_plane = Self {
            folder: folder.to_owned(),
            data: folder.join("data"),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            security,
            has_token_file: false,
            keks: Vec::new(),
            addresses: (any, any),
            runs: 0,
            process: None,
            environment: Vec::new(),
            launcher: Vec::new(),
        };
        control_plane.keks.push(control_plane.new_kek("kek")?);
        Ok(control_plane)
    }

    fn url(&self, address: SocketAddr) -> String {
        match self.security {
            Security::Tls(_) => format!("https://localhost:{}", address.port()),
            Security::Open => format!("http://{address}"),
        }
    }

    /// The agents' port, as a client sees it that trusts the authorities in force now.
    ///
    /// # Errors
    /// When the server refuses to list them.
    pub async fn agent_port(&self, api: &Api) -> Result<AgentPort> {
        let listed = api.agents().list_authorities(v1::ListAuthoritiesRequest {}).await?.into_inner();
        let trust = listed.authorities.iter().map(|authority| authority.certificate.as_str()).collect();
        Ok(AgentPort { url: self.agents_url(), trust })
    }

    fn spawn(&mut self) -> Result<Process> {
        let settings = self.settings_file();
        std::fs::write(&settings, self.settings()?)?;
        self.runs += 1;
        let mut command = super::launched(&self.launcher, &binaries::path(binaries::CONTROL_PLANE)?);
        command.arg("--config").arg(&settings);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Process::start("the control plane", command, &self.log_file())
    }

    fn settings(&self) -> Result<String> {
        let mut settings = self.lines.join("\n");
        if !self.lines.iter().any(|line| line.starts_with("tenant_delivery_rate")) {
            // Most tests emit as fast as they can.
            settings.push_str("\ntenant_delivery_rate = 0");
        }
        if !self.lines.iter().any(|line| line.starts_with("destination_rate")) {
            // All receivers of a test are at one port.
            settings.push_str("\ndestination_rate = 0");
        }
        let mut line = |name: &str, value: &dyn std::fmt::Display| write!(settings, "\n{name} = \"{value}\"");
        line("data_dir", &self.data.display())?;
        let keks: Vec<String> = self.keks.iter().map(|kek| format!("\"file:{}\"", kek.display())).collect();
        write!(settings, "\nkek = [{}]", keks.join(", "))?;
        let mut line = |name: &str, value: &dyn std::fmt::Display| write!(settings, "\n{name} = \"{value}\"");
        line("api_listen", &self.addresses.0)?;
        line("agent_listen", &self.addresses.1)?;
        line("log_format", &"json")?;
        if self.has_token_file {
            line("bootstrap_token_file", &self.token_file().display())?;
        }
        match &self.security {
            Security::Open => write!(settings, "\ninsecure_loopback = true")?,
            Security::Tls(files) => {
                line("tls_cert", &files.server.cert.display())?;
                line("tls_key", &files.server.key.display())?;
                if let Some((ca, _)) = &files.clients {
                    line("tls_client_ca", &ca.display())?;
                }
            }
        }
        Ok(settings)
    }

    /// Waits for the line that says where it listens; nothing when it could not.
    async fn listening(&mut self, mut process: Process) -> Result<Option<()>> {
        let started = eventually("the control plane has started or ended", async || {
            let log = process.log();
            let started = log.lines().find_map(started_line);
            Ok(started.map(Ok).or(process.ended()?.map(Err)))
        })
        .await?;
        match started {
            Ok(addresses) => {
                self.addresses = addresses;
                self.process = Some(process);
                Ok(when(true))
            }
            Err(_) if process.log().contains("cannot be listened on") => Ok(None),
            Err(status) => bail!("the control plane ended ({status}):\n{}", tail(&process.log())),
        }
    }
}

/// Writes a file that only its owner can read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

/// A new token of the API that no control plane knows yet.
#[must_use]
pub fn token() -> Zeroizing<String> {
    let id = TokenId::new(Timestamp::default(), rand::random());
    Token::new(Kind::Api, id, rand::random::<[u8; SECRET_BYTES]>()).expose_text()
}

/// The addresses in the line that says so.
fn started_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["message"] == "control plane started").then_some(())?;
    let address = |name: &str| line[name].as_str()?.parse().ok();
    Some((address("api")?, address("agents")?))
}

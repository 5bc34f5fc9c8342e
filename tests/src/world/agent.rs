//! An agent as a process.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::binaries;
use crate::process::{Process, tail};
use crate::scrape::Admin;

/// How an agent runs. Its egress policy allows loopback, http, and these ports.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// Its name.
    pub id: String,
    /// Its pool.
    pub pool: String,
    /// Where the control plane is.
    pub control_plane: String,
    /// Ports that it may call.
    pub ports: Vec<u16>,
    /// More of its egress settings, as tables of the file.
    pub egress: String,
    /// Jobs at once.
    pub max_in_flight: u32,
    /// Connections to the control plane.
    pub streams: u32,
    /// Which log lines are written.
    pub log: String,
    /// Whether it has an admin port.
    pub admin: bool,
    /// The join token, empty for an agent that has its identity already; without it the link is plaintext, and the agent
    /// says who it is.
    pub join: Option<String>,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            id: super::AGENT.to_owned(),
            pool: "default".to_owned(),
            control_plane: String::new(),
            ports: Vec::new(),
            egress: String::new(),
            max_in_flight: 512,
            streams: 2,
            log: "info,postrider_agent=debug".to_owned(),
            admin: false,
            join: None,
        }
    }
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// How it runs.
    pub settings: AgentSettings,
    folder: PathBuf,
    runs: usize,
    process: Option<Process>,
    /// A program and its arguments that run the agent at the next start, such as `prlimit`.
    launcher: Vec<String>,
}

impl Agent {
    /// One that does not run yet.
    #[must_use]
    pub fn new(folder: &Path, settings: AgentSettings) -> Self {
        Self { settings, folder: folder.to_owned(), runs: 0, process: None, launcher: Vec::new() }
    }

    /// Sets the program that runs the agent at the next start, with its arguments; empty for none.
    pub fn set_launcher(&mut self, launcher: &[&str]) {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Whether it was started and not ended by us.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The exit status of an agent that ended without being asked to.
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

    /// Starts it; whether it gets anywhere is not waited for.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.runs += 1;
        let id = &self.settings.id;
        let file = self.folder.join(format!("{id}.toml"));
        std::fs::write(&file, self.file())?;
        let mut command = super::launched(&self.launcher, &binaries::path(binaries::AGENT)?);
        command.arg("--config").arg(&file);
        let log = self.folder.join(format!("{id}.{}.log", self.runs));
        self.process = Some(Process::start(&format!("the agent {id}"), command, &log)?);
        Ok(())
    }

    /// Kills it: no goodbye.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the agent does not run")?.kill()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("the agent does not run")?.signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.exit(limit).await.with_context(|| tail(&process.log()))
    }

    /// The folder with its identity.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.folder.join(format!("{}-identity", self.settings.id))
    }

    /// What this run of it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The admin port of this run of it, once it has one.
    #[must_use]
    pub fn admin(&self) -> Option<Admin> {
        Admin::of_log(&self.log())
    }

    fn file(&self) -> String {
        let AgentSettings {
            id,
            pool,
            control_plane,
            ports,
            egress,
            max_in_flight,
            streams,
            log,
            admin,
            join,
        } = &self.settings;
        let admin = if *admin { "admin_listen = \"127.0.0.1:0\"" } else { "" };
        let who = match join {
            Some(join) => {
                let state = self.identity();
                let join = if join.is_empty() { String::new() } else { format!("join = \"{join}\"\n") };
                format!("{join}name = \"{id}\"\nstate_dir = \"{}\"", state.display())
            }
            None => format!("agent_id = \"{id}\"\npool = \"{pool}\""),
        };
        format!(
            r#"
control_plane = "{control_plane}"
{who}
streams = {streams}
max_in_flight = {max_in_flight}
{admin}

[egress]
allow_cidrs = ["127.0.0.0/8"]
allow_ports = {ports:?}
allow_http = true

{egress}
[log]
filter = "{log}"
"#
        )
    }
}

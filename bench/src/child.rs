//! A child process: started, signalled by its id, and never left behind.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child as TokioChild, Command};

use crate::procfs::ProcessId;

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How much of a log is shown when its writer has died.
const TAIL_BYTES: usize = 2000;

/// A process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    process: TokioChild,
    id: ProcessId,
}

impl Child {
    /// Starts a program with its settings; what it prints goes to a log beside them.
    pub(crate) fn start(name: &'static str, program: &Path, settings: &Path) -> anyhow::Result<Self> {
        let log = settings.with_extension("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let log = log.with_context(|| format!("cannot open the log of the {name}"))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(settings).stdin(Stdio::null());
        command.stdout(log.try_clone().context("cannot share the log")?).stderr(log);
        Self::spawn(name, &mut command)
    }

    /// Starts a command in a process group of its own: an interruption at the terminal comes to this program alone.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        for (variable, _) in std::env::vars_os() {
            // Settings of somebody's own Postrider must not be measured.
            if variable.to_string_lossy().starts_with("POSTRIDER_") {
                command.env_remove(variable);
            }
        }
        let process = command.process_group(0).kill_on_drop(true).spawn();
        let process = process.with_context(|| format!("cannot start the {name}"))?;
        let id = process.id().with_context(|| format!("the {name} has no process id"))?;
        Ok(Self { name, process, id })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// Its pipes.
    pub(crate) fn pipes(&mut self) -> &mut TokioChild {
        &mut self.process
    }

    /// Fails when it has ended, with the end of its log.
    pub(crate) fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        let Some(status) = self.process.try_wait().context("cannot ask for a process's end")? else {
            return Ok(());
        };
        bail!("the {} has ended by itself: {status}; the end of its log:\n{}", self.name, tail(log))
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.process.start_kill().with_context(|| format!("cannot kill the {}", self.name))?;
        self.gone().await.map(drop)
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let id = i32::try_from(self.id).ok().and_then(Pid::from_raw);
        let id = id.with_context(|| format!("the {} has no process id", self.name))?;
        kill_process(id, Signal::TERM).with_context(|| format!("cannot stop the {}", self.name))?;
        let status = self.gone().await?;
        if status.success() { Ok(()) } else { bail!("the {} did not stop well: {status}", self.name) }
    }

    async fn gone(&mut self) -> anyhow::Result<ExitStatus> {
        let gone = tokio::time::timeout(GONE_WITHIN, self.process.wait()).await;
        gone.with_context(|| format!("the {} does not end", self.name))?.context("cannot wait for a process")
    }
}

/// The end of a file.
fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned()
}

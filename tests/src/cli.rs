//! The `postrider` command, run as a person or a script runs it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt as _;

use crate::binaries;
use crate::process::without_settings;
use crate::wait::PATIENCE;

/// The command, for one server and tenant.
#[derive(Clone, Debug)]
pub struct Cli {
    server: String,
    tenant: String,
    settings: Vec<(&'static str, std::ffi::OsString)>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Cli {
    /// For this server and tenant.
    #[must_use]
    pub fn new(server: &str, tenant: &str) -> Self {
        Self { server: server.to_owned(), tenant: tenant.to_owned(), settings: Vec::new() }
    }

    /// With a setting more, as an environment variable.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.settings.push((name, value.as_ref().to_owned()));
        self
    }

    /// The command with arguments, not started yet.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binaries::path(binaries::CLI)?);
        without_settings(&mut command);
        command
            .args(arguments)
            .env("POSTRIDER_SERVER", &self.server)
            .env("POSTRIDER_TENANT", &self.tenant)
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn run(&self, arguments: &[&str]) -> Result<Ended> {
        finish(self.command(arguments)?, None).await
    }

    /// Runs it with this on its standard input.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Result<Ended> {
        finish(self.command(arguments)?, Some(input)).await
    }

    /// Runs it, demands success, and reads its output as JSON.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub async fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let ended = self.run(&[arguments, &["--output", "json"]].concat()).await?;
        ensure!(ended.code == 0, "{arguments:?} failed: {ended:?}");
        serde_json::from_str(&ended.stdout).with_context(|| format!("{arguments:?} printed {}", ended.stdout))
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be run, or does not end.
pub async fn finish(command: Command, input: Option<&[u8]>) -> Result<Ended> {
    let name = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{name} cannot be started"))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input).await?;
    }
    let output = tokio::time::timeout(PATIENCE * 3, child.wait_with_output());
    let output = output.await.with_context(|| format!("{name} does not end"))??;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

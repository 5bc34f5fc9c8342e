//! System commands of the trials.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Runs a command to its end; its output is part of the error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let shown = format!("{program} {}", arguments.join(" "));
    let output =
        Command::new(program).args(arguments).env("PATH", path()).output().with_context(|| {
            format!("`{shown}` cannot be run; `make setup` installs what the trials need")
        })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{shown}` failed ({}): {text}{errors}", output.status);
    Ok(text)
}

/// The search path with the folders of system programs, which some users' paths lack.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

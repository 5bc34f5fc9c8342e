//! `postrider doctor`: looks at a deployment from where it is run, and explains what it finds.
//!
//! `dial` finds out how far a connection comes, `ask` what the control plane says of itself and its agents, and `judge`, which is
//! pure, what is to be thought of that.

mod ask;
mod dial;
mod judge;

use std::fmt;

use serde::Serialize;

use self::dial::Dialled;
use crate::client::{Client, Connection};
use crate::clock;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Format, print, visible};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, and may not for long, or not for all.
    Warning,
    /// Deliveries suffer, or will soon.
    Problem,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    level: Level,
    /// What was looked at, such as `clock`.
    about: &'static str,
    /// How it is.
    found: String,
    /// What to do; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    next: String,
}

impl Finding {
    fn ok(about: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, about, found: found.into(), next: String::new() }
    }

    fn warning(about: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Warning, about, found: found.into(), next: next.into() }
    }

    fn problem(about: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Problem, about, found: found.into(), next: next.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "WARNING",
            Level::Problem => "PROBLEM",
        };
        write!(f, "{level:8} {:12} {}", self.about, visible(&self.found, ' '))?;
        if self.next.is_empty() { Ok(()) } else { write!(f, "\n{:22}→ {}", "", visible(&self.next, ' ')) }
    }
}

/// Looks at everything, and says what it finds.
pub(crate) fn main(connection: &Connection, format: Format) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::from(anyhow::Error::from(error)))?;
    runtime.block_on(run(connection, format))
}

async fn run(connection: &Connection, format: Format) -> Result<()> {
    let client = Client::new(connection)?;
    let findings = examine(connection, &client).await;
    match format {
        Format::Json => format.json(&findings)?,
        Format::Table => print(&findings.iter().map(|finding| format!("{finding}\n")).collect::<String>())?,
    }
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Unexpected, "there is a problem")),
        count => Err(Failure::new(Exit::Unexpected, format!("there are {count} problems"))),
    }
}

async fn examine(connection: &Connection, client: &Client) -> Vec<Finding> {
    let dialled = match dial::dial(connection).await {
        Ok(dialled) => dialled,
        Err(finding) => return vec![finding],
    };
    let mut findings = reached(&dialled);
    if findings.iter().all(|finding| finding.level < Level::Problem) {
        let shown = dialled.tls.as_ref().map(|tls| tls.validity.until);
        findings.extend(ask::everything(client, shown).await);
    }
    findings
}

fn reached(dialled: &Dialled) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("reach", format!("{} answers", dialled.address))];
    match &dialled.tls {
        Some(tls) => findings.push(judge::served(tls, clock::now())),
        None => findings.push(judge::plaintext(dialled.address)),
    }
    findings
}

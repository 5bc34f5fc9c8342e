//! The child processes: the control plane and the agent.
//!
//! A child ends itself when its stdin does, and the other end of that pipe is held here and nowhere else: so no
//! child outlives this process, not even when it is killed.

use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};

use super::home::tail;
use crate::failure::{Doing as _, Exit, Failure, Result};

/// How long a child may take to finish what is under way.
const GRACE: Duration = Duration::from_secs(10);

/// A child to start: this binary with other arguments.
#[derive(Debug)]
pub(crate) struct Part {
    /// For people: `control plane` or `agent`.
    pub(crate) name: &'static str,
    /// The command, which is also the name of its log.
    pub(crate) command: &'static str,
    /// Its settings.
    pub(crate) settings: PathBuf,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

/// The children that run.
#[derive(Debug)]
pub(crate) struct Parts {
    binary: PathBuf,
    running: Vec<Running>,
    deaths: mpsc::Sender<Failure>,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    /// Open as long as the child shall live.
    _stdin: Option<ChildStdin>,
    ended: oneshot::Receiver<()>,
}

impl Parts {
    /// None yet, and a channel that tells of a child's death.
    pub(crate) fn new() -> Result<(Self, mpsc::Receiver<Failure>)> {
        let binary = std::env::current_exe().doing("find this binary")?;
        let (deaths, receiver) = mpsc::channel(2);
        Ok((Self { binary, running: Vec::new(), deaths }, receiver))
    }

    /// Starts a child.
    pub(crate) async fn start(&mut self, part: Part) -> Result<()> {
        let log = File::create(&part.log).doing(format_args!("write {}", part.log.display()))?;
        let mut command = Command::new(&self.binary);
        command
            .arg(part.command)
            .arg("--exit-on-stdin-eof")
            .arg("--config")
            .arg(&part.settings)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().doing("share the log")?)
            .stderr(log)
            // Its own group: an interruption at the terminal comes here first, and the children end in order.
            .process_group(0)
            .kill_on_drop(true);
        // Settings of the user's own Postrider must not reach this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTRIDER_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().doing(format_args!("start the {}", part.name))?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid =
            pid.ok_or_else(|| Failure::new(Exit::Unexpected, format!("the {} has no id", part.name)))?;
        let stdin = child.stdin.take();
        let (ending, ended) = oneshot::channel();
        let deaths = self.deaths.clone();
        tokio::spawn(async move {
            let status = child.wait().await;
            // A closed channel means that nobody waits any more.
            let _closed = ending.send(());
            let _closed = deaths.send(death(&part, status)).await;
        });
        self.running.push(Running { pid, _stdin: stdin, ended });
        Ok(())
    }

    /// Ends the children, the last started first: the agent reports to the control plane before that ends.
    pub(crate) async fn stop(&mut self) {
        while let Some(mut part) = self.running.pop() {
            signal(part.pid, Signal::TERM);
            if tokio::time::timeout(GRACE, &mut part.ended).await.is_err() {
                self.running.push(part);
                self.kill().await;
            }
        }
    }

    /// Ends the children at once.
    pub(crate) async fn kill(&mut self) {
        for part in self.running.drain(..) {
            signal(part.pid, Signal::KILL);
            // It is closed when the child has been waited for.
            let _closed = part.ended.await;
        }
    }
}

fn signal(pid: Pid, signal: Signal) {
    // It fails only when the child has ended, which is what the signal is for.
    let _ended = kill_process(pid, signal);
}

fn death(part: &Part, status: std::io::Result<ExitStatus>) -> Failure {
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    Failure::new(Exit::Unexpected, format!("the {} has ended ({how})", part.name)).note(format!(
        "the end of its log, {}:\n{}",
        part.log.display(),
        tail(&part.log)
    ))
}

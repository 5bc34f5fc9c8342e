//! The sink and the emitter as the main process sees them: this program again, in a process of its own, that reads
//! commands from its stdin and answers each with a line. It ends when its stdin does.

use std::io::BufRead as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::child::Child;
use crate::procfs::ProcessId;

/// Longer than any command takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(240);

/// A process of this program.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts it as this part.
    pub(crate) fn start(part: &'static str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg(part).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Child::spawn(part, &mut command)?;
        let pipes = child.pipes();
        let (commands, answers) = (pipes.stdin.take(), pipes.stdout.take());
        let commands = commands.context("a worker has no stdin")?;
        let answers = BufReader::new(answers.context("a worker has no stdout")?).lines();
        Ok(Self { child, commands, answers })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> ProcessId {
        self.child.id()
    }

    /// Gives a command and waits for its answer.
    pub(crate) async fn ask<C: Serialize, A: DeserializeOwned>(&mut self, command: &C) -> anyhow::Result<A> {
        let mut line = serde_json::to_string(command)?;
        line.push('\n');
        self.commands.write_all(line.as_bytes()).await.context("a worker does not take commands")?;
        self.answer().await
    }

    /// Waits for a line.
    pub(crate) async fn answer<A: DeserializeOwned>(&mut self) -> anyhow::Result<A> {
        let line = tokio::time::timeout(ANSWER_WITHIN, self.answers.next_line()).await;
        let Some(line) = line.context("a worker does not answer")?? else { bail!("a worker has ended") };
        serde_json::from_str(&line).with_context(|| format!("a worker answered '{line}'"))
    }

    /// Ends it.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.child.kill().await
    }
}

/// In the worker: commands as they come, until stdin ends.
pub(crate) fn commands<C: DeserializeOwned + Send + 'static>() -> mpsc::Receiver<C> {
    // The other side waits for each answer.
    let (sender, commands) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let command = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            if command.is_none_or(|command| sender.blocking_send(command).is_err()) {
                return;
            }
        }
    });
    commands
}

/// In the worker: answers.
pub(crate) fn say<A: Serialize>(answer: &A) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

//! `postrider-bench`: measures Postrider as it runs.
//!
//! It starts real processes (a control plane on the embedded store, an agent, a sink and an emitter) on loopback, runs
//! one scenario after the other, and measures in the same run what the machine could do without Postrider. The figures
//! go to a JSON file, a table to stdout, progress to stderr. Whatever happens, no process and no folder stays behind.

mod api;
mod args;
mod child;
mod clock;
mod emitter;
mod limits;
mod load;
mod payload;
mod procfs;
mod reach;
mod records;
mod report;
mod scenarios;
mod sink;
mod stats;
mod worker;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Args, Part};

/// Longer than any run takes: after it something hangs.
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.part {
        Some(Part::Sink) => block_on(sink::run()),
        Some(Part::Emit) => block_on(emitter::run()),
        None => block_on(supervise(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postrider-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// Measures until done, interrupted or out of time. Processes end when what holds them is dropped.
async fn supervise(args: &Args) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let place = world::Place::find(args)?;
    let result = tokio::select! {
        result = Box::pin(scenarios::run(args, &place)) => result,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
        () = tokio::time::sleep(DEADLINE) => Err(anyhow::anyhow!("not done within {} s", DEADLINE.as_secs())),
    };
    if result.is_err() {
        // What was killed must be gone before its folder can be removed.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    place.remove()?;
    result
}

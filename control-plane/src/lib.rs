//! The control plane: owns subscriptions, signing keys, events, schedule and history, and streams signed jobs to
//! agents.

#[cfg(test)]
extern crate self as postrider_control_plane;

pub mod admin;
pub mod agents;
pub mod api;
pub mod app;
pub mod audit_head;
pub mod audit_stream;
pub mod authority;
pub mod backups;
pub mod check;
pub mod clock;
pub mod command;
pub mod compute;
pub mod config;
pub mod diagnoses;
pub mod disabler;
pub mod dispatch;
pub mod emit;
pub mod identities;
pub mod job_tags;
pub mod judging;
pub mod key_uses;
pub mod lanes;
pub mod link;
pub mod listen;
pub mod metrics;
pub mod operational;
pub mod operations;
pub mod pools;
pub mod reads;
pub mod recent;
pub mod registry;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod schemas;
pub mod secret_file;
pub mod secrets;
pub mod settle;
pub mod store;
pub mod tasks;
pub mod tokens;
pub mod traced;
pub mod watch;
pub mod watchers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use postrider_telemetry::blocking;
use postrider_telemetry::log::Filter;
use postrider_telemetry::tasks::{EXIT_TASK_FAILED, TaskFailed};
use postrider_telemetry::watchdog::Watchdog;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, info_span};

use crate::audit_head::HeadError;
use crate::store::StoreError;

/// What the program is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// File with settings (TOML); see control-plane.example.toml
    #[arg(long, env = "POSTRIDER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings that are stronger than the file's.
    #[command(flatten)]
    pub settings: config::Settings,
}

/// What is run instead of the control plane.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Restore a backup into a data directory, or verify a backup file
    Restore(restore::Args),
    /// Check the embedded store while no control plane uses it
    #[command(subcommand)]
    Store(check::Command),
}

/// What to do with the configuration.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Validate the configuration and the files it refers to, then exit
    Check(Box<Args>),
}

/// Runs a subcommand. Exit codes: 0 done, 1 failed, 2 wrong settings.
#[must_use]
pub fn run_subcommand(command: &Command) -> ExitCode {
    let now = clock::Clock::start().wall();
    match command {
        Command::Config(ConfigCommand::Check(args)) => {
            let loaded = config::load(args.config.as_deref(), args.settings.clone(), variables());
            match loaded.and_then(|config| config.look(args.config.as_deref(), now)) {
                Ok(look) => {
                    println!("{look}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::from(2)
                }
            }
        }
        Command::Store(check::Command::Check(args)) => match args.carry_out() {
            Ok(checked) => {
                println!("{checked}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                let code = exit_code(&error.into());
                ExitCode::from(code)
            }
        },
        Command::Restore(args) => match args.carry_out(now) {
            Ok(done) => {
                println!("{done}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("nothing was restored: {:#}", anyhow::Error::from(error));
                ExitCode::FAILURE
            }
        },
    }
}

/// The names of the environment's variables.
fn variables() -> impl Iterator<Item = String> {
    std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned())
}

/// The control plane has failed.
const EXIT_FAILED: u8 = 1;
/// The settings cannot be used.
const EXIT_SETTINGS: u8 = 2;
/// The store is damaged: something that was acknowledged is gone.
const EXIT_DAMAGED: u8 = 65;
/// Cut off by a second signal.
const EXIT_INTERRUPTED: u8 = 130;
/// Threads for blocking work that there are from the start on: reads of the store go on when no more can be started.
const THREADS: usize = 8;

/// Runs the control plane until SIGTERM or SIGINT. Exit codes: 0 stopped, 1 failed, 2 wrong settings, 65 the store is damaged,
/// 70 a task failed, 130 cut off by a second signal.
#[must_use]
pub fn main(args: Args) -> ExitCode {
    let config = match config::load(args.config.as_deref(), args.settings, variables()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return EXIT_SETTINGS.into();
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the control plane failed: {error:#}");
            exit_code(&error).into()
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let is_damage = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(StoreError::Lost(_) | StoreError::Damaged { .. }))
            || matches!(cause.downcast_ref(), Some(HeadError::Truncated { .. }))
    };
    match error {
        error if error.is::<TaskFailed>() => EXIT_TASK_FAILED,
        error if error.chain().any(is_damage) => EXIT_DAMAGED,
        _ => EXIT_FAILED,
    }
}

fn start(config: config::Config) -> anyhow::Result<()> {
    let filter = postrider_telemetry::log::start(config.log_format, &config.log)?;
    let watchdog = Watchdog::start().context("no thread could be started; raise the limit of processes")?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = blocking::keep_threads(builder.enable_all()).build()?;
    let ended = runtime.block_on(serve(config, filter, watchdog));
    // A thread that hangs in a read of the disk must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn serve(config: config::Config, filter: Filter, watchdog: Watchdog) -> anyhow::Result<()> {
    blocking::reserve(THREADS).await.context("the threads that read the store")?;
    let signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let stop = CancellationToken::new();
    let hangs_after = config.shutdown_grace + app::AFTER_GRACE;
    let obeyed = obey(signals, stop.clone(), watchdog.clone(), hangs_after);
    let _obeyed = AbortOnDropHandle::new(tokio::spawn(obeyed.instrument(info_span!("signals"))));
    let process = app::Process { filter: Some(filter), watchdog, ..app::Process::default() };
    app::run(config, process, stop.cancelled_owned()).await
}

/// Stops the control plane at the first signal, and ends the process at the second, or when the stop hangs.
async fn obey(
    [mut terminate, mut interrupt]: [Signal; 2],
    stop: CancellationToken,
    watchdog: Watchdog,
    hangs_after: Duration,
) {
    let mut next = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
    next().await;
    watchdog.arm(hangs_after, EXIT_FAILED);
    stop.cancel();
    next().await;
    eprintln!("cut off by a second signal");
    std::process::exit(EXIT_INTERRUPTED.into());
}

#[cfg(test)]
mod tests {
    use postrider_telemetry::tasks::Cause;

    use super::*;

    #[test]
    fn a_task_that_failed_has_an_exit_code_of_its_own() {
        let failed = TaskFailed { task: tasks::SCHEDULER, cause: Cause::Ended };
        assert_eq!(exit_code(&failed.into()), 70);
        assert_eq!(exit_code(&anyhow::anyhow!("the disk is full")), 1);
    }
}

//! The agent: the process that POSTs.
//!
//! It dials the control plane, which nothing but the agent's own configuration names; gets jobs that are
//! signed already; POSTs each to its URL, if its owner's egress policy lets it; and reports what happened,
//! until that is stored. It holds no signing key, keeps nothing on disk but its own identity, and decides nothing about
//! retries.
//!
//! [`main`] is the whole process, for the binary and for others that run an agent. It reads [`config`] and
//! starts [`app`], which wires a [`session`] for each stream to one [`transport`], and to the control plane by way of
//! [`dial`], as whom [`identity`] says.

use std::process::ExitCode;
use std::time::Duration;

use postrider_telemetry::watchdog::Watchdog;
use postrider_telemetry::{blocking, log};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub mod admin;
pub mod app;
pub mod backoff;
pub mod check;
mod clock;
pub mod config;
pub mod dial;
pub mod gate;
pub mod identity;
pub mod metrics;
pub mod outbox;
pub mod server_time;
pub mod session;
pub mod shortage;
pub mod tasks;
pub mod transport;
mod wire;

pub use self::clock::{Instant, WallTime};
pub use self::config::{Args, Config};

/// The agent has ended for another reason than those below.
pub const EXIT_FAILED: u8 = 1;
/// The settings cannot be used. The same code as for flags that do not exist.
pub const EXIT_SETTINGS: u8 = 2;
/// The control plane rejected the agent for good; the log says what to do.
pub const EXIT_REJECTED: u8 = 3;
/// Told to stop, the agent was not done within its grace.
pub const EXIT_GRACE_EXCEEDED: u8 = 4;
/// One of the agent's tasks has failed, which is a fault of ours.
pub use postrider_telemetry::tasks::EXIT_TASK_FAILED;

/// Stopped at once by a second signal.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Threads for blocking work that there are from the start on: files and the system's name lookups.
const THREADS: usize = 2;
/// What a stop may take beyond its grace before the process is ended as it is.
const AFTER_GRACE: Duration = Duration::from_secs(9);

/// Runs an agent as this process, until a signal or an error ends it.
///
/// SIGTERM and SIGINT let it finish; the second of them ends it at once.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    let config = match Config::load(args, variables()) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return EXIT_SETTINGS.into();
        }
    };
    let filter = match log::start(config.log.format, &config.log.filter) {
        Ok(filter) => Some(filter),
        Err(error) => {
            tracing::debug!("{error}");
            None
        }
    };
    let runtime = match runtime(config.threads) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("failed to start the runtime: {error}");
            return EXIT_FAILED.into();
        }
    };
    let watchdog = match Watchdog::start() {
        Ok(watchdog) => watchdog,
        Err(error) => {
            tracing::error!("failed to start a thread: {error}; raise the process limit");
            return EXIT_FAILED.into();
        }
    };
    let code = runtime.block_on(supervise(config, filter, watchdog));
    // A name lookup of the system may still block a thread; nobody needs its answer.
    runtime.shutdown_background();
    code.into()
}

/// What is run instead of the agent.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What to do with the configuration.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ConfigCommand {
    /// Validate the configuration and the files it refers to, then exit
    Check(Box<Args>),
}

/// Runs a subcommand: 0, or [`EXIT_SETTINGS`].
#[must_use]
pub fn run_subcommand(command: &Command) -> ExitCode {
    let Command::Config(ConfigCommand::Check(args)) = command;
    match Config::load(args, variables())
        .and_then(|config| config.look(args.config.as_deref(), clock::timestamp()))
    {
        Ok(look) => {
            println!("{look}");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprintln!("{problems}");
            EXIT_SETTINGS.into()
        }
    }
}

fn variables() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

async fn supervise(config: Config, filter: Option<log::Filter>, watchdog: Watchdog) -> u8 {
    if let Err(error) = blocking::reserve(THREADS).await {
        tracing::error!("the threads for files and names: {error}");
        return EXIT_FAILED;
    }
    let stop = CancellationToken::new();
    let hangs_after = config.shutdown_grace + AFTER_GRACE;
    let armed = stop.clone();
    let never_hang = async {
        armed.cancelled().await;
        watchdog.arm(hangs_after, EXIT_GRACE_EXCEEDED);
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = app::run(config, filter, stop.clone()) => ended,
        () = never_hang => return EXIT_GRACE_EXCEEDED,
        stopped = signals(stop) => match stopped {
            Ok(()) => return EXIT_INTERRUPTED,
            Err(error) => {
                tracing::error!("failed to register signal handlers: {error}");
                return EXIT_FAILED;
            }
        },
    };
    let Err(error) = ended else { return 0 };
    tracing::error!("{}", with_causes(&error));
    match error {
        app::AppError::Rejected(_) => EXIT_REJECTED,
        app::AppError::Identity(error) if error.is_rejection() => EXIT_REJECTED,
        app::AppError::Identity(identity::IdentityError::NothingToEnrollWith(_)) => EXIT_SETTINGS,
        app::AppError::GraceExceeded(_) => EXIT_GRACE_EXCEEDED,
        app::AppError::Task(_) => EXIT_TASK_FAILED,
        _ => EXIT_FAILED,
    }
}

/// Cancels `stop` at the first signal, returns at the second.
async fn signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
    next().await;
    tracing::info!("stopping: finishing attempts in flight; a second signal stops at once");
    stop.cancel();
    next().await;
    tracing::warn!("stopped at once by a second signal");
    Ok(())
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    if threads == 1 {
        // No other thread to wake or to steal from: cheaper by a third than a pool of one.
        return blocking::keep_threads(Builder::new_current_thread().enable_all()).build();
    }
    blocking::keep_threads(Builder::new_multi_thread().worker_threads(threads).enable_all()).build()
}

/// An error's sentence with those of its causes: libraries keep the useful part there.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

//! The control plane: owns subscriptions, signing keys, events, schedule and history, and streams signed jobs to
//! agents.

pub mod admin;
pub mod agents;
pub mod api;
pub mod app;
pub mod authority;
pub mod clock;
pub mod command;
pub mod config;
pub mod diagnoses;
pub mod disabler;
pub mod dispatch;
pub mod emit;
pub mod identities;
pub mod key_uses;
pub mod lanes;
pub mod link;
pub mod listen;
pub mod metrics;
pub mod operational;
pub mod operations;
pub mod pools;
pub mod recent;
pub mod registry;
pub mod retention;
pub mod schedule;
pub mod secret_file;
pub mod secrets;
pub mod settle;
pub mod store;
pub mod tokens;
pub mod traced;
pub mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

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

/// Runs the control plane until SIGTERM or SIGINT. Exit codes: 0 stopped, 1 failed, 2 wrong settings, 130 cut off by a
/// second signal.
#[must_use]
pub fn main(args: Args) -> ExitCode {
    let config = match config::load(args.config.as_deref(), args.settings) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the control plane failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: config::Config) -> anyhow::Result<()> {
    let filter = postrider_telemetry::log::start(config.log_format, &config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tokio::spawn(async move {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                eprintln!("cut off by a second signal");
                std::process::exit(130);
            });
        };
        app::run(config, Some(filter), stop).await
    })
}

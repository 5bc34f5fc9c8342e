//! The control plane: owns subscriptions, signing keys, events, schedule and history, and streams signed jobs to
//! agents.

pub mod admin;
pub mod agents;
pub mod api;
pub mod app;
pub mod authority;
pub mod backups;
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
pub mod restore;
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

/// What is done instead of running.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Verb {
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Make a data directory of a backup, or see whether one is whole
    Restore(restore::Args),
}

/// What is done with settings.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigVerb {
    /// Say everything that is wrong with the settings and their files, or that they are fine; start nothing
    Check(Box<Args>),
}

/// Does something else than running. Exit codes: 0 done, 1 failed, 2 wrong settings.
#[must_use]
pub fn instead(verb: &Verb) -> ExitCode {
    let now = clock::Clock::start().wall();
    match verb {
        Verb::Config(ConfigVerb::Check(args)) => {
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
        Verb::Restore(args) => match args.carry_out(now) {
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

/// Runs the control plane until SIGTERM or SIGINT. Exit codes: 0 stopped, 1 failed, 2 wrong settings, 130 cut off by a
/// second signal.
#[must_use]
pub fn main(args: Args) -> ExitCode {
    let config = match config::load(args.config.as_deref(), args.settings, variables()) {
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

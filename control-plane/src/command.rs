//! The command line of `postrider-control-plane`. It is in the library since `postrider` answers to that name too: so an
//! image with both commands holds one program.

use std::process::ExitCode;

use clap::Parser as _;

use crate::{Args, Command};

/// The name of the command.
pub const NAME: &str = env!("CARGO_PKG_NAME");

const EXIT_CODES: &str = "\
Exit codes: 0 stopped by a signal; 1 failed; 2 settings that cannot be used; 70 a task of the control plane failed, \
the log names it; 130 stopped at once by a second signal.";

/// Owns subscriptions, signing keys and events, and streams signed jobs to agents.
#[derive(clap::Parser)]
#[command(version, max_term_width = 110, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(flatten)]
    args: Args,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn run() -> ExitCode {
    let CommandLine { args, command } = CommandLine::parse();
    match command {
        Some(command) => crate::run_subcommand(&command),
        None => crate::main(args),
    }
}

//! The command line of `postrider-control-plane`. It is in the library since `postrider` answers to that name too: so an
//! image with both commands holds one program.

use std::process::ExitCode;

use clap::Parser as _;

use crate::{Args, Verb};

/// The name of the command.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Owns subscriptions, signing keys and events, and streams signed jobs to agents.
#[derive(clap::Parser)]
#[command(version, max_term_width = 110, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(flatten)]
    args: Args,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn run() -> ExitCode {
    let Command { args, verb } = Command::parse();
    match verb {
        Some(verb) => crate::instead(&verb),
        None => crate::main(args),
    }
}

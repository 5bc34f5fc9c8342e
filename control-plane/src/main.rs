//! `postrider-control-plane`: see [`postrider_control_plane`].

use std::process::ExitCode;

use clap::Parser as _;

/// Owns subscriptions, signing keys and events, and streams signed jobs to agents.
#[derive(clap::Parser)]
#[command(version, max_term_width = 110)]
struct Command {
    #[command(flatten)]
    args: postrider_control_plane::Args,
}

fn main() -> ExitCode {
    postrider_control_plane::main(Command::parse().args)
}

//! `postrider-control-plane`: see [`postrider_control_plane`].

use std::process::ExitCode;

use clap::Parser as _;

/// Owns subscriptions, signing keys and events, and streams signed jobs to agents.
#[derive(clap::Parser)]
#[command(version, max_term_width = 110, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(flatten)]
    args: postrider_control_plane::Args,
    #[command(subcommand)]
    verb: Option<postrider_control_plane::Verb>,
}

fn main() -> ExitCode {
    let Command { args, verb } = Command::parse();
    match verb {
        Some(verb) => postrider_control_plane::instead(&verb),
        None => postrider_control_plane::main(args),
    }
}

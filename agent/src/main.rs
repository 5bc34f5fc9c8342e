//! `postrider-agent`: the agent as a program of its own.

use std::process::ExitCode;

use clap::Parser;

const EXIT_CODES: &str = "\
Exit codes: 0 stopped by a signal, everything reported; 1 failed; 2 settings that cannot be used; 3 rejected by \
the control plane for good, the log says what to do; 4 stopped before everything was reported; 70 a \
task of the agent failed, the log names it; 130 stopped at \
once by a second signal.";

/// Delivers Postrider's webhooks from where it runs: dials the control plane, POSTs the jobs that it gets, and
/// reports what happened.
#[derive(Parser)]
#[command(name = "postrider-agent", version, after_help = EXIT_CODES)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    args: postrider_agent::Args,
    #[command(subcommand)]
    command: Option<postrider_agent::Command>,
}

fn main() -> ExitCode {
    let Cli { args, command } = Cli::parse();
    match command {
        Some(command) => postrider_agent::run_subcommand(&command),
        None => postrider_agent::main(&args),
    }
}

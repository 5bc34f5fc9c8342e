//! `postrider-agent`: the agent as a program of its own.

use std::process::ExitCode;

use clap::Parser;

/// Delivers Postrider's webhooks from where it runs: dials the control plane, POSTs the jobs that it gets, and
/// reports what happened.
#[derive(Parser)]
#[command(name = "postrider-agent", version)]
struct Cli {
    #[command(flatten)]
    args: postrider_agent::Args,
}

fn main() -> ExitCode {
    postrider_agent::main(&Cli::parse().args)
}

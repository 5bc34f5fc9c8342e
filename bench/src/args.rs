//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Measures Postrider as it runs, and the machine's limits in the same run.
#[derive(Debug, Parser)]
#[command(name = "postrider-bench", version, max_term_width = 110)]
#[command(after_help = "\
It starts the release builds of postrider-control-plane and postrider-agent that lie beside it, on loopback, with the
embedded store. The exit code is 0 when everything could be measured and every accepted event arrived.")]
pub(crate) struct Args {
    /// Measure less long and with less: for a first look
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure only this; can be given several times [default: everything]
    #[arg(long, value_name = "SCENARIO", value_enum)]
    pub(crate) only: Vec<Name>,
    /// Where to write the figures [default: bench/latest.json in the build directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where to keep stores while measuring: the disk that is measured [default: bench in the build directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Measure without TLS, tokens and enrollment, to tell what they cost
    #[arg(long)]
    pub(crate) plaintext: bool,
    /// Leave out the log lines that the control plane writes of each attempt
    #[arg(long)]
    pub(crate) without_attempt_lines: bool,
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// Parts of the bench that are processes of their own, so that their CPU time can be told apart.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Receives POSTs
    #[command(hide = true)]
    Sink,
    /// Emits events
    #[command(hide = true)]
    Emit,
}

/// Something to be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Name {
    /// What the machine could do without Postrider
    Limits,
    /// Memory without traffic
    Idle,
    /// One subscription, as fast as it goes
    OneToOne,
    /// Ten subscriptions, as fast as it goes
    Fanout10,
    /// 100 events a second
    Latency100,
    /// A healthy endpoint beside hanging ones
    Hanging,
    /// One endpoint that never answers beside a thousand
    BlackHole,
    /// Live traffic beside a replay
    Replay,
    /// A killed control plane
    Resume,
    /// A million waiting deliveries
    Backlog1m,
}

impl Args {
    /// Whether this is to be measured.
    pub(crate) fn wants(&self, name: Name) -> bool {
        self.only.is_empty() || self.only.contains(&name)
    }
}

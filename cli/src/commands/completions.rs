//! `postrider completions`: a completion script for a shell.

use clap_complete::Shell;

use crate::failure::Result;
use crate::output;

/// Which shell.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Shell to generate the script for
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, mut command: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "postrider", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

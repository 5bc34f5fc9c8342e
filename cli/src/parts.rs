//! `postrider control-plane` and `postrider agent`: one part of Postrider, as this process.

use std::io::Read as _;
use std::process::ExitCode;

use rustix::process::{Signal, getpid, kill_process};

/// The control plane's flags.
#[derive(clap::Args, Debug)]
pub(crate) struct ControlPlane {
    #[command(flatten)]
    lifeline: Lifeline,
    #[command(flatten)]
    args: postrider_control_plane::Args,
}

/// The agent's flags.
#[derive(clap::Args, Debug)]
pub(crate) struct Agent {
    #[command(flatten)]
    lifeline: Lifeline,
    #[command(flatten)]
    args: postrider_agent::Args,
}

impl ControlPlane {
    /// Runs it until it ends.
    pub(crate) fn run(self) -> ExitCode {
        self.lifeline.hold();
        postrider_control_plane::main(self.args)
    }
}

impl Agent {
    /// Runs it until it ends.
    pub(crate) fn run(&self) -> ExitCode {
        self.lifeline.hold();
        postrider_agent::main(&self.args)
    }
}

/// Whether the process shall end with the one that started it.
#[derive(clap::Args, Debug)]
struct Lifeline {
    /// Shut down, as on SIGTERM, when stdin is closed
    #[arg(long, hide = true)]
    exit_on_stdin_eof: bool,
}

impl Lifeline {
    fn hold(&self) {
        if self.exit_on_stdin_eof {
            std::thread::spawn(terminate_when_stdin_ends);
        }
    }
}

fn terminate_when_stdin_ends() {
    let mut ignored = [0; 64];
    loop {
        match std::io::stdin().lock().read(&mut ignored) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // A process may always signal itself.
    let _sent = kill_process(getpid(), Signal::TERM);
}

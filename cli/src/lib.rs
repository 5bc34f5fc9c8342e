//! The `postrider` command: the front door of Postrider.
//!
//! [`main`] reads the command line and runs one command. The commands that talk to a control plane are in `commands`,
//! one file each; `dev` starts everything on one machine; `parts` runs a single part in the foreground.
//! Failures carry the exit code (`failure`), output goes through `output` and `view`, and only `clock` reads
//! the time.

mod args;
mod client;
mod clock;
mod commands;
mod declare;
mod dev;
mod doctor;
mod failure;
mod json;
mod output;
mod pages;
mod parts;
mod time;
mod view;

use std::path::Path;
use std::process::ExitCode;

use postrider_control_plane::command as control_plane;

use crate::args::{Cli, Command};
use crate::client::Client;
use crate::commands::{
    Context, agents, cancel, completions, deliveries, emit, event_types, events, explain, pools,
};
use crate::commands::{apply, audit, backup, egress, export, secrets, tokens};
use crate::commands::{keys, operations, replay, retry, store, subscriptions, tail, tenants, verify};
use crate::failure::{Exit, Failure, Result};

/// Reads the command line, does what it says, and returns the exit code that `--help` documents. Called by the name of the
/// control plane, it is that.
#[must_use]
pub fn main() -> ExitCode {
    if called_as(control_plane::NAME) {
        return control_plane::run();
    }
    let cli = args::parse();
    match cli.command {
        Command::ControlPlane(part) => part.run(),
        Command::Agent(part) => part.run(),
        _ => finish(run(cli)),
    }
}

/// Whether this process was started by that name, which a link may have.
fn called_as(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|called| Path::new(&called).file_name() == Some(name.as_ref()))
}

fn finish(result: Result<()>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let text = failure.to_string();
    if !text.is_empty() {
        eprintln!("error: {text}");
    }
    ExitCode::from(failure.exit as u8)
}

/// Runs what needs no connection at once, and the rest on a runtime.
fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Verify(args) => verify::run(&args, cli.output),
        Command::Egress(command) => egress::run(&command, cli.output),
        Command::Restore(args) => backup::restore(&args, cli.output),
        Command::Store(command) => store::run(&command, cli.output),
        Command::Dev(args) => dev::run(&args),
        Command::Doctor => doctor::main(&cli.connection, cli.output),
        Command::Completions(args) => completions::run(&args, args::command()),
        command => {
            let server = cli.connection.server.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::from(anyhow::Error::from(error)))?;
            let result = runtime.block_on(async {
                let client = Client::new(&cli.connection)?;
                let context = Context { client, format: cli.output, tenant: cli.tenant };
                Box::pin(call(&context, command)).await
            });
            // A read from stdin may still be waiting in a thread: nobody wants what it will read.
            runtime.shutdown_background();
            result.map_err(|failure| match failure.exit {
                Exit::Unavailable if server.starts_with("https") => failure.note(format!(
                    "the server is {server}; --ca, --cert and --key say whom to trust and who asks"
                )),
                Exit::Unavailable => failure.note(format!("the server is {server}")),
                _ => failure,
            })
        }
    }
}

async fn call(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Tenants(command) => tenants::run(context, command).await,
        Command::Export => export::run(context).await,
        Command::Apply(args) => Box::pin(apply::run(context, args)).await,
        Command::EventTypes(command) => event_types::run(context, command).await,
        Command::Subscriptions(command) => Box::pin(subscriptions::run(context, command)).await,
        Command::Keys(command) => keys::run(context, command).await,
        Command::Emit(args) => Box::pin(emit::run(context, args)).await,
        Command::Events(command) => events::run(context, command).await,
        Command::Explain(args) => explain::run(context, args).await,
        Command::Deliveries(command) => deliveries::run(context, command).await,
        Command::Retry(args) => retry::run(context, args).await,
        Command::Replay(args) => replay::run(context, args).await,
        Command::Operations(command) => operations::run(context, command).await,
        Command::Cancel(args) => cancel::run(context, args).await,
        Command::Tail(args) => tail::run(context, args).await,
        Command::Agents(command) => agents::run(context, command).await,
        Command::Pools(command) => pools::run(context, command).await,
        Command::Tokens(command) => tokens::run(context, command).await,
        Command::Audit(command) => audit::run(context, command).await,
        Command::Secrets(command) => secrets::run(context, command).await,
        Command::Backup(args) => backup::run(context, args).await,
        Command::Verify(_)
        | Command::Restore(_)
        | Command::Store(_)
        | Command::Egress(_)
        | Command::Completions(_)
        | Command::Dev(_)
        | Command::Doctor
        | Command::ControlPlane(_)
        | Command::Agent(_) => {
            unreachable!("these run without a connection")
        }
    }
}

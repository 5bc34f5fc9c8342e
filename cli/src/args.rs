//! The command line: every subcommand, and the options that all of them share.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use postrider_control_plane::{check, restore};

use crate::client::Connection;
use crate::commands::{
    agents, apply, cancel, completions, deliveries, emit, event_types, events, explain, keys, retry,
};
use crate::commands::{
    audit, backup, egress, operations, pools, replay, secrets, subscriptions, tail, tenants, tokens, verify,
};
use crate::dev;
use crate::output::Format;
use crate::parts;

/// Help heading of the options that all commands share.
pub(crate) const SHARED: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  unexpected failure, or a URL that would be refused (egress check), or a problem (doctor)
  2  the command line is wrong
  3  not found
  4  refused by the server: not valid, already there, or not possible in this state
  5  a followed delivery ended without being delivered (emit --follow), or the receiver did not
     accept a test event (subscriptions test, keys test)
  6  the server cannot be reached, is too busy, or did not answer in time
  7  the signature does not verify (verify), or the audit log is not intact (audit verify), or a backup is not
     whole (restore), or a store is damaged (store check)";

const START: &str = "\
Start here:
  postrider dev                     a whole Postrider on this machine, with a receiver that verifies
  export POSTRIDER_TENANT=docurift  the tenant that `dev` makes
  postrider emit document.completed --data '{\"documentId\":\"doc_1\"}' --follow
  postrider deliveries list
  postrider deliveries show <DELIVERY>

Output is for people; with `-o json` it is for programs, and the fields are those of the gRPC API.";

/// Deliver webhooks: emit an event once, and every subscribed endpoint receives it as a signed POST
#[derive(Debug, Parser)]
#[command(name = "postrider", version, propagate_version = false, max_term_width = 110)]
#[command(after_help = EXIT_CODES, after_long_help = format!("{START}\n\n{EXIT_CODES}"))]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Tenant to act on
    #[arg(long, global = true, env = "POSTRIDER_TENANT", value_name = "ID", help_heading = SHARED)]
    pub(crate) tenant: Option<String>,
    /// Output format
    #[arg(long, short, global = true, env = "POSTRIDER_OUTPUT", value_name = "FORMAT")]
    #[arg(value_enum, default_value_t, help_heading = SHARED)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run Postrider on this machine for development, with a receiver that verifies signatures
    Dev(dev::Args),
    /// Emit an event, or one event per line of input
    Emit(emit::Args),
    /// Show accepted events
    #[command(subcommand)]
    Events(events::Command),
    /// Explain why an event matches each subscription, or does not
    Explain(explain::Args),
    /// Show deliveries and their attempts
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    /// Retry deliveries now
    Retry(retry::Args),
    /// Retry all ended deliveries of a time range
    Replay(replay::Args),
    /// Manage long-running operations such as replays
    #[command(subcommand)]
    Operations(operations::Command),
    /// Cancel deliveries that have not succeeded
    Cancel(cancel::Args),
    /// Watch deliveries live
    Tail(tail::Args),
    /// Manage subscriptions: URLs, event patterns, retries
    #[command(subcommand)]
    Subscriptions(subscriptions::Command),
    /// Manage the signing keys of a subscription
    #[command(subcommand)]
    Keys(keys::Command),
    /// Manage the catalogue of event types
    #[command(subcommand)]
    EventTypes(event_types::Command),
    /// Manage tenants
    #[command(subcommand)]
    Tenants(tenants::Command),
    /// Export a tenant as a file: settings, catalogue, subscriptions; no secrets
    Export,
    /// Apply a tenant file, and show what it changes
    Apply(apply::Args),
    /// Manage delivery agents
    #[command(subcommand)]
    Agents(agents::Command),
    /// Manage pools: groups of agents in the same network
    #[command(subcommand)]
    Pools(pools::Command),
    /// Manage API tokens
    #[command(subcommand)]
    Tokens(tokens::Command),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Check what an agent's egress settings allow (offline)
    #[command(subcommand)]
    Egress(egress::Command),
    /// Manage the keys that encrypt secrets at rest
    #[command(subcommand)]
    Secrets(secrets::Command),
    /// Diagnose a deployment and explain what is wrong with it
    ///
    /// Checks connections, certificates, clocks, the store, keys at rest, tokens, and the agents of
    /// each pool. Needs an admin token.
    Doctor,
    /// Back up the store of a running control plane into a file
    Backup(backup::Args),
    /// Restore a backup into a data directory, or verify a backup file (offline)
    Restore(restore::Args),
    /// Check the embedded store of a stopped control plane
    #[command(subcommand)]
    Store(check::Command),
    /// Verify the signature of a request (offline)
    Verify(verify::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Run a control plane
    ControlPlane(Box<parts::ControlPlane>),
    /// Run an agent
    Agent(Box<parts::Agent>),
}

/// Reads the command line; ends the process when it is wrong or asks for help.
pub(crate) fn parse() -> Cli {
    let command = command();
    let line = joined(&command, std::env::args_os());
    Cli::from_arg_matches(&command.get_matches_from(line)).unwrap_or_else(|error| error.exit())
}

/// The command line with `--flag true` written as `--flag=true`, for flags whose value needs the sign: otherwise the
/// value would be taken for a URL or another argument.
fn joined(command: &clap::Command, line: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut flags = Vec::new();
    optional_booleans(command, &mut flags);
    let mut joined: Vec<OsString> = Vec::new();
    let mut literal = false;
    for word in line {
        literal |= word == "--";
        let is_value = !literal && (word == "true" || word == "false");
        if is_value && let Some(flag) = joined.last_mut().filter(|last| flags.contains(last)) {
            flag.push("=");
            flag.push(word);
        } else {
            joined.push(word);
        }
    }
    joined
}

/// Adds the flags with an optional value after `=` that is true or false.
fn optional_booleans(command: &clap::Command, flags: &mut Vec<OsString>) {
    let boolean = |arg: &&clap::Arg| {
        let named = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "BOOL"));
        named && arg.is_require_equals_set()
    };
    let long = command.get_arguments().filter(boolean).filter_map(clap::Arg::get_long);
    flags.extend(long.map(|long| format!("--{long}").into()));
    command.get_subcommands().for_each(|subcommand| optional_booleans(subcommand, flags));
}

/// The command line, for parsing and for completion scripts.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command();
    // Building gives every subcommand the shared options; these subcommands do not use them.
    command.build();
    let hide = |arg: clap::Arg| {
        let shared = arg.get_help_heading() == Some(SHARED);
        if shared { arg.hide(true) } else { arg }
    };
    for subcommand in ["dev", "control-plane", "agent", "completions"] {
        command = command.mut_subcommand(subcommand, |subcommand| subcommand.mut_args(hide));
    }
    let only_output = move |arg: clap::Arg| if arg.get_id() == "output" { arg } else { hide(arg) };
    for subcommand in ["verify", "restore", "store"] {
        command = command.mut_subcommand(subcommand, |subcommand| subcommand.mut_args(only_output));
    }
    // Of the agent's settings, only these are looked at.
    let of_egress = move |arg: clap::Arg| {
        let id = arg.get_id().as_str();
        let used = id.starts_with("egress_") || ["config", "resolve", "urls", "help", "output"].contains(&id);
        // Or a URL after such a flag would be its value.
        let may_have_value = arg.get_num_args().is_some_and(|n| n.min_values() == 0 && n.max_values() == 1);
        let arg = if may_have_value { arg.require_equals(true) } else { arg };
        if used { arg } else { arg.hide(true) }
    };
    command.mut_subcommand("egress", |subcommand| {
        subcommand.mut_args(hide).mut_subcommand("check", |check| check.mut_args(of_egress))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> bool {
        Cli::try_parse_from(line.split(' ')).is_err()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        command().debug_assert();
    }

    #[test]
    fn no_verb_names_an_argument_as_a_global_option_is_named() {
        fn judge(command: &clap::Command, globals: &[String]) {
            let own = command.get_arguments().filter(|arg| arg.get_help_heading() != Some(SHARED));
            for arg in own {
                let id = arg.get_id().as_str();
                assert!(!globals.iter().any(|global| global == id), "{} {id}", command.get_name());
            }
            command.get_subcommands().for_each(|subcommand| judge(subcommand, globals));
        }
        let command = command();
        let shared = command.get_arguments().filter(|arg| arg.get_help_heading() == Some(SHARED));
        let globals: Vec<String> = shared.map(|arg| arg.get_id().to_string()).collect();
        assert!(globals.len() > 5, "{globals:?}");
        judge(&command, &globals);
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = Cli::parse_from("postrider tenants list -o json --tenant a --server http://x:1".split(' '));
        assert_eq!(cli.output, Format::Json);
        assert_eq!(cli.tenant.as_deref(), Some("a"));
        assert_eq!(cli.connection.server, "http://x:1");
    }

    #[test]
    fn a_url_after_a_flag_without_value_is_a_url() {
        let line = "postrider egress check --egress-allow-http https://a --egress-allow-ports 80 https://b";
        let matches = command().try_get_matches_from(line.split(' ')).unwrap();
        let check = matches.subcommand_matches("egress").unwrap().subcommand_matches("check").unwrap();
        let urls: Vec<_> = check.get_many::<String>("urls").unwrap().collect();
        assert_eq!(urls, ["https://a", "https://b"]);
    }

    #[test]
    fn a_truth_value_after_a_flag_is_its_value() {
        let urls_and_flag = |line: &str| {
            let command = command();
            let line = joined(&command, line.split(' ').map(OsString::from));
            let matches = command.try_get_matches_from(line).unwrap();
            let check = matches.subcommand_matches("egress").unwrap().subcommand_matches("check").unwrap();
            let urls: Vec<String> = check.get_many::<String>("urls").unwrap().cloned().collect();
            (urls, check.get_one::<String>("egress_allow_http").cloned())
        };
        let check = "postrider egress check";
        for (rest, urls, flag) in [
            ("--egress-allow-http true https://a", vec!["https://a"], "true"),
            ("--egress-allow-http false https://a", vec!["https://a"], "false"),
            ("--egress-allow-http https://a", vec!["https://a"], "true"),
            ("--egress-allow-http=false https://a", vec!["https://a"], "false"),
            ("https://a --egress-allow-http true", vec!["https://a"], "true"),
            ("--egress-allow-http -- true", vec!["true"], "true"),
        ] {
            let expected = (urls.into_iter().map(ToOwned::to_owned).collect(), Some(flag.to_owned()));
            assert_eq!(urls_and_flag(&format!("{check} {rest}")), expected, "{rest}");
        }
        let command = command();
        let line = "postrider subscriptions update sub_1 --allow-fallback-pool true";
        let line = joined(&command, line.split(' ').map(OsString::from));
        assert_eq!(line.last().unwrap(), "--allow-fallback-pool=true");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for line in [
            "postrider emit",
            "postrider emit a.b --data 1 --file f",
            "postrider emit a.b --data 1 -",
            "postrider emit --lines --follow",
            "postrider emit a.b --timestamp yesterday --data 1",
            "postrider retry",
            "postrider deliveries list --state gone",
            "postrider subscriptions create --url http://a",
            "postrider egress check",
            "postrider egress check --resolve a https://a",
        ] {
            assert!(refused(line), "{line}");
        }
        for line in [
            "postrider emit a.b -",
            "postrider emit --lines",
            "postrider emit a.b --lines --file f",
            "postrider deliveries list --state exhausted,cancelled --since 1h",
            "postrider subscriptions update s --no-headers --default-retries",
            "postrider egress check --config f --resolve a=10.0.0.1 --egress-allow-http https://a https://b",
        ] {
            assert!(!refused(line), "{line}");
        }
    }
}

//! The page of all settings, `docs/configuration.md`, is what the programs themselves know: it is written from their command lines.
//!
//! When this fails, write it anew: `make configuration`.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Args as _, Command};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
/// Set, the page is written instead of compared.
const WRITE: &str = "WRITE_CONFIGURATION";

const INTRODUCTION: &str = "\
# Settings

<!-- Written by `make configuration` from the programs' own command lines: change the words there. -->

Both programs read each setting from a file, from the environment and from flags. Flags take
precedence over the environment, and the environment over the file. Unknown settings are errors in all
three places. All errors are reported in one message before a socket is opened (exit code 2).
Durations are written as `30s`, `5min`, `1h30m`, `7days`. Lists in the environment and in flags are
separated by commas.

```sh
postrider-control-plane config check --config control-plane.toml     # reports all errors, also in files that it names, and starts nothing
postrider-agent config check --config agent.toml
```

**Secrets** belong in files: each secret has a setting for its file. Use the environment or a flag
(`join`, the user in the URL of a proxy, a KEK as `env:NAME`) only where no file is possible. A file
with a secret must be readable by its owner alone (mode 0600), or belong to root with a group that may
read it (0640), as Kubernetes mounts secrets with `fsGroup`.

Unknown variables that begin with `POSTRIDER_` are errors too, except those of the `postrider` command
(`POSTRIDER_SERVER`, `POSTRIDER_TOKEN`, …) and those that Kubernetes sets for Services (such as
`POSTRIDER_SERVICE_HOST`).
";

const CONTROL_PLANE: &str = "
## The control plane

Example with comments: [control-plane.example.toml](../control-plane/control-plane.example.toml).

";

const AGENT: &str = "
## The agent

Example with comments: [agent.example.toml](../agent/agent.example.toml). In the file, the part before
the dot is the table: `log.format` is `format` under `[log]`. Sizes are in bytes, or end in KiB, MiB or
GiB.

";

const CREDENTIALS: &str = "
The tables `[[egress.credentials]]` exist only in the file. They hold the
[credentials for endpoints](operating.md#endpoint-credentials):

| in the table | default | meaning |
|---|---|---|
| `hosts` | required | names, `*.names`, addresses or ranges, with one port (`vault.corp:8200`) or for all allowed ports; the first table that covers a host applies |
| `ca` | the machine's CAs | PEM file with the CA certificates to trust instead |
| `client_cert`, `client_key` | none | PEM files of the client certificate and its key |
| `headers_file` | none | file with header lines to send |
| `allow_http` | false | allow plain http to these hosts |
| `keep_responses` | false | show response bodies to tenants even though the table has headers |

Unless `proxy.url` is set, the agent also reads `HTTPS_PROXY` and `NO_PROXY` from the environment for its
connection to the control plane.
";

#[test]
fn the_page_has_every_setting() {
    let page = page();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(PAGE, page).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        page == committed,
        "docs/configuration.md is not what the programs take: run `make configuration`"
    );
}

#[test]
fn what_the_command_reads_is_known_to_the_control_plane() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_postrider")).args(["tenants", "--help"]).output();
    let help = String::from_utf8(output.unwrap().stdout).unwrap();
    let mut named: Vec<&str> =
        help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next()).collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named, postrider_control_plane::config::OF_THE_COMMAND);
}

#[test]
fn the_tables_of_the_file_are_those_of_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/agent.example.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let (_, tables) = example.split_once("[[egress.credentials]]").unwrap();
    let (tables, _) = tables.split_once("\n[").unwrap();
    let is_name = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let names: Vec<&str> = tables
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names.iter().filter(|name| is_name(name)) {
        assert!(CREDENTIALS.contains(&format!("`{name}`")), "{name}");
    }
}

fn page() -> String {
    let control_plane = postrider_control_plane::Args::augment_args(Command::new("control-plane"));
    let agent = postrider_agent::Args::augment_args(Command::new("agent"));
    let vault = "\nFrom the environment it also reads `VAULT_TOKEN`, unless `vault_token_file` is set.\n";
    [INTRODUCTION, CONTROL_PLANE, &table(&control_plane), vault, AGENT, &table(&agent), CREDENTIALS].concat()
}

fn table(command: &Command) -> String {
    let mut text = "| in the file | flag and variable | default | meaning |\n|---|---|---|---|\n".to_owned();
    for argument in command.get_arguments() {
        let Setting { name, default, meaning } = Setting::of(argument);
        let value = argument.get_value_names().unwrap_or_default().first().unwrap();
        let flag = format!("--{} {value}", argument.get_long().unwrap());
        let variable = argument.get_env().unwrap().to_str().unwrap();
        writeln!(text, "| {name} | `{flag}`<br>`{variable}` | {default} | {meaning} |").unwrap();
    }
    text
}

/// A setting, in the words of its help.
struct Setting {
    name: String,
    default: String,
    meaning: String,
}

impl Setting {
    /// Help of the agent begins with the setting's name in backquotes, and that of both ends with the default in brackets.
    fn of(argument: &Arg) -> Self {
        let id = argument.get_id().as_str();
        let help = argument.get_help().unwrap().to_string().replace('\n', " ");
        let (name, help) = match help.strip_prefix('`').and_then(|rest| rest.split_once("`: ")) {
            Some((name, meaning)) => (name.to_owned(), meaning.to_owned()),
            None => (id.to_owned(), help),
        };
        let (meaning, default) = match help.rsplit_once(" [default: ") {
            Some((meaning, default)) => (meaning.to_owned(), default.trim_end_matches(']').to_owned()),
            None if id == "config" => (help, "none".to_owned()),
            None => (help, "required".to_owned()),
        };
        let name = if id == "config" { "–".to_owned() } else { format!("`{name}`") };
        Self { name, default: cell(&default), meaning: cell(&capital(&meaning)) }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Text as it stands in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace("*.", "\\*.")
}

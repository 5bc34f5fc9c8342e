//! The environment's variables that look like settings and are none: a slip of the pen would go unnoticed.

use std::collections::BTreeSet;

use clap::Args as _;
use postrider_domain::service_link::is_service_link;

const PREFIX: &str = "POSTRIDER_";

/// The variables of the `postrider` command, which may be set where a control plane is started.
pub const OF_THE_COMMAND: [&str; 8] = [
    "POSTRIDER_CA",
    "POSTRIDER_CERT",
    "POSTRIDER_KEY",
    "POSTRIDER_OUTPUT",
    "POSTRIDER_SERVER",
    "POSTRIDER_TENANT",
    "POSTRIDER_TOKEN",
    "POSTRIDER_TOKEN_FILE",
];

/// A problem for each of these variables that is nothing the control plane knows, and that no key-encryption key is read from.
pub(super) fn unknown(names: impl Iterator<Item = String>, keks: &[String]) -> Vec<String> {
    let command = crate::Args::augment_args(clap::Command::new("control-plane"));
    let is_setting = |name: &str| {
        command.get_arguments().any(|argument| argument.get_env().is_some_and(|env| env == name))
    };
    let mine: BTreeSet<_> = names.filter(|name| name.starts_with(PREFIX)).collect();
    let is_link = |name: &str| is_service_link(name, |other| mine.contains(other));
    let is_kek = |name: &str| keks.iter().any(|kek| kek.strip_prefix("env:") == Some(name));
    let is_known =
        |name: &str| is_setting(name) || is_kek(name) || OF_THE_COMMAND.contains(&name) || is_link(name);
    let problem =
        |name: &String| format!("the environment variable {name} is not a setting of the control plane");
    mine.iter().filter(|name| !is_known(name)).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_knows_is_a_problem() {
        let given = [
            "HOME",
            "POSTRIDER_DATA_DIR",
            "POSTRIDER_CONFIG",
            "POSTRIDER_AGENT_LISTEN",
            "POSTRIDER_TOKEN",
            "POSTRIDER_SERVICE_HOST",
            "POSTRIDER_PORT_7070_TCP",
            "POSTRIDER_KEK_OF_OURS",
            "POSTRIDER_DATADIR",
            "POSTRIDER_AGENT_LISTN",
        ];
        let keks = ["file:/x".to_owned(), "env:POSTRIDER_KEK_OF_OURS".to_owned()];
        let problems = unknown(given.iter().map(|name| (*name).to_owned()), &keks);
        assert_eq!(
            problems,
            ["POSTRIDER_AGENT_LISTN", "POSTRIDER_DATADIR"]
                .map(|name| format!("the environment variable {name} is not a setting of the control plane"))
        );
    }
}

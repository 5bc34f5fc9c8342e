//! The settings' layers, mistakes and documentation.

use std::io::Write as _;

use clap::{Args as _, FromArgMatches as _};

use super::*;

const EXAMPLE: &str = include_str!("../../agent.example.toml");

fn args(flags: &[&str]) -> Args {
    let command = Args::augment_args(clap::Command::new("agent")).no_binary_name(true);
    Args::from_arg_matches(&command.try_get_matches_from(flags).unwrap()).unwrap()
}

fn minimal() -> Vec<&'static str> {
    vec!["--control-plane", "http://127.0.0.1:7071", "--agent-id", "agent-1"]
}

fn load(flags: &[&str]) -> Result<Config, Mistakes> {
    Config::load(&args(flags), std::iter::empty())
}

fn with_file(text: &str, flags: &[&str]) -> Result<Config, Mistakes> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    load(&[&["--config", path], flags].concat())
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(with_file(EXAMPLE, &[]).unwrap(), load(&minimal()).unwrap());
}

#[test]
fn the_example_and_the_help_name_every_setting() {
    let mut command = Args::augment_args(clap::Command::new("agent"));
    let help = command.render_long_help().to_string();
    let mut count = 0;
    for argument in
        command.get_arguments().filter(|argument| !matches!(argument.get_id().as_str(), "config" | "help"))
    {
        let about = argument.get_help().unwrap().to_string();
        let key = about.split('`').nth(1).unwrap();
        let name = key.rsplit('.').next().unwrap();
        assert!(
            EXAMPLE.contains(&format!("\n{name} = ")) || EXAMPLE.contains(&format!("\n# {name} = ")),
            "{key}"
        );
        assert!(help.contains(&format!("`{key}`")), "{key}");
        assert!(about.contains("[default: ") || about.contains("(required)"), "{key}");
        let variable = argument.get_env().unwrap().to_str().unwrap();
        assert_eq!(variable, format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "_")));
        assert_eq!(argument.get_long().unwrap(), key.replace(['.', '_'], "-"));
        count += 1;
    }
    assert_eq!(count, 21);
}

#[test]
fn a_flag_wins_over_the_file() {
    let file =
        "control_plane = 'https://cp.example.com'\nagent_id = 'a'\nstreams = 3\n[egress]\nallow_ports = [80]";
    let config = with_file(file, &["--streams", "4", "--egress-allow-http"]).unwrap();
    assert_eq!(config.streams, 4);
    assert_eq!(config.egress.allow_ports, [80]);
    assert!(config.egress.allow_http);
}

#[test]
fn values_are_read_in_their_units() {
    let more = [
        "--max-in-flight-bytes=1GiB",
        "--shutdown-grace=2m",
        "--egress-allow-cidrs=10.0.0.0/8, 127.0.0.1",
        "--egress-allow-hosts=localhost,*.svc",
        "--egress-allow-ports=",
        "--dns-servers=10.0.0.2,[::1]:5353",
        "--log-format=json",
    ];
    let config = load(&[minimal(), more.to_vec()].concat()).unwrap();
    assert_eq!(config.max_in_flight_bytes, 1 << 30);
    assert_eq!(config.shutdown_grace, Duration::from_secs(120));
    assert_eq!(config.egress.allow_cidrs.len(), 2);
    assert_eq!(config.egress.allow_hosts.len(), 2);
    assert!(config.egress.allow_ports.is_empty());
    assert_eq!(config.dns_servers, ["10.0.0.2:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn all_mistakes_come_at_once() {
    let file = "agent_id = 'No'\nstrems = 2\nstreams = 'x'\n[egress]\nallow_cidrs = ['10.0.0.0/33', 'y']\nallow = 1\n\
                [tls]\ncert = '/nowhere'\n[log]\nfilter = 1.5";
    let variables = ["POSTRIDER_AGENT_POOL", "POSTRIDER_AGENT_POOOL", "HOME"].map(str::to_owned);
    let mut temp = tempfile::NamedTempFile::new().unwrap();
    temp.write_all(file.as_bytes()).unwrap();
    let flags = args(&["--config", temp.path().to_str().unwrap(), "--max-in-flight", "0"]);
    let mistakes = Config::load(&flags, variables.into_iter()).unwrap_err();
    let text = mistakes.to_string();
    for expected in [
        "POSTRIDER_AGENT_POOOL is not a setting",
        "`control_plane` is missing",
        "`agent_id` in",
        "`streams` in",
        "must be a number from 1 to 16",
        "\"10.0.0.0/33\"",
        "\"y\"",
        "`strems` in",
        "`egress.allow` in",
        "\"/nowhere\", which cannot be read",
        "`log.filter` in",
        "`max_in_flight` in a flag or the environment is \"0\"",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert_eq!(mistakes.0.len(), 11, "{text}");
}

#[test]
fn plain_http_is_for_loopback_only() {
    for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1/", "https://10.0.0.1:1"] {
        assert!(load(&["--agent-id", "a", "--control-plane", url]).is_ok(), "{url}");
    }
    let mistakes =
        load(&["--agent-id", "a", "--control-plane", "http://10.0.0.1:1"]).unwrap_err().to_string();
    assert!(mistakes.contains("use https://") && mistakes.contains("`tls`"), "{mistakes}");
    for url in ["10.0.0.1:1", "ftp://a", "https://a/b", "https://u@a", "https://"] {
        assert!(load(&["--agent-id", "a", "--control-plane", url]).is_err(), "{url}");
    }
}

#[test]
fn settings_that_do_not_fit_together_are_mistakes() {
    let with = |more: &[&'static str]| load(&[minimal(), more.to_vec()].concat()).unwrap_err().to_string();
    assert!(with(&["--streams=8", "--max-in-flight=7"]).contains("at least `streams`"));
    assert!(with(&["--streams=8", "--max-in-flight-bytes=15MiB"]).contains("2MiB"));
    assert!(with(&["--tls-server-name=x"]).contains("need a `control_plane` that begins with https"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let https = ["--agent-id", "a", "--control-plane", "https://a", "--tls-cert", path];
    assert!(load(&https).unwrap_err().to_string().contains("belong together"));
}

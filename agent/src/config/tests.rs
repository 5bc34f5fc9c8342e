//! The settings' layers, problems and documentation.

use std::io::Write as _;

use clap::{Args as _, FromArgMatches as _};

use super::*;

use postrider_domain::id::TokenId;
use postrider_domain::join::{Join, Pin};
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, Token};

const EXAMPLE: &str = include_str!("../../agent.example.toml");

fn args(flags: &[&str]) -> Args {
    let command = Args::augment_args(clap::Command::new("agent")).no_binary_name(true);
    Args::from_arg_matches(&command.try_get_matches_from(flags).unwrap()).unwrap()
}

fn minimal() -> Vec<&'static str> {
    vec!["--control-plane", "http://127.0.0.1:7071", "--agent-id", "agent-1"]
}

fn load(flags: &[&str]) -> Result<Config, Problems> {
    Config::load(&args(flags), std::iter::empty())
}

fn with_file(text: &str, flags: &[&str]) -> Result<Config, Problems> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    load(&[&["--config", path], flags].concat())
}

/// What stands for the secret in [`join`]'s text.
const SECRET: &str = "0909090909";

fn join() -> String {
    let id = TokenId::new(Timestamp::from_millis(1_770_028_200_000), 7);
    let join = Join::new("cp.example.com", 7071, Token::new(Kind::Join, id, [9; 32]), vec![Pin::of(b"key")]);
    join.unwrap().expose_text().to_string()
}

fn enrolled(config: Config) -> Enrolled {
    match config.control_plane {
        ControlPlane::Enrolled(enrolled) => *enrolled,
        ControlPlane::Plaintext(plaintext) => panic!("{plaintext:?}"),
    }
}

fn problems(flags: &[&str]) -> String {
    load(flags).unwrap_err().to_string()
}

#[test]
fn the_example_is_the_defaults() {
    let least = load(&["--state-dir", "/var/lib/postrider-agent"]).unwrap();
    assert_eq!(format!("{:?}", with_file(EXAMPLE, &[]).unwrap()), format!("{least:?}"));
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
    assert!(count >= 29, "only {count} are looked at");
}

#[test]
fn a_flag_wins_over_the_file() {
    let file =
        "control_plane = 'http://localhost:1'\nagent_id = 'a'\nstreams = 3\n[egress]\nallow_ports = [80]";
    let config = with_file(file, &["--streams", "4", "--egress-allow-http"]).unwrap();
    assert_eq!(config.streams, 4);
    assert_eq!(config.egress.policy.allow_ports, [80]);
    assert!(config.egress.policy.allow_http);
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
        "--admin-listen=[::]:7073",
    ];
    let config = load(&[minimal(), more.to_vec()].concat()).unwrap();
    assert_eq!(config.max_in_flight_bytes, 1 << 30);
    assert_eq!(config.admin_listen, Some("[::]:7073".parse().unwrap()));
    assert_eq!(config.shutdown_grace, Duration::from_secs(120));
    assert_eq!(config.egress.policy.allow_cidrs.len(), 2);
    assert_eq!(config.egress.policy.allow_hosts.len(), 2);
    assert!(config.egress.policy.allow_ports.is_empty());
    assert_eq!(config.dns_servers, ["10.0.0.2:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
    assert_eq!(config.log.format, log::Format::Json);
}

#[test]
fn all_problems_come_at_once() {
    let file = "state_dir = 7\nstrems = 2\nstreams = 'x'\n[egress]\nallow_cidrs = ['10.0.0.0/33', 'y']\nallow = 1\n\
                [tls]\nca = '/nowhere'\n[proxy]\nurl = 'socks5://u:hidden@p:1'\nno_proxy = ['a/b']\n[log]\nfilter = 1.5";
    let variables = ["POSTRIDER_AGENT_POOL", "POSTRIDER_AGENT_POOOL", "HOME"];
    let variables = variables.map(|name| (name.to_owned(), "secret-value".to_owned()));
    let mut temp = tempfile::NamedTempFile::new().unwrap();
    temp.write_all(file.as_bytes()).unwrap();
    let path = temp.path().to_str().unwrap();
    let flags = args(&["--config", path, "--max-in-flight", "0", "--join", "hidden/hidden", "--pool", "p"]);
    let problems = Config::load(&flags, variables.into_iter()).unwrap_err();
    let text = problems.to_string();
    for expected in [
        "POSTRIDER_AGENT_POOOL is not a setting",
        "`join` in a flag or the environment must be what `postrider agents join-tokens create` printed",
        "`pool` is for a control plane on this machine",
        "`streams` in",
        "must be a number from 1 to 16",
        "\"10.0.0.0/33\"",
        "\"y\"",
        "`strems` in",
        "`egress.allow` in",
        "\"/nowhere\", which cannot be read",
        "must begin with http://",
        "an entry is a name",
        "`log.filter` in",
        "`max_in_flight` in a flag or the environment is \"0\"",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert!(!text.contains("hidden") && !text.contains("secret-value"), "{text}");
    assert_eq!(problems.0.len(), 13, "{text}");
}

#[test]
fn a_line_that_is_no_toml_is_named_and_not_shown() {
    let file = format!("streams = 2\njoin = '{}", join());
    let text = with_file(&file, &[]).unwrap_err().to_string();
    assert!(text.contains("on line 2") && !text.contains(SECRET), "{text}");
}

#[test]
fn plain_http_is_for_loopback_only() {
    for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1/"] {
        assert!(load(&["--agent-id", "a", "--control-plane", url]).is_ok(), "{url}");
    }
    let text = problems(&["--agent-id", "a", "--control-plane", "http://10.0.0.1:1"]);
    assert!(text.contains("use https://") && text.contains("`join`"), "{text}");
    for url in ["10.0.0.1:1", "ftp://a", "https://a/b", "https://u@a", "https://", "http://localhost:0"] {
        assert!(load(&["--agent-id", "a", "--control-plane", url]).is_err(), "{url}");
    }
    assert!(problems(&["--control-plane", "http://127.0.0.1:1"]).contains("`agent_id` is missing"));
}

#[test]
fn the_control_plane_chooses_id_and_pool_of_who_enrolls() {
    let text = problems(&["--control-plane=https://cp", "--state-dir=/s", "--agent-id=a", "--pool=p"]);
    assert!(text.contains("`agent_id` is for") && text.contains("`pool` is for"), "{text}");
    for flag in
        ["--join=x", "--join-file=x", "--state-dir=x", "--name=x", "--proxy-url=", "--tls-server-name=x"]
    {
        let text = problems(&[minimal(), vec![flag]].concat());
        assert!(text.contains("needs a control plane at https://"), "{flag}: {text}");
    }
}

#[test]
fn where_the_control_plane_is() {
    let join = join();
    let with_join = ["--join", &join];
    let address = |flags: &[&str]| enrolled(load(flags).unwrap()).address.map(|address| address.to_string());
    assert_eq!(address(&with_join).as_deref(), Some("cp.example.com:7071"));
    let both = [&with_join[..], &["--control-plane", "https://other"]].concat();
    assert_eq!(address(&both).as_deref(), Some("other:443"));
    assert_eq!(address(&["--state-dir", "/s"]), None, "as stored");
    assert_eq!(address(&["--state-dir", "/s", "--join", ""]), None, "as a template leaves it");
    let nothing = problems(&[]);
    assert!(
        nothing.contains("`join` is missing") && nothing.contains("where the control plane is"),
        "{nothing}"
    );
    assert!(problems(&["--control-plane=https://cp"]).contains("`join` is missing"));
}

#[test]
fn a_join_token_is_read_from_a_file_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("join"), folder.path().join("state"));
    let (file, state) = (file.to_str().unwrap(), state.to_str().unwrap());
    let of_file = ["--join-file", file, "--state-dir", state];
    assert!(problems(&of_file).contains("cannot be read"));
    std::fs::create_dir(state).unwrap();
    std::fs::write(format!("{state}/identity.pem"), "").unwrap();
    assert!(enrolled(load(&of_file).unwrap()).identity.join.is_none(), "it has served");
    std::fs::write(file, format!("{}x", join())).unwrap();
    let text = problems(&of_file);
    assert!(text.contains("does not hold a join token") && !text.contains(SECRET), "{text}");
    std::fs::write(file, format!("{}\n", join())).unwrap();
    let config = load(&of_file).unwrap();
    assert!(!format!("{config:?}").contains(SECRET));
    assert_eq!(enrolled(config).identity.join.unwrap().host(), "cp.example.com");
    let given = args(&["--join", &join()]);
    assert!(!format!("{given:?}").contains(SECRET));
    assert!(problems(&[&of_file[..], &["--join", &join()]].concat()).contains("give one of them"));
    let text = problems(&["--join", &join().replace("09", "08")]);
    assert!(text.contains("typing error") && !text.contains("0808"), "{text}");
}

#[test]
fn a_proxy_is_that_of_the_settings_or_of_the_environment() {
    let join = join();
    let config = |flags: &[&str], variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Config::load(&args(&[&["--join", join.as_str()], flags].concat()), variables)
    };
    let proxy = |flags: &[&str], variables: &[(&str, &str)]| {
        let enrolled = enrolled(config(flags, variables).unwrap());
        let proxy = enrolled.route.towards(&enrolled.address.unwrap());
        proxy.map(|proxy| proxy.address().to_string())
    };
    let https = ("HTTPS_PROXY", "http://u:hidden@upper:1");
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], Option<&'a str>);
    let table: [Row<'_>; 14] = [
        (&[], &[], None),
        (&[], &[https], Some("upper:1")),
        (&[], &[https, ("https_proxy", "lower:2")], Some("lower:2")),
        (&[], &[("https_proxy", "lower:2"), https], Some("lower:2")),
        (&[], &[("https_proxy", ""), https], Some("upper:1")),
        (&[], &[("HTTP_PROXY", "http://x:1"), ("ALL_PROXY", "http://x:1")], None),
        (&[], &[https, ("NO_PROXY", "x, example.com")], None),
        (&[], &[https, ("no_proxy", "x"), ("NO_PROXY", "*")], Some("upper:1")),
        (&[], &[https, ("NO_PROXY", "x")], Some("upper:1")),
        (&["--proxy-no-proxy=.example.com"], &[https, ("NO_PROXY", "x")], None),
        (&["--proxy-url=http://set:3"], &[https, ("NO_PROXY", "*")], Some("set:3")),
        (&["--proxy-url=http://set:3", "--proxy-no-proxy=a,cp.example.com"], &[], None),
        (&["--proxy-url=none"], &[https], None),
        (&["--proxy-url="], &[https], None),
    ];
    for (flags, variables, expected) in table {
        assert_eq!(proxy(flags, variables).as_deref(), expected, "{flags:?} {variables:?}");
    }
    let here = [https];
    let local = enrolled(config(&["--control-plane=https://127.0.0.1:1"], &here).unwrap());
    assert!(local.route.towards(&local.address.unwrap()).is_none(), "this machine");
    let text = config(&[], &[("HTTPS_PROXY", "https://u:hidden@p:1")]).unwrap_err().to_string();
    assert!(text.contains("the environment's HTTPS_PROXY must begin with http://"), "{text}");
    assert!(!text.contains("hidden") && !format!("{:?}", config(&[], &here).unwrap()).contains("hidden"));
}

#[test]
fn the_proxys_credentials_may_be_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("user");
    std::fs::write(&path, "u:hidden\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o600).unwrap();
    let file = format!("--proxy-credentials-file={}", path.display());
    let with = |flags: &[&str]| load(&[&["--state-dir", "/s"], flags].concat());
    let route = enrolled(with(&["--proxy-url=http://p:1", &file]).unwrap()).route;
    assert!(route.proxy.unwrap().has_credentials());
    let problem = |flags: &[&str]| with(flags).unwrap_err().to_string();
    assert!(problem(&[&file]).contains("`proxy.credentials_file` needs `proxy.url`"));
    assert!(problem(&["--proxy-url=http://a:b@p:1", &file]).contains("give one of them"));
    mode(0o644).unwrap();
    let loose = problem(&["--proxy-url=http://p:1", &file]);
    assert!(loose.contains("`proxy.credentials_file`") && !loose.contains("hidden"), "{loose}");
}

#[test]
fn settings_that_do_not_fit_together_are_problems() {
    let with = |more: &[&'static str]| problems(&[minimal(), more.to_vec()].concat());
    assert!(with(&["--streams=8", "--max-in-flight=7"]).contains("at least `streams`"));
    assert!(with(&["--streams=8", "--max-in-flight-bytes=15MiB"]).contains("2MiB"));
    let name = "x".repeat(201);
    let long = ["--state-dir", "/s", "--name", &name];
    assert!(problems(&long).contains("1 to 200 characters"));
    let own = enrolled(load(&["--state-dir", "/s"]).unwrap()).identity.name;
    assert!(!own.is_empty() && own.chars().count() <= 200);
}

#[test]
fn a_file_that_is_no_toml_is_told_by_its_line_and_not_quoted() {
    let text = "agent_id = 'a'\n[egress.proxy]\nurl = \"http://u:s3cret@p:1\nno_proxy = []\n";
    let problems = with_file(text, &minimal()).unwrap_err().to_string();
    assert!(problems.contains("is not valid TOML, on line 3: "), "{problems}");
    assert!(!problems.contains("s3cret"), "{problems}");
}

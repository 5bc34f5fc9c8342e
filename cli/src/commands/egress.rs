//! `postrider egress`: what an agent's egress settings mean, before it is installed. Offline.

use std::collections::HashMap;
use std::net::IpAddr;

use postrider_agent::check::{Check, Verdict};
use postrider_domain::egress::name;
use serde::Serialize;

use crate::failure::{Exit, Failure, Result};
use crate::output::{Format, print, visible};

/// What to do with egress settings.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Show which URLs an agent with these settings may call, without using the network
    Check(Box<CheckArgs>),
}

/// Settings and URLs.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
A line for each URL: allow or refuse, a code, the URL and the reason. A name without --resolve
is judged by scheme, port and name; its addresses are judged when the agent calls it. So are the
addresses of the agent itself and of the control plane, which are not known here.

Exit code 0: all are allowed. 1: at least one is refused. 2: command line or settings are wrong.

Examples:
  postrider egress check https://hooks.example.com/ https://10.1.2.3/
  postrider egress check --config agent.toml --resolve vault.corp=10.1.2.3 https://vault.corp/")]
pub(crate) struct CheckArgs {
    /// The URLs
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// Addresses that a host name resolves to (none: it does not resolve); may be repeated
    #[arg(long, value_name = "NAME=ADDRESS,…", value_parser = parse_answer)]
    resolve: Vec<(String, Vec<IpAddr>)>,
    #[command(flatten)]
    agent: postrider_agent::Args,
}

/// One URL, judged.
#[derive(Serialize)]
struct Line<'a> {
    url: &'a str,
    verdict: &'static str,
    code: &'static str,
    reason: String,
}

pub(crate) fn run(command: &Command, format: Format) -> Result<()> {
    let Command::Check(args) = command;
    let variables = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let egress = postrider_agent::Config::load_egress(&args.agent, variables)
        .map_err(|problems| Failure::new(Exit::Usage, problems.to_string()))?;
    let check = Check::new(egress, answers(&args.resolve));
    let lines: Vec<_> = args.urls.iter().map(|url| line(url, check.judge(url))).collect();
    match format {
        Format::Json => format.json(&lines)?,
        Format::Table => print(&lines.iter().map(Line::text).collect::<String>())?,
    }
    match lines.iter().all(|line| line.verdict == ALLOW) {
        true => Ok(()),
        false => Err(Failure::silent(Exit::Unexpected)),
    }
}

const ALLOW: &str = "allow";

fn line(url: &str, Verdict { allowed, code, reason }: Verdict) -> Line<'_> {
    Line { url, verdict: if allowed { ALLOW } else { "refuse" }, code, reason }
}

impl Line<'_> {
    fn text(&self) -> String {
        let Line { url, verdict, code, reason } = self;
        format!("{verdict} {code} {}: {}\n", visible(url, ' '), visible(reason, ' '))
    }
}

/// Several answers for one name are one answer.
fn answers(resolve: &[(String, Vec<IpAddr>)]) -> HashMap<String, Vec<IpAddr>> {
    let mut answers = HashMap::<String, Vec<IpAddr>>::new();
    for (name, addresses) in resolve {
        answers.entry(name.clone()).or_default().extend(addresses);
    }
    answers
}

fn parse_answer(text: &str) -> std::result::Result<(String, Vec<IpAddr>), String> {
    const WRONG: &str = "write NAME=ADDRESS, as in hooks.example.com=93.184.216.34";
    let (name, addresses) = text.split_once('=').ok_or(WRONG)?;
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if !name::is_valid(name) || name.parse::<IpAddr>().is_ok() {
        return Err(format!("{name:?} is not a host name; {WRONG}"));
    }
    let address = |text: &str| text.parse().map_err(|_| format!("{text:?} is not an address; {WRONG}"));
    let addresses = addresses.split(',').map(str::trim).filter(|text| !text.is_empty()).map(address);
    Ok((name.to_owned(), addresses.collect::<std::result::Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_name_and_addresses() {
        let answer = |text| parse_answer(text).map(|(name, addresses)| (name, addresses.len()));
        for (text, name, count) in [
            ("Hooks.Example.com.=93.184.216.34", "hooks.example.com", 1),
            ("a=10.0.0.1, fd00::1", "a", 2),
            ("a.b=", "a.b", 0),
        ] {
            assert_eq!(answer(text), Ok((name.to_owned(), count)), "{text}");
        }
        for text in ["a", "=10.0.0.1", "a=b", "a b=10.0.0.1", "10.0.0.1=10.0.0.2", "a=10.0.0.1:80"] {
            assert!(answer(text).unwrap_err().contains("NAME=ADDRESS"), "{text}");
        }
    }

    #[test]
    fn answers_for_one_name_add_up() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let given = [("a".to_owned(), vec![ip("10.0.0.1")]), ("a".to_owned(), vec![ip("10.0.0.2")])];
        assert_eq!(answers(&given)["a"], [ip("10.0.0.1"), ip("10.0.0.2")]);
    }

    #[test]
    fn a_line_is_one_line() {
        let verdict = Verdict { allowed: false, code: "url_control_char", reason: "the URL".into() };
        assert_eq!(
            line("https://a/\n\u{1b}[2J", verdict).text(),
            "refuse url_control_char https://a/ \u{fffd}[2J: the URL\n"
        );
    }
}

//! What an owner's egress settings mean for a URL, before any agent runs: the guard's own judgement, without a network.
//!
//! Nothing is looked up and nothing is opened. A name is judged by the addresses that the caller gives for it; without
//! any, its addresses are left for the guard to judge when the name is called. The addresses of the agent's machine and
//! of the control plane, which the guard keeps jobs from too, are not known here.

use std::collections::HashMap;
use std::net::IpAddr;

use postrider_domain::egress::{Destination, EndpointUrl, Host, Refusal};

use crate::config::Egress;
use crate::transport::guard::{Guard, Target};

/// The code of a URL that may be called.
const ALLOWED: &str = "ok";

/// A guard with its owner's settings, and what names lead to.
#[derive(Debug)]
pub struct Check {
    guard: Guard,
    egress: Egress,
    answers: HashMap<String, Vec<IpAddr>>,
}

/// What would happen to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the URL may be called.
    pub allowed: bool,
    /// `ok`, or the code of the rule that refuses.
    pub code: &'static str,
    /// Why, and by which way: one sentence, for the agent's owner.
    pub reason: String,
}

impl Check {
    /// Judges by `egress`. `answers` has the addresses of names, in lower case and without a final dot; a name with an
    /// empty list has none.
    #[must_use]
    pub fn new(egress: Egress, answers: HashMap<String, Vec<IpAddr>>) -> Check {
        Check { guard: Guard::new(egress.policy.clone()), egress, answers }
    }

    /// Judges a URL as the agent would.
    #[must_use]
    pub fn judge(&self, url: &str) -> Verdict {
        match self.guard.target(url).and_then(|target| self.judge_addresses(&target)) {
            Ok(reason) => Verdict { allowed: true, code: ALLOWED, reason },
            Err(refusal) => {
                Verdict { allowed: false, code: refusal.code().as_str(), reason: refusal.to_string() }
            }
        }
    }

    /// Why a target that passed may be called, and how.
    fn judge_addresses(&self, target: &Target) -> Result<String, Refusal> {
        let host = target.url.host();
        let addresses = match host {
            Host::Address(ip) => Some(vec![ip]),
            Host::Name(name) => self.answers.get(name).cloned(),
        };
        let looks_up = self.egress.proxy.as_ref().is_some_and(|proxy| proxy.looks_up(host));
        let why = match &addresses {
            _ if looks_up => {
                "the proxy looks up the name, so only the proxy can judge where it leads".to_owned()
            }
            None => "its addresses will be judged when it is called".to_owned(),
            Some(addresses) => {
                self.guard.judge_addresses(target, addresses)?;
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                format!("it leads to {}", addresses.join(", "))
            }
        };
        let known = addresses.filter(|_| !looks_up);
        Ok([Some(why), self.way(host, known.as_deref()), self.credentials(&target.url)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; "))
    }

    /// By the proxy, if there is one.
    fn way(&self, host: Host<'_>, addresses: Option<&[IpAddr]>) -> Option<String> {
        let proxy = self.egress.proxy.as_ref()?;
        let by_address =
            proxy.no_proxy.iter().any(|destination| matches!(destination, Destination::Addresses(_)));
        Some(match addresses {
            _ if !proxy.is_for(host, addresses.unwrap_or_default()) => "not through the proxy".to_owned(),
            None if by_address && !proxy.looks_up(host) => {
                format!("through the proxy {proxy}, unless `no_proxy` covers all its addresses")
            }
            _ => format!("through the proxy {proxy}"),
        })
    }

    fn credentials(&self, url: &EndpointUrl) -> Option<String> {
        let entries = &self.egress.credentials;
        let number =
            1 + entries.iter().position(|entry| entry.hosts.iter().any(|listed| listed.covers(url)))?;
        Some(format!("with the credentials of `egress.credentials[{number}]`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Args, Config};
    use std::io::Write as _;

    fn check(settings: &str, answers: &[(&str, &[&str])]) -> Check {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        let args = Args { config: Some(file.path().to_owned()), ..Args::default() };
        let answers = answers.iter().map(|(name, addresses)| {
            ((*name).to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect())
        });
        Check::new(Config::load_egress(&args, std::iter::empty()).unwrap(), answers.collect())
    }

    fn told(check: &Check, url: &str) -> String {
        let Verdict { allowed, code, reason } = check.judge(url);
        assert_eq!(allowed, code == "ok");
        format!("{code}: {reason}")
    }

    #[test]
    fn a_name_is_judged_by_the_addresses_that_are_given_for_it() {
        let check = check(
            "",
            &[
                ("hooks.example.com", &["93.184.216.34", "2606:2800::1"]),
                ("mixed.example.com", &["93.184.216.34", "10.0.0.1"]),
                ("empty.example.com", &[]),
            ],
        );
        for (url, expected) in [
            ("https://HOOKS.example.com./x", "ok: it leads to 93.184.216.34, 2606:2800::1"),
            ("https://other.example.com/", "ok: its addresses will be judged when it is called"),
            ("https://8.8.8.8/", "ok: it leads to 8.8.8.8"),
            ("https://mixed.example.com/", "v4_private: the address 10.0.0.1 is a private address; "),
            ("https://empty.example.com/", "dns_empty: "),
            ("https://169.254.169.254/", "v4_link_local: "),
            ("http://hooks.example.com/", "scheme: "),
            ("https://hooks.example.com:22/", "port: "),
            ("https://localhost/", "host_special_name: "),
            ("nonsense", "url_invalid: "),
        ] {
            assert!(told(&check, url).starts_with(expected), "{url}: {}", told(&check, url));
        }
    }

    #[test]
    fn the_way_and_the_credentials_are_said() {
        let settings = "[egress]\nallow_http = true\nallow_ports = [80, 443]\nallow_cidrs = ['10.0.0.0/8']\n\
            allow_hosts = ['*.svc']\n\
            [egress.proxy]\nurl = 'http://u:s3cret@[fd00::1]:3128'\nno_proxy = ['*.svc', '10.0.0.0/8']\n\
            [[egress.credentials]]\nhosts = ['api.example.com']\nheaders_file = '/nowhere'\n\
            [[egress.credentials]]\nhosts = ['*.svc']\nheaders_file = '/nowhere'\nallow_http = true\n";
        let answers: &[(&str, &[&str])] =
            &[("inside.example.com", &["10.1.2.3"]), ("out.example.com", &["8.8.8.8"])];
        let through = "through the proxy [fd00::1]:3128";
        let judged_later = "ok: its addresses will be judged when it is called";
        for (url, expected) in [
            (
                "https://a.svc/",
                format!(
                    "{judged_later}; not through the proxy; with the credentials of `egress.credentials[2]`"
                ),
            ),
            ("https://inside.example.com/", "ok: it leads to 10.1.2.3; not through the proxy".to_owned()),
            ("https://out.example.com/", format!("ok: it leads to 8.8.8.8; {through}")),
            (
                "https://x.example.com/",
                format!("{judged_later}; {through}, unless `no_proxy` covers all its addresses"),
            ),
            (
                "https://api.example.com/",
                format!(
                    "{judged_later}; {through}, unless `no_proxy` covers all its addresses; with the credentials of `egress.credentials[1]`"
                ),
            ),
            ("https://8.8.8.8/", format!("ok: it leads to 8.8.8.8; {through}")),
        ] {
            assert_eq!(told(&check(settings, answers), url), expected);
        }
        let refused = told(&check(settings, answers), "http://api.example.com/");
        assert!(
            refused.starts_with("credentials_need_https: http://api.example.com is plain http"),
            "{refused}"
        );
        let leaving =
            settings.replace("[egress.proxy]", "[egress.proxy]\ndangerously_leave_names_to_proxy = true");
        let left = told(&check(&leaving, &[("x.example.com", &["10.0.0.1"])]), "https://x.example.com/");
        assert_eq!(
            left,
            format!("ok: the proxy looks up the name, so only the proxy can judge where it leads; {through}")
        );
    }
}

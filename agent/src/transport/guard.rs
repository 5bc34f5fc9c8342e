//! The agent owner's egress policy at work: parses and judges every URL, and every address to be dialled.
//!
//! A URL is parsed once and remembered, since thousands of jobs go to the same one; what is remembered is only
//! what depends on the URL and the policy. Names are resolved, and their addresses judged, at every attempt.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use ::http::{HeaderValue, Uri};
use arc_swap::ArcSwap;
use postrider_domain::egress::{Code, EndpointUrl, Host, Policy, Refusal, Scheme};
use rustls::pki_types::ServerName;

use super::pool::Key;

/// How many targets a generation remembers. Two generations of 2 KiB URLs are a few MiB at the very most.
const REMEMBERED: usize = 1024;

/// A policy and the targets it has let pass.
#[derive(Debug)]
pub struct Guard {
    policy: ArcSwap<Policy>,
    own: Mutex<Own>,
    targets: Mutex<Targets>,
}

/// Where the policy's own addresses come from. Both change while the agent runs.
#[derive(Debug, Default)]
struct Own {
    machine: Vec<IpAddr>,
    control_plane: Vec<IpAddr>,
}

/// Two generations: when the young one is full it becomes the old one, and what is not asked for again
/// in time goes with it. As good as least-recently-used here, without its bookkeeping.
#[derive(Debug, Default)]
struct Targets {
    young: HashMap<Box<str>, Arc<Target>>,
    old: HashMap<Box<str>, Arc<Target>>,
}

/// A URL that the policy lets pass, with all that depends on the URL alone.
#[derive(Debug)]
pub(crate) struct Target {
    /// The URL in canonical form.
    pub(crate) url: EndpointUrl,
    /// What HTTP/1.1 sends: path and query.
    pub(crate) origin_form: Uri,
    /// What HTTP/2 sends.
    pub(crate) absolute_form: Uri,
    /// The value of `host`.
    pub(crate) host: HeaderValue,
    /// For SNI and the certificate. `None` without TLS.
    pub(crate) server_name: Option<ServerName<'static>>,
    /// The connections' key, if the host is an address and so needs no lookup.
    pub(crate) literal: Option<Arc<Key>>,
}

impl Guard {
    /// Enforces `policy` on a machine that has the policy's own addresses.
    #[must_use]
    pub fn new(policy: Policy) -> Guard {
        let own = Own { machine: policy.own_addresses.clone(), control_plane: Vec::new() };
        Guard { policy: ArcSwap::from_pointee(policy), own: Mutex::new(own), targets: Mutex::default() }
    }

    /// The policy's fingerprint.
    #[must_use]
    pub fn policy_hash(&self) -> String {
        self.policy.load().hash()
    }

    /// Keeps jobs away from the control plane, which has these addresses now.
    pub fn set_control_plane(&self, addresses: Vec<IpAddr>) {
        self.set_own(|own| own.control_plane = addresses);
    }

    /// Keeps jobs away from this machine, which has these addresses now.
    pub fn set_machine(&self, addresses: Vec<IpAddr>) {
        self.set_own(|own| own.machine = addresses);
    }

    fn set_own(&self, change: impl FnOnce(&mut Own)) {
        // Held to the end, so that of two changes at once neither is lost.
        let mut own = self.own.lock().expect("nothing panics while it holds this lock");
        change(&mut own);
        let mut addresses = [&own.machine[..], &own.control_plane].concat();
        addresses.sort_unstable();
        addresses.dedup();
        let known = self.policy.load();
        if addresses != known.own_addresses {
            self.policy.store(Arc::new(Policy { own_addresses: addresses, ..Policy::clone(&known) }));
            // A literal address in there was judged by the policy before.
            *self.targets.lock().expect("nothing panics while it holds this lock") = Targets::default();
        }
    }

    /// Parses and judges a URL, or remembers that it did.
    pub(crate) fn target(&self, url: &str) -> Result<Arc<Target>, Refusal> {
        if let Some(target) = self.targets.lock().expect("nothing panics while it holds this lock").get(url) {
            return Ok(target);
        }
        let policy = self.policy.load_full();
        let endpoint = EndpointUrl::parse(url)?;
        policy.judge_url(&endpoint)?;
        // If the URL parser and the HTTP library disagree about it: exactly what is not to be sent.
        let target = Target::new(endpoint).ok_or_else(|| Refusal::new(Code::UrlInvalid, "the URL"))?;
        let target = Arc::new(target);
        // Not remembered if the policy has changed meanwhile: another one let it pass.
        let mut targets = self.targets.lock().expect("nothing panics while it holds this lock");
        if Arc::ptr_eq(&policy, &self.policy.load()) {
            targets.put(url, Arc::clone(&target));
        }
        Ok(target)
    }

    /// Judges all that a target's name resolved to.
    pub(crate) fn judge_addresses(&self, target: &Target, addresses: &[IpAddr]) -> Result<(), Refusal> {
        self.policy.load().judge_addresses(&target.url, addresses)
    }

    /// Judges an address right before it is dialled.
    pub(crate) fn judge_address(&self, address: IpAddr) -> Result<(), Refusal> {
        self.policy.load().judge_address(address)
    }
}

impl Targets {
    fn get(&mut self, url: &str) -> Option<Arc<Target>> {
        if let Some(target) = self.young.get(url) {
            return Some(Arc::clone(target));
        }
        let (url, target) = self.old.remove_entry(url)?;
        self.insert(url, Arc::clone(&target));
        Some(target)
    }

    fn put(&mut self, url: &str, target: Arc<Target>) {
        self.insert(url.into(), target);
    }

    fn insert(&mut self, url: Box<str>, target: Arc<Target>) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(url, target);
    }
}

impl Target {
    /// `None` if the HTTP library reads the canonical URL in another way than the parser does.
    fn new(url: EndpointUrl) -> Option<Target> {
        let origin_form: Uri = url.path_and_query().parse().ok()?;
        let absolute_form: Uri = url.as_str().parse().ok()?;
        let agrees = absolute_form.scheme_str() == Some(url.scheme().as_str())
            && absolute_form.authority()?.as_str() == url.authority()
            && absolute_form.path_and_query()?.as_str() == url.path_and_query()
            && origin_form.authority().is_none()
            && origin_form.path_and_query()?.as_str() == url.path_and_query();
        if !agrees {
            return None;
        }
        let host = HeaderValue::from_str(url.authority()).ok()?;
        let server_name = match url.scheme() {
            Scheme::Http => None,
            Scheme::Https => Some(match url.host() {
                Host::Name(name) => ServerName::try_from(name.to_owned()).ok()?,
                Host::Address(ip) => ServerName::IpAddress(ip.into()),
            }),
        };
        let literal = match url.host() {
            Host::Address(ip) => Some(Arc::new(Key::new(&url, vec![ip]))),
            Host::Name(_) => None,
        };
        Some(Target { url, origin_form, absolute_form, host, server_name, literal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::failure::Failure;
    use postrider_proto::agent::OutcomeKind;

    fn guard() -> Guard {
        Guard::new(Policy::default())
    }

    #[test]
    fn a_target_knows_how_it_is_sent() {
        let target = guard().target("https://Example.COM:8443/a?b=c").unwrap();
        assert_eq!(target.origin_form, "/a?b=c");
        assert_eq!(target.absolute_form, "https://example.com:8443/a?b=c");
        assert_eq!(target.host, "example.com:8443");
        assert!(target.literal.is_none());
        assert_eq!(target.server_name, Some(ServerName::try_from("example.com").unwrap()));
        assert!(guard().target("https://1.1.1.1/").unwrap().literal.is_some());
        assert_eq!(guard().target("https://example.com?q").unwrap().origin_form, "/?q");
    }

    #[test]
    fn what_the_policy_refuses_has_a_code_and_a_coarse_sentence() {
        for (url, code) in [
            ("https://10.1.2.3/", "v4_private"),
            ("http://example.com/", "scheme"),
            ("https://user@example.com/", "url_userinfo"),
            ("https://example.com:22/", "port"),
            ("nonsense", "url_invalid"),
        ] {
            let failure = Failure::refused(guard().target(url).unwrap_err());
            assert_eq!(failure.kind, OutcomeKind::RefusedByPolicy, "{url}");
            assert_eq!(failure.refusal.unwrap().code().as_str(), code, "{url}");
            assert!(!failure.detail.contains("10.1.2.3"));
        }
    }

    #[test]
    fn the_control_plane_and_the_machine_itself_are_refused() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let guard = Guard::new(Policy { own_addresses: vec![address("1.0.0.1")], ..Policy::default() });
        let code = |url: &str| match guard.target(url) {
            Ok(_) => "none",
            Err(refusal) => refusal.code().as_str(),
        };
        let codes = || ["https://1.0.0.1/", "https://1.2.3.4/", "https://1.2.3.5/"].map(code);
        assert_eq!(codes(), ["own_address", "none", "none"]);
        let hash = guard.policy_hash();
        guard.set_control_plane(vec![address("1.2.3.4")]);
        assert_eq!(codes(), ["own_address", "own_address", "none"]);
        guard.set_control_plane(vec![address("1.2.3.5")]);
        assert_eq!(codes(), ["own_address", "none", "own_address"]);
        guard.set_machine(vec![address("1.2.3.4")]);
        assert_eq!(codes(), ["none", "own_address", "own_address"]);
        assert_eq!(guard.policy_hash(), hash);
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let guard = guard();
        let often = guard.target("https://often.example.com/").unwrap();
        for i in 0..5 * REMEMBERED {
            guard.target(&format!("https://example.com/{i}")).unwrap();
            assert!(Arc::ptr_eq(&often, &guard.target("https://often.example.com/").unwrap()));
        }
        let targets = guard.targets.lock().unwrap();
        assert!(targets.young.len() <= REMEMBERED && targets.old.len() <= REMEMBERED);
    }
}

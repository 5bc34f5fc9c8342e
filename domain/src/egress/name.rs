//! Host names: which are well formed, which have no public meaning, and how an owner lists them.
//!
//! A name under a special-use domain, or of one label, means something different in every network: it is
//! how a tenant would address a machine beside the agent. Such names are refused unless the agent's owner
//! lists them. Names are compared by whole labels, in lower case, without the final dot.

use std::fmt;
use std::str::FromStr;

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Domains whose names are not public: special-use by RFC, private by ICANN, or private by habit.
const SPECIAL_DOMAINS: &[&str] = &[
    "alt",         // RFC 9476
    "arpa",        // RFC 8375 home.arpa; the rest is infrastructure
    "cluster",     // Kubernetes, when the cluster's domain was shortened
    "consul",      // Consul service names
    "corp",        // name collisions
    "domain",      // name collisions
    "example",     // RFC 6761
    "home",        // name collisions
    "internal",    // ICANN, private use
    "intranet",    // RFC 6762, appendix G
    "invalid",     // RFC 6761
    "lan",         // RFC 6762, appendix G
    "local",       // RFC 6762; Kubernetes' cluster.local
    "localdomain", // hosts files
    "localhost",   // RFC 6761
    "mail",        // name collisions
    "onion",       // RFC 7686
    "private",     // RFC 6762, appendix G
    "svc",         // Kubernetes, by its search list
    "test",        // RFC 6761
    "workgroup",   // name collisions
];

/// Says whether `name`, in lower case and without a final dot, is of one label or under a special-use
/// domain.
pub fn is_special(name: &str) -> bool {
    match name.rsplit_once('.') {
        None => true,
        Some((_, top)) => SPECIAL_DOMAINS.contains(&top),
    }
}

/// Says whether `name`, in lower case and without a final dot, is a well-formed host name.
///
/// Underscores are valid here although RFC 952 has none: container platforms make such names, and
/// resolvers and certificates carry them.
pub fn is_valid(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('.').all(is_valid_label)
}

fn is_valid_label(label: &str) -> bool {
    let valid_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(valid_byte)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Host names that an owner lists: one name (`vault.corp`), or every name below one (`*.svc`).
///
/// `*.svc` covers `a.svc` and `a.b.svc`, and not `svc` itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern {
    below: bool,
    name: String,
}

impl HostPattern {
    /// Says whether `name`, in lower case and without a final dot, is among the listed names.
    pub fn covers(&self, name: &str) -> bool {
        if !self.below {
            return name == self.name;
        }
        name.strip_suffix(self.name.as_str())
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|rest| !rest.is_empty())
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<HostPattern, InvalidHostPattern> {
        let lower = text.to_ascii_lowercase();
        let (below, name) = match lower.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, lower.as_str()),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        // The last label of a name is never a number, so this is an address, and belongs elsewhere.
        let top = name.rsplit('.').next().unwrap_or(name);
        if !is_valid(name) || top.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidHostPattern { pattern: text.to_owned() });
        }
        Ok(HostPattern { below, name: name.to_owned() })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

/// An entry of `allow_hosts` that is neither a name nor `*.` and a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{pattern:?} is not a host name; write a name such as `vault.corp`, or `*.svc` for every name below `svc`, \
     and list addresses under `allow_cidrs` instead"
)]
pub struct InvalidHostPattern {
    pattern: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_names_are_told_apart_at_label_boundaries() {
        for name in ["localhost", "a.localhost", "x", "a.b.svc", "nas.home.arpa", "db.internal", "a.consul"] {
            assert!(is_special(name), "{name}");
        }
        for name in
            ["localhost.example.com", "notlocalhost.com", "myinternal.com", "svc.example.org", "a.xlocal"]
        {
            assert!(!is_special(name), "{name}");
        }
    }

    #[test]
    fn names_follow_the_label_rules() {
        let longest_label = "a".repeat(63);
        let longest_name = [longest_label.as_str(); 3].join(".") + "." + &"a".repeat(61);
        assert_eq!(longest_name.len(), 253);
        for name in
            ["a", "a-b.c", "my_service", "3com.example", longest_label.as_str(), longest_name.as_str()]
        {
            assert!(is_valid(name), "{name}");
        }
        let long_label = "a".repeat(64);
        let long_name = longest_name.clone() + "a";
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "A",
            "a b",
            "a*",
            long_label.as_str(),
            long_name.as_str(),
        ] {
            assert!(!is_valid(name), "{name}");
        }
    }

    #[test]
    fn patterns_cover_a_name_or_what_is_below_it() {
        let exact: HostPattern = "Vault.Corp.".parse().unwrap();
        assert!(exact.covers("vault.corp"));
        assert!(!exact.covers("a.vault.corp"));
        let below: HostPattern = "*.svc".parse().unwrap();
        assert!(below.covers("a.svc") && below.covers("a.b.svc"));
        assert!(!below.covers("svc") && !below.covers("asvc") && !below.covers(".svc"));
        assert_eq!(exact.to_string(), "vault.corp");
        assert_eq!(below.to_string(), "*.svc");
    }

    #[test]
    fn patterns_that_are_not_names_are_errors() {
        for text in
            ["", "*", "*.", "a.*", "*.*.a", "10.0.0.1", "10", "::1", "[::1]", "a/b", "https://a", "a:1", "é"]
        {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}

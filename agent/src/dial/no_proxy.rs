//! What is reached without the proxy, in the words that `NO_PROXY` has everywhere.
//!
//! Entries have commas or blanks between them. `*` is everything; `example.com` that name and all names below it;
//! `.example.com` and `*.example.com` only those below it; `10.0.0.0/8` and `10.0.0.1` addresses, where the control
//! plane is given as one, for names are not looked up. A `:port` at the end makes an entry hold for that port alone.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::address::Address;

/// What is reached without the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoProxy(Vec<Entry>);

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Everything,
    Net(IpNet),
    /// The name and all below it.
    Name(String),
    /// All names below this one.
    Below(String),
}

/// A text is not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry is a name, a suffix such as .example.com, an address, a range such as 10.0.0.0/8, or *")]
pub struct NoEntry;

impl NoProxy {
    /// These entries.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> NoProxy {
        NoProxy(entries)
    }

    /// The entries of an environment's variable. Others may have written it for other programs, so what is not an
    /// entry is passed over, as those do.
    #[must_use]
    pub fn of_variable(text: &str) -> NoProxy {
        let entries = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty());
        NoProxy(entries.filter_map(|entry| entry.parse().ok()).collect())
    }

    /// Besides, this machine, as with other programs that heed the variable.
    #[must_use]
    pub fn and_loopback(mut self) -> NoProxy {
        let loopback = ["localhost", "127.0.0.0/8", "::1"].into_iter();
        self.0.extend(loopback.filter_map(|entry| entry.parse::<Entry>().ok()));
        self
    }

    /// Whether `address` is reached without the proxy.
    #[must_use]
    pub fn covers(&self, address: &Address) -> bool {
        self.0.iter().any(|entry| {
            entry.port.is_none_or(|port| port == address.port())
                && entry.what.covers(address.host(), address.ip())
        })
    }
}

impl What {
    fn covers(&self, host: &str, ip: Option<IpAddr>) -> bool {
        let host = host.trim_end_matches('.');
        let is_below = |name: &str| {
            ip.is_none() && host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match self {
            What::Everything => true,
            What::Net(net) => ip.is_some_and(|ip| net.contains(&ip.to_canonical())),
            What::Name(name) => host == name || is_below(name),
            What::Below(name) => is_below(name),
        }
    }
}

impl FromStr for Entry {
    type Err = NoEntry;

    fn from_str(text: &str) -> Result<Entry, NoEntry> {
        if let Some(what) = address_or_net(text) {
            return Ok(Entry { what, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port > 0).ok_or(NoEntry)?)),
            None => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let what =
            if host == "*" { Some(What::Everything) } else { address_or_net(host).or_else(|| name(host)) };
        what.map(|what| Entry { what, port }).ok_or(NoEntry)
    }
}

fn address_or_net(text: &str) -> Option<What> {
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical())));
    net.ok().map(What::Net)
}

fn name(text: &str) -> Option<What> {
    let text = text.trim_end_matches('.').to_ascii_lowercase();
    let (below, name) = match text.strip_prefix("*.").or_else(|| text.strip_prefix('.')) {
        Some(name) => (true, name),
        None => (false, text.as_str()),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if !name.split('.').all(is_label) {
        return None;
    }
    Some(if below { What::Below(name.to_owned()) } else { What::Name(name.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_covered() {
        let table: [(&str, &[&str], &[&str]); 12] = [
            ("", &[], &["cp.example.com:1", "10.0.0.1:1"]),
            ("*", &["cp.example.com:1", "10.0.0.1:1", "[::1]:1"], &[]),
            ("*:7", &["cp:7"], &["cp:8"]),
            ("example.com", &["example.com:1", "a.b.example.com:1"], &["badexample.com:1", "com:1"]),
            (".example.com", &["cp.example.com:1"], &["example.com:1", "xexample.com:1"]),
            ("*.Example.com.", &["cp.example.com:1"], &["example.com:1"]),
            ("cp.example.com:7071", &["cp.example.com:7071"], &["cp.example.com:443"]),
            ("10.0.0.0/8", &["10.1.2.3:1"], &["11.0.0.1:1", "10.1.2.3.example.com:1", "[::1]:1"]),
            ("10.0.0.1", &["10.0.0.1:1", "[::ffff:10.0.0.1]:1"], &["10.0.0.2:1"]),
            ("10.0.0.1:7, [fd00::1]:7", &["10.0.0.1:7", "[fd00::1]:7"], &["10.0.0.1:8", "[fd00::1]:8"]),
            ("fd00::/8 ::1", &["[fd12::1]:1", "[::1]:1"], &["[fe80::1]:1"]),
            ("a b,,!!,c", &["a:1", "b:1", "c:1"], &["d:1"]),
        ];
        for (variable, covered, others) in table {
            let rules = NoProxy::of_variable(variable);
            let covers = |address: &&str| rules.covers(&address.parse().unwrap());
            assert!(covered.iter().all(covers), "{variable}");
            assert!(!others.iter().any(covers), "{variable}");
        }
    }

    #[test]
    fn this_machine_can_be_left_out() {
        let rules = NoProxy::of_variable("cp").and_loopback();
        let covers = |address: &str| rules.covers(&address.parse().unwrap());
        assert!(["cp:1", "localhost:1", "127.9.9.9:1", "[::1]:1"].into_iter().all(covers));
        assert!(!covers("10.0.0.1:1"));
    }

    #[test]
    fn what_is_no_entry() {
        for text in ["", "a/b", "10.0.0.0/33", "a:0", "a:x", "a..b", ".", "*.", "http://a", "*a"] {
            assert_eq!(text.parse::<Entry>(), Err(NoEntry), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let covered = NoProxy::of_variable(&text).covers(&"a.example.com:1".parse().unwrap());
            prop_assert!(!covered || text.contains('*') || text.to_lowercase().contains('m'));
        }

        #[test]
        fn a_suffix_covers_every_name_below_it(labels in prop::collection::vec("[a-z0-9]{1,8}", 1..4)) {
            let host = format!("{}.example.com:1", labels.join("."));
            let rules = NoProxy::of_variable(".example.com");
            prop_assert!(rules.covers(&host.parse().unwrap()));
        }
    }
}

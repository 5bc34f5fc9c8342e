//! Where requests go, as an owner lists it: by name or by address.
//!
//! Settings that pick endpoints out (credentials for some hosts, a proxy that is not for others) list
//! [`Destination`]s. A name in a list stands for the name as the URL has it, never for what resolves to it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::address;
use super::name::HostPattern;
use super::url::Host;

/// A name such as `vault.corp`, names such as `*.svc`, an address, or a range such as `10.20.0.0/16`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// Hosts by name.
    Names(HostPattern),
    /// Hosts by address.
    Addresses(IpNet),
}

impl Destination {
    /// Says whether a URL with this host is meant. A name is never covered by a range, whatever it resolves to:
    /// whoever owns a name decides that.
    pub fn covers(&self, host: Host<'_>) -> bool {
        match (self, host) {
            (Destination::Names(pattern), Host::Name(name)) => pattern.covers(name),
            (Destination::Addresses(_), Host::Address(ip)) => self.covers_address(ip),
            _ => false,
        }
    }

    /// Says whether `ip`, or the IPv4 address that it carries, is in the range. Names cover no address.
    pub fn covers_address(&self, ip: IpAddr) -> bool {
        match self {
            Destination::Names(_) => false,
            Destination::Addresses(net) => address::plain_net(*net).contains(&address::inner(ip)),
        }
    }
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Destination, InvalidDestination> {
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        if let Ok(net) = net {
            return Ok(Destination::Addresses(address::plain_net(net).trunc()));
        }
        let pattern = text.parse().map_err(|_| InvalidDestination { text: text.to_owned() })?;
        Ok(Destination::Names(pattern))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Names(pattern) => pattern.fmt(f),
            Destination::Addresses(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Destination::Addresses(net) => net.fmt(f),
        }
    }
}

/// Text that is neither a name nor an address nor a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is neither a host nor a range; write a name such as `vault.corp`, `*.svc` for every name below \
     `svc`, an address, or a range such as 10.20.0.0/16, without a scheme and without a port"
)]
pub struct InvalidDestination {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::EndpointUrl;

    fn covers(destination: &str, url: &str) -> bool {
        let destination: Destination = destination.parse().unwrap();
        destination.covers(EndpointUrl::parse(url).unwrap().host())
    }

    #[test]
    fn hosts_are_covered_as_the_url_writes_them() {
        for (destination, url) in [
            ("vault.corp", "https://VAULT.corp.:8443/"),
            ("*.svc", "https://a.b.svc/"),
            ("10.1.0.0/16", "https://10.1.2.3/"),
            ("10.1.2.3", "https://[::ffff:10.1.2.3]/"),
            ("::ffff:10.1.0.0/112", "https://10.1.2.3/"),
            ("fd00::/8", "https://[fd12::1]/"),
            ("fd12::1", "https://[fd12::1]/"),
        ] {
            assert!(covers(destination, url), "{destination} {url}");
        }
        for (destination, url) in [
            ("vault.corp", "https://a.vault.corp/"),
            ("*.svc", "https://svc/"),
            ("10.1.0.0/16", "https://10.2.0.1/"),
            ("10.1.0.0/16", "https://hook.example.com/"),
            ("0.0.0.0/0", "https://[fd12::1]/"),
            ("vault.corp", "https://10.1.2.3/"),
        ] {
            assert!(!covers(destination, url), "{destination} {url}");
        }
    }

    #[test]
    fn ranges_cover_addresses_and_names_cover_none() {
        let address = "64:ff9b::a01:203".parse().unwrap();
        assert!("10.1.0.0/16".parse::<Destination>().unwrap().covers_address(address));
        assert!(!"*.svc".parse::<Destination>().unwrap().covers_address(address));
    }

    #[test]
    fn they_are_written_in_one_form() {
        for (text, form) in [
            ("*.SVC.", "*.svc"),
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("FD00::1", "fd00::1"),
        ] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!(destination.to_string(), form);
            assert_eq!(form.parse(), Ok(destination));
        }
        for text in ["", "https://a.example", "a.example:443", "10.0.0.0/33", "*", "a b", "10.1.2"] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains("without a scheme and without a port"), "{error}");
        }
    }
}

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
use super::url::{EndpointUrl, Host};

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

/// A destination on one port, such as `vault.corp:8200`, `*.svc:443`, `10.20.0.0/16:8443` or `[fd00::/8]:443`; or on all
/// ports, without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Where.
    pub destination: Destination,
    /// On which port alone.
    pub port: Option<u16>,
}

impl Service {
    /// Says whether `url` is meant, by its host and its port: that of its scheme, if it names none.
    pub fn covers(&self, url: &EndpointUrl) -> bool {
        self.port.is_none_or(|port| port == url.port()) && self.destination.covers(url.host())
    }
}

impl FromStr for Service {
    type Err = InvalidService;

    fn from_str(text: &str) -> Result<Service, InvalidService> {
        // An address of version 6 is full of colons, so a port after it needs brackets.
        if let Ok(destination) = text.parse() {
            return Ok(Service { destination, port: None });
        }
        let invalid = || InvalidService { text: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let destination = bracketed.unwrap_or(host).parse().map_err(|_| invalid())?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(invalid)?;
        Ok(Service { destination, port: Some(port) })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.destination, self.port) {
            (destination, None) => destination.fmt(f),
            (Destination::Addresses(IpNet::V6(_)), Some(port)) => write!(f, "[{}]:{port}", self.destination),
            (destination, Some(port)) => write!(f, "{destination}:{port}"),
        }
    }
}

/// Text that is no destination, with a port or without one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is neither a host nor a range; write a name such as `vault.corp`, `*.svc` for every name below `svc`, an \
     address, or a range such as 10.20.0.0/16, without a scheme; for a single port, write it after a colon, as in \
     `vault.corp:8200` or `[fd00::/8]:443`"
)]
pub struct InvalidService {
    text: String,
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
    fn a_service_is_a_destination_on_one_port_or_on_all() {
        for (service, url, covered) in [
            ("vault.corp", "https://vault.corp/", true),
            ("vault.corp", "https://vault.corp:8200/", true),
            ("vault.corp:8200", "https://vault.corp:8200/", true),
            ("vault.corp:8200", "https://vault.corp/", false),
            ("vault.corp:443", "https://vault.corp/", true),
            ("vault.corp:443", "http://vault.corp/", false),
            ("*.svc:80", "http://a.svc/", true),
            ("10.1.0.0/16:8443", "https://[::ffff:10.1.2.3]:8443/", true),
            ("10.1.0.0/16:8443", "https://10.1.2.3/", false),
            ("[fd00::/8]:443", "https://[fd12::1]/", true),
            ("[fd12::1]:8443", "https://[fd12::1]/", false),
        ] {
            let service: Service = service.parse().unwrap();
            assert_eq!(service.covers(&EndpointUrl::parse(url).unwrap()), covered, "{service} {url}");
            assert_eq!(service.to_string().parse(), Ok(service));
        }
        for text in [
            "",
            "a.corp:",
            "a.corp:0",
            "a.corp:65536",
            "a.corp:x",
            ":443",
            "https://a.corp",
            "[a.corp:1",
            "*:443",
        ] {
            let error = text.parse::<Service>().unwrap_err().to_string();
            assert!(error.contains("for a single port"), "{text}: {error}");
        }
        let address: Service = "fd00::1:443".parse().unwrap();
        assert_eq!(address.port, None, "it is all address");
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

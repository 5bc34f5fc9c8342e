//! Where somebody listens: a name or an IP address, and a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;
use postrider_domain::egress::{EndpointUrl, Host};
use postrider_domain::join::Join;

/// A name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// A text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a name or an IP address, ':' and a port")]
pub struct NoAddress;

impl Address {
    /// The address in a URL, whose scheme gives the port where the URL does not.
    #[must_use]
    pub fn of(url: &Uri) -> Option<Address> {
        let port = if url.scheme_str() == Some("https") { 443 } else { 80 };
        Address::of_authority(url.authority()?, Some(port))
    }

    /// The address in a join token.
    #[must_use]
    pub fn in_join(join: &Join) -> Address {
        Address { host: join.host().to_owned(), port: join.port() }
    }

    /// The address of a URL that has been judged.
    pub(crate) fn of_endpoint(url: &EndpointUrl) -> Address {
        let host = match url.host() {
            Host::Name(name) => name.to_owned(),
            Host::Address(ip) => ip.to_string(),
        };
        Address { host, port: url.port() }
    }

    /// The address in the part of a URL that names a host. Without a port there, `port`.
    pub(super) fn of_authority(authority: &Authority, port: Option<u16>) -> Option<Address> {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let given = match authority.as_str().rsplit_once('@') {
            Some((_, rest)) => rest,
            None => authority.as_str(),
        };
        // `host:` and `host:x` are not 'without a port'.
        let port = match authority.port_u16() {
            Some(port) => Some(port),
            None if given == authority.host() => port,
            None => None,
        };
        match port {
            Some(port) if port > 0 && !host.is_empty() => {
                Some(Address { host: host.to_ascii_lowercase(), port })
            }
            _ => None,
        }
    }

    /// The name or IP address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IP address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address { host: address.ip().to_string(), port: address.port() }
    }
}

/// As in a URL.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Address, NoAddress> {
        let authority: Authority = text.parse().map_err(|_| NoAddress)?;
        if text.contains('@') {
            return Err(NoAddress);
        }
        Address::of_authority(&authority, None).ok_or(NoAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["cp.example.com:7071", "10.0.0.1:1", "[::1]:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "cp", "cp:", "cp:0", "cp:x", "cp:65536", ":1", "u@cp:1", "::1:1", "a/b:1", "[::1]"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_has_its_schemes_port() {
        let of = |url: &str| Address::of(&url.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of("https://Cp.example.com").as_deref(), Some("cp.example.com:443"));
        assert_eq!(of("http://[::1]/").as_deref(), Some("[::1]:80"));
        assert_eq!(of("https://cp:7071/").as_deref(), Some("cp:7071"));
        assert_eq!(of("https://cp:0"), None);
        assert_eq!(of("/path"), None);
    }
}

//! The owner's egress proxy: an HTTP proxy that is asked by CONNECT for a tunnel to an endpoint.
//!
//! It is asked for an address that the guard has judged, never for a name, so that nothing can change its mind between
//! the judgement and the dial; what then goes through the tunnel is the same as without one. Only where the owner leaves
//! names to the proxy is it asked for a name, and then the proxy has to judge where that leads.
//!
//! The proxy's own address is its owner's choice, so the guard is not asked about it. Its user and password go to the
//! proxy and nowhere else; whatever it says comes to the agent's log as a status, and to the tenant not at all.

use std::net::{IpAddr, SocketAddr};
use std::{fmt, io};

use postrider_domain::egress::{Destination, Host};
use tokio::net::TcpStream;

use super::failure::Failure;
use super::resolver::{Resolved, Resolver};
use crate::dial::{self, Address, ProxyError};
use crate::shortage::Shortage;

/// Where the proxy is, and what goes through it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its address, and its user and password.
    pub proxy: dial::Proxy,
    /// What is called without it: hosts by their names, and names all of whose addresses are in one of the ranges.
    pub no_proxy: Vec<Destination>,
    /// Whether the proxy, and not the agent, looks up the names that go through it.
    pub leave_names_to_proxy: bool,
}

impl Settings {
    /// Whether an endpoint with this host and these addresses is called through the proxy.
    #[must_use]
    pub fn is_for(&self, host: Host<'_>, addresses: &[IpAddr]) -> bool {
        let covered = |ip: &IpAddr| self.no_proxy.iter().any(|destination| destination.covers_address(*ip));
        let by_host = self.no_proxy.iter().any(|destination| destination.covers(host));
        let by_address = !addresses.is_empty() && addresses.iter().all(covered);
        !by_host && !by_address
    }

    /// Whether the proxy, and not the agent, finds out where this host is.
    #[must_use]
    pub fn looks_up(&self, host: Host<'_>) -> bool {
        self.leave_names_to_proxy && matches!(host, Host::Name(_)) && self.is_for(host, &[])
    }
}

/// Host and port, and nothing secret.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.proxy.address().fmt(f)
    }
}

/// Why there is no tunnel, for the log of the agent's owner.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the egress proxy's name {0} could not be looked up; check `egress.proxy.url`")]
    Unknown(String),
    #[error("{0}")]
    Short(Shortage),
    #[error("the egress proxy {0} cannot be reached: {1}")]
    Unreachable(Address, #[source] std::io::Error),
    #[error("the egress proxy {0} wants a user and a password, or others than these; check `egress.proxy`")]
    Unauthorized(Address),
    #[error("the egress proxy {0} refuses this endpoint, with status {1}")]
    Refused(Address, u16),
    #[error("the egress proxy {0} does not answer CONNECT as an HTTP proxy does; check `egress.proxy.url`")]
    NoProxy(Address),
}

/// See the [module](self).
pub(crate) struct Proxy {
    settings: Settings,
    resolver: Resolver,
}

impl Proxy {
    pub(crate) fn new(settings: Settings, resolver: Resolver) -> Proxy {
        Proxy { settings, resolver }
    }

    /// As [`Settings::is_for`].
    pub(crate) fn is_for(&self, host: Host<'_>, addresses: &[IpAddr]) -> bool {
        self.settings.is_for(host, addresses)
    }

    /// As [`Settings::looks_up`].
    pub(crate) fn looks_up(&self, host: Host<'_>) -> bool {
        self.settings.looks_up(host)
    }

    /// A connection that the proxy leads on to `endpoint`, with its own address.
    pub(crate) async fn tunnel(&self, endpoint: &Address) -> Result<(TcpStream, SocketAddr), Failure> {
        let mut stream = self.dial().await.map_err(failure)?;
        let peer = stream.peer_addr().map_err(|_| Failure::no_connection())?;
        let asked = self.settings.proxy.ask(&mut stream, endpoint).await;
        asked.map_err(|error| failure(self.trouble(error)))?;
        Ok((stream, peer))
    }

    async fn dial(&self) -> Result<TcpStream, Trouble> {
        let address = self.settings.proxy.address();
        let name = address.host().trim_end_matches('.');
        let Resolved { addresses, late } = match address.ip() {
            Some(ip) => Resolved { addresses: vec![ip], late: None },
            None => self.resolver.resolve(name).await.map_err(|failure| match failure.shortage {
                Some(shortage) => Trouble::Short(shortage),
                None => Trouble::Unknown(name.to_owned()),
            })?,
        };
        let unreachable = |error| Trouble::Unreachable(address.clone(), error);
        let connected = match (connect(addresses, address.port()).await, late) {
            (Err(_), Some(mut late)) => connect(late.addresses().await, address.port()).await,
            (connected, _) => connected,
        };
        let stream = connected.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        Ok(stream)
    }

    fn trouble(&self, error: ProxyError) -> Trouble {
        let address = self.settings.proxy.address().clone();
        match error {
            // Some proxies say 401 to a password that they do not know.
            ProxyError::Credentials { .. } | ProxyError::Refused { status: 401, .. } => {
                Trouble::Unauthorized(address)
            }
            ProxyError::Refused { status, .. } => Trouble::Refused(address, status),
            ProxyError::Answer | ProxyError::Broken(_) => Trouble::NoProxy(address),
        }
    }
}

async fn connect(addresses: Vec<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    TcpStream::connect(&addresses[..]).await
}

/// All that can go wrong here is one and the same to a tenant.
fn failure(trouble: Trouble) -> Failure {
    if let Trouble::Unreachable(_, error) = &trouble
        && let Some(shortage) = Shortage::of(error)
    {
        return Failure::short(shortage);
    }
    if let Trouble::Short(shortage) = trouble {
        return Failure::short(shortage);
    }
    Failure::no_connection().because(trouble.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::egress::EndpointUrl;

    fn proxy(no_proxy: &[&str], leave_names_to_proxy: bool) -> Settings {
        Settings {
            proxy: "http://user:s3cret@proxy.corp:3128".parse().unwrap(),
            no_proxy: no_proxy.iter().map(|text| text.parse().unwrap()).collect(),
            leave_names_to_proxy,
        }
    }

    fn is_for(proxy: &Settings, url: &str, addresses: &[&str]) -> bool {
        let url = EndpointUrl::parse(url).unwrap();
        let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        proxy.is_for(url.host(), &addresses)
    }

    #[test]
    fn what_is_listed_goes_without_it() {
        let proxy = proxy(&["*.svc", "10.0.0.0/8", "1.1.1.1"], false);
        for (url, addresses, expected) in [
            ("https://a.example.com/", &["93.184.216.34"][..], true),
            ("https://a.svc/", &["93.184.216.34"], false),
            ("https://a.example.com/", &["10.1.2.3"], false),
            ("https://a.example.com/", &["::ffff:10.1.2.3", "1.1.1.1"], false),
            ("https://a.example.com/", &["10.1.2.3", "93.184.216.34"], true),
            ("https://1.1.1.1/", &["1.1.1.1"], false),
            ("https://1.1.1.2/", &["1.1.1.2"], true),
        ] {
            assert_eq!(is_for(&proxy, url, addresses), expected, "{url} {addresses:?}");
        }
    }

    #[test]
    fn names_are_left_to_it_only_when_they_go_through_it() {
        let url = |text: &str| EndpointUrl::parse(text).unwrap();
        let leaving = proxy(&["*.svc", "10.0.0.0/8"], true);
        for (text, expected) in
            [("https://a.example.com/", true), ("https://a.svc/", false), ("https://1.1.1.1/", false)]
        {
            assert_eq!(leaving.looks_up(url(text).host()), expected, "{text}");
        }
        assert!(!proxy(&[], false).looks_up(url("https://a.example.com/").host()));
    }

    #[test]
    fn the_password_is_not_shown() {
        let proxy = proxy(&[], false);
        assert_eq!(proxy.to_string(), "proxy.corp:3128");
        assert!(!format!("{proxy:?}").contains("s3cret"));
    }
}

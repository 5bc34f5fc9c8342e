//! Finds a name's addresses: the hosts file first, then DNS, with a cache that honours TTLs.
//!
//! Names are looked up as absolute names, so that a search list of the machine cannot turn a public name
//! into an internal one. Nothing here judges an address; the guard does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use postrider_domain::egress::{Code, Refusal};

use super::failure::Failure;

/// More addresses than any honest name has.
const MAX_ADDRESSES: usize = 64;

/// The agent's own resolver.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
}

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the machine's DNS settings cannot be read; name servers can be given in `dns_servers` instead")]
pub struct SetUpError(#[source] NetError);

impl Resolver {
    /// Asks `servers`, or those of the machine's own settings if there are none.
    ///
    /// # Errors
    ///
    /// [`SetUpError`] if the machine's settings are needed and cannot be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Resolver, SetUpError> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(SetUpError)?
        } else {
            let servers = servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        tune(builder.options_mut());
        Ok(Resolver { inner: builder.build().map_err(SetUpError)? })
    }

    /// The addresses of `name`, in one order for one set, so that equal answers make equal keys.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let absolute = format!("{name}.");
        let answer = self.inner.lookup_ip(absolute).await.map_err(|error| {
            if error.is_no_records_found() {
                Failure::refused(Refusal::new(Code::DnsEmpty, format!("the name {name}")))
            } else {
                Failure::dns("the endpoint's name could not be looked up")
            }
        })?;
        let mut addresses: Vec<IpAddr> = answer.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > MAX_ADDRESSES {
            return Err(Failure::dns("the endpoint's name has too many addresses"));
        }
        Ok(addresses)
    }
}

fn tune(options: &mut ResolverOpts) {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    options.cache_size = 1024;
    options.timeout = Duration::from_secs(3);
    options.attempts = 2;
    // A mended zone is noticed soon, and an hour-old answer is asked for anew.
    options.negative_max_ttl = Some(Duration::from_secs(10));
    options.positive_max_ttl = Some(Duration::from_secs(3600));
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_needs_no_server() {
        let resolver = Resolver::new(&["127.0.0.1:1".parse().unwrap()]).unwrap();
        let addresses = resolver.resolve("localhost").await.unwrap();
        assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback));
    }
}

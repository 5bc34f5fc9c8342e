//! What an agent's owner allows, and the judgement on a URL and on the addresses it leads to.
//!
//! The agent builds a [`Policy`] from its own configuration and asks it three times an attempt: about the
//! URL, about every answer of the resolver, and about the address it is about to dial. The control plane
//! sees the policy's [hash](Policy::hash) and the verdicts, and has no way to widen it.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::address;
use super::destination::Service;
use super::name::{self, HostPattern};
use super::nat64::Nat64Prefix;
use super::refusal::{Code, Refusal, UNLOCK};
use super::url::{EndpointUrl, Host, Scheme};

/// What the owner of an agent lets it call. The default is public addresses, over `https`, on 443 and 8443.
///
/// An address is judged in this order, and the first rule that applies decides:
///
/// 1. in `deny_cidrs`: refused, whatever else is listed;
/// 2. link-local or a cloud's metadata service: refused, unless it is in `allow_cidrs` *and*
///    `dangerously_allow_link_local_and_metadata` is set;
/// 3. in `allow_cidrs`: allowed;
/// 4. not public by [`address::forbidden`]: refused;
/// 5. in `own_addresses`: refused;
/// 6. anything else: allowed.
///
/// An IPv4-mapped or NAT64 (`64:ff9b::/96`) address counts as the IPv4 address inside, so it is the IPv4 range
/// that has to be listed; listing NAT64's own range opens nothing, and denying it denies NAT64. The same goes for
/// addresses under one of `nat64_prefixes`. Rules 1 and 2 also look into 6to4, ISATAP and other tunnel addresses, so a
/// listed range of those opens no way around them.
///
/// A name is judged by its answers: one that resolves to a private address needs that address in
/// `allow_cidrs`, whether or not the name is in `allow_hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Ranges that may be called although they are not public, such as `10.20.0.0/16`. They add to the
    /// public addresses and do not replace them.
    pub allow_cidrs: Vec<IpNet>,
    /// Names that may be called although they are of one label or under a special-use domain, such as
    /// `*.svc` or `localhost`. Listing a name lifts that refusal and nothing else: it does not open the
    /// addresses behind the name, and names that are not listed stay callable if they are public.
    pub allow_hosts: Vec<HostPattern>,
    /// The ports that may be called, all of them: 80 has to be listed for `http://host/`. Port 0 never works.
    pub allow_ports: Vec<u16>,
    /// Whether `http` may be called as well as `https`.
    pub allow_http: bool,
    /// Ranges that may not be called, whatever the other settings say.
    pub deny_cidrs: Vec<IpNet>,
    /// Prefixes of the NAT64 translators of the agent's network, beside `64:ff9b::/96`.
    pub nat64_prefixes: Vec<Nat64Prefix>,
    /// Whether `allow_cidrs` also opens link-local and metadata addresses that it covers. Those services give
    /// credentials to anyone who can reach them. By itself this setting opens nothing.
    pub dangerously_allow_link_local_and_metadata: bool,
    /// Hosts for which the agent holds credentials of its owner. They are called over `https`, also where
    /// `allow_http` is set, unless they say themselves that `http` will do.
    pub credential_hosts: Vec<CredentialHost>,
    /// The addresses of the agent itself and of the control plane, which the agent finds out when it starts.
    /// Refused unless in `allow_cidrs`; a development setup lists `127.0.0.0/8` there.
    pub own_addresses: Vec<IpAddr>,
}

/// A host, or several, for which the agent holds credentials, on one port or all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialHost {
    /// Which.
    pub host: Service,
    /// Whether it may be called over `http`, which shows the credentials to everyone on the way.
    pub allow_http: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            allow_cidrs: Vec::new(),
            allow_hosts: Vec::new(),
            allow_ports: vec![443, 8443],
            allow_http: false,
            deny_cidrs: Vec::new(),
            nat64_prefixes: Vec::new(),
            dangerously_allow_link_local_and_metadata: false,
            credential_hosts: Vec::new(),
            own_addresses: Vec::new(),
        }
    }
}

impl Policy {
    /// Judges what the URL itself says: scheme, port, special-use name, literal address, and whether the
    /// agent's credentials for the host would travel in the clear, in this order.
    ///
    /// # Errors
    ///
    /// The first [`Refusal`] that applies.
    pub fn judge_url(&self, url: &EndpointUrl) -> Result<(), Refusal> {
        if url.scheme() == Scheme::Http && !self.allow_http {
            return Err(Refusal::new(Code::Scheme, "\"http\""));
        }
        let port = url.port();
        if port == 0 || !self.allow_ports.contains(&port) {
            return Err(Refusal::new(Code::Port, format!("port {port}")));
        }
        match url.host() {
            Host::Name(name) => self.judge_name(name)?,
            Host::Address(ip) => self.judge_address(ip)?,
        }
        self.judge_credentials(url)
    }

    /// Judges every address that the URL's host resolved to.
    ///
    /// One forbidden answer refuses them all: a name that mixes public and private answers is either an
    /// attack or a problem, and choosing among its answers would hide which. If the host is an address, the
    /// answers are that address, and it is judged even when they leave it out.
    ///
    /// The verdict is on these very addresses. Whoever asks must dial one of them, and not resolve again.
    ///
    /// # Errors
    ///
    /// [`Code::DnsEmpty`] if there is no answer, otherwise the refusal of the first forbidden one.
    pub fn judge_addresses(&self, url: &EndpointUrl, answers: &[IpAddr]) -> Result<(), Refusal> {
        if answers.is_empty() {
            return Err(Refusal::new(Code::DnsEmpty, format!("the host of {}", url.origin())));
        }
        if let Host::Address(ip) = url.host() {
            self.judge_address(ip)?;
        }
        answers.iter().try_for_each(|&ip| self.judge_address(ip))
    }

    /// Judges one address, as the agent does right before it dials.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] by the rules in the order that [`Policy`] gives.
    pub fn judge_address(&self, ip: IpAddr) -> Result<(), Refusal> {
        let inner = self.inner(ip);
        let refuse = |code| Refusal::new(code, address::describe(ip, inner));
        let mut destinations = address::destinations(ip).chain(address::destinations(inner));
        if destinations.any(|ip| covers(&self.deny_cidrs, ip)) {
            return Err(refuse(Code::PolicyDenied));
        }
        let listed = covers(&self.allow_cidrs, inner);
        let forbidden = address::forbidden(inner);
        if [ip, inner].into_iter().any(address::is_link_local_or_metadata) {
            if listed && self.dangerously_allow_link_local_and_metadata {
                return Ok(());
            }
            let code = forbidden.unwrap_or(Code::V4CloudMagic);
            return Err(refuse(code).with_next_step(UNLOCK));
        }
        if listed {
            return Ok(());
        }
        if let Some(code) = forbidden {
            return Err(refuse(code));
        }
        if self.own_addresses.iter().any(|&own| self.inner(own) == inner) {
            return Err(refuse(Code::OwnAddress));
        }
        Ok(())
    }

    /// The address that a packet to `ip` goes to, also through a NAT64 translator of the agent's network. Where prefixes
    /// overlap, the longest counts, as in routing.
    fn inner(&self, ip: IpAddr) -> IpAddr {
        let IpAddr::V6(v6) = ip else { return ip };
        let translated = |prefix: &Nat64Prefix| Some((prefix.length(), prefix.translated(v6)?));
        let longest = self.nat64_prefixes.iter().filter_map(translated).max_by_key(|(length, _)| *length);
        longest.map_or_else(|| address::inner(ip), |(_, v4)| v4.into())
    }

    /// A fingerprint of the owner's settings: SHA-256 in lower-case hex.
    ///
    /// Equal for policies that judge alike because they differ only in order, repetition, or the host bits of
    /// a range. `own_addresses` is left out: it differs on every machine, and the hash is there to show
    /// whether the agents of a pool are configured alike.
    pub fn hash(&self) -> String {
        format!("{:x}", Sha256::digest(self.canonical_form()))
    }

    fn judge_name(&self, name: &str) -> Result<(), Refusal> {
        if name::is_special(name) && !self.allow_hosts.iter().any(|pattern| pattern.covers(name)) {
            return Err(Refusal::new(Code::HostSpecialName, format!("the host {name:?}")));
        }
        Ok(())
    }

    /// The first entry that covers the host counts, as it does for the credentials themselves.
    fn judge_credentials(&self, url: &EndpointUrl) -> Result<(), Refusal> {
        let mut listed = self.credential_hosts.iter();
        match listed.find(|listed| listed.host.covers(url)) {
            Some(listed) if url.scheme() == Scheme::Http && !listed.allow_http => {
                Err(Refusal::new(Code::CredentialsNeedHttps, url.origin()))
            }
            _ => Ok(()),
        }
    }

    /// One setting a line. The first line names the version. A setting that came later is left out as long as
    /// nobody uses it, so that a newer agent with the same settings has the same hash.
    fn canonical_form(&self) -> String {
        let mut form = String::from("egress-policy/1\n");
        let nets = |nets: &[IpNet]| nets.iter().map(|&net| address::plain_net(net).trunc()).collect();
        push_all(&mut form, "allow_cidr", nets(&self.allow_cidrs));
        push_all(&mut form, "allow_host", self.allow_hosts.iter().collect());
        push_all(&mut form, "allow_port", self.allow_ports.iter().collect());
        push_all(&mut form, "allow_http", BTreeSet::from([self.allow_http]));
        push_all(&mut form, "deny_cidr", nets(&self.deny_cidrs));
        push_all(&mut form, "nat64_prefix", self.nat64_prefixes.iter().collect());
        push_all(
            &mut form,
            "dangerously_allow_link_local_and_metadata",
            BTreeSet::from([self.dangerously_allow_link_local_and_metadata]),
        );
        push_all(&mut form, "credential_host", self.credential_hosts.iter().collect());
        form
    }
}

impl fmt::Display for CredentialHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.allow_http { " also over http" } else { "" };
        write!(f, "{}{scheme}", self.host)
    }
}

fn covers(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.iter().any(|&net| address::plain_net(net).contains(&ip))
}

fn push_all<T: std::fmt::Display>(form: &mut String, setting: &str, values: BTreeSet<T>) {
    for value in values {
        // Writing to a String cannot fail.
        let _infallible = writeln!(form, "{setting} {value}");
    }
}

#[cfg(test)]
mod tests;

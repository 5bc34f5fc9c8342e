//! Which addresses are public, whatever they are wrapped in.
//!
//! [`Policy`](super::Policy) asks this module about every address an agent is about to dial. The rules
//! are a default: IPv6 is refused unless it is known to be public, IPv4 is refused where a registry or a
//! cloud says it is not. Addresses that carry an IPv4 address inside are judged as what they carry, because
//! that is where the packet goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::refusal::{Code, Refusal};

/// IPv4 that is not public. The first match gives the code, so exceptions stand before their range.
const V4_FORBIDDEN: &[(Ipv4Net, Code)] = &[
    (v4([255, 255, 255, 255], 32), Code::V4Broadcast),
    // Azure's WireServer has an address from the public range, which no registry lists.
    (v4([168, 63, 129, 16], 32), Code::V4CloudMagic),
    (v4([0, 0, 0, 0], 8), Code::V4ThisNetwork),
    (v4([10, 0, 0, 0], 8), Code::V4Private),
    (v4([100, 64, 0, 0], 10), Code::V4Cgnat),
    (v4([127, 0, 0, 0], 8), Code::V4Loopback),
    (v4([169, 254, 0, 0], 16), Code::V4LinkLocal),
    (v4([172, 16, 0, 0], 12), Code::V4Private),
    (v4([192, 0, 0, 0], 24), Code::V4Ietf),
    (v4([192, 0, 2, 0], 24), Code::V4Documentation),
    (v4([192, 88, 99, 0], 24), Code::V4SixToFourRelay),
    (v4([192, 168, 0, 0], 16), Code::V4Private),
    (v4([198, 18, 0, 0], 15), Code::V4Benchmark),
    (v4([198, 51, 100, 0], 24), Code::V4Documentation),
    (v4([203, 0, 113, 0], 24), Code::V4Documentation),
    (v4([224, 0, 0, 0], 4), Code::V4Multicast),
    (v4([240, 0, 0, 0], 4), Code::V4Reserved),
];

/// The only public space of IPv6. Everything else is refused, also what is assigned tomorrow.
const V6_PUBLIC: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// The exceptions inside [`V6_PUBLIC`].
const V6_FORBIDDEN: &[(Ipv6Net, Code)] = &[
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Code::V6Ietf),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Code::V6Documentation),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Code::V6Documentation),
    (v6(SIX_TO_FOUR, 16), Code::V6SixToFour),
];

/// Link-local ranges and the metadata services of clouds: see [`is_link_local_or_metadata`].
const V4_LOCKED: &[Ipv4Net] = &[
    v4([169, 254, 0, 0], 16), // link-local; AWS, Google Cloud, Azure, DigitalOcean, OpenStack
    v4([168, 63, 129, 16], 32), // Azure WireServer
    v4([100, 100, 100, 200], 32), // Alibaba Cloud
    v4([192, 0, 0, 192], 32), // Oracle Cloud, classic
];

/// As [`V4_LOCKED`], for IPv6.
const V6_LOCKED: &[Ipv6Net] = &[
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),                 // link-local
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0], 32),            // AWS: instance metadata, EKS pod identity
    v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254], 128),      // Google Cloud
    v6([0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128), // Oracle Cloud
    v6([0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042], 128),      // Scaleway
];

const SIX_TO_FOUR: [u16; 8] = [0x2002, 0, 0, 0, 0, 0, 0, 0];
const V4_MAPPED: Ipv6Net = v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96);
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// Prefixes that are refused, and that may carry an IPv4 address in their last 32 bits: IPv4-compatible,
/// IPv4-translated, and NAT64 of a site's own.
const V4_IN_LOW_BITS: &[Ipv6Net] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
];

/// Says whether `ip` is a public address, by the default rules that no policy has changed.
///
/// # Errors
///
/// A [`Refusal`] with the code of the range that `ip`, or the IPv4 address it carries, belongs to.
pub fn judge(ip: IpAddr) -> Result<(), Refusal> {
    match forbidden(ip) {
        Some(code) => Err(Refusal::new(code, describe(ip, inner(ip)))),
        None => Ok(()),
    }
}

/// The rule by which `ip` is not public, or `None` for a public address.
pub fn forbidden(ip: IpAddr) -> Option<Code> {
    match inner(ip) {
        IpAddr::V4(ip) => V4_FORBIDDEN.iter().find_map(|(net, code)| net.contains(&ip).then_some(*code)),
        IpAddr::V6(ip) => forbidden_v6(ip),
    }
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<Code> {
    if ip.is_unspecified() {
        return Some(Code::V6Unspecified);
    }
    if ip.is_loopback() {
        return Some(Code::V6Loopback);
    }
    if !V6_PUBLIC.contains(&ip) {
        return Some(Code::V6NotGlobalUnicast);
    }
    if let Some((_, code)) = V6_FORBIDDEN.iter().find(|(net, _)| net.contains(&ip)) {
        return Some(*code);
    }
    is_isatap(ip).then_some(Code::V6Isatap)
}

/// The address that a packet to `ip` really goes to: the IPv4 address inside an IPv4-mapped or NAT64
/// (`64:ff9b::/96`) address, and `ip` itself otherwise.
///
/// DNS64 makes NAT64 addresses for ordinary public hosts, so refusing them all would cut off every
/// IPv6-only agent.
pub fn inner(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if V4_MAPPED.contains(&v6) || NAT64.contains(&v6) => IpAddr::V4(low_bits(v6)),
        _ => ip,
    }
}

/// Says whether `ip` is link-local or the metadata service of a cloud, in any wrapping.
///
/// These hand out credentials to whoever asks, so listing a range that covers one does not open it.
pub fn is_link_local_or_metadata(ip: IpAddr) -> bool {
    destinations(ip).any(|ip| match ip {
        IpAddr::V4(ip) => V4_LOCKED.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => V6_LOCKED.iter().any(|net| net.contains(&ip)),
    })
}

/// Every address that a packet to `ip` might end at: `ip`, what it carries, and what a tunnel or
/// translator would take out of it. For rules that must hold even for a range the owner has opened.
pub(super) fn destinations(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = inner(ip);
    let tunnelled = match inner {
        IpAddr::V6(v6) => tunnelled(v6).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    [Some(ip), (inner != ip).then_some(inner), tunnelled].into_iter().flatten()
}

/// `net` in plain IPv4 if it is a range of IPv4-mapped addresses, which is but another spelling.
///
/// A NAT64 range is not unwrapped: `64:ff9b::/96` would then stand for all of IPv4, private ranges included,
/// which nobody means who lists it.
pub(super) fn plain_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    if !V4_MAPPED.contains(&v6) {
        return net;
    }
    match Ipv4Net::new(low_bits(v6.network()), v6.prefix_len() - V4_MAPPED.prefix_len()) {
        Ok(v4) => IpNet::V4(v4),
        Err(_) => net,
    }
}

/// `ip` as the subject of a refusal, with what it carries.
pub(super) fn describe(ip: IpAddr, inner: IpAddr) -> String {
    if inner == ip {
        format!("the address {ip}")
    } else {
        format!("the address {ip}, which carries {inner},")
    }
}

fn tunnelled(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    if ip.segments()[0] == SIX_TO_FOUR[0] {
        let [_, _, a, b, c, d, ..] = ip.octets();
        return Some(Ipv4Addr::new(a, b, c, d));
    }
    let carries = is_isatap(ip) || V4_IN_LOW_BITS.iter().any(|net| net.contains(&ip));
    carries.then(|| low_bits(ip))
}

/// ISATAP's interface identifier is `[02]00:5efe:a.b.c.d` under any prefix, also a public one.
fn is_isatap(ip: Ipv6Addr) -> bool {
    let [_, _, _, _, high, low, ..] = ip.segments();
    matches!(high, 0x0000 | 0x0200) && low == 0x5efe
}

fn low_bits(ip: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = ip.octets();
    Ipv4Addr::new(a, b, c, d)
}

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

#[cfg(test)]
mod tests;

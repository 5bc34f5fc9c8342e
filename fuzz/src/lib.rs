//! What the fuzz targets share: rules stated a second time, apart from the code that they check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is public, by the standard library where it knows, and by the registries where it does not.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match unwrapped(ip) {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// The IPv4 address in an IPv4-mapped or NAT64 one.
#[must_use]
pub fn unwrapped(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    match v6.octets() {
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        _ => ip,
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || ip.is_unspecified();
    let listed = match ip.octets() {
        [0 | 240..=255, ..] => true,
        [100, second, ..] => second & 0b1100_0000 == 64,
        [192, 0, 0, _] | [192, 88, 99, _] => true,
        [198, 18 | 19, ..] => true,
        [168, 63, 129, 16] => true,
        _ => false,
    };
    !special && !listed
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, _, _, fifth, sixth, ..] = ip.segments();
    let global = first & 0xe000 == 0x2000;
    let protocols = first == 0x2001 && second < 0x200;
    let documentation = (first, second) == (0x2001, 0xdb8) || (first == 0x3fff && second < 0x1000);
    let six_to_four = first == 0x2002;
    let isatap = fifth & !0x200 == 0 && sixth == 0x5efe;
    global && !protocols && !documentation && !six_to_four && !isatap
}

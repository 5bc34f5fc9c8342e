//! Prefixes under which a network's own NAT64 translator makes IPv6 addresses of IPv4 ones.
//!
//! `64:ff9b::/96` is known to everybody; a network may use a prefix of its own instead, also a public one, and nothing in
//! such an address shows that its packet goes to an IPv4 address. The owner of an agent says so.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::Ipv6Net;

/// The lengths that a prefix may have, and the octets of an address that hold the IPv4 address then. The ninth octet is
/// never among them. Source: RFC 6052, section 2.2.
const LAYOUTS: [(u8, [usize; 4]); 6] = [
    (32, [4, 5, 6, 7]),
    (40, [5, 6, 7, 9]),
    (48, [6, 7, 9, 10]),
    (56, [7, 9, 10, 11]),
    (64, [9, 10, 11, 12]),
    (96, [12, 13, 14, 15]),
];

/// A prefix of a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nat64Prefix {
    net: Ipv6Net,
    octets: [usize; 4],
}

impl Nat64Prefix {
    /// The IPv4 address that a packet to `ip` goes to, if `ip` is under the prefix.
    pub fn translated(&self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        let all = ip.octets();
        self.net.contains(&ip).then(|| Ipv4Addr::from(self.octets.map(|at| all[at])))
    }

    /// The number of bits that an address shares with it.
    pub fn length(&self) -> u8 {
        self.net.prefix_len()
    }
}

impl FromStr for Nat64Prefix {
    type Err = InvalidNat64Prefix;

    fn from_str(text: &str) -> Result<Nat64Prefix, InvalidNat64Prefix> {
        let net = text.parse::<Ipv6Net>().ok().filter(|net| net.addr() == net.network());
        let octets = |net: &Ipv6Net| LAYOUTS.iter().find(|(length, _)| *length == net.prefix_len());
        net.and_then(|net| octets(&net).map(|(_, octets)| Nat64Prefix { net, octets: *octets }))
            .ok_or_else(|| InvalidNat64Prefix { text: text.to_owned() })
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net.fmt(f)
    }
}

/// Text that is no prefix of a translator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no NAT64 prefix; write an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits without any bits after it, such as \
     2001:db8:64::/96"
)]
pub struct InvalidNat64Prefix {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of RFC 6052, section 2.4, for 192.0.2.33.
    #[test]
    fn addresses_are_found_where_the_standard_puts_them() {
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let known: Nat64Prefix = prefix.parse().unwrap();
            let inside = Some(Ipv4Addr::new(192, 0, 2, 33));
            assert_eq!(known.translated(address.parse().unwrap()), inside, "{prefix}");
            assert_eq!(known.translated("2001:db9::1".parse().unwrap()), None, "{prefix}");
            assert_eq!(known.to_string(), prefix);
        }
    }

    #[test]
    fn what_is_no_prefix_of_a_translator_is_refused() {
        for text in
            ["", "2001:db8::", "2001:db8::/33", "2001:db8::/128", "2001:db8::1/96", "10.0.0.0/8", "::/0"]
        {
            let error = text.parse::<Nat64Prefix>().unwrap_err().to_string();
            assert!(error.contains("32, 40, 48, 56, 64 or 96"), "{error}");
        }
    }
}

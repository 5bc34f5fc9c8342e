//! The address rules over whole blocks: what is inside, what is next to them, and every wrapping.

use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The blocks a second time, as text and apart from the table they check.
const BLOCKS: &[(&str, Code)] = &[
    ("0.0.0.0/8", Code::V4ThisNetwork),
    ("10.0.0.0/8", Code::V4Private),
    ("100.64.0.0/10", Code::V4Cgnat),
    ("127.0.0.0/8", Code::V4Loopback),
    ("168.63.129.16/32", Code::V4CloudMagic),
    ("169.254.0.0/16", Code::V4LinkLocal),
    ("172.16.0.0/12", Code::V4Private),
    ("192.0.0.0/24", Code::V4Ietf),
    ("192.0.2.0/24", Code::V4Documentation),
    ("192.88.99.0/24", Code::V4SixToFourRelay),
    ("192.168.0.0/16", Code::V4Private),
    ("198.18.0.0/15", Code::V4Benchmark),
    ("198.51.100.0/24", Code::V4Documentation),
    ("203.0.113.0/24", Code::V4Documentation),
    ("224.0.0.0/4", Code::V4Multicast),
    ("240.0.0.0/5", Code::V4Reserved),
    ("248.0.0.0/6", Code::V4Reserved),
    ("252.0.0.0/7", Code::V4Reserved),
    ("254.0.0.0/8", Code::V4Reserved),
    ("255.0.0.0/9", Code::V4Reserved),
    ("255.255.255.255/32", Code::V4Broadcast),
    ("::/128", Code::V6Unspecified),
    ("::1/128", Code::V6Loopback),
    ("100::/8", Code::V6NotGlobalUnicast),
    ("64:ff9b:1::/48", Code::V6NotGlobalUnicast),
    ("4000::/2", Code::V6NotGlobalUnicast),
    ("8000::/1", Code::V6NotGlobalUnicast),
    ("2001::/23", Code::V6Ietf),
    ("2001:db8::/32", Code::V6Documentation),
    ("2002::/16", Code::V6SixToFour),
    ("3fff::/20", Code::V6Documentation),
];

/// The addresses beside the blocks, where no other block begins.
const NEIGHBOURS: &[&str] = &[
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.1.255",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2000::",
    "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:200::",
    "2001:db7:ffff::1",
    "2001:db9::",
    "2001:ffff:ffff::1",
    "2003::",
    "3ffe:ffff::1",
    "3fff:1000::",
    "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

const LOCKED: &[&str] = &[
    "169.254.0.0",
    "169.254.169.254",
    "169.254.255.255",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fe80::1",
    "febf:ffff::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::a83f:8110",
    "2002:a9fe:a9fe::1",
    "2606:4700:4700::5efe:a9fe:a9fe",
    "2606:4700:4700::200:5efe:a9fe:a9fe",
    "::a9fe:a9fe",
    "::ffff:0:a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
];

const NOT_LOCKED: &[&str] = &[
    "10.0.0.1",
    "127.0.0.1",
    "100.100.100.201",
    "168.63.129.17",
    "192.0.0.191",
    "fd00::1",
    "fd20:ce::255",
    "8.8.8.8",
    "2001:4860:4860::8888",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "fec0::1",
];

#[test]
fn both_ends_of_each_block_are_refused() {
    for (block, code) in BLOCKS {
        let net: IpNet = block.parse().unwrap();
        for ip in [net.network(), net.broadcast()] {
            assert_eq!(judge(ip).unwrap_err().code(), *code, "{ip} of {block}");
        }
    }
}

#[test]
fn what_lies_beside_the_blocks_is_allowed() {
    for text in NEIGHBOURS {
        assert_eq!(judge(ip(text)), Ok(()), "{text}");
    }
}

#[test]
fn every_address_of_the_smaller_blocks_is_refused() {
    for (block, code) in BLOCKS {
        if let IpNet::V4(net) = block.parse().unwrap()
            && net.prefix_len() >= 16
        {
            let escaped = net.hosts().find(|&ip| forbidden(ip.into()) != Some(*code));
            assert_eq!(escaped, None, "of {block}");
        }
    }
}

#[test]
fn isatap_is_seen_under_a_public_prefix_with_either_bit() {
    for text in ["2606:4700:4700::5efe:808:808", "2606:4700:4700::200:5efe:808:808"] {
        assert_eq!(forbidden(ip(text)), Some(Code::V6Isatap), "{text}");
    }
    assert_eq!(forbidden(ip("2606:4700:4700::1:5efe:808:808")), None);
}

#[test]
fn link_local_and_metadata_are_known_in_every_wrapping_and_never_public() {
    for text in LOCKED {
        assert!(is_link_local_or_metadata(ip(text)), "{text}");
        assert!(forbidden(ip(text)).is_some(), "{text}");
    }
    for text in NOT_LOCKED {
        assert!(!is_link_local_or_metadata(ip(text)), "{text}");
    }
}

#[test]
fn a_mapped_range_is_the_range_inside() {
    for (wrapped, inside) in [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1/128", "10.0.0.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:0:0/95", "::ffff:0:0/95"),
        ("64:ff9b::/96", "64:ff9b::/96"),
        ("::/0", "::/0"),
        ("fc00::/7", "fc00::/7"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ] {
        let net: IpNet = wrapped.parse().unwrap();
        assert_eq!(plain_net(net), inside.parse::<IpNet>().unwrap(), "{wrapped}");
    }
}

#[test]
fn a_refusal_names_what_a_wrapped_address_carries() {
    let sentence = judge(ip("64:ff9b::a00:1")).unwrap_err().to_string();
    assert!(
        sentence.starts_with("the address 64:ff9b::a00:1, which carries 10.0.0.1, is a private address; use"),
        "{sentence}"
    );
}

fn wrap(prefix: Ipv6Net, ip: Ipv4Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(u128::from(prefix.network()) | u128::from(u32::from(ip))))
}

proptest! {
    #[test]
    fn every_address_in_a_block_is_refused(index in 0..BLOCKS.len(), bits: u128) {
        let (block, code) = BLOCKS[index];
        let ip = match block.parse().unwrap() {
            IpNet::V4(net) => {
                let host = bits as u32 & u32::from(net.hostmask());
                IpAddr::V4((u32::from(net.network()) | host).into())
            }
            IpNet::V6(net) => {
                let host = bits & u128::from(net.hostmask());
                IpAddr::V6((u128::from(net.network()) | host).into())
            }
        };
        prop_assert_eq!(forbidden(ip), Some(code), "{} of {}", ip, block);
    }

    #[test]
    fn an_ipv4_address_outside_the_blocks_is_allowed(bits: u32) {
        let ip = IpAddr::V4(bits.into());
        let in_block = BLOCKS.iter().any(|(block, _)| block.parse::<IpNet>().unwrap().contains(&ip));
        prop_assert_eq!(forbidden(ip).is_some(), in_block || bits >= 0xf000_0000);
    }

    #[test]
    fn a_wrapped_address_is_judged_as_the_one_inside(bits: u32, index in 0..BLOCKS.len()) {
        let net = BLOCKS[index].0.parse::<IpNet>().unwrap();
        let near_block = match net {
            IpNet::V4(net) => u32::from(net.network()).wrapping_add(bits % 512).wrapping_sub(256),
            IpNet::V6(_) => bits,
        };
        for v4 in [Ipv4Addr::from(bits), Ipv4Addr::from(near_block)] {
            for prefix in [V4_MAPPED, NAT64] {
                let wrapped = wrap(prefix, v4);
                prop_assert_eq!(inner(wrapped), IpAddr::V4(v4));
                prop_assert_eq!(forbidden(wrapped), forbidden(v4.into()));
                prop_assert_eq!(is_link_local_or_metadata(wrapped), is_link_local_or_metadata(v4.into()));
            }
        }
    }

    #[test]
    fn ipv6_outside_the_public_space_is_refused(bits: u128) {
        let ip = Ipv6Addr::from(bits);
        let public = bits >> 125 == 1;
        prop_assert!(public || forbidden(ip.into()).is_some());
    }

    #[test]
    fn a_tunnel_to_a_locked_address_is_locked(bits: u128, host: u16) {
        let v4 = u128::from(0xa9fe_0000 | u32::from(host));
        let six_to_four = (0x2002_u128 << 112) | (v4 << 80) | (bits & ((1 << 80) - 1));
        let isatap = (bits & !((1 << 64) - 1)) | (0x5efe_u128 << 32) | v4;
        for ip in [six_to_four, isatap] {
            prop_assert!(is_link_local_or_metadata(IpAddr::V6(ip.into())));
        }
    }
}

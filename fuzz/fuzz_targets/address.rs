//! An agent's policy: whatever is listed, denied and metadata addresses stay refused, and no wrapping changes a verdict.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use postrider_domain::egress::address::is_link_local_or_metadata;
use postrider_domain::egress::{Code, EndpointUrl, Policy};
use postrider_fuzz::{is_public, unwrapped};

#[derive(Debug, Arbitrary)]
struct Input {
    ip: IpAddr,
    answers: Vec<IpAddr>,
    allow: Vec<Net>,
    deny: Vec<Net>,
    own: Vec<IpAddr>,
    dangerous: bool,
}

#[derive(Debug)]
struct Net {
    address: IpAddr,
    prefix: u8,
}

impl<'a> Arbitrary<'a> for Net {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let address = IpAddr::arbitrary(input)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        Ok(Self { address, prefix: input.int_in_range(0..=longest)? })
    }
}

impl Net {
    fn text(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix);
                u32::from(net).checked_shr(shift) == u32::from(ip).checked_shr(shift)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix);
                u128::from(net).checked_shr(shift) == u128::from(ip).checked_shr(shift)
            }
            _ => false,
        }
    }
}

fuzz_target!(|input: Input| {
    let nets = |nets: &[Net]| {
        nets.iter().map(|net| net.text().parse().expect("an address and a prefix are a range")).collect()
    };
    let policy = Policy {
        allow_cidrs: nets(&input.allow),
        deny_cidrs: nets(&input.deny),
        own_addresses: input.own.clone(),
        dangerously_allow_link_local_and_metadata: input.dangerous,
        ..Policy::default()
    };
    let verdict = policy.judge_address(input.ip);
    by_default(input.ip);
    by_policy(&input, &policy);
    let url = EndpointUrl::parse("https://hooks.example.com/").expect("a URL");
    let all = input.answers.iter().all(|&ip| policy.judge_address(ip).is_ok());
    assert_eq!(policy.judge_addresses(&url, &input.answers).is_ok(), all && !input.answers.is_empty());
    if let IpAddr::V4(v4) = input.ip {
        let mapped = policy.judge_address(v4.to_ipv6_mapped().into());
        // Only a denied IPv6 range tells the two spellings apart.
        match (verdict, mapped) {
            (Ok(()), Err(refusal)) => assert_eq!(refusal.code(), Code::PolicyDenied),
            (Err(refusal), mapped) => {
                let code = mapped.expect_err("another spelling gets through").code();
                assert!(code == refusal.code() || code == Code::PolicyDenied);
            }
            (Ok(()), Ok(())) => {}
        }
    }
    assert_eq!(shuffled(&policy).hash(), policy.hash());
});

fn by_default(ip: IpAddr) {
    let policy = Policy::default();
    assert_eq!(policy.judge_address(ip).is_ok(), is_public(ip), "{ip}");
    let dangerous = Policy { dangerously_allow_link_local_and_metadata: true, ..policy };
    assert_eq!(dangerous.judge_address(ip).is_ok(), is_public(ip), "by itself the setting opens nothing");
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    assert!(is_link_local_or_metadata(metadata.into()));
}

fn by_policy(input: &Input, policy: &Policy) {
    let ip = input.ip;
    let verdict = policy.judge_address(ip).map_err(|refusal| refusal.code());
    let inside = |nets: &[Net], ip: IpAddr| nets.iter().any(|net| net.contains(ip));
    if inside(&input.deny, ip) || inside(&input.deny, unwrapped(ip)) {
        assert_eq!(verdict, Err(Code::PolicyDenied), "{ip} is denied");
    }
    if verdict.is_ok() && is_link_local_or_metadata(ip) {
        assert!(input.dangerous && !input.allow.is_empty(), "{ip} gives credentials away");
    }
    if verdict.is_ok() && input.allow.is_empty() {
        assert!(is_public(ip), "{ip} is not public, and nothing is listed");
        assert!(!input.own.iter().any(|&own| unwrapped(own) == unwrapped(ip)), "{ip} is the agent's own");
    }
    let narrower = Policy { deny_cidrs: vec!["::/0".parse().expect("a range")], ..policy.clone() };
    assert!(ip.is_ipv4() || narrower.judge_address(ip).is_err());
}

/// The same policy, said in another order, twice, on another machine.
fn shuffled(policy: &Policy) -> Policy {
    let mut other = policy.clone();
    other.allow_cidrs.reverse();
    other.deny_cidrs.extend(policy.deny_cidrs.clone());
    other.own_addresses.clear();
    other
}

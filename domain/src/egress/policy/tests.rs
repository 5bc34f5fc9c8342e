//! What each setting opens, and what it leaves shut.

use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn hosts(texts: &[&str]) -> Vec<HostPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn with_credentials(policy: &Policy, hosts: &[(&str, bool)]) -> Policy {
    let entry =
        |&(host, allow_http): &(&str, bool)| CredentialHost { host: host.parse().unwrap(), allow_http };
    Policy { credential_hosts: hosts.iter().map(entry).collect(), ..policy.clone() }
}

fn verdict(policy: &Policy, text: &str) -> &'static str {
    let url = EndpointUrl::parse(text).unwrap();
    policy.judge_url(&url).map_or_else(|refusal| refusal.code().as_str(), |()| "ok")
}

fn address_verdict(policy: &Policy, text: &str) -> &'static str {
    policy.judge_address(ip(text)).map_or_else(|refusal| refusal.code().as_str(), |()| "ok")
}

/// What a careless owner might write.
fn wide_open() -> Policy {
    Policy { allow_cidrs: nets(&["0.0.0.0/0", "::/0"]), ..Policy::default() }
}

#[test]
fn the_default_is_public_https_on_two_ports() {
    let policy = Policy::default();
    for (text, expected) in [
        ("https://a.example.com/", "ok"),
        ("https://a.example.com:8443/", "ok"),
        ("http://a.example.com/", "scheme"),
        ("https://a.example.com:80/", "port"),
        ("https://a.example.com:0/", "port"),
        ("https://localhost/", "host_special_name"),
        ("https://8.8.8.8/", "ok"),
        ("https://10.0.0.1/", "v4_private"),
    ] {
        assert_eq!(verdict(&policy, text), expected, "{text}");
    }
}

#[test]
fn http_needs_its_port_too() {
    let mut policy = Policy { allow_http: true, ..Policy::default() };
    assert_eq!(verdict(&policy, "http://a.example.com/"), "port");
    assert_eq!(verdict(&policy, "http://a.example.com:8443/"), "ok");
    policy.allow_ports = vec![80, 0];
    assert_eq!(verdict(&policy, "http://a.example.com/"), "ok");
    assert_eq!(verdict(&policy, "https://a.example.com/"), "port");
    assert_eq!(verdict(&policy, "https://a.example.com:0/"), "port");
}

#[test]
fn listed_names_lift_the_name_rule_and_nothing_else() {
    let policy = Policy { allow_hosts: hosts(&["localhost", "*.internal"]), ..Policy::default() };
    for (text, expected) in [
        ("https://localhost/", "ok"),
        ("https://LOCALHOST./", "ok"),
        ("https://a.localhost/", "host_special_name"),
        ("https://metadata.google.internal/", "ok"),
        ("https://internal/", "host_special_name"),
        ("https://a.example.com/", "ok"),
    ] {
        assert_eq!(verdict(&policy, text), expected, "{text}");
    }
    let url = EndpointUrl::parse("https://localhost/").unwrap();
    let refusal = policy.judge_addresses(&url, &[ip("127.0.0.1")]).unwrap_err();
    assert_eq!(refusal.code(), Code::V4Loopback);
    let url = EndpointUrl::parse("https://metadata.google.internal/").unwrap();
    let refusal = policy.judge_addresses(&url, &[ip("169.254.169.254")]).unwrap_err();
    assert_eq!(refusal.code(), Code::V4LinkLocal);
}

#[test]
fn listed_ranges_open_private_addresses_however_wrapped() {
    let policy = Policy {
        allow_cidrs: nets(&["10.1.0.0/16", "::ffff:10.2.0.0/112", "fc00::/7"]),
        ..Policy::default()
    };
    for (text, expected) in [
        ("10.1.2.3", "ok"),
        ("::ffff:10.1.2.3", "ok"),
        ("64:ff9b::a01:203", "ok"),
        ("10.2.0.1", "ok"),
        ("10.3.0.1", "v4_private"),
        ("fd12::1", "ok"),
        ("fd00:ec2::254", "v6_not_global_unicast"),
        ("8.8.8.8", "ok"),
    ] {
        assert_eq!(address_verdict(&policy, text), expected, "{text}");
    }
}

const LOCKED: &[(&str, &str)] = &[
    ("169.254.169.254", "v4_link_local"),
    ("::ffff:169.254.169.254", "v4_link_local"),
    ("64:ff9b::a9fe:a9fe", "v4_link_local"),
    ("100.100.100.200", "v4_cgnat"),
    ("192.0.0.192", "v4_ietf"),
    ("168.63.129.16", "v4_cloud_magic"),
    ("fe80::1", "v6_not_global_unicast"),
    ("fd00:ec2::254", "v6_not_global_unicast"),
    ("fd20:ce::254", "v6_not_global_unicast"),
    ("2002:a9fe:a9fe::1", "v6_6to4"),
    ("2606:4700:4700::5efe:a9fe:a9fe", "v6_isatap"),
];

#[test]
fn metadata_needs_the_range_and_the_second_setting() {
    let dangerous = |policy: Policy| Policy { dangerously_allow_link_local_and_metadata: true, ..policy };
    for (text, code) in LOCKED {
        let refusal = wide_open().judge_address(ip(text)).unwrap_err();
        assert_eq!(refusal.code().as_str(), *code, "{text}");
        assert!(refusal.to_string().contains("dangerously_allow_link_local_and_metadata"), "{refusal}");
        assert_eq!(address_verdict(&dangerous(Policy::default()), text), *code, "{text}");
        assert_eq!(address_verdict(&dangerous(wide_open()), text), "ok", "{text}");
    }
}

#[test]
fn denied_ranges_win_over_everything() {
    let policy = Policy {
        deny_cidrs: nets(&[
            "10.9.0.0/16",
            "8.8.8.0/24",
            "169.254.169.254/32",
            "2606:4700::/32",
            "::ffff:9.9.9.9/128",
        ]),
        dangerously_allow_link_local_and_metadata: true,
        ..wide_open()
    };
    for (text, expected) in [
        ("10.9.1.1", "policy_denied"),
        ("::ffff:10.9.1.1", "policy_denied"),
        ("64:ff9b::a09:101", "policy_denied"),
        ("2002:a09:101::1", "policy_denied"),
        ("2a00::5efe:a09:101", "policy_denied"),
        ("8.8.8.8", "policy_denied"),
        ("9.9.9.9", "policy_denied"),
        ("169.254.169.254", "policy_denied"),
        ("2606:4700::1111", "policy_denied"),
        ("10.8.1.1", "ok"),
        ("169.254.169.253", "ok"),
    ] {
        assert_eq!(address_verdict(&policy, text), expected, "{text}");
    }
    let nat64 = Policy { deny_cidrs: nets(&["64:ff9b::/96"]), ..Policy::default() };
    assert_eq!(address_verdict(&nat64, "64:ff9b::808:808"), "policy_denied");
    assert_eq!(address_verdict(&nat64, "8.8.8.8"), "ok");
}

#[test]
fn listing_the_nat64_range_opens_nothing() {
    let policy = Policy { allow_cidrs: nets(&["64:ff9b::/96"]), ..Policy::default() };
    for text in ["10.0.0.1", "64:ff9b::a00:1"] {
        assert_eq!(address_verdict(&policy, text), "v4_private", "{text}");
    }
}

fn with_nat64(policy: Policy, prefixes: &[&str]) -> Policy {
    Policy { nat64_prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(), ..policy }
}

#[test]
fn addresses_of_a_networks_own_nat64_are_judged_by_what_they_carry() {
    let policy = Policy {
        allow_cidrs: nets(&["10.1.0.0/16", "2a00:64::/32", "fd00:64::/96"]),
        deny_cidrs: nets(&["9.9.9.0/24"]),
        own_addresses: vec![ip("93.184.216.34")],
        ..Policy::default()
    };
    let unaware = address_verdict(&policy, "2a00:64::a9fe:a9fe");
    assert_eq!(unaware, "ok", "nothing in the address shows it");
    let policy = with_nat64(policy, &["2a00:64::/96", "2a00:65::/32", "2a00:66:1:2::/64", "fd00:64::/96"]);
    for (text, expected) in [
        ("2a00:64::808:808", "ok"),
        ("2a00:64::a9fe:a9fe", "v4_link_local"),
        ("2a00:64::7f00:1", "v4_loopback"),
        ("2a00:64::a00:1", "v4_private"),
        ("2a00:64::a01:203", "ok"),
        ("2a00:64::909:909", "policy_denied"),
        ("2a00:64::5db8:d822", "own_address"),
        ("2a00:64:0:0:0:1:a00:1", "ok"),
        ("2a00:65:a9fe:a9fe::", "v4_link_local"),
        ("2a00:65:808:808::", "ok"),
        ("2a00:66:1:2:a9:fea9:fe00::", "v4_link_local"),
        ("fd00:64::808:808", "ok"),
        ("fd00:64::a00:1", "v4_private"),
        ("64:ff9b::a00:1", "v4_private"),
    ] {
        assert_eq!(address_verdict(&policy, text), expected, "{text}");
    }
    assert_eq!(verdict(&policy, "https://[2a00:64::a00:1]/"), "v4_private", "written into the URL");
    let sentence = policy.judge_address(ip("2a00:64::a00:1")).unwrap_err().to_string();
    assert!(sentence.contains("2a00:64::a00:1, which carries 10.0.0.1,"), "{sentence}");
    let nested = with_nat64(Policy::default(), &["2a00:64::/32", "2a00:64::/96"]);
    assert_eq!(address_verdict(&nested, "2a00:64::808:808"), "ok", "the longer one counts");
}

#[test]
fn a_prefix_opens_no_link_local_address_and_no_denied_one() {
    let policy = with_nat64(
        Policy { deny_cidrs: nets(&["2a00:64::/96"]), ..wide_open() },
        &["2a00:64::/96", "fe80::/96"],
    );
    assert_eq!(address_verdict(&policy, "2a00:64::808:808"), "policy_denied");
    assert_ne!(address_verdict(&policy, "fe80::808:808"), "ok");
}

proptest! {
    #[test]
    fn no_translated_address_is_judged_better_than_what_it_carries(
        v4 in any::<[u8; 4]>(),
        allow in any::<bool>(),
        dangerous in any::<bool>(),
    ) {
        let policy = Policy {
            allow_cidrs: if allow { nets(&["0.0.0.0/0", "::/0"]) } else { Vec::new() },
            dangerously_allow_link_local_and_metadata: dangerous,
            ..Policy::default()
        };
        let policy = with_nat64(policy, &["2a00:64::/96", "2a00:65::/32"]);
        let [a, b, c, d] = v4.map(u16::from);
        let plain = policy.judge_address(v4.into()).map_err(|refusal| refusal.code());
        for segments in [
            [0x2a00, 0x64, 0, 0, 0, 0, a << 8 | b, c << 8 | d],
            [0x2a00, 0x65, a << 8 | b, c << 8 | d, 0, 0, 0, 0],
        ] {
            let wrapped = policy.judge_address(segments.into()).map_err(|refusal| refusal.code());
            prop_assert_eq!(wrapped, plain);
        }
    }
}

#[test]
fn own_addresses_are_refused_unless_listed() {
    let own = vec![ip("93.184.216.34"), ip("2606:2800::1"), ip("127.0.0.1"), ip("::ffff:1.1.1.1")];
    let mut policy = Policy { own_addresses: own, ..Policy::default() };
    for text in ["93.184.216.34", "::ffff:93.184.216.34", "64:ff9b::5db8:d822", "2606:2800::1", "1.1.1.1"] {
        assert_eq!(address_verdict(&policy, text), "own_address", "{text}");
    }
    assert_eq!(address_verdict(&policy, "127.0.0.1"), "v4_loopback");
    policy.allow_cidrs = nets(&["127.0.0.0/8"]);
    assert_eq!(address_verdict(&policy, "127.0.0.1"), "ok");
    assert_eq!(address_verdict(&policy, "1.1.1.1"), "own_address");
}

#[test]
fn one_forbidden_answer_refuses_them_all() {
    let policy = Policy::default();
    let url = EndpointUrl::parse("https://a.example.com/").unwrap();
    let judge = |answers: &[&str]| {
        let answers: Vec<_> = answers.iter().map(|text| ip(text)).collect();
        policy.judge_addresses(&url, &answers).map_err(|refusal| refusal.code().as_str())
    };
    assert_eq!(judge(&[]), Err("dns_empty"));
    assert_eq!(judge(&["8.8.8.8", "2001:4860:4860::8888"]), Ok(()));
    assert_eq!(judge(&["8.8.8.8", "10.0.0.1"]), Err("v4_private"));
    assert_eq!(judge(&["10.0.0.1", "8.8.8.8"]), Err("v4_private"));
    let literal = EndpointUrl::parse("https://10.0.0.1/").unwrap();
    assert!(policy.judge_addresses(&literal, &[ip("8.8.8.8")]).is_err());
}

#[test]
fn hosts_with_credentials_are_not_called_in_the_clear() {
    let open = Policy {
        allow_http: true,
        allow_ports: vec![80, 443],
        allow_cidrs: nets(&["10.0.0.0/8"]),
        ..Policy::default()
    };
    let hosts = [("api.example.com", false), ("plain.example.com", true), ("*.example.com", false)];
    let policy = with_credentials(&open, &[&hosts[..], &[("10.1.0.0/16", false)]].concat());
    for (text, expected) in [
        ("https://api.example.com/", "ok"),
        ("http://api.example.com/", "credentials_need_https"),
        ("http://plain.example.com/", "ok"),
        ("http://other.example.com/", "credentials_need_https"),
        ("http://example.com/", "ok"),
        ("http://10.1.2.3/", "credentials_need_https"),
        ("https://10.1.2.3/", "ok"),
        ("http://10.2.2.3/", "ok"),
        // What is refused anyway keeps its own reason.
        ("http://api.example.com:25/", "port"),
        ("http://192.168.1.1/", "v4_private"),
    ] {
        assert_eq!(verdict(&policy, text), expected, "{text}");
    }
    let one_port = with_credentials(&open, &[("api.example.com:443", false)]);
    assert_eq!(
        verdict(&one_port, "http://api.example.com/"),
        "ok",
        "another port's credentials are not sent"
    );
    assert_eq!(verdict(&one_port, "http://api.example.com:443/"), "credentials_need_https");
    let twice = with_credentials(&open, &[("a.example.com", true), ("a.example.com", false)]);
    assert_eq!(verdict(&twice, "http://a.example.com/"), "ok", "the first entry counts");
}

#[test]
fn the_hash_tells_settings_apart_and_nothing_else() {
    let policy = Policy {
        allow_cidrs: nets(&["10.0.0.0/8", "fc00::/7"]),
        allow_hosts: hosts(&["*.svc", "localhost"]),
        ..Policy::default()
    };
    let same = Policy {
        allow_cidrs: nets(&["fc00::/7", "10.1.2.3/8", "10.0.0.0/8"]),
        allow_hosts: hosts(&["LOCALHOST", "*.svc."]),
        allow_ports: vec![8443, 443, 443],
        own_addresses: vec![ip("10.0.0.7")],
        ..Policy::default()
    };
    assert_eq!(policy.hash(), same.hash());
    let [a, b] = [("a.corp", false), ("10.0.0.0/8", true)];
    assert_eq!(with_credentials(&policy, &[a, b]).hash(), with_credentials(&policy, &[b, a, b]).hash());
    let others = [
        Policy { allow_cidrs: nets(&["10.0.0.0/8"]), ..policy.clone() },
        Policy { allow_hosts: hosts(&["svc", "localhost"]), ..policy.clone() },
        Policy { allow_ports: vec![443], ..policy.clone() },
        Policy { allow_http: true, ..policy.clone() },
        Policy { deny_cidrs: nets(&["fc00::/7"]), ..policy.clone() },
        Policy { dangerously_allow_link_local_and_metadata: true, ..policy.clone() },
        with_nat64(policy.clone(), &["2001:db8:64::/96"]),
        with_credentials(&policy, &[("vault.corp:8200", false)]),
        with_credentials(&policy, &[("vault.corp", false)]),
        with_credentials(&policy, &[("vault.corp", true)]),
    ];
    for other in &others {
        assert_ne!(policy.hash(), other.hash(), "{other:?}");
    }
}

#[test]
fn the_hash_is_stable_across_releases() {
    assert_eq!(Policy::default().hash(), "a5ede774e1b488092bf69df912f61968383b13e8b0e4b772b50704ddd599a558");
}

proptest! {
    #[test]
    fn the_default_policy_agrees_with_the_address_rules(ip: IpAddr) {
        prop_assert_eq!(
            Policy::default().judge_address(ip).map_err(|refusal| refusal.code()),
            address::judge(ip).map_err(|refusal| refusal.code()),
        );
    }

    #[test]
    fn a_denied_address_is_refused_under_any_other_setting(ip: IpAddr, prefix in 0_u8..=32, unlocked: bool) {
        let net = IpNet::new(ip, prefix).unwrap();
        let policy = Policy {
            deny_cidrs: vec![net],
            dangerously_allow_link_local_and_metadata: unlocked,
            ..wide_open()
        };
        prop_assert_eq!(policy.judge_address(ip).unwrap_err().code(), Code::PolicyDenied);
    }

    #[test]
    fn listing_more_never_refuses_more(ip: IpAddr, listed: IpAddr, prefix in 0_u8..=32) {
        let listing = Policy { allow_cidrs: vec![IpNet::new(listed, prefix).unwrap()], ..Policy::default() };
        if Policy::default().judge_address(ip).is_ok() {
            prop_assert!(listing.judge_address(ip).is_ok());
        }
    }
}

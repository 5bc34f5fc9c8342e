//! A subscription's URL: whatever is accepted has one reading, and none that leads inside.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use postrider_domain::egress::url::MAX_LEN;
use postrider_domain::egress::{EndpointUrl, Host, Policy, Scheme, address, name};
use postrider_fuzz::is_public;

/// Stands for the secrets that people write into paths and queries.
const SECRET: &str = "/s3cr3t-path?s3cr3t-query";

fuzz_target!(|text: &str| {
    let hidden = EndpointUrl::parse(&format!("{text}{SECRET}"));
    if let (Err(refusal), false) = (hidden, text.contains("s3cr3t")) {
        let shown = format!("{refusal} {refusal:?}");
        assert!(!shown.contains("s3cr3t"), "a refusal repeats what it must not: {shown}");
    }
    let Ok(url) = EndpointUrl::parse(text) else { return };
    canonical(&url);
    same_to_the_http_client(&url);
    judged(&url);
});

fn canonical(url: &EndpointUrl) {
    let text = url.as_str();
    assert!(text.len() <= MAX_LEN && text.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!text.contains(['#', '\\']) && !url.authority().contains('@'));
    assert_eq!(EndpointUrl::parse(text).as_ref(), Ok(url), "the canonical form is another URL");
    assert_eq!(format!("{}{}", url.origin(), url.path_and_query()), text);
    assert!(url.path_and_query().starts_with('/'));
    assert!(format!("{url:?}").len() <= url.origin().len() + "EndpointUrl(/…)".len());
    if let Host::Name(host) = url.host() {
        assert!(name::is_valid(host), "{host}");
        assert!(host.parse::<IpAddr>().is_err(), "an address passes for a name: {host}");
    }
}

/// The client that sends the request must read the URL as the policy did.
fn same_to_the_http_client(url: &EndpointUrl) {
    let uri: http::Uri = url.as_str().parse().expect("the HTTP client can read it");
    assert_eq!(uri.scheme_str(), Some(url.scheme().as_str()));
    assert_eq!(uri.authority().map(http::uri::Authority::as_str), Some(url.authority()));
    assert_eq!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), Some(url.path_and_query()));
    let host = uri.host().expect("it has a host");
    match url.host() {
        Host::Name(name) => assert_eq!(host, name),
        Host::Address(ip) => assert_eq!(host.trim_matches(['[', ']']).parse(), Ok(ip)),
    }
    let default = if url.scheme() == Scheme::Https { 443 } else { 80 };
    assert_eq!(uri.port_u16().unwrap_or(default), url.port());
}

fn judged(url: &EndpointUrl) {
    let ports = Policy { allow_http: true, allow_ports: vec![url.port()], ..Policy::default() };
    for policy in [Policy::default(), ports] {
        if policy.judge_url(url).is_err() {
            continue;
        }
        assert_ne!(url.port(), 0);
        match url.host() {
            Host::Name(host) => assert!(!name::is_special(host) && host.contains('.')),
            Host::Address(ip) => {
                assert!(is_public(ip) && address::judge(ip).is_ok(), "allowed: {url:?}");
                assert!(policy.judge_addresses(url, &[ip]).is_ok());
            }
        }
        let inside = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([169, 254, 169, 254])];
        assert!(inside.iter().all(|&ip| policy.judge_addresses(url, &[ip]).is_err()));
        assert!(policy.judge_addresses(url, &[]).is_err());
    }
    if Policy::default().judge_url(url).is_ok() {
        assert!(url.scheme() == Scheme::Https && matches!(url.port(), 443 | 8443));
    }
}

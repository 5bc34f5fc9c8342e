//! Endpoints by name: what is looked up, what is judged, what is dialled.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;

use crate::dns::NameServer;
use crate::endpoint::{Endpoint, policy, request, timed, with};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Loopback as well, but nobody listens there.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn localhost_works_without_a_name_server() {
    let endpoint = Endpoint::answering(OK).await;
    let mut policy = policy(&[endpoint.address.port()]);
    policy.allow_cidrs.push("::1/128".parse().unwrap());
    let transport = with(policy, RootCertStore::empty(), &[]);
    let report = transport.post(request(format!("http://localhost:{}/", endpoint.address.port()))).await;
    assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    assert!(report.trace.dns.is_some());
}

#[tokio::test]
async fn a_name_is_looked_up_each_time_and_its_connections_are_used_again() {
    let endpoint = Endpoint::answering(OK).await;
    let names = NameServer::start(&[HERE], 0).await;
    let transport = with(policy(&[endpoint.address.port()]), RootCertStore::empty(), &[names.address]);
    let url = format!("http://hook.test:{}/", endpoint.address.port());
    for _ in 0..3 {
        let report = transport.post(request(&url)).await;
        assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
        assert!(report.trace.dns.is_some());
    }
    assert_eq!(endpoint.connections(), 1);
    assert!(names.asked() >= 3, "a TTL of zero is honoured: {}", names.asked());
}

#[tokio::test]
async fn an_answer_is_remembered_for_its_ttl() {
    let endpoint = Endpoint::answering(OK).await;
    let names = NameServer::start(&[HERE], 60).await;
    let transport = with(policy(&[endpoint.address.port()]), RootCertStore::empty(), &[names.address]);
    let url = format!("http://hook.test:{}/", endpoint.address.port());
    for _ in 0..3 {
        assert_eq!(transport.post(request(&url)).await.kind, OutcomeKind::Response);
    }
    // A and AAAA, once each. The absence of AAAA has no TTL here, so it may be asked for again.
    assert!(names.asked() <= 4, "{}", names.asked());
}

#[tokio::test]
async fn one_forbidden_address_refuses_the_name() {
    let endpoint = Endpoint::answering(OK).await;
    let names = NameServer::start(&[HERE, PRIVATE], 0).await;
    let transport = with(policy(&[endpoint.address.port()]), RootCertStore::empty(), &[names.address]);
    let report = transport.post(request(format!("http://hook.test:{}/", endpoint.address.port()))).await;
    assert_eq!(report.kind, OutcomeKind::RefusedByPolicy);
    assert_eq!(report.refusal.unwrap().code().as_str(), "v4_private");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn an_address_that_is_dead_leads_to_the_next() {
    let endpoint = Endpoint::answering(OK).await;
    let names = NameServer::start(&[NOBODY, HERE], 0).await;
    let transport = with(policy(&[endpoint.address.port()]), RootCertStore::empty(), &[names.address]);
    let report = transport.post(request(format!("http://hook.test:{}/", endpoint.address.port()))).await;
    assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    assert_eq!(report.trace.peer, Some(endpoint.address));
}

#[tokio::test]
async fn names_are_asked_for_as_they_are() {
    // A search list of this machine could turn the second into `hook.test.<its domain>`, were it not absolute.
    let names = NameServer::start(&[], 0).await;
    let transport = with(policy(&[80]), RootCertStore::empty(), &[names.address]);
    for host in ["HOOK.test", "a.hook.test."] {
        assert_eq!(transport.post(request(format!("http://{host}/"))).await.kind, OutcomeKind::Dns);
    }
    let mut questions = names.questions();
    questions.dedup();
    assert_eq!(questions, ["hook.test", "a.hook.test"]);
}

#[tokio::test]
async fn a_name_server_that_is_silent_is_a_timeout() {
    let names = NameServer::answering(0, |_, _| None).await;
    let transport = with(policy(&[80]), RootCertStore::empty(), &[names.address]);
    let mut request = request("http://hook.test/");
    request.timeout = Duration::from_millis(400);
    let (report, took) = timed(&transport, request).await;
    assert_eq!(report.kind, OutcomeKind::Timeout);
    assert_eq!(report.detail, "the deadline passed while the endpoint's name was looked up");
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(1400), "{took:?}");
}

#[tokio::test]
async fn more_addresses_than_any_honest_name_has_are_refused() {
    let many: Vec<IpAddr> = (1..=65).map(|i| Ipv4Addr::new(127, 0, 1, i).into()).collect();
    let names = NameServer::answering(0, move |_, _| Some(many.clone())).await;
    let transport = with(policy(&[80]), RootCertStore::empty(), &[names.address]);
    assert_eq!(transport.post(request("http://hook.test/")).await.kind, OutcomeKind::Dns);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_a_dns_failure() {
    let names = NameServer::start(&[], 0).await;
    let transport = with(policy(&[80]), RootCertStore::empty(), &[names.address]);
    let report = transport.post(request("http://nowhere.test/")).await;
    assert_eq!(report.kind, OutcomeKind::Dns);
    assert_eq!(report.detail, "the endpoint's name does not exist or has no address");
    assert_eq!(report.refusal.unwrap().code().as_str(), "dns_empty");
    assert!(!report.trace.request_sent);
}

#[tokio::test]
async fn a_special_name_that_is_not_listed_is_not_even_looked_up() {
    let endpoint = Endpoint::answering(OK).await;
    let names = NameServer::start(&[HERE], 0).await;
    let transport = with(policy(&[endpoint.address.port()]), RootCertStore::empty(), &[names.address]);
    let report = transport.post(request(format!("http://vault.internal:{}/", endpoint.address.port()))).await;
    assert_eq!(report.refusal.unwrap().code().as_str(), "host_special_name");
    assert_eq!(names.asked() + endpoint.connections(), 0);
}

//! Endpoints by name: what is looked up, what is judged, what is dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_agent::transport::http::HttpTransport;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;

use crate::dns::{NameServer, Query, Reply};
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

/// An endpoint that listens on the loopback addresses of both families, at the same port.
struct BothFamilies {
    v4: Endpoint,
    v6: Endpoint,
}

impl BothFamilies {
    async fn start() -> BothFamilies {
        let v4 = Endpoint::answering(OK).await;
        let v6 =
            Endpoint::answering_on(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), v4.address.port()), OK).await;
        BothFamilies { v4, v6 }
    }

    fn url(&self) -> String {
        format!("http://hook.test:{}/", self.v4.address.port())
    }

    fn transport(&self, names: &NameServer) -> HttpTransport {
        let mut policy = policy(&[self.v4.address.port()]);
        policy.allow_cidrs.push("::1/128".parse().unwrap());
        with(policy, RootCertStore::empty(), &[names.address])
    }

    fn connections(&self) -> (usize, usize) {
        (self.v4.connections(), self.v6.connections())
    }
}

/// How a name server answers questions of the family that it is bad at.
type Manner = fn(&Query) -> Reply;

const SERVFAIL: u8 = 2;
const FORMERR: u8 = 1;
const NOTIMP: u8 = 4;

fn here(query: &Query) -> Reply {
    let address = if query.v6 { Ipv6Addr::LOCALHOST.into() } else { HERE.into() };
    Reply::Addresses(vec![address], 60)
}

#[tokio::test]
async fn a_family_that_is_not_answered_neither_delays_nor_fails_an_attempt() {
    let late = |query: &Query| Reply::Late(Duration::from_millis(1500), Box::new(here(query)));
    let manners: [(&str, Manner); 3] =
        [("silence", |_| Reply::Silence), ("SERVFAIL", |_| Reply::Code(SERVFAIL)), ("lateness", late)];
    for (name, manner) in manners {
        for v6_is_bad in [true, false] {
            let endpoints = BothFamilies::start().await;
            let names = NameServer::replying(
                move |query| {
                    if query.v6 == v6_is_bad { manner(query) } else { here(query) }
                },
            )
            .await;
            let transport = endpoints.transport(&names);
            for attempt in 1..=3 {
                let report = transport.post(request(endpoints.url())).await;
                assert_eq!(report.kind, OutcomeKind::Response, "{name} {v6_is_bad} {}", report.detail);
                let took = report.trace.dns.unwrap();
                assert!(
                    took < Duration::from_secs(1),
                    "{name} {v6_is_bad}: attempt {attempt} waited {took:?}"
                );
            }
            assert_eq!(endpoints.connections(), if v6_is_bad { (1, 0) } else { (0, 1) }, "{name}");
        }
    }
}

#[tokio::test]
async fn the_answer_of_one_family_is_remembered_while_the_other_is_open() {
    let endpoints = BothFamilies::start().await;
    let names = NameServer::replying(|query| if query.v6 { Reply::Silence } else { here(query) }).await;
    let transport = endpoints.transport(&names);
    let posts = (0..50).map(|_| transport.post(request(endpoints.url())));
    for report in futures::future::join_all(posts).await {
        assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    }
    // A once; AAAA once, and again where the resolver repeats what is not answered.
    assert!(names.asked() <= 6, "{}", names.asked());
}

#[tokio::test]
async fn a_late_family_helps_where_the_first_one_cannot_be_reached() {
    let endpoint = Endpoint::answering(OK).await;
    let names = NameServer::replying(|query| match query.v6 {
        true => here(query),
        false => Reply::Late(Duration::from_millis(300), Box::new(here(query))),
    })
    .await;
    let mut policy = policy(&[endpoint.address.port()]);
    policy.allow_cidrs.push("::1/128".parse().unwrap());
    let transport = with(policy, RootCertStore::empty(), &[names.address]);
    let url = format!("http://hook.test:{}/", endpoint.address.port());
    for _ in 0..2 {
        // Nobody listens at the IPv6 address.
        let report = transport.post(request(&url)).await;
        assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
        assert_eq!(report.trace.peer, Some(endpoint.address));
    }
}

#[tokio::test]
async fn late_addresses_are_judged_too() {
    let unwanted = Endpoint::answering(OK).await;
    let forbidden = Ipv4Addr::new(127, 0, 0, 1);
    let names = NameServer::replying(move |query| match query.v6 {
        true => here(query),
        false => {
            Reply::Late(Duration::from_millis(200), Box::new(Reply::Addresses(vec![forbidden.into()], 60)))
        }
    })
    .await;
    let mut policy = policy(&[unwanted.address.port()]);
    policy.allow_cidrs = vec!["::1/128".parse().unwrap()];
    let transport = with(policy, RootCertStore::empty(), &[names.address]);
    let url = format!("http://hook.test:{}/", unwanted.address.port());
    // Nobody listens at the address that is allowed.
    let report = transport.post(request(&url)).await;
    assert_eq!(report.kind, OutcomeKind::Connect, "{}", report.detail);
    // Now it is known where the name leads.
    let report = transport.post(request(&url)).await;
    assert_eq!(report.kind, OutcomeKind::RefusedByPolicy);
    assert_eq!(unwanted.connections(), 0);
}

#[tokio::test]
async fn a_name_server_that_does_not_know_edns_is_asked_without() {
    for code in [FORMERR, NOTIMP] {
        let endpoint = Endpoint::answering(OK).await;
        let names = NameServer::replying(move |query| match query.edns {
            true => Reply::Code(code),
            false => Reply::Addresses(vec![HERE.into()], 0),
        })
        .await;
        let transport = with(policy(&[endpoint.address.port()]), RootCertStore::empty(), &[names.address]);
        for _ in 0..3 {
            let report =
                transport.post(request(format!("http://hook.test:{}/", endpoint.address.port()))).await;
            assert_eq!(report.kind, OutcomeKind::Response, "{code}: {}", report.detail);
        }
        assert!(names.asked() < 12, "it is remembered: {}", names.asked());
    }
}

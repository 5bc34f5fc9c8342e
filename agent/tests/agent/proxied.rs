//! Endpoints behind the owner's egress proxy: what it is asked, what it never learns, and how it fails.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use postrider_agent::transport::http::{HttpTransport, Settings};
use postrider_agent::transport::{Report, Transport as _, proxy};
use postrider_domain::egress::Policy;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::connect_proxy::{ConnectProxy, Manner};
use crate::dns::NameServer;
use crate::endpoint::{Endpoint, equipped, policy, read_request, request, timed};
use crate::secured::{BOTH, Secured};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn through(policy: Policy, proxy: proxy::Settings, names: &[SocketAddr]) -> HttpTransport {
    trusting(RootCertStore::empty(), policy, proxy, names)
}

fn trusting(
    roots: RootCertStore,
    policy: Policy,
    proxy: proxy::Settings,
    names: &[SocketAddr],
) -> HttpTransport {
    equipped(
        policy,
        Settings { dns_servers: names.to_vec(), proxy: Some(proxy), ..Settings::trusting(roots) },
    )
}

fn answered(report: &Report) {
    assert_eq!(report.kind, OutcomeKind::Response, "{} {:?}", report.detail, report.cause);
}

#[tokio::test]
async fn it_is_asked_for_the_address_that_was_judged_over_tls_and_without() {
    let mut server = Secured::start(&["hook.test"], &["h2", "http/1.1"], BOTH).await;
    let (sender, mut plain_requests) = mpsc::channel(10);
    let plain = Endpoint::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                sender.send(request).await.unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let names = NameServer::start(&[Ipv4Addr::LOCALHOST], 0).await;
    let proxy = ConnectProxy::start(Manner::Tunnels).await;
    let (tls_port, plain_port) = (server.endpoint.address.port(), plain.address.port());
    let transport =
        trusting(server.roots.clone(), policy(&[tls_port, plain_port]), proxy.settings(), &[names.address]);
    for _ in 0..2 {
        let report = transport.post(request(format!("https://hook.test:{tls_port}/hook"))).await;
        answered(&report);
        assert_eq!(report.trace.peer, Some(server.endpoint.address));
        answered(&transport.post(request(format!("http://hook.test:{plain_port}/hook"))).await);
    }

    let endpoints = [server.endpoint.address.to_string(), plain.address.to_string()];
    assert_eq!(proxy.endpoints(), endpoints, "and each once: its connections are used again");
    for (head, endpoint) in proxy.asked().iter().zip(&endpoints) {
        assert!(head.starts_with(&format!("CONNECT {endpoint} HTTP/1.1\r\nhost: {endpoint}\r\n")), "{head}");
        assert!(head.contains("\r\nproxy-authorization: Basic dXNlcjpzM2NyZXQ=\r\n"), "{head}");
        assert!(!head.contains("hook.test"), "{head}");
    }
    let seen = server.seen().await;
    assert_eq!(
        (seen.server_name.as_deref(), seen.host),
        (Some("hook.test"), format!("hook.test:{tls_port}"))
    );
    assert!(!seen.headers.contains_key("proxy-authorization"));
    let sent = plain_requests.recv().await.unwrap();
    assert!(sent.starts_with("POST /hook HTTP/1.1\r\n") && !sent.contains("proxy"), "{sent}");
}

#[tokio::test]
async fn what_is_refused_is_not_even_asked_for() {
    let endpoint = Endpoint::answering(OK).await;
    let port = endpoint.address.port();
    let names = NameServer::start(&[Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1)], 0).await;
    // Its own address is not allowed to jobs: that is the owner's business.
    let proxy = ConnectProxy::at("127.0.0.3", Manner::Tunnels).await;
    let policy = Policy {
        allow_cidrs: vec!["127.0.0.1/32".parse().unwrap()],
        ..policy(&[port, proxy.address.port()])
    };
    let transport = through(policy, proxy.settings(), &[names.address]);
    for (url, code) in [
        (format!("http://hook.test:{port}/"), "v4_private"),
        (format!("http://10.0.0.1:{port}/"), "v4_private"),
        (format!("http://{}/", proxy.address), "v4_loopback"),
        (format!("http://vault.internal:{port}/"), "host_special_name"),
        (format!("http://127.0.0.1:{}/", port ^ 1), "port"),
    ] {
        let report = transport.post(request(&url)).await;
        assert_eq!(report.refusal.unwrap().code().as_str(), code, "{url}");
    }
    assert!(proxy.asked().is_empty());
    answered(&transport.post(request(endpoint.url("http"))).await);
    assert_eq!(proxy.endpoints(), [endpoint.address.to_string()]);
}

#[tokio::test]
async fn a_second_answer_that_is_forbidden_is_refused_behind_it_too() {
    let endpoint = Endpoint::answering(OK).await;
    let port = endpoint.address.port();
    let names = NameServer::answering(0, |_, before| {
        Some(vec![if before < 2 { [127, 0, 0, 1] } else { [127, 0, 0, 2] }.into()])
    })
    .await;
    let proxy = ConnectProxy::start(Manner::Tunnels).await;
    let policy = Policy { allow_cidrs: vec!["127.0.0.1/32".parse().unwrap()], ..policy(&[port]) };
    let transport = through(policy, proxy.settings(), &[names.address]);
    let url = format!("http://hook.test:{port}/");
    answered(&transport.post(request(&url)).await);
    assert_eq!(transport.post(request(&url)).await.kind, OutcomeKind::RefusedByPolicy);
    assert_eq!(proxy.endpoints(), [endpoint.address.to_string()]);
}

#[tokio::test]
async fn what_is_listed_is_called_without_it() {
    let endpoint = Endpoint::answering(OK).await;
    let port = endpoint.address.port();
    let names = NameServer::start(&[Ipv4Addr::LOCALHOST], 0).await;
    let proxy = ConnectProxy::start(Manner::Tunnels).await;
    for (no_proxy, asked) in [("hook.test", 0), ("127.0.0.0/8", 0), ("10.0.0.0/8", 1), ("*.hook.test", 2)] {
        let settings = proxy::Settings { no_proxy: vec![no_proxy.parse().unwrap()], ..proxy.settings() };
        let transport = through(policy(&[port]), settings, &[names.address]);
        answered(&transport.post(request(format!("http://hook.test:{port}/"))).await);
        assert_eq!(proxy.asked().len(), asked, "{no_proxy}");
    }
}

#[tokio::test]
async fn an_address_that_it_cannot_reach_leads_to_the_next() {
    let endpoint = Endpoint::answering(OK).await;
    let port = endpoint.address.port();
    let both: [IpAddr; 2] = ["2001:4860:4860::8888".parse().unwrap(), endpoint.address.ip()];
    let names = NameServer::answering(0, move |_, _| Some(both.to_vec())).await;
    let proxy = ConnectProxy::start(Manner::TunnelsToIpv4).await;
    let transport = through(policy(&[port]), proxy.settings(), &[names.address]);
    let report = transport.post(request(format!("http://hook.test:{port}/"))).await;
    answered(&report);
    assert_eq!(report.trace.peer, Some(endpoint.address));
    let asked = [format!("[2001:4860:4860::8888]:{port}"), endpoint.address.to_string()];
    assert_eq!(proxy.endpoints(), asked);
}

#[tokio::test]
async fn names_are_left_to_it_only_when_its_owner_says_so() {
    let endpoint = Endpoint::answering(OK).await;
    let port = endpoint.address.port();
    let names = NameServer::start(&[Ipv4Addr::new(10, 0, 0, 1)], 0).await;
    let proxy = ConnectProxy::start(Manner::TunnelsTo(endpoint.address)).await;
    let settings = proxy::Settings {
        leave_names_to_proxy: true,
        no_proxy: vec!["*.direct.test".parse().unwrap()],
        ..proxy.settings()
    };
    let transport = through(policy(&[port]), settings, &[names.address]);
    for _ in 0..2 {
        let report = transport.post(request(format!("http://hook.test:{port}/"))).await;
        answered(&report);
        assert!(report.trace.dns.is_none());
    }
    assert_eq!((proxy.endpoints(), names.asked()), (vec![format!("hook.test:{port}")], 0));
    // All that can be judged still is.
    for (url, code) in [
        (format!("http://10.0.0.1:{port}/"), "v4_private"),
        (format!("http://vault.internal:{port}/"), "host_special_name"),
        ("http://hook.test:1/".to_owned(), "port"),
        (format!("http://a.direct.test:{port}/"), "v4_private"),
    ] {
        let report = transport.post(request(&url)).await;
        assert_eq!(report.refusal.unwrap().code().as_str(), code, "{url}");
    }
    assert_eq!(proxy.asked().len(), 1);
    answered(&transport.post(request(endpoint.url("http"))).await);
    assert_eq!(proxy.endpoints()[1], endpoint.address.to_string());
}

#[tokio::test]
async fn the_proxys_own_name_is_looked_up_and_not_judged() {
    let endpoint = Endpoint::answering(OK).await;
    let proxy = ConnectProxy::at("127.0.0.3", Manner::Tunnels).await;
    let names = NameServer::answering(0, |name, _| {
        Some(if name == "proxy.internal" { vec![[127, 0, 0, 3].into()] } else { Vec::new() })
    })
    .await;
    let policy =
        Policy { allow_cidrs: vec!["127.0.0.1/32".parse().unwrap()], ..policy(&[endpoint.address.port()]) };
    let named = |name: &str| proxy::Settings {
        proxy: format!("http://{name}:{}", proxy.address.port()).parse().unwrap(),
        ..proxy.settings()
    };
    let settings = named("Proxy.internal.");
    answered(&through(policy.clone(), settings, &[names.address]).post(request(endpoint.url("http"))).await);
    let settings = named("elsewhere.internal");
    let report = through(policy, settings, &[names.address]).post(request(endpoint.url("http"))).await;
    assert_eq!(report.kind, OutcomeKind::Connect, "not DNS: that would be the endpoint's");
    assert!(report.cause.unwrap().contains("elsewhere.internal could not be looked up"));
}

/// What a tenant must not learn: where the proxy is, what it says, and that there is one.
fn is_coarse(report: &Report) {
    let shown = report.detail.to_lowercase();
    for part in ["proxy", "127", "407", "403", "s3cret", "user", "denied"] {
        assert!(!shown.contains(part), "{shown}");
    }
    assert!(!report.trace.request_sent && report.response.is_none());
}

#[tokio::test]
async fn every_way_it_fails_is_a_failed_connection_and_its_owner_learns_why() {
    static HUGE: [u8; 20_000] = [b'x'; 20_000];
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", String::from_utf8_lossy(&HUGE)).leak();
    let not_a_proxy = "does not answer CONNECT";
    for (manner, told) in [
        (
            Manner::Says("HTTP/1.1 407 Denied\r\nproxy-authenticate: Basic\r\n\r\n"),
            "wants a user and a password",
        ),
        (Manner::Says("HTTP/1.1 401 Unauthorized\r\n\r\n"), "wants a user and a password"),
        (Manner::Says("HTTP/1.1 403 Denied\r\ncontent-length: 99999999\r\n\r\nno"), "with status 403"),
        (Manner::Says("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n"), "with status 302"),
        (Manner::SaysAndCloses("HTTP/1.1 502 Bad Gateway\r\n\r\n"), "with status 502"),
        (Manner::SaysAndCloses(""), not_a_proxy),
        (Manner::SaysAndCloses("HTTP/1.1 2"), not_a_proxy),
        (Manner::SaysAndCloses("SSH-2.0-OpenSSH_9.6\r\n\r\n"), not_a_proxy),
        (Manner::SaysAndCloses(huge), not_a_proxy),
    ] {
        let endpoint = Endpoint::answering(OK).await;
        let proxy = ConnectProxy::start(manner).await;
        let transport = through(policy(&[endpoint.address.port()]), proxy.settings(), &[]);
        let report = transport.post(request(endpoint.url("http"))).await;
        assert_eq!(report.kind, OutcomeKind::Connect, "{told}: {}", report.detail);
        is_coarse(&report);
        let cause = report.cause.unwrap();
        assert!(cause.contains(told) && cause.contains(&proxy.address.to_string()), "{cause}");
        assert!(!cause.contains("s3cret"), "{cause}");
        assert_eq!(endpoint.connections(), 0);
    }
}

#[tokio::test]
async fn one_that_is_away_or_silent_ends_in_time() {
    let endpoint = Endpoint::answering(OK).await;
    let silent = ConnectProxy::start(Manner::Says("")).await;
    let half_an_answer = ConnectProxy::start(Manner::Says("HTTP/1.1 200 OK\r\n")).await;
    for proxy in [silent, half_an_answer] {
        let transport = through(policy(&[endpoint.address.port()]), proxy.settings(), &[]);
        let mut request = request(endpoint.url("http"));
        request.connect_timeout = Duration::from_millis(300);
        let (report, took) = timed(&transport, request).await;
        assert_eq!(report.kind, OutcomeKind::Timeout, "{}", report.detail);
        is_coarse(&report);
        assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(1300), "{took:?}");
    }
    let away = ConnectProxy::start(Manner::Tunnels).await.settings();
    let report =
        through(policy(&[endpoint.address.port()]), away, &[]).post(request(endpoint.url("http"))).await;
    assert_eq!(report.kind, OutcomeKind::Connect);
    is_coarse(&report);
    assert!(report.cause.unwrap().contains("cannot be reached"));
}

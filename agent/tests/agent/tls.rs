//! Endpoints behind TLS, with an authority of the test's own.

use std::net::Ipv4Addr;
use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;

use crate::dns::NameServer;
use crate::endpoint::{Endpoint, policy, request, with};
use crate::secured::{Authority, BOTH, Secured};

#[tokio::test]
async fn http2_is_spoken_where_the_server_does_and_its_connection_is_shared() {
    let server = Secured::start(&["127.0.0.1"], &["h2", "http/1.1"], BOTH).await;
    let transport = server.transport();
    for round in 0..3 {
        let posts = (0..40).map(|_| transport.post(request(server.endpoint.url("https"))));
        let reports = futures::future::join_all(posts).await;
        for report in &reports {
            assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
            assert_eq!((report.trace.http_version, report.trace.tls_version), ("HTTP/2", "TLSv1.3"));
            let expected = format!("POST {} /hook {{\"a\":1}}", server.endpoint.address);
            assert_eq!(report.response.as_ref().unwrap().body, expected);
        }
        let handshakes = reports.iter().filter(|report| report.trace.tls.is_some()).count();
        assert_eq!(handshakes, usize::from(round == 0));
    }
    assert_eq!(server.endpoint.connections(), 1);
}

#[tokio::test]
async fn http1_over_tls_keeps_its_connections() {
    for (versions, expected) in [(BOTH, "TLSv1.3"), (&[&rustls::version::TLS12][..], "TLSv1.2")] {
        let server = Secured::start(&["127.0.0.1"], &["http/1.1"], versions).await;
        let transport = server.transport();
        for _ in 0..2 {
            let posts = (0..5).map(|_| transport.post(request(server.endpoint.url("https"))));
            for report in futures::future::join_all(posts).await {
                assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
                assert_eq!((report.trace.http_version, report.trace.tls_version), ("HTTP/1.1", expected));
            }
        }
        assert!(server.endpoint.connections() <= 5);
    }
}

#[tokio::test]
async fn a_certificate_is_judged_by_the_name_in_the_url() {
    let server = Secured::start(&["localhost"], &["http/1.1"], BOTH).await;
    let mut policy = policy(&[server.endpoint.address.port()]);
    policy.allow_cidrs.push("::1/128".parse().unwrap());
    let transport = with(policy, server.roots.clone(), &[]);
    let by_name = request(format!("https://localhost:{}/", server.endpoint.address.port()));
    let report = transport.post(by_name).await;
    assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    let report = transport.post(request(server.endpoint.url("https"))).await;
    assert_eq!(report.kind, OutcomeKind::Tls);
    assert_eq!(report.detail, "the endpoint's certificate is for another name");
    assert!(!report.trace.request_sent && report.trace.tls.is_some());
}

#[tokio::test]
async fn the_name_stays_the_name_whatever_it_resolves_to() {
    let mut server = Secured::start(&["hook.test"], &["h2", "http/1.1"], BOTH).await;
    let names = NameServer::start(&[Ipv4Addr::LOCALHOST], 0).await;
    let port = server.endpoint.address.port();
    let transport = with(policy(&[port]), server.roots.clone(), &[names.address]);
    let report = transport.post(request(format!("https://HOOK.test.:{port}/hook"))).await;
    assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    let seen = server.seen().await;
    assert_eq!(seen.server_name.as_deref(), Some("hook.test"), "SNI");
    assert_eq!(seen.host, format!("hook.test:{port}"), "Host");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let server = Secured::with(Authority::new().expired(&["127.0.0.1"]), &["h2"], BOTH).await;
    let report = server.transport().post(request(server.endpoint.url("https"))).await;
    assert_eq!((report.kind, &*report.detail), (OutcomeKind::Tls, "the endpoint's certificate has expired"));
}

#[tokio::test]
async fn a_certificate_from_an_unknown_authority_is_refused() {
    let server = Secured::start(&["127.0.0.1"], &["h2"], BOTH).await;
    let stranger = Secured::start(&["127.0.0.1"], &["h2"], BOTH).await;
    // Both authorities have the same name, so here it is the signature that is wrong.
    let of_a_stranger = (
        stranger.roots.clone(),
        "a signature in the endpoint's certificates does not match the key of the authority that it names",
    );
    let of_nobody = (RootCertStore::empty(), "the endpoint's certificate is from an unknown authority");
    for (roots, detail) in [of_a_stranger, of_nobody] {
        let transport = with(policy(&[server.endpoint.address.port()]), roots, &[]);
        let report = transport.post(request(server.endpoint.url("https"))).await;
        assert_eq!(report.kind, OutcomeKind::Tls);
        assert_eq!(report.detail, detail);
        assert!(!report.trace.request_sent);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_a_tls_failure() {
    let plain = Endpoint::start(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    })
    .await;
    let mut request = request(plain.url("https"));
    request.timeout = Duration::from_secs(1);
    let report = crate::endpoint::transport(&plain).post(request).await;
    assert_eq!(report.kind, OutcomeKind::Tls);
}

#[tokio::test]
async fn a_certificate_of_an_authority_is_refused_and_the_fault_is_named() {
    let server = Secured::with(Authority::self_signed(&["127.0.0.1"]), &["http/1.1"], BOTH).await;
    let report = server.transport().post(request(server.endpoint.url("https"))).await;
    assert_eq!(report.kind, OutcomeKind::Tls);
    assert!(report.detail.contains("CA:TRUE"), "{}", report.detail);
    assert!(report.cause.unwrap().contains("CaUsedAsEndEntity"));
}

#[tokio::test]
async fn handshakes_that_fail_say_why() {
    let alert = |code: u8| [0x15, 3, 3, 0, 2, 2, code];
    for (answer, part) in [
        (alert(40).to_vec(), "no TLS cipher suite"),
        (alert(70).to_vec(), "no TLS version"),
        (alert(112).to_vec(), "unrecognized_name"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "does not speak TLS"),
        (Vec::new(), "closed the connection during the TLS handshake"),
    ] {
        let endpoint = Endpoint::start(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let _hello = stream.read(&mut [0; 4096]).await;
                stream.write_all(&answer).await.unwrap();
            }
        })
        .await;
        let report = crate::endpoint::transport(&endpoint).post(request(endpoint.url("https"))).await;
        assert_eq!(report.kind, OutcomeKind::Tls);
        assert!(report.detail.contains(part), "{part}: {}", report.detail);
    }
}

#[tokio::test]
async fn an_endpoint_that_wants_a_client_certificate_is_named_as_such() {
    for versions in [BOTH, &[&rustls::version::TLS12][..]] {
        let authority = Authority::new();
        let identity = authority.server(&["127.0.0.1"]).demanding(&authority);
        let server = Secured::with(identity, &["http/1.1"], versions).await;
        let report = server.transport().post(request(server.endpoint.url("https"))).await;
        assert_eq!(report.kind, OutcomeKind::Tls, "{}", report.detail);
        assert!(report.detail.contains("client certificate"), "{}", report.detail);
    }
}

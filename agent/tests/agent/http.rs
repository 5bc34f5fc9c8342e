//! Endpoints that behave: what is sent, what is kept, how connections are used again.

use std::sync::Arc;
use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::endpoint::{Endpoint, policy, read_request, request, timed, transport, with};

const OK: &str =
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\nset-cookie: a=b\r\n\r\nok";

#[tokio::test]
async fn a_request_is_sent_as_it_is_and_the_answer_comes_back() {
    let (sender, mut requests) = mpsc::channel(10);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            sender.send(read_request(&mut stream).await.unwrap()).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let report = transport(&endpoint).post(request(endpoint.url("http"))).await;

    let sent = requests.recv().await.unwrap();
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /hook?a=b HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: {}", endpoint.address);
    assert_eq!(lines, ["content-length: 7", "content-type: application/json", &host, "webhook-id: evt_1"]);
    assert_eq!(body, "{\"a\":1}");

    assert_eq!(report.kind, OutcomeKind::Response);
    let response = report.response.unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &b"ok"[..]));
    let headers: Vec<_> = response.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(headers, [("content-type", "text/plain"), ("content-length", "2")]);
    let trace = report.trace;
    assert!(trace.request_sent && trace.dns.is_none() && trace.tls.is_none());
    assert!(trace.connect.is_some() && trace.first_byte.is_some() && trace.total > Duration::ZERO);
    assert_eq!((trace.http_version, trace.tls_version, trace.peer), ("HTTP/1.1", "", Some(endpoint.address)));
}

#[tokio::test]
async fn connections_are_used_again() {
    let endpoint = Endpoint::answering(OK).await;
    let transport = transport(&endpoint);
    for i in 0..20 {
        let report = transport.post(request(endpoint.url("http"))).await;
        assert_eq!(report.kind, OutcomeKind::Response);
        assert_eq!(report.trace.connect.is_some(), i == 0);
    }
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn jobs_at_once_have_connections_of_their_own() {
    let endpoint = Endpoint::answering(OK).await;
    let transport = Arc::new(transport(&endpoint));
    for _ in 0..3 {
        let posts = (0..30).map(|_| transport.post(request(endpoint.url("http"))));
        let reports = futures::future::join_all(posts).await;
        assert!(reports.iter().all(|report| report.kind == OutcomeKind::Response));
    }
    assert!(endpoint.connections() <= 30, "{}", endpoint.connections());
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    let (sender, mut closed) = mpsc::channel(10);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // The other side sees the end and closes too.
            assert!(read_request(&mut stream).await.is_none());
            sender.send(()).await.unwrap();
        }
    })
    .await;
    let transport = transport(&endpoint);
    for _ in 0..3 {
        let report = transport.post(request(endpoint.url("http"))).await;
        assert_eq!(report.kind, OutcomeKind::Response);
        closed.recv().await.unwrap();
    }
    assert_eq!(endpoint.connections(), 3);
}

#[tokio::test]
async fn a_redirect_is_an_answer_that_names_its_target() {
    let endpoint = Endpoint::answering(
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let report = transport(&endpoint).post(request(endpoint.url("http"))).await;
    assert_eq!((report.kind, &*report.detail), (OutcomeKind::Response, ""));
    assert_eq!(report.refusal.unwrap().code().as_str(), "redirect_not_followed");
    let response = report.response.unwrap();
    assert_eq!(response.status, 302);
    assert!(response.headers.contains(&("location", "http://169.254.169.254/".to_owned())));
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn no_more_of_a_body_is_kept_than_asked_for_and_the_connection_is_used_again() {
    let body = "x".repeat(20_000);
    let response = format!("HTTP/1.1 500 Oops\r\ncontent-length: 20000\r\n\r\n{body}");
    let endpoint = Endpoint::answering(response.leak()).await;
    let transport = transport(&endpoint);
    for keep in [0, 1, 4096, 65_536, usize::MAX] {
        let mut request = request(endpoint.url("http"));
        request.keep_response_bytes = keep;
        let response = transport.post(request).await.response.unwrap();
        assert_eq!(response.body.len(), keep.min(20_000));
    }
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn a_body_is_kept_as_it_came() {
    // What gzip makes of 10 MiB of zeros is small; nobody here unpacks it.
    let packed = b"\x1f\x8b\x08\x00 this is no gzip at all";
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len());
    let (sender, mut requests) = mpsc::channel(10);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let (sender, head) = (sender.clone(), head.clone());
        async move {
            sender.send(read_request(&mut stream).await.unwrap()).await.unwrap();
            stream.write_all(&[head.as_bytes(), packed].concat()).await.unwrap();
        }
    })
    .await;
    let report = transport(&endpoint).post(request(endpoint.url("http"))).await;
    assert_eq!(report.response.unwrap().body, &packed[..]);
    assert!(!requests.recv().await.unwrap().contains("accept-encoding"));
}

#[tokio::test]
async fn an_attempt_ends_within_a_second_after_its_deadline_whatever_its_body_does() {
    let endpoint = Endpoint::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut request = request(endpoint.url("http"));
    request.timeout = Duration::from_millis(300);
    let (report, took) = timed(&transport(&endpoint), request).await;
    assert_eq!(report.response.unwrap().body, "x");
    assert!(took >= Duration::from_millis(1050) && took < Duration::from_millis(1300), "{took:?}");
}

#[tokio::test]
async fn a_protocol_that_the_endpoint_switches_to_is_not_spoken() {
    let endpoint = Endpoint::answering(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
    )
    .await;
    let transport = transport(&endpoint);
    for _ in 0..2 {
        assert_eq!(transport.post(request(endpoint.url("http"))).await.response.unwrap().status, 101);
    }
    assert_eq!(endpoint.connections(), 2, "its connection is not used again");
}

#[tokio::test]
async fn what_the_policy_refuses_is_never_connected_to() {
    let endpoint = Endpoint::answering(OK).await;
    let mut refusing = policy(&[endpoint.address.port()]);
    refusing.allow_cidrs.clear();
    let transport = with(refusing, RootCertStore::empty(), &[]);
    let port = endpoint.address.port();
    for url in [
        endpoint.url("http"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0x7f.1:{port}/"),
    ] {
        let report = transport.post(request(&url)).await;
        assert_eq!(report.kind, OutcomeKind::RefusedByPolicy, "{url}");
        assert!(!report.trace.request_sent && report.trace.peer.is_none());
        assert!(report.refusal.is_some() && !report.detail.contains("127"), "{}", report.detail);
    }
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn what_is_late_or_unwanted_is_not_started() {
    let endpoint = Endpoint::answering(OK).await;
    let transport = transport(&endpoint);
    let mut late = request(endpoint.url("http"));
    late.start_by -= Duration::from_secs(21);
    let unwanted = request(endpoint.url("http"));
    unwanted.gate.shut();
    for request in [late, unwanted] {
        let report = transport.post(request).await;
        assert_eq!(report.kind, OutcomeKind::NotStarted);
        assert!(!report.trace.request_sent);
    }
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn nobody_listening_is_a_failed_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let transport = with(policy(&[address.port()]), RootCertStore::empty(), &[]);
    let (report, _) = timed(&transport, request(format!("http://{address}/"))).await;
    assert_eq!(report.kind, OutcomeKind::Connect);
    assert!(!report.trace.request_sent);
    assert_eq!(report.detail, "no connection to the endpoint could be made");
}

#[tokio::test]
async fn an_early_answer_is_an_answer() {
    // Answers at the first byte of a large request, reads no more, and keeps the connection open.
    let endpoint = Endpoint::start(|mut stream, _| async move {
        stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let transport = transport(&endpoint);
    for _ in 0..2 {
        let mut large = request(endpoint.url("http"));
        large.body = vec![b'x'; 32 << 20].into();
        let report = transport.post(large).await;
        assert_eq!(report.response.unwrap().status, 413);
    }
    assert_eq!(endpoint.connections(), 2, "a connection that still sends is not used again");
}

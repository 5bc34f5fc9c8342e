//! Endpoints that do not behave: each attempt ends by its deadline, or by the time for its body.

use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_proto::agent::OutcomeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::interval;

use crate::endpoint::{Endpoint, read_request, request, timed, transport};

const SHORT: Duration = Duration::from_millis(400);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(1);

/// An endpoint that reads a request, and then writes `piece` for ever, `pause` apart.
async fn repeating(head: &'static str, piece: &'static [u8], pause: Duration) -> Endpoint {
    Endpoint::start(move |mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut ticks = interval(pause);
        loop {
            ticks.tick().await;
            if stream.write_all(piece).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_dripping_body_ends_after_two_seconds() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    let endpoint = repeating(head, b"x", Duration::from_millis(20)).await;
    let (report, took) = timed(&transport(&endpoint), request(endpoint.url("http"))).await;
    assert_eq!(report.kind, OutcomeKind::Response);
    let kept = report.response.unwrap().body.len();
    assert!(kept > 10 && kept < 200, "{kept}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(2) + SLACK, "{took:?}");
}

#[tokio::test]
async fn an_endless_body_is_left_at_the_bound() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    static CHUNK: [u8; 1007] = {
        let mut chunk = [b'x'; 1007];
        (chunk[0], chunk[1], chunk[2], chunk[3], chunk[4]) = (b'3', b'e', b'8', b'\r', b'\n');
        (chunk[1005], chunk[1006]) = (b'\r', b'\n');
        chunk
    };
    let endpoint = repeating(head, &CHUNK, Duration::from_micros(1)).await;
    let (report, took) = timed(&transport(&endpoint), request(endpoint.url("http"))).await;
    assert_eq!(report.response.unwrap().status, 200);
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
}

#[tokio::test]
async fn an_endless_body_until_close_is_left_at_the_bound() {
    let endpoint = repeating("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096], Duration::from_micros(1)).await;
    let (report, took) = timed(&transport(&endpoint), request(endpoint.url("http"))).await;
    assert_eq!(report.response.unwrap().body.len(), 4096);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn headers_without_end_are_refused_at_the_bound() {
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\nx: ", &[b'x'; 4096][..]),
        ("HTTP/1.1 200 OK\r\n", &b"x: y\r\n"[..]),
        ("HTTP/1.1 200 ", &[b'x'; 4096][..]),
    ] {
        let endpoint = repeating(head, piece, Duration::from_micros(1)).await;
        let (report, took) = timed(&transport(&endpoint), request(endpoint.url("http"))).await;
        assert_eq!(report.kind, OutcomeKind::Protocol, "{}", report.detail);
        assert!(report.trace.request_sent);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[tokio::test]
async fn more_than_a_hundred_headers_are_refused() {
    for (count, kind) in [(100, OutcomeKind::Response), (101, OutcomeKind::Protocol)] {
        let fields = "a: b\r\n".repeat(count - 1);
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
        let endpoint = Endpoint::answering(response.leak()).await;
        assert_eq!(transport(&endpoint).post(request(endpoint.url("http"))).await.kind, kind);
    }
}

#[tokio::test]
async fn a_flood_of_interim_responses_ends_by_the_deadline_and_fills_no_memory() {
    let flood = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100).leak().as_bytes();
    let endpoint = repeating("", flood, Duration::from_micros(1)).await;
    let mut request = request(endpoint.url("http"));
    request.timeout = SHORT;
    let before = resident_bytes();
    let (report, took) = timed(&transport(&endpoint), request).await;
    assert_eq!(report.kind, OutcomeKind::Timeout);
    assert!(took >= SHORT && took < SHORT + SLACK, "{took:?}");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
}

#[tokio::test]
async fn garbage_is_a_protocol_failure_that_quotes_nothing() {
    for garbage in ["SSH-2.0-OpenSSH_9.6\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
        let endpoint = Endpoint::answering(garbage).await;
        let report = transport(&endpoint).post(request(endpoint.url("http"))).await;
        assert_eq!(report.kind, OutcomeKind::Protocol);
        assert_eq!(report.detail, "the endpoint's response is not valid HTTP");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_an_unknown_outcome_and_not_repeated() {
    let endpoint = Endpoint::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        // Unread bytes and no lingering: the peer gets a reset.
        socket_reset(stream);
    })
    .await;
    let report = transport(&endpoint).post(request(endpoint.url("http"))).await;
    assert_eq!(report.kind, OutcomeKind::Protocol);
    assert!(report.trace.request_sent);
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let endpoint = Endpoint::start(|mut stream, _| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap_or_default();
    })
    .await;
    for (scheme, sent) in [("http", true), ("https", false)] {
        let mut request = request(endpoint.url(scheme));
        request.timeout = SHORT;
        let (report, took) = timed(&transport(&endpoint), request).await;
        assert_eq!(report.kind, OutcomeKind::Timeout, "{scheme}");
        assert_eq!(report.trace.request_sent, sent, "{scheme}");
        assert!(took >= SHORT && took < SHORT + SLACK, "{took:?}");
    }
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_ends_by_the_connect_timeout() {
    // A listener with a full backlog does not answer further connections.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    for _ in 0..8 {
        filling.push(tokio::time::timeout(SHORT / 4, tokio::net::TcpStream::connect(address)).await);
    }
    let policy = crate::endpoint::policy(&[address.port()]);
    let transport = crate::endpoint::with(policy, rustls::RootCertStore::empty(), &[]);
    let mut request = request(format!("http://{address}/"));
    request.connect_timeout = SHORT;
    let (report, took) = timed(&transport, request).await;
    assert_eq!(report.kind, OutcomeKind::Timeout, "{}", report.detail);
    assert_eq!(report.detail, "no connection was made within the connect timeout");
    assert!(took >= SHORT && took < SHORT + SLACK, "{took:?}");
}

#[tokio::test]
async fn a_hundred_hostile_endpoints_at_once_end_and_fill_no_memory() {
    let drip = repeating("HTTP/1.1 200 OK\r\n", b"a: b\r\n", Duration::from_millis(50)).await;
    let headers = repeating("HTTP/1.1 200 OK\r\nx: ", &[b'x'; 4096], Duration::from_micros(1)).await;
    let endless = repeating("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096], Duration::from_micros(1)).await;
    let endpoints = [drip, headers, endless];
    let ports: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address.port()).collect();
    let policy = crate::endpoint::policy(&ports);
    let transport = crate::endpoint::with(policy, rustls::RootCertStore::empty(), &[]);
    let before = resident_bytes();
    let posts = (0..99).map(|i| {
        let mut request = request(endpoints[i % 3].url("http"));
        request.timeout = Duration::from_secs(1);
        timed(&transport, request)
    });
    for (_, took) in futures::future::join_all(posts).await {
        assert!(took < Duration::from_secs(1) + 2 * SLACK, "{took:?}");
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
}

/// Closes with a reset instead of a farewell.
fn socket_reset(stream: tokio::net::TcpStream) {
    #[expect(deprecated, reason = "blocks on close only with a time above zero")]
    stream.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// This process's memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

//! Endpoints that do not behave: each attempt ends by its deadline, or by the time for its body.

use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_proto::agent::OutcomeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::endpoint::{Endpoint, policy, read_request, request, timed, transport, with};
use crate::memory::resident_bytes;
use crate::secured::{Authority, BOTH};

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
async fn a_flood_of_interim_responses_is_left_at_the_bound_and_fills_no_memory() {
    let flood = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100).leak().as_bytes();
    let endpoint = repeating("", flood, Duration::from_micros(1)).await;
    let before = resident_bytes();
    let (report, took) = timed(&transport(&endpoint), request(endpoint.url("http"))).await;
    assert_eq!((report.kind, report.trace.request_sent), (OutcomeKind::Protocol, true));
    assert_eq!(report.detail, "the response's headers are too large");
    assert!(took < SLACK, "{took:?}");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
}

#[tokio::test]
async fn some_interim_responses_are_fine_and_the_next_request_may_have_as_many() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1500);
    let response =
        format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let endpoint = Endpoint::answering(response.leak()).await;
    let transport = transport(&endpoint);
    for _ in 0..5 {
        let report = transport.post(request(endpoint.url("http"))).await;
        assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    }
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
async fn a_handshake_that_drips_ends_by_the_deadline() {
    // A TLS record that announces 16 KiB of handshake, and never gets there.
    let drip =
        repeating_at_once(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"\0", Duration::from_millis(20)).await;
    let mut request = request(drip.url("https"));
    request.timeout = SHORT;
    let (report, took) = timed(&transport(&drip), request).await;
    assert_eq!(report.kind, OutcomeKind::Timeout, "{}", report.detail);
    assert_eq!(report.detail, "the deadline passed during the TLS handshake");
    assert!(took >= SHORT && took < SHORT + SLACK, "{took:?}");
}

#[tokio::test]
async fn a_request_that_is_not_read_ends_by_the_deadline() {
    let authority = Authority::new();
    let acceptor = authority.server(&["127.0.0.1"]).acceptor(&["http/1.1"], BOTH);
    let endpoint = Endpoint::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut first = [0];
            // A plain connection begins with the `P` of POST, one with TLS with a record.
            stream.peek(&mut first).await.unwrap();
            if first == *b"P" {
                return hold(stream).await;
            }
            hold(acceptor.accept(stream).await.unwrap()).await;
        }
    })
    .await;
    let transport = with(policy(&[endpoint.address.port()]), authority.roots(), &[]);
    for scheme in ["http", "https"] {
        let mut request = request(endpoint.url(scheme));
        request.timeout = SHORT;
        request.body = vec![b'x'; 32 << 20].into();
        let (report, took) = timed(&transport, request).await;
        assert_eq!(report.kind, OutcomeKind::Timeout, "{scheme} {}", report.detail);
        assert!(report.trace.request_sent);
        assert!(took >= SHORT && took < SHORT + SLACK, "{took:?}");
    }
}

/// Keeps a connection open and does nothing.
async fn hold(stream: impl Sized) {
    std::future::pending::<()>().await;
    drop(stream);
}

/// As [`repeating`], but it does not wait for a request.
async fn repeating_at_once(head: &'static [u8], piece: &'static [u8], pause: Duration) -> Endpoint {
    Endpoint::start(move |mut stream, _| async move {
        stream.write_all(head).await.unwrap();
        let mut ticks = interval(pause);
        while stream.write_all(piece).await.is_ok() {
            ticks.tick().await;
        }
    })
    .await
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
        filling.push(timeout(SHORT / 4, TcpStream::connect(address)).await);
    }
    let policy = policy(&[address.port()]);
    let transport = with(policy, rustls::RootCertStore::empty(), &[]);
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
    let policy = policy(&ports);
    let transport = with(policy, rustls::RootCertStore::empty(), &[]);
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
fn socket_reset(stream: TcpStream) {
    #[expect(deprecated, reason = "blocks on close only with a time above zero")]
    stream.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

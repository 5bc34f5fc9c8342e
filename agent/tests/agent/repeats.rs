//! Requests that an endpoint did not process, as HTTP has it: they are sent again at once, and others are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method};
use postrider_agent::transport::{Look, Report, Transport as _};
use postrider_proto::agent::OutcomeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::endpoint::{Endpoint, policy, read_request, request, timed, transport, with};
use crate::http2::{Abuser, GOAWAY, RST_STREAM, STATUS_200, Server, block, frame};
use crate::secured::{Authority, BOTH};

const NO_ERROR: u8 = 0;
const REFUSED_STREAM: u8 = 7;
const HTTP_1_1_REQUIRED: u8 = 13;

fn reset(stream: u32, reason: u8) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, reason])
}

fn goaway(last: u32, reason: u8) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0, 0, 0, reason]].concat())
}

fn answer(stream: u32) -> Vec<u8> {
    block(stream, STATUS_200)
}

async fn posts(abuser: &Abuser, number: usize) -> Vec<Report> {
    let posts = (0..number).map(|_| {
        let mut request = request(abuser.url());
        request.timeout = Duration::from_secs(15);
        abuser.transport.post(request)
    });
    futures::future::join_all(posts).await
}

fn all_answered(reports: &[Report]) {
    for report in reports {
        assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
        assert!(report.trace.request_sent && !report.not_processed);
    }
}

/// Reads until the other side has gone.
async fn until_closed(mut server: Server) {
    server.io.read_to_end(&mut Vec::new()).await.unwrap_or_default();
}

#[tokio::test]
async fn refused_streams_are_opened_again_on_the_same_connection() {
    for number in [3, 30] {
        let refused = Arc::new(AtomicUsize::new(0));
        let abuser = Abuser::start(move |mut server| {
            let refused = Arc::clone(&refused);
            async move {
                loop {
                    let refuse = refused.fetch_add(1, Ordering::SeqCst) < number;
                    let stream = server.stream;
                    let frames = if refuse { reset(stream, REFUSED_STREAM) } else { answer(stream) };
                    if server.send(&frames).await.is_none() || server.next_request().await.is_none() {
                        return;
                    }
                }
            }
        })
        .await;
        all_answered(&posts(&abuser, 10).await);
        assert_eq!(abuser.endpoint.connections(), 1, "{number}");
    }
}

#[tokio::test]
async fn streams_above_the_last_of_a_goaway_are_opened_again_elsewhere() {
    for each in [1, 5] {
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        let abuser = Abuser::start(move |mut server| {
            let count = Arc::clone(&count);
            async move {
                for number in 1..=each {
                    count.fetch_add(1, Ordering::SeqCst);
                    let sent = server.send(&answer(server.stream)).await;
                    if sent.is_none() || (number < each && server.next_request().await.is_none()) {
                        return;
                    }
                }
                server.send(&goaway(server.stream, NO_ERROR)).await;
                until_closed(server).await;
            }
        })
        .await;
        all_answered(&posts(&abuser, 60).await);
        assert_eq!(answered.load(Ordering::SeqCst), 60, "each was processed once");
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_with_all_its_streams_costs_nothing() {
    let first = Arc::new(AtomicUsize::new(0));
    let abuser = Abuser::start(move |mut server| {
        let is_first = first.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if is_first {
                for _ in 1..64 {
                    server.next_request().await.unwrap();
                }
                server.send(&goaway(0, NO_ERROR)).await;
                return;
            }
            while server.send(&answer(server.stream)).await.is_some() && server.next_request().await.is_some()
            {
            }
        }
    })
    .await;
    all_answered(&posts(&abuser, 300).await);
    assert!(abuser.endpoint.connections() <= 8, "{}", abuser.endpoint.connections());
}

#[tokio::test]
async fn a_stream_that_may_have_been_processed_is_not_repeated() {
    // Below the last one of a GOAWAY; cut without a word; reset for another reason.
    let manners: [fn(u32) -> Vec<u8>; 4] = [
        |stream| goaway(stream, NO_ERROR),
        |_| goaway(0x7fff_ffff, NO_ERROR),
        |_| Vec::new(),
        |stream| reset(stream, 8),
    ];
    for manner in manners {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let abuser = Abuser::start(move |mut server| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                server.send(&manner(server.stream)).await;
            }
        })
        .await;
        let report = abuser.transport.post(request(abuser.url())).await;
        assert_eq!(
            (report.kind, report.trace.request_sent),
            (OutcomeKind::Protocol, true),
            "{}",
            report.detail
        );
        assert!(!report.not_processed);
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn an_endpoint_that_never_processes_anything_is_left_after_a_while() {
    let refusing = |mut server: Server| async move {
        while server.send(&reset(server.stream, REFUSED_STREAM)).await.is_some()
            && server.next_request().await.is_some()
        {}
    };
    let leaving = |mut server: Server| async move {
        server.send(&goaway(0, NO_ERROR)).await;
        until_closed(server).await;
    };
    for (abuser, word) in
        [(Abuser::start(refusing).await, "REFUSED_STREAM"), (Abuser::start(leaving).await, "GOAWAY")]
    {
        let mut request = request(abuser.url());
        request.timeout = Duration::from_secs(20);
        let (report, took) = timed(&abuser.transport, request).await;
        assert_eq!((report.kind, report.trace.request_sent), (OutcomeKind::Protocol, false), "{word}");
        assert!(report.not_processed && report.detail.contains(word), "{}", report.detail);
        assert!(took < Duration::from_secs(18), "{took:?}");
    }
}

/// An endpoint that chooses HTTP/2 where it is offered, but answers over HTTP/1.1 only.
async fn only_http1(authority: &Authority, refusal: fn(u32) -> Vec<u8>) -> (Endpoint, Arc<AtomicUsize>) {
    let acceptor = authority.server(&["127.0.0.1"]).acceptor(&["h2", "http/1.1"], BOTH);
    let over_http2 = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&over_http2);
    let endpoint = Endpoint::start(move |stream, _| {
        let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                count.fetch_add(1, Ordering::SeqCst);
                if let Some(mut server) = Server::accept(stream).await {
                    while server.send(&refusal(server.stream)).await.is_some()
                        && server.next_request().await.is_some()
                    {}
                }
                return;
            }
            while read_request(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    (endpoint, over_http2)
}

#[tokio::test]
async fn an_endpoint_that_requires_http1_gets_it_and_that_is_remembered() {
    let refusals: [fn(u32) -> Vec<u8>; 2] =
        [|stream| reset(stream, HTTP_1_1_REQUIRED), |_| goaway(0, HTTP_1_1_REQUIRED)];
    for (number, refusal) in refusals.into_iter().enumerate() {
        let authority = Authority::new();
        let (endpoint, over_http2) = only_http1(&authority, refusal).await;
        let transport = with(policy(&[endpoint.address.port()]), authority.roots(), &[]);
        for _ in 0..3 {
            let report = transport.post(request(endpoint.url("https"))).await;
            assert_eq!(report.kind, OutcomeKind::Response, "{number}: {}", report.detail);
            assert_eq!(report.trace.http_version, "HTTP/1.1");
        }
        assert_eq!(over_http2.load(Ordering::SeqCst), 1);
        let second = Duration::from_secs(1);
        let look = Look {
            method: Method::HEAD,
            url: endpoint.url("https"),
            headers: HeaderMap::new(),
            connect_timeout: second,
            timeout: second,
        };
        let sight = with(policy(&[endpoint.address.port()]), authority.roots(), &[]).look(look).await;
        assert_eq!(sight.status, Some(200), "{}", sight.detail);
    }
}

#[tokio::test]
async fn a_request_over_http1_that_may_have_been_processed_is_not_repeated() {
    // The second request meets a connection that is closed once the request has been read.
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            read_request(&mut stream).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            if read_request(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let transport = transport(&endpoint);
    all_answered(&[transport.post(request(endpoint.url("http"))).await]);
    let report = transport.post(request(endpoint.url("http"))).await;
    assert_eq!((report.kind, report.trace.request_sent), (OutcomeKind::Protocol, true), "{}", report.detail);
    assert_eq!((requests.load(Ordering::SeqCst), endpoint.connections()), (2, 1));
}

//! Servers of HTTP/2 that send frames without end which carry no body: before a response, beside it, and on a connection
//! that is idle. And servers that send many for good reasons.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_proto::agent::OutcomeKind;
use tokio::time::timeout;

use crate::endpoint::{request, timed};
use crate::http2::{
    Abuser, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, STATUS_200, Server,
    block, field, frame,
};

const PRIORITY: u8 = 2;
const WINDOW_UPDATE: u8 = 8;
const PADDED: u8 = 8;
const UNKNOWN: u8 = 0xbe;
const NO_STREAM: [u8; 4] = [0, 0, 0, 0];

/// When a flood is over at the latest. The attempt has a longer time, and so has an idle connection.
const SOON: Duration = Duration::from_secs(8);
const LATER: Duration = Duration::from_secs(20);
/// What a server gets rid of before it notices: what the agent reads, and what fits into the buffers of the system.
const MOST_BYTES: u64 = 1_200_000 + (12 << 20);

/// For the stream of a request: what is sent again and again.
type Flood = fn(u32) -> Vec<u8>;

const ABOUT_THE_CONNECTION: [(&str, Flood); 6] = [
    ("pings", |_| frame(PING, 0, 0, &[7; 8])),
    ("settings", |_| frame(SETTINGS, 0, 0, &[])),
    ("windows", |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ("priorities", |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
    ("unknown frames", |_| frame(UNKNOWN, 0xff, 0, b"what nobody knows")),
    ("goodbyes", |_| frame(GOAWAY, 0, 0, &[&[0x7f, 0xff, 0xff, 0xff][..], &NO_STREAM].concat())),
];

const ABOUT_THE_STREAM: [(&str, Flood); 4] = [
    ("interim responses", |stream| {
        let fields = [&[0x08, 3][..], b"103", &field("link", "</a>")].concat();
        frame(HEADERS, END_HEADERS, stream, &fields)
    }),
    ("windows of the stream", |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1])),
    ("large unknown frames", |stream| frame(UNKNOWN, 0, stream, &[0; 16_384])),
    ("continuations of nothing", |stream| {
        [frame(HEADERS, 0, stream, &[]), frame(CONTINUATION, 0, stream, &[]).repeat(9)].concat()
    }),
];

const ABOUT_THE_BODY: [(&str, Flood); 2] = [
    ("empty data", |stream| frame(DATA, 0, stream, &[])),
    ("padding", |stream| frame(DATA, PADDED, stream, &[[255].as_slice(), &[0; 255]].concat())),
];

/// Sends `piece` until the agent has closed the connection, and counts the bytes that went out.
async fn flood(server: &mut Server, piece: &[u8], sent: &AtomicU64) {
    let portion = piece.repeat(16_384_usize.div_ceil(piece.len()));
    while server.send(&portion).await.is_some() {
        sent.fetch_add(portion.len() as u64, Ordering::SeqCst);
    }
}

/// A server that sends `first` and then a flood, for each request.
async fn flooding(first: fn(u32) -> Vec<u8>, again: Flood) -> (Abuser, Arc<AtomicU64>) {
    let sent = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&sent);
    let abuser = Abuser::start(move |mut server| {
        let sent = Arc::clone(&counted);
        async move {
            let stream = server.stream;
            if server.send(&first(stream)).await.is_some() {
                flood(&mut server, &again(stream), &sent).await;
            }
        }
    })
    .await;
    (abuser, sent)
}

async fn ends_soon(abuser: &mut Abuser, sent: &AtomicU64, name: &str) {
    assert!(timeout(SOON, abuser.ended.recv()).await.is_ok(), "{name}: the connection goes on");
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < MOST_BYTES, "{name}: {sent} bytes were sent");
}

#[tokio::test]
async fn frames_before_a_response_are_bounded() {
    for (name, again) in ABOUT_THE_CONNECTION.into_iter().chain(ABOUT_THE_STREAM) {
        let (mut abuser, sent) = flooding(|_| Vec::new(), again).await;
        let mut request = request(abuser.url());
        request.timeout = LATER;
        let (report, took) = timed(&abuser.transport, request).await;
        assert_eq!(report.kind, OutcomeKind::Protocol, "{name}: {}", report.detail);
        assert!(took < SOON, "{name}: {took:?}");
        if ["pings", "priorities", "unknown frames", "interim responses", "windows"].contains(&name) {
            assert!(report.detail.contains("too many HTTP/2 frames"), "{name}: {}", report.detail);
        }
        ends_soon(&mut abuser, &sent, name).await;
    }
}

#[tokio::test]
async fn frames_beside_a_body_are_bounded_and_the_status_counts() {
    let head = |stream| frame(HEADERS, END_HEADERS, stream, STATUS_200);
    for (name, again) in ABOUT_THE_CONNECTION.into_iter().chain(ABOUT_THE_BODY) {
        let (mut abuser, sent) = flooding(head, again).await;
        let (report, took) = timed(&abuser.transport, request(abuser.url())).await;
        assert_eq!(report.kind, OutcomeKind::Response, "{name}: {}", report.detail);
        assert!(took < SOON, "{name}: {took:?}");
        ends_soon(&mut abuser, &sent, name).await;
    }
}

#[tokio::test]
async fn frames_on_an_idle_connection_are_bounded_and_the_next_attempt_has_a_new_one() {
    let answer = |stream| block(stream, STATUS_200);
    for (name, again) in ABOUT_THE_CONNECTION.into_iter().chain(ABOUT_THE_STREAM).chain(ABOUT_THE_BODY) {
        let (mut abuser, sent) = flooding(answer, again).await;
        for _ in 0..2 {
            let report = abuser.transport.post(request(abuser.url())).await;
            assert_eq!(report.kind, OutcomeKind::Response, "{name}: {}", report.detail);
            ends_soon(&mut abuser, &sent, name).await;
            sent.store(0, Ordering::SeqCst);
        }
        assert_eq!(abuser.endpoint.connections(), 2, "{name}");
    }
}

#[tokio::test]
async fn data_of_a_request_that_is_over_is_bounded() {
    let answer = |stream| frame(HEADERS, END_HEADERS, stream, STATUS_200);
    // The agent reads 64 KiB, resets the stream, and gives the connection's window back for the rest.
    let (mut abuser, sent) = flooding(answer, |stream| frame(DATA, 0, stream, b"x")).await;
    let report = abuser.transport.post(request(abuser.url())).await;
    assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    ends_soon(&mut abuser, &sent, "data").await;
}

/// A server that answers each request with what `answer` makes of its stream.
async fn honest(answer: fn(u32) -> Vec<u8>) -> Abuser {
    Abuser::start(move |mut server| async move {
        while server.send(&answer(server.stream)).await.is_some() && server.next_request().await.is_some() {}
    })
    .await
}

#[tokio::test]
async fn a_response_in_small_pieces_is_read_and_its_connection_is_used_again() {
    // For smaller ones h2 itself has a budget.
    let abuser = honest(|stream| {
        let pieces = frame(DATA, 0, stream, &[b'x'; 256]).repeat(234);
        [
            frame(HEADERS, END_HEADERS, stream, STATUS_200),
            pieces,
            frame(DATA, END_STREAM, stream, &[b'x'; 256]),
        ]
        .concat()
    })
    .await;
    // 4 MiB in all.
    for _ in 0..70 {
        let report = abuser.transport.post(request(abuser.url())).await;
        assert_eq!(report.response.unwrap().body.len(), 4096, "{}", report.detail);
    }
    assert_eq!(abuser.endpoint.connections(), 1);
}

#[tokio::test]
async fn a_connection_lives_through_a_thousand_requests_with_frames_of_their_own() {
    let abuser = honest(|stream| {
        let fields = [&[0x08, 3][..], b"103", &field("link", "</a>")].concat();
        [
            frame(PING, 0, 0, &[7; 8]).repeat(3),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 100]).repeat(10),
            frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 100]).repeat(10),
            frame(HEADERS, END_HEADERS, stream, &fields).repeat(3),
            frame(SETTINGS, 0, 0, &[]),
            block(stream, STATUS_200),
            frame(PING, 0, 0, &[8; 8]).repeat(3),
        ]
        .concat()
    })
    .await;
    for _ in 0..1000 {
        let report = abuser.transport.post(request(abuser.url())).await;
        assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    }
    assert_eq!(abuser.endpoint.connections(), 1);
}

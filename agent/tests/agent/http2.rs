//! Servers that abuse HTTP/2, frame by frame.

use std::time::Duration;

use postrider_agent::transport::Transport as _;
use postrider_agent::transport::http::HttpTransport;
use postrider_proto::agent::OutcomeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;

use crate::endpoint::{Endpoint, policy, request, timed, with};
use crate::memory::resident_bytes;
use crate::secured::{Authority, BOTH};

const SHORT: Duration = Duration::from_millis(400);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(1);

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `:status: 200` of HPACK's static table.
pub(crate) const STATUS_200: &[u8] = &[0x88];

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header field of HPACK: literal, not indexed, not compressed.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, u8::try_from(name.len()).unwrap()];
    field.extend(name.bytes());
    let length = value.len();
    if length < 127 {
        field.push(length as u8);
    } else {
        field.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            field.push(u8::try_from(rest % 128).unwrap() | 0x80);
            rest /= 128;
        }
        field.push(rest as u8);
    }
    field.extend(value.bytes());
    field
}

/// A header block in as many frames as it takes.
pub(crate) fn block(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16_384).peekable();
    let mut frames = Vec::new();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let end = if kind == HEADERS { END_STREAM } else { 0 };
        frames.extend(frame(kind, last | end, stream, piece));
        kind = CONTINUATION;
    }
    frames
}

/// A server of HTTP/2 and the stream of the request that it has got.
pub(crate) struct Server {
    pub(crate) io: TlsStream<TcpStream>,
    pub(crate) stream: u32,
}

impl Server {
    /// Shakes hands, and reads up to the first request's headers.
    pub(crate) async fn accept(mut io: TlsStream<TcpStream>) -> Option<Server> {
        io.read_exact(&mut [0; 24]).await.ok()?;
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await.ok()?;
        let mut server = Server { io, stream: 0 };
        server.next_request().await?;
        Some(server)
    }

    /// Reads up to the next request's headers. `None` at the connection's end.
    pub(crate) async fn next_request(&mut self) -> Option<()> {
        loop {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.ok()?;
            let [high, middle, low, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
            self.io.read_exact(&mut payload).await.ok()?;
            if kind == SETTINGS && flags & ACK == 0 {
                self.send(&frame(SETTINGS, ACK, 0, &[])).await?;
            }
            if kind == HEADERS {
                self.stream = u32::from_be_bytes(id);
                return Some(());
            }
        }
    }

    pub(crate) async fn send(&mut self, frames: &[u8]) -> Option<()> {
        self.io.write_all(frames).await.ok()?;
        self.io.flush().await.ok()
    }

    /// Sends the same again and again, until the other side has gone.
    async fn send_for_ever(&mut self, frames: &[u8]) {
        while self.send(frames).await.is_some() {}
    }
}

/// An endpoint whose every connection is served by `serve`, a transport that may call it, and what tells that a
/// connection has ended for it.
pub(crate) struct Abuser {
    pub(crate) endpoint: Endpoint,
    pub(crate) transport: HttpTransport,
    pub(crate) ended: mpsc::Receiver<()>,
}

impl Abuser {
    pub(crate) async fn start<F>(serve: impl Fn(Server) -> F + Send + Sync + Clone + 'static) -> Abuser
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let authority = Authority::new();
        let (endpoint, ended) = abusing(&authority, serve).await;
        let transport = with(policy(&[endpoint.address.port()]), authority.roots(), &[]);
        Abuser { endpoint, transport, ended }
    }

    /// Answers every request with this header block.
    async fn answering(fields: Vec<u8>) -> Abuser {
        Abuser::start(move |mut server| {
            let fields = [STATUS_200, &fields].concat();
            async move {
                loop {
                    let frames = block(server.stream, &fields);
                    if server.send(&frames).await.is_none() || server.next_request().await.is_none() {
                        return;
                    }
                }
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        self.endpoint.url("https")
    }
}

/// An endpoint whose every connection is served by `serve`, and what tells that one has ended.
async fn abusing<F>(
    authority: &Authority,
    serve: impl Fn(Server) -> F + Send + Sync + Clone + 'static,
) -> (Endpoint, mpsc::Receiver<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = authority.server(&["127.0.0.1"]).acceptor(&["h2"], BOTH);
    let (sender, ended) = mpsc::channel(100);
    let endpoint = Endpoint::start(move |stream, _| {
        let (acceptor, serve, sender) = (acceptor.clone(), serve.clone(), sender.clone());
        async move {
            // What is said right before the connection is closed must not wait for an acknowledgement.
            stream.set_nodelay(true).unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            if let Some(server) = Server::accept(stream).await {
                serve(server).await;
            }
            // Not every test listens.
            let _gone = sender.send(()).await;
        }
    })
    .await;
    (endpoint, ended)
}

/// For the stream of a request: what is sent first, and what is sent then for ever.
type Flood = fn(u32) -> (Vec<u8>, Vec<u8>);

const FLOODS: [(&str, Flood); 5] = [
    ("interim responses", |stream| {
        let fields = [&[0x08, 3][..], b"103", &field("link", "</a>")].concat();
        (Vec::new(), frame(HEADERS, END_HEADERS, stream, &fields).repeat(100))
    }),
    ("pings", |_| (Vec::new(), frame(PING, 0, 0, &[7; 8]).repeat(100))),
    ("settings", |_| (Vec::new(), frame(SETTINGS, 0, 0, &[]).repeat(100))),
    ("continuations", |stream| {
        (frame(HEADERS, 0, stream, STATUS_200), frame(CONTINUATION, 0, stream, &field("a", "b")).repeat(100))
    }),
    ("empty continuations", |stream| {
        (frame(HEADERS, 0, stream, STATUS_200), frame(CONTINUATION, 0, stream, &[]).repeat(100))
    }),
];

async fn flood(mut server: Server, flood: Flood) {
    let (first, again) = flood(server.stream);
    if server.send(&first).await.is_some() {
        server.send_for_ever(&again).await;
    }
}

/// An endpoint for each kind of flood.
pub(crate) async fn flooding(authority: &Authority) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (_, kind) in FLOODS {
        endpoints.push(abusing(authority, move |server| flood(server, kind)).await.0);
    }
    endpoints
}

#[tokio::test]
async fn the_header_block_has_its_bounds_here_too() {
    for (fields, kind) in [
        (field("a", "b").repeat(100), OutcomeKind::Response),
        (field("a", "b").repeat(101), OutcomeKind::Protocol),
        (field("a", &"x".repeat(30 << 10)), OutcomeKind::Response),
        (field("a", &"x".repeat(33 << 10)), OutcomeKind::Protocol),
        (field("a", &"x".repeat(1 << 20)), OutcomeKind::Protocol),
    ] {
        let abuser = Abuser::answering(fields).await;
        let (report, took) = timed(&abuser.transport, request(abuser.url())).await;
        assert_eq!(report.kind, kind, "{}", report.detail);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[tokio::test]
async fn floods_of_frames_end_by_the_deadline_with_their_connection_and_fill_no_memory() {
    for (name, kind) in FLOODS {
        let mut abuser = Abuser::start(move |server| flood(server, kind)).await;
        let mut request = request(abuser.url());
        request.timeout = SHORT;
        let before = resident_bytes();
        let (report, took) = timed(&abuser.transport, request).await;
        let kinds = [OutcomeKind::Timeout, OutcomeKind::Protocol];
        assert!(kinds.contains(&report.kind), "{name}: {:?} {}", report.kind, report.detail);
        assert!(took < SHORT + SLACK, "{name}: {took:?}");
        let ended = tokio::time::timeout(5 * SLACK, abuser.ended.recv()).await;
        assert!(ended.is_ok(), "{name}: the connection goes on");
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "{name}: memory grew by {grown} bytes");
    }
}

#[tokio::test]
async fn a_body_without_end_and_one_that_drips_are_left() {
    for pause in [Duration::ZERO, Duration::from_millis(20)] {
        let mut abuser = Abuser::start(move |mut server| async move {
            let stream = server.stream;
            let mut sent = server.send(&frame(HEADERS, END_HEADERS, stream, STATUS_200)).await;
            let mut window = 65_535_usize;
            let size = if pause.is_zero() { 16_384 } else { 1 };
            // As much as the client's window lets through; then it would have to ask for more.
            while sent.is_some() && window > 0 {
                let size = size.min(window);
                window -= size;
                tokio::time::sleep(pause).await;
                sent = server.send(&frame(DATA, 0, stream, &vec![b'x'; size])).await;
            }
            server.io.read_to_end(&mut Vec::new()).await.unwrap_or_default();
        })
        .await;
        let (report, took) = timed(&abuser.transport, request(abuser.url())).await;
        let kept = report.response.unwrap().body.len();
        assert!((50..=4096).contains(&kept), "{kept}");
        assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
        drop(abuser.transport);
        assert!(tokio::time::timeout(5 * SLACK, abuser.ended.recv()).await.is_ok());
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_is_a_protocol_failure() {
    let abuser = Abuser::start(|mut server| async move {
        let reset = frame(RST_STREAM, 0, server.stream, &[0, 0, 0, 2]);
        while server.send(&reset).await.is_some() && server.next_request().await.is_some() {}
    })
    .await;
    let report = abuser.transport.post(request(abuser.url())).await;
    assert_eq!((report.kind, report.trace.request_sent), (OutcomeKind::Protocol, true));
}

#[tokio::test]
async fn a_connection_without_an_answer_is_not_lent_again() {
    let mut abuser =
        Abuser::start(|mut server| async move { while server.next_request().await.is_some() {} }).await;
    for connections in 1..=2 {
        let mut request = request(abuser.url());
        request.timeout = SHORT;
        assert_eq!(abuser.transport.post(request).await.kind, OutcomeKind::Timeout);
        assert_eq!(abuser.endpoint.connections(), connections);
        assert!(tokio::time::timeout(5 * SLACK, abuser.ended.recv()).await.is_ok(), "it is closed");
    }
}

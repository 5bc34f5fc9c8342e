//! The admin port over real sockets, as probes and Prometheus ask, and as somebody does who means ill.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider_telemetry::admin::{Port, Program, Verdict};
use postrider_telemetry::log::{self, Filter};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than the port lets anybody wait.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Thing {
    stuck: AtomicBool,
}

#[async_trait::async_trait]
impl Program for Thing {
    fn name(&self) -> &'static str {
        "postrider-thing"
    }
    fn version(&self) -> &'static str {
        "1.2.3"
    }
    async fn alive(&self) -> Verdict {
        if self.stuck.load(Ordering::Relaxed) { Err(vec!["the thing is stuck".to_owned()]) } else { Ok(()) }
    }
    async fn ready(&self) -> Verdict {
        Err(vec!["it starts".to_owned(), "a\nb".to_owned()])
    }
    async fn metrics(&self) -> String {
        "things_total 1\n".to_owned()
    }
}

struct World {
    address: SocketAddr,
    thing: Arc<Thing>,
    server: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    async fn new(filter: Option<Filter>) -> Self {
        let port = Port::bind(([127, 0, 0, 1], 0).into()).await.expect("a port is free");
        let (address, thing) = (port.address().expect("it has an address"), Arc::<Thing>::default());
        let server = tokio::spawn(port.serve(thing.clone(), filter));
        Self { address, thing, server }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// What comes back for these bytes, until the connection is closed.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // It may hang up before it has heard all.
        let _hung_up = stream.write_all(bytes).await;
        rest(&mut stream).await
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
        let answer = self.say(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (head[9..12].parse().expect("a status"), body.to_owned())
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("it closes in time");
    let _reset = read;
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn it_tells_health_version_and_metrics() {
    let world = World::new(None).await;
    assert_eq!(world.ask("GET", "/livez", "").await, (200, "ok\n".into()));
    assert_eq!(world.ask("GET", "/livez?verbose", "").await, (200, "ok\n".into()));
    assert_eq!(world.ask("HEAD", "/livez", "").await, (200, String::new()));
    world.thing.stuck.store(true, Ordering::Relaxed);
    assert_eq!(world.ask("GET", "/livez", "").await, (503, "the thing is stuck\n".into()));
    assert_eq!(world.ask("GET", "/readyz", "").await, (503, "it starts\na b\n".into()));
    let version = "{\"program\":\"postrider-thing\",\"version\":\"1.2.3\"}\n";
    assert_eq!(world.ask("GET", "/version", "").await, (200, version.into()));
    assert_eq!(world.ask("GET", "/metrics", "").await, (200, "things_total 1\n".into()));
    let answer = world.say(b"GET /metrics HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
}

#[tokio::test]
async fn what_is_not_there_is_told_in_words() {
    let world = World::new(None).await;
    for path in ["/", "/favicon.ico", "/livez/", "/../metrics", "//metrics", "/LIVEZ"] {
        let (status, body) = world.ask("GET", path, "").await;
        assert_eq!(status, 404, "{path}");
        assert_eq!(body, "there is nothing here; there are /livez, /readyz, /version, /metrics and /log\n");
    }
    for (method, path) in [("POST", "/metrics"), ("PUT", "/livez"), ("DELETE", "/log"), ("OPTIONS", "/log")] {
        let (status, body) = world.ask(method, path, "").await;
        assert_eq!(status, 405, "{method} {path}");
        assert!(body.starts_with("only GET, HEAD"), "{body}");
    }
    assert_eq!(world.ask("GET", "/log", "").await.0, 409, "somebody else writes the log");
    assert_eq!(world.ask("PUT", "/log", "debug").await.0, 409);
}

#[tokio::test]
async fn the_filter_of_the_log_is_seen_and_changed() {
    let filter = log::start(log::Format::Json, "info").unwrap();
    let world = World::new(Some(filter)).await;
    assert_eq!(world.ask("GET", "/log", "").await, (200, "info\n".into()));
    assert!(!tracing::enabled!(tracing::Level::DEBUG));
    assert_eq!(world.ask("PUT", "/log", "admin=debug\n").await, (200, "admin=debug\n".into()));
    assert!(tracing::enabled!(tracing::Level::DEBUG));
    let (status, why) = world.ask("PUT", "/log", "loud=very").await;
    assert!(status == 400 && why.starts_with("\"loud=very\" is not a log filter"), "{why}");
    assert_eq!(world.ask("PUT", "/log", " ").await.0, 400);
    assert_eq!(world.ask("PUT", "/log", &"a".repeat(4097)).await.0, 413);
    assert_eq!(world.say(b"PUT /log HTTP/1.0\r\ncontent-length: 2\r\n\r\n\xff\xfe").await[9..12], *"400");
    assert_eq!(world.ask("GET", "/log", "").await, (200, "admin=debug\n".into()), "what was in force stays");
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let world = World::new(None).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = world.say(bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let mut big = b"GET /livez HTTP/1.1\r\nx: ".to_vec();
    big.resize(64 * 1024, b'a');
    let answer = world.say(&big).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert!(world.say(many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert_eq!(world.ask("GET", "/livez", "").await.0, 200);
}

#[tokio::test]
async fn whoever_is_slow_is_closed() {
    let world = World::new(None).await;
    let (mut silent, mut slow) = (world.connect().await, world.connect().await);
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost:").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        assert!(!rest(stream).await.starts_with("HTTP/1.1 2"));
    }
}

#[tokio::test]
async fn one_request_a_connection_is_answered() {
    let world = World::new(None).await;
    let two = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    let answer = world.say(two.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let world = World::new(None).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(world.connect().await);
    }
    assert_eq!(timeout(Duration::from_secs(4), world.ask("GET", "/livez", "")).await.unwrap().0, 200);
    // The first had to make room, long before it was too slow.
    let first = timeout(Duration::from_secs(4), rest(&mut silent[0])).await;
    assert_eq!(first.expect("it is closed"), "");
}

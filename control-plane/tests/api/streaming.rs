//! The audit log, streamed to a receiver that is there, goes away, and comes back.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::audit_stream::Streamer;
use postrider_control_plane::clock::Clock;
use postrider_control_plane::metrics::Metrics;
use postrider_control_plane::store::Store as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::world::World;

const SOON: Duration = Duration::from_secs(20);

/// A stream that runs until it is dropped.
struct Streaming {
    task: JoinHandle<()>,
    metrics: Arc<Metrics>,
}

impl Streaming {
    fn start(world: &World, folder: &Path, destination: &str) -> Streaming {
        let metrics = Arc::new(Metrics::new());
        let streamer = Streamer {
            store: world.store.clone(),
            destination: destination.parse().unwrap(),
            position: folder.join("audit-stream"),
            metrics: metrics.clone(),
            clock: Clock::start(),
        };
        Streaming { task: tokio::spawn(streamer.run()), metrics }
    }

    /// The value of a metric.
    async fn shows(&self, name: &str) -> Option<u64> {
        let shown = self.metrics.show(None).await;
        shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    async fn until_nothing_waits(&self) {
        let waits = async {
            while self.shows("postrider_audit_stream_lag_records").await != Some(0) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(SOON, waits).await.expect("records still wait");
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One message of syslog over TCP: the number of the record in it.
async fn next(stream: &mut BufReader<TcpStream>) -> u64 {
    let read = async {
        let mut length = Vec::new();
        stream.read_until(b' ', &mut length).await.unwrap();
        let length = String::from_utf8(length).unwrap().trim_end().parse().unwrap();
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await.unwrap();
        sequence(&message)
    };
    timeout(SOON, read).await.expect("no record comes")
}

/// The number of the record in a message.
fn sequence(message: &[u8]) -> u64 {
    let message = std::str::from_utf8(message).unwrap();
    assert!(message.starts_with("<110>1 2"), "{message}");
    let (_, record) = message.split_once(" - {").unwrap();
    let record: serde_json::Value = serde_json::from_str(&format!("{{{record}")).unwrap();
    assert!(record["action"].is_string() && record["hash"].as_str().unwrap().len() == 64, "{record}");
    record["sequence"].as_u64().unwrap()
}

async fn accepted(listener: &TcpListener) -> BufReader<TcpStream> {
    let (stream, _) = timeout(SOON, listener.accept()).await.expect("nobody connects").unwrap();
    BufReader::new(stream)
}

async fn last(world: &World) -> u64 {
    world.store.audit_span().await.unwrap().end.sequence
}

#[tokio::test]
async fn a_receiver_that_goes_away_and_comes_back_misses_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(&folder.path().join("store")).await;
    world.tenant("acme").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let streaming = Streaming::start(&world, folder.path(), &format!("syslog+tcp://{address}"));
    let mut receiver = accepted(&listener).await;
    for expected in 1..=last(&world).await {
        assert_eq!(next(&mut receiver).await, expected);
    }
    streaming.until_nothing_waits().await;
    // Nobody reads what comes now, and then nobody listens.
    let before = last(&world).await;
    drop((receiver, listener));
    world.tenant("umbra").await;
    let failed = async {
        while streaming.shows("postrider_audit_stream_failures_total").await == Some(0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, failed).await.expect("the outage shows in no metric");
    world.tenant("zeta").await;
    let waiting = async {
        while streaming.shows("postrider_audit_stream_lag_records").await.is_none_or(|lag| lag == 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, waiting).await.expect("the lag shows in no metric");
    let listener = TcpListener::bind(address).await.unwrap();
    let mut receiver = accepted(&listener).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&last(&world).await) {
        seen.push(next(&mut receiver).await);
    }
    let expected: Vec<u64> = (before + 1..=last(&world).await).collect();
    assert_eq!(seen, expected, "all since the last that had arrived, in order");
    streaming.until_nothing_waits().await;
    drop(streaming);
    world.end().await;
}

#[tokio::test]
async fn a_restart_goes_on_after_the_last_record_and_another_log_is_streamed_from_its_first() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(&folder.path().join("store")).await;
    world.tenant("acme").await;
    let file = folder.path().join("audit.jsonl");
    let destination = format!("file:{}", file.display());
    let numbers = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let numbers = text.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["sequence"].as_u64().unwrap()
        });
        numbers.collect::<Vec<_>>()
    };
    for tenant in ["umbra", "zeta"] {
        let streaming = Streaming::start(&world, folder.path(), &destination);
        streaming.until_nothing_waits().await;
        drop(streaming);
        world.tenant(tenant).await;
    }
    let streaming = Streaming::start(&world, folder.path(), &destination);
    streaming.until_nothing_waits().await;
    drop(streaming);
    let all: Vec<u64> = (1..=last(&world).await).collect();
    assert_eq!(numbers(), all, "each once");
    world.end().await;

    let other = World::start(&folder.path().join("other")).await;
    other.tenant("acme").await;
    let streaming = Streaming::start(&other, folder.path(), &destination);
    streaming.until_nothing_waits().await;
    drop(streaming);
    let again = numbers().split_off(all.len());
    assert_eq!(again, (1..=last(&other).await).collect::<Vec<_>>());
    other.end().await;
}

#[tokio::test]
async fn datagrams_reach_receivers_over_udp_and_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(&folder.path().join("store")).await;
    world.tenant("acme").await;
    let mut message = vec![0; 65_536];
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let streaming =
        Streaming::start(&world, folder.path(), &format!("syslog+udp://{}", udp.local_addr().unwrap()));
    for expected in 1..=last(&world).await {
        let length = timeout(SOON, udp.recv(&mut message)).await.expect("no record comes").unwrap();
        assert_eq!(sequence(&message[..length]), expected);
    }
    streaming.until_nothing_waits().await;
    drop(streaming);
    std::fs::remove_file(folder.path().join("audit-stream")).unwrap();
    let path = folder.path().join("log");
    let unix = UnixDatagram::bind(&path).unwrap();
    let streaming = Streaming::start(&world, folder.path(), &format!("syslog+unix:{}", path.display()));
    for expected in 1..=last(&world).await {
        let length = timeout(SOON, unix.recv(&mut message)).await.expect("no record comes").unwrap();
        assert_eq!(sequence(&message[..length]), expected);
    }
    drop(streaming);
    world.end().await;
}

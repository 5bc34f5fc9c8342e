//! The agent as a process among hostile endpoints, a hundred at once: what it costs, and when it is over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider_proto::agent::OutcomeKind;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Interval, interval};

use crate::control_plane::{ControlPlane, job};
use crate::endpoint::{Endpoint, now, read_request};
use crate::http2;
use crate::memory::{descriptors, peak_bytes, resident_bytes_of};
use crate::process::agent;
use crate::secured::{Authority, BOTH};

const DEADLINE: Duration = Duration::from_secs(2);

/// What an endpoint does after it has read the request, for ever.
#[derive(Clone, Copy)]
struct Manner {
    head: &'static str,
    piece: &'static [u8],
    pause: Duration,
}

const DRIP: Duration = Duration::from_millis(50);
const AT_ONCE: Duration = Duration::from_micros(1);
static LARGE: [u8; 64 << 10] = [b'x'; 64 << 10];

const MANNERS: &[Manner] = &[
    Manner { head: "HTTP/1.1 200 OK\r\nx: ", piece: b"x", pause: DRIP },
    Manner { head: "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", piece: b"x", pause: DRIP },
    Manner { head: "HTTP/1.1 200 OK\r\n\r\n", piece: &LARGE, pause: AT_ONCE },
    Manner { head: "HTTP/1.1 200 OK\r\nx: ", piece: &LARGE, pause: AT_ONCE },
    Manner { head: "", piece: b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", pause: AT_ONCE },
    Manner { head: "", piece: b"", pause: DRIP },
];

async fn misbehaving(manner: Manner) -> Endpoint {
    Endpoint::start(move |mut stream, _| async move {
        if read_request(&mut stream).await.is_none()
            || stream.write_all(manner.head.as_bytes()).await.is_err()
        {
            return;
        }
        let mut ticks = interval(manner.pause);
        while stream.write_all(manner.piece).await.is_ok() {
            ticks.tick().await;
        }
    })
    .await
}

/// Never finishes a handshake: silent, or a byte at a time of a record that it announced as large.
async fn never_secure(ticks: fn() -> Option<Interval>) -> Endpoint {
    Endpoint::start(move |mut stream, _| async move {
        let Some(mut ticks) = ticks() else { return std::future::pending().await };
        let announced = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc";
        let mut sent = stream.write_all(announced).await;
        while sent.is_ok() {
            ticks.tick().await;
            sent = stream.write_all(b"\0").await;
        }
    })
    .await
}

/// Reads nothing of what it is sent, behind TLS.
async fn never_reading(authority: &Authority) -> Endpoint {
    let acceptor = authority.server(&["127.0.0.1"]).acceptor(&["http/1.1"], BOTH);
    Endpoint::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let _held = acceptor.accept(stream).await;
            std::future::pending::<()>().await;
        }
    })
    .await
}

/// One of each kind, with their URLs.
async fn hostile(authority: &Authority) -> Vec<(Endpoint, String)> {
    let mut endpoints = Vec::new();
    for manner in MANNERS {
        endpoints.push((misbehaving(*manner).await, "http"));
    }
    endpoints.push((never_secure(|| None).await, "https"));
    endpoints.push((never_secure(|| Some(interval(DRIP))).await, "https"));
    endpoints.push((never_reading(authority).await, "https"));
    endpoints.extend(http2::flooding(authority).await.into_iter().map(|endpoint| (endpoint, "https")));
    let with_url = |(endpoint, scheme): (Endpoint, &str)| {
        let url = endpoint.url(scheme);
        (endpoint, url)
    };
    endpoints.into_iter().map(with_url).collect()
}

/// A settings file for an agent that trusts `authority` and may call these.
fn settings(folder: &Path, authority: &Authority, endpoints: &[(Endpoint, String)]) -> PathBuf {
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let ports: Vec<_> = endpoints.iter().map(|(endpoint, _)| endpoint.address.port()).collect();
    let settings = format!(
        "[egress]\nallow_cidrs = ['127.0.0.0/8']\nallow_http = true\nallow_ports = {ports:?}\n\
         [[egress.credentials]]\nhosts = ['127.0.0.1']\nallow_http = true\nca = '{}'\n",
        ca.display()
    );
    let file = folder.join("agent.toml");
    std::fs::write(&file, settings).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_hostile_endpoints_at_once_cost_the_agent_little_and_end_in_time() {
    let authority = Authority::new();
    let endpoints = hostile(&authority).await;
    let folder = tempfile::tempdir().unwrap();
    let file = settings(folder.path(), &authority, &endpoints);
    let mut control_plane = ControlPlane::start().await;
    let child = agent(&control_plane.url(), &["--config", file.to_str().unwrap()]);
    let pid = child.id().unwrap().to_string();
    let mut session = control_plane.welcomed().await;
    let before = resident_bytes_of(&pid);
    let open = descriptors(&pid);

    let url_of = |number: usize| endpoints[number % endpoints.len()].1.as_str();
    let hostile_job = |number: u32| {
        let mut job = job(number, url_of(number as usize));
        job.timeout_ms = DEADLINE.as_millis() as u32;
        // Together 25 MiB, which the agent holds until their attempts end.
        job.body = vec![b'x'; 256 << 10].into();
        job
    };
    let began = now();
    session.send_jobs((0..100).map(hostile_job).collect()).await;
    let outcomes = session.outcomes(100).await;
    let took = now() - began;

    for outcome in &outcomes {
        let url = url_of(outcome.key.as_ref().unwrap().delivery_id[4..].parse().unwrap());
        let total = Duration::from_micros(outcome.total_us.into());
        assert!(total < DEADLINE + Duration::from_secs(1), "{url} took {total:?}");
        let expected = [OutcomeKind::Response, OutcomeKind::Timeout, OutcomeKind::Protocol];
        assert!(expected.contains(&outcome.kind()), "{url}: {:?} {}", outcome.kind(), outcome.detail);
    }
    assert!(took < DEADLINE + Duration::from_secs(2), "all together took {took:?}");
    let grown = peak_bytes(&pid).saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {} MiB", grown >> 20);
    let mut ticks = interval(Duration::from_millis(20));
    while descriptors(&pid) > open {
        assert!(now() - began < Duration::from_secs(30), "{} sockets are left", descriptors(&pid) - open);
        ticks.tick().await;
    }
}

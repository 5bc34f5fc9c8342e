//! Measures one agent alone: posts a second, and microseconds of its CPU a post.
//!
//! `cargo run --release -p postrider-agent --example load -- target/release/postrider-agent [jobs]` starts the
//! agent as a process, and is itself its control plane and its endpoint, both as cheap as can be.

#![expect(clippy::unwrap_used, reason = "a tool for developers")]

use std::convert::Infallible;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postrider_proto::agent::agent_message::Message as Heard;
use postrider_proto::agent::control_message::Message as Said;
use postrider_proto::agent::session_service_server::{SessionService, SessionServiceServer};
use postrider_proto::agent::{
    AgentMessage, ControlMessage, Header, HeartbeatAck, Job, JobKey, Jobs, OutcomeAck, OutcomeKind, Welcome,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

struct ControlPlane {
    url: String,
    left: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    done: mpsc::Sender<()>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let agent = args.next().unwrap();
    let jobs: u64 = args.next().map_or(300_000, |jobs| jobs.parse().unwrap());
    let sink = sink().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control_plane = format!("http://{}", listener.local_addr().unwrap());
    let (done, mut all_done) = mpsc::channel(16);
    let left = Arc::new(AtomicU64::new(jobs));
    let failed = Arc::new(AtomicU64::new(0));
    let url = format!("http://{sink}/hooks/document-completed");
    let service = SessionServiceServer::new(ControlPlane { url, left, failed: Arc::clone(&failed), done });
    let server = tonic::transport::Server::builder().add_service(service);
    let _server = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    println!(
        "bare hyper, client and endpoint together: {:.1} us of CPU a post",
        bare_hyper(sink, 50_000).await
    );
    let mut child = start(&agent, &control_plane, &sink.port().to_string(), args.collect());
    let idle_from = now();
    while now() - idle_from < std::time::Duration::from_millis(300) {
        tokio::task::yield_now().await;
    }
    println!("memory before: {:.1} MiB", resident_mib(&child));
    let (began, cpu) = (now(), cpu_seconds(&child.id().to_string()));
    all_done.recv().await.unwrap();
    let (took, used) = ((now() - began).as_secs_f64(), cpu_seconds(&child.id().to_string()) - cpu);
    println!(
        "{jobs} posts in {took:.2} s: {:.0}/s; agent's CPU {used:.2} s: {:.1} us a post; failed {}; memory {:.1} MiB",
        jobs as f64 / took,
        used * 1e6 / jobs as f64,
        failed.load(Ordering::Relaxed),
        resident_mib(&child)
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

fn start(agent: &str, control_plane: &str, port: &str, more: Vec<String>) -> Child {
    Command::new(agent)
        .args(["--control-plane", control_plane, "--agent-id", "agent-1", "--egress-allow-http"])
        .args(["--egress-allow-cidrs=127.0.0.0/8", "--egress-allow-ports", port])
        .args(more)
        .spawn()
        .unwrap()
}

/// What the same posts cost at the least, on this machine and now: 64 connections, in this thread.
async fn bare_hyper(sink: std::net::SocketAddr, posts: u64) -> f64 {
    let mut clients = tokio::task::JoinSet::new();
    let began = cpu_seconds("self");
    for _ in 0..64 {
        clients.spawn(async move {
            let stream = tokio::net::TcpStream::connect(sink).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let driver = tokio::spawn(connection);
            for _ in 0..posts / 64 {
                let body = http_body_util::Full::new(Bytes::from_static(&[b'x'; 275]));
                let request =
                    hyper::Request::post("/hooks/document-completed").header("host", "x").body(body);
                sender.ready().await.unwrap();
                let response = sender.send_request(request.unwrap()).await.unwrap();
                response.into_body().collect().await.unwrap();
            }
            driver.abort();
        });
    }
    clients.join_all().await;
    (cpu_seconds("self") - began) * 1e6 / posts as f64
}

async fn sink() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(stream), service_fn(accept));
            tokio::spawn(connection);
        }
    });
    address
}

async fn accept(request: hyper::Request<Incoming>) -> Result<hyper::Response<Empty<Bytes>>, Infallible> {
    let _body = request.into_body().collect().await;
    Ok(hyper::Response::new(Empty::new()))
}

#[tonic::async_trait]
impl SessionService for ControlPlane {
    type ConnectStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut from = request.into_inner();
        let (to, messages) = mpsc::channel(16);
        let (url, left, failed) = (self.url.clone(), Arc::clone(&self.left), Arc::clone(&self.failed));
        let done = self.done.clone();
        tokio::spawn(async move {
            let Some(Heard::Hello(hello)) = from.message().await.unwrap().unwrap().message else { panic!() };
            let welcome = Welcome {
                protocol: 1,
                epoch: 1,
                heartbeat_interval_ms: 10_000,
                silence_limit_ms: 30_000,
                ..Welcome::default()
            };
            say(&to, Said::Welcome(welcome)).await;
            let mut credit = u64::from(hello.max_in_flight);
            let mut number = u64::from(hello.stream) << 40;
            loop {
                let take = left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - left.min(credit)))
                    .unwrap()
                    .min(credit);
                credit -= take;
                if take > 0 {
                    let jobs = (0..take).map(|i| job(number + i, &url)).collect();
                    number += take;
                    say(&to, Said::Jobs(Jobs { jobs })).await;
                }
                if take == 0 && credit == u64::from(hello.max_in_flight) {
                    done.send(()).await.unwrap();
                }
                let Ok(Some(message)) = from.message().await else { return };
                match message.message {
                    Some(Heard::Outcomes(outcomes)) => {
                        credit += outcomes.outcomes.len() as u64;
                        let bad = outcomes.outcomes.iter().filter(|o| o.kind() != OutcomeKind::Response);
                        failed.fetch_add(bad.count() as u64, Ordering::Relaxed);
                        let sequence = outcomes.outcomes.last().unwrap().sequence;
                        say(&to, Said::OutcomeAck(OutcomeAck { sequence })).await;
                    }
                    Some(Heard::Heartbeat(heartbeat)) => {
                        let ack = HeartbeatAck { nonce: heartbeat.nonce, server_time_ms: 0 };
                        say(&to, Said::HeartbeatAck(ack)).await;
                    }
                    _ => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

async fn say(to: &mpsc::Sender<Result<ControlMessage, Status>>, message: Said) {
    // The agent is stopped at the end.
    let _gone = to.send(Ok(ControlMessage { message: Some(message) })).await;
}

/// As a real one: signed, 275 bytes of body.
fn job(number: u64, url: &str) -> Job {
    const BODY: &[u8] = &[b'x'; 275];
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    Job {
        key: Some(JobKey {
            delivery_id: format!("dlv_01h455vb4pex5vsknk084sn02q-{number}"),
            attempt: 1,
            epoch: 1,
            tag: vec![0; 16].into(),
        }),
        start_by_ms: 3_600_000,
        connect_timeout_ms: 5_000,
        timeout_ms: 15_000,
        url: url.to_owned(),
        headers: vec![
            header("content-type", "application/json"),
            header("user-agent", "Postrider/0.1"),
            header("webhook-id", "evt_01h455vb4pex5vsknk084sn02q"),
            header("webhook-timestamp", "1763900000"),
            header("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
        ],
        body: Bytes::from_static(BODY),
        keep_response_bytes: 4096,
        trace_parent: String::new(),
    }
}

/// User and system time of the process, in seconds.
fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn resident_mib(child: &Child) -> f64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() / 256.0
}

#[expect(clippy::disallowed_methods, reason = "a tool has no clock.rs")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

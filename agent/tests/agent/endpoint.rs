//! Endpoints on 127.0.0.1, and a transport that may call them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use postrider_agent::Instant;
use postrider_agent::gate::Gate;
use postrider_agent::transport::guard::Guard;
use postrider_agent::transport::http::{HttpTransport, Settings};
use postrider_agent::transport::{Report, Request, Transport as _};
use postrider_domain::egress::Policy;
use rustls::RootCertStore;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// An endpoint. It ends with this value.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Endpoint {
    /// Runs `serve` on every connection; it gets the connection and its number, from 1.
    pub(crate) async fn start<F, S>(serve: S) -> Endpoint
    where
        S: Fn(TcpStream, usize) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Endpoint::at("127.0.0.1", serve).await
    }

    /// As [`Endpoint::start`], at another address.
    pub(crate) async fn at<F, S>(address: &str, serve: S) -> Endpoint
    where
        S: Fn(TcpStream, usize) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Endpoint::on(SocketAddr::new(address.parse().unwrap(), 0), serve).await
    }

    async fn on<F, S>(address: SocketAddr, serve: S) -> Endpoint
    where
        S: Fn(TcpStream, usize) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                served.spawn(serve(stream, number));
            }
        });
        Endpoint { address, connections, _tasks: tasks }
    }

    /// Answers every request with `response`, and keeps connections open.
    pub(crate) async fn answering(response: &'static str) -> Endpoint {
        Endpoint::answering_on("127.0.0.1:0".parse().unwrap(), response).await
    }

    /// As [`Endpoint::answering`], at another address.
    pub(crate) async fn answering_on(address: SocketAddr, response: &'static str) -> Endpoint {
        let serve = move |mut stream: TcpStream, _| async move {
            while read_request(&mut stream).await.is_some() {
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        };
        Endpoint::on(address, serve).await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/hook?a=b", self.address.port())
    }
}

/// Reads one request as it is on the wire. `None` at the connection's end.
pub(crate) async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

/// May call loopback, any of `ports`, over http and https.
pub(crate) fn policy(ports: &[u16]) -> Policy {
    Policy {
        allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        allow_hosts: vec!["localhost".parse().unwrap(), "*.test".parse().unwrap()],
        allow_ports: ports.to_vec(),
        allow_http: true,
        ..Policy::default()
    }
}

/// A transport that may call `endpoint`.
pub(crate) fn transport(endpoint: &Endpoint) -> HttpTransport {
    with(policy(&[endpoint.address.port()]), RootCertStore::empty(), &[])
}

pub(crate) fn with(policy: Policy, roots: RootCertStore, dns_servers: &[SocketAddr]) -> HttpTransport {
    equipped(policy, Settings { dns_servers: dns_servers.to_vec(), ..Settings::trusting(roots) })
}

/// A transport with whatever an owner may give it.
pub(crate) fn equipped(policy: Policy, settings: Settings) -> HttpTransport {
    HttpTransport::new(Arc::new(Guard::new(policy)), settings).unwrap()
}

/// A request that is in time and has two seconds.
pub(crate) fn request(url: impl Into<String>) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("webhook-id", "evt_1".parse().unwrap());
    Request {
        url: url.into(),
        headers,
        body: Bytes::from_static(b"{\"a\":1}"),
        start_by: now() + Duration::from_secs(20),
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        keep_response_bytes: 4096,
        gate: Arc::new(Gate::default()),
        trace_parent: String::new(),
    }
}

/// The report, and how long it took.
pub(crate) async fn timed(transport: &HttpTransport, request: Request) -> (Report, Duration) {
    let began = now();
    let report = transport.post(request).await;
    (report, now() - began)
}

#[expect(clippy::disallowed_methods, reason = "tests have no clock.rs")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

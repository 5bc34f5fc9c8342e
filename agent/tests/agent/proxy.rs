//! The way to the control plane through proxies: a real one, and one that tells what it was asked.

use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider_agent::dial::{DialError, Dialer, ProxyError, Route, Security};
use postrider_agent::transport::Transport as _;
use postrider_agent::transport::guard::Guard;
use postrider_agent::transport::http::{HttpTransport, Settings};
use postrider_domain::egress::Policy;
use rustls::RootCertStore;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::control_plane::job;
use crate::endpoint::{Endpoint, request};
use crate::process::{Watched, egress};
use crate::tls_control_plane::TlsControlPlane;

const USER: &str = "postrider";
const PASSWORD: &str = "s3cret-pass";

/// Debian's tinyproxy, on loopback, with a name and a password. It ends with this value.
struct Tinyproxy {
    folder: TempDir,
    port: u16,
    _process: Child,
}

impl Tinyproxy {
    async fn start() -> Tinyproxy {
        // It cannot take any port by itself, and somebody else may take this one in between.
        for _ in 0..10 {
            if let Some(proxy) = Tinyproxy::try_start().await {
                return proxy;
            }
        }
        panic!("tinyproxy does not start; tests/setup.sh installs it");
    }

    async fn try_start() -> Option<Tinyproxy> {
        let port = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nLogFile \"{}\"\nLogLevel Connect\n\
             BasicAuth {USER} {PASSWORD}\n",
            path("log")
        );
        std::fs::write(path("config"), config).unwrap();
        let process = Command::new("tinyproxy")
            .args(["-d", "-c", &path("config")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("tinyproxy cannot be run, tests/setup.sh installs it: {error}"));
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let proxy = Tinyproxy { folder, port, _process: process };
        timeout(Duration::from_secs(5), listens).await.ok().map(|()| proxy)
    }

    fn url(&self, password: &str) -> String {
        format!("http://{USER}:{password}@127.0.0.1:{}", self.port)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(PathBuf::from(self.folder.path()).join("log")).unwrap()
    }
}

#[tokio::test]
async fn a_control_plane_is_reached_through_a_real_proxy_and_endpoints_are_not() {
    let proxy = Tinyproxy::start().await;
    let endpoint = Endpoint::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut control_plane = TlsControlPlane::start().await;
    let port = endpoint.address.port().to_string();
    let variables = [
        ("POSTRIDER_AGENT_JOIN", control_plane.join()),
        ("POSTRIDER_AGENT_PROXY_URL", proxy.url(PASSWORD)),
        // Jobs heed no variable.
        ("HTTP_PROXY", proxy.url(PASSWORD)),
        ("http_proxy", proxy.url(PASSWORD)),
    ];
    let agent =
        Watched::start(&egress(&port), &variables.each_ref().map(|(name, value)| (*name, value.as_str())));
    control_plane.asked().await;
    let mut session = control_plane.welcomed().await;
    session.send_jobs(vec![job(1, &endpoint.url("http"))]).await;
    assert_eq!(session.outcomes(1).await[0].http_status, 204);
    session.acknowledge(1).await;
    drop(session);
    let (code, log) = agent.stop().await;
    assert_eq!(code, 0);
    assert!(
        log.contains("connecting to the control plane through a proxy") && !log.contains(PASSWORD),
        "{log}"
    );
    let log = proxy.log();
    let connects = log.matches(&format!("CONNECT {}", control_plane.address)).count();
    // To enroll, and for the stream.
    assert!(connects >= 2, "{log}");
    assert!(!log.contains(&endpoint.address.to_string()), "{log}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_of_without_the_password() {
    let proxy = Tinyproxy::start().await;
    let mut control_plane = TlsControlPlane::start().await;
    let join = control_plane.join();
    let anonymous = format!("http://127.0.0.1:{}", proxy.port);
    for (url, sentence) in [
        (proxy.url("wr0ng-pass"), "does not accept the user and password"),
        (anonymous, "give them in `proxy.url`"),
        ("http://127.0.0.1:1".to_owned(), "the proxy at 127.0.0.1:1 cannot be reached"),
    ] {
        let variables = [("POSTRIDER_AGENT_JOIN", join.as_str()), ("POSTRIDER_AGENT_PROXY_URL", &url)];
        let mut agent = Watched::start(&[], &variables);
        agent.says(sentence).await;
        let (code, log) = agent.stop().await;
        assert_eq!(code, 0);
        assert!(!log.contains("wr0ng-pass") && !log.contains("Basic"), "{log}");
    }
    assert!(control_plane.handshakes.try_recv().is_err(), "nobody came");
}

/// A proxy that notes what it was asked, and leads everywhere to `target`.
async fn noting(target: std::net::SocketAddr) -> (Endpoint, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&asked);
    let proxy = Endpoint::start(move |mut near, _| {
        let noted = Arc::clone(&noted);
        async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = near.read_u8().await else { return };
                request.push(byte);
            }
            noted.lock().unwrap().push(String::from_utf8(request).unwrap());
            let mut far = TcpStream::connect(target).await.unwrap();
            near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            // It ends when either side does.
            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    })
    .await;
    (proxy, asked)
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_asked_for_the_name_which_nobody_else_looks_up() {
    let mut control_plane = TlsControlPlane::start().await;
    let (proxy, asked) = noting(control_plane.address).await;
    let authority = control_plane.change(|state| Arc::clone(&state.authority));
    // A name that does not exist.
    let name = format!("control-plane.test:{}", control_plane.address.port());
    let join = authority.join(&name);
    let url = format!("http://u:{PASSWORD}@{}", proxy.address);
    let variables =
        [("POSTRIDER_AGENT_JOIN", join.as_str()), ("HTTPS_PROXY", &url), ("NO_PROXY", "other.test")];
    let agent = Watched::start(&[], &variables);
    drop(control_plane.welcomed().await);
    assert_eq!(agent.stop().await.0, 0);
    let requests = asked.lock().unwrap().clone();
    assert!(requests.len() >= 2);
    for request in requests {
        assert!(request.starts_with(&format!("CONNECT {name} HTTP/1.1\r\nhost: {name}\r\n")), "{request}");
        assert!(request.contains("\r\nproxy-authorization: Basic "), "{request}");
    }

    let variables = [("POSTRIDER_AGENT_JOIN", join.as_str()), ("HTTPS_PROXY", &url), ("no_proxy", ".test")];
    let mut agent = Watched::start(&[], &variables);
    agent.says("control-plane.test cannot be resolved").await;
    assert_eq!(agent.stop().await.0, 0);
}

#[tokio::test]
async fn jobs_are_kept_from_a_control_plane_behind_a_proxy() {
    let refusing = Endpoint::answering("HTTP/1.1 403 Forbidden\r\nx: y\r\n\r\n<html>").await;
    let guard = Arc::new(Guard::new(Policy::default()));
    let route =
        Route { proxy: Some(format!("http://{}", refusing.address).parse().unwrap()), ..Route::default() };
    // Nothing is sent to this address: it is asked of the proxy.
    let dialer = Dialer::new("9.8.7.6:7071".parse().unwrap(), None, route, Arc::clone(&guard)).unwrap();
    let error = dialer.dial(&Security::Plaintext).await.unwrap_err();
    assert!(matches!(error, DialError::Proxy(ProxyError::Refused { status: 403, .. })), "{error}");
    let transport = HttpTransport::new(guard, Settings::trusting(RootCertStore::empty())).unwrap();
    let report = transport.post(request("https://9.8.7.6/")).await;
    assert_eq!(report.refusal.unwrap().code().as_str(), "own_address");
}

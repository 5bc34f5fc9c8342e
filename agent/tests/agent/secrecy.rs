//! What leaves the agent about its owner's network and secrets: nothing. By outcomes, by its greeting, by its log.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use postrider_proto::agent::agent_message::Message as Heard;
use postrider_proto::agent::{Job, Outcome, OutcomeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connect_proxy::{ConnectProxy, Manner};
use crate::control_plane::{ControlPlane, SERVER_TIME_MS, job};
use crate::dns::NameServer;
use crate::endpoint::{Endpoint, read_request};
use crate::process::{agent, command, exit, signal_to};
use crate::secured::{Authority, BOTH, Secured};

/// What an owner keeps to himself, and how it might be spelled.
const SECRETS: &[&str] = &["pr0xyp4ss", "cHIweHlwNHNz", "h34dersecret", "PRIVATE KEY"];

/// One of every kind of endpoint that fails, and one that answers.
struct World {
    names: NameServer,
    proxy: ConnectProxy,
    endpoints: Vec<Endpoint>,
    secured: Vec<Secured>,
    authority: Authority,
    /// The owner's client certificate is from this one.
    clients: Authority,
    /// A listener whose port nobody answers at, since nobody accepts there.
    full: tokio::net::TcpListener,
    _filling: Vec<tokio::net::TcpStream>,
}

impl World {
    async fn start() -> World {
        let names = NameServer::answering(60, |name, _| match name {
            "silent.direct.test" => None,
            "nowhere.direct.test" => Some(Vec::new()),
            "inside.test" => Some(vec![Ipv4Addr::new(10, 9, 8, 7).into()]),
            "proxied.test" => Some(vec![Ipv4Addr::new(127, 0, 0, 4).into()]),
            _ => Some(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
        })
        .await;
        let proxy = ConnectProxy::start(Manner::Says(
            "HTTP/1.1 407 Denied by proxy.corp\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n",
        ))
        .await;
        let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(40_000)).leak();
        let endpoints = vec![
            Endpoint::start(|mut stream, _| async move {
                stream.read_u8().await.unwrap();
                stream.write_all(b"SSH-2.0-OpenSSH_9.6 at 10.9.8.7\r\n\r\n").await.unwrap();
                std::future::pending::<()>().await;
            })
            .await,
            Endpoint::answering(huge).await,
            Endpoint::start(|mut stream, _| async move { drop(read_request(&mut stream).await) }).await,
            Endpoint::start(|mut stream, _| async move {
                read_request(&mut stream).await;
                std::future::pending::<()>().await;
            })
            .await,
        ];
        let (authority, clients) = (Authority::new(), Authority::new());
        let demanding = |clients| authority.server(&["api.direct.test"]).demanding(clients);
        let secured = vec![
            Secured::with(demanding(&Authority::new()), &["h2", "http/1.1"], BOTH).await,
            Secured::with(authority.expired(&["api.direct.test"]), &["h2"], BOTH).await,
            Secured::start(&["other.direct.test"], &["h2"], BOTH).await,
            Secured::with(demanding(&clients), &["h2", "http/1.1"], BOTH).await,
        ];
        let (full, filling) = full_listener().await;
        World { names, proxy, endpoints, secured, authority, clients, full, _filling: filling }
    }

    fn ports(&self) -> Vec<u16> {
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.address.port());
        let secured = self.secured.iter().map(|secured| secured.endpoint.address.port());
        let full = self.full.local_addr().unwrap().port();
        endpoints.chain(secured).chain([full, 1]).collect()
    }

    /// Settings of an owner with everything: a proxy with a password, an authority, a client certificate, headers.
    fn settings(&self, folder: &Path) -> String {
        let write = |name: &str, content: &str| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path.display().to_string()
        };
        let (cert, key, _) = self.clients.client("agent");
        let ca = write("internal-ca.pem", &self.authority.pem());
        let cert = write("client-cert.pem", &cert);
        let key = write("client-key.pem", &key);
        let headers = write("internal-headers", "authorization: Bearer h34dersecret\n");
        let mut settings = format!(
            "dns_servers = ['{}']\n[egress]\nallow_cidrs = ['127.0.0.0/8']\nallow_hosts = ['*.test']\n\
             allow_http = true\nallow_ports = {:?}\n",
            self.names.address,
            self.ports()
        );
        let proxy = self.proxy.address;
        write!(
            settings,
            "[egress.proxy]\nurl = 'http://pr0xyuser:pr0xyp4ss@{proxy}'\nno_proxy = ['*.direct.test', '127.0.0.1']\n\
             [[egress.credentials]]\nhosts = ['api.direct.test']\nca = '{ca}'\nclient_cert = '{cert}'\n\
             client_key = '{key}'\nheaders_file = '{headers}'\n"
        )
        .unwrap();
        write("agent.toml", &settings)
    }

    /// Jobs that fail, each in its own way, and one that does not; and what their outcomes are.
    fn jobs(&self) -> Vec<(Job, OutcomeKind)> {
        let plain = |at: usize| format!("http://127.0.0.1:{}/", self.endpoints[at].address.port());
        let tls =
            |host: &str, at: usize| format!("https://{host}:{}/", self.secured[at].endpoint.address.port());
        let port = self.endpoints[0].address.port();
        let direct = |name: &str| format!("http://{name}.direct.test:{port}/");
        let urls = [
            (plain(0), OutcomeKind::Protocol),
            (plain(1), OutcomeKind::Protocol),
            (plain(2), OutcomeKind::Protocol),
            (plain(3), OutcomeKind::Timeout),
            ("http://127.0.0.1:1/".to_owned(), OutcomeKind::Connect),
            (format!("http://{}/", self.full.local_addr().unwrap()), OutcomeKind::Timeout),
            // Its certificate is from another authority than the server wants.
            (tls("api.direct.test", 0), OutcomeKind::Protocol),
            (tls("api.direct.test", 3), OutcomeKind::Response),
            (tls("api.direct.test", 1), OutcomeKind::Tls),
            (tls("api.direct.test", 2), OutcomeKind::Tls),
            (tls("other.direct.test", 2), OutcomeKind::Tls),
            (format!("https://127.0.0.1:{port}/"), OutcomeKind::Tls),
            (direct("silent"), OutcomeKind::Timeout),
            (direct("nowhere"), OutcomeKind::Dns),
            (format!("http://inside.test:{port}/"), OutcomeKind::RefusedByPolicy),
            (format!("http://10.9.8.7:{port}/"), OutcomeKind::RefusedByPolicy),
            (format!("http://vault.internal:{port}/"), OutcomeKind::RefusedByPolicy),
            (format!("http://api.direct.test:{port}/"), OutcomeKind::RefusedByPolicy),
            (format!("http://proxied.test:{port}/"), OutcomeKind::Connect),
        ];
        let mut jobs: Vec<_> =
            (0..).zip(urls).map(|(number, (url, kind))| (short(job(number, &url)), kind)).collect();
        let mut framing = short(job(900, &plain(0)));
        framing.headers[0].name = "transfer-encoding".into();
        let mut late = short(job(901, &plain(0)));
        late.start_by_ms = SERVER_TIME_MS - 1;
        jobs.extend([(framing, OutcomeKind::Protocol), (late, OutcomeKind::NotStarted)]);
        jobs
    }
}

fn short(mut job: Job) -> Job {
    job.timeout_ms = 1_500;
    job.connect_timeout_ms = 700;
    job
}

/// A listener with a full backlog does not answer further connections.
async fn full_listener() -> (tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    let limit = std::time::Duration::from_millis(100);
    while let Ok(Ok(stream)) = tokio::time::timeout(limit, tokio::net::TcpStream::connect(address)).await {
        filling.push(stream);
    }
    (listener, filling)
}

/// What a tenant may read of a failure: a sentence of ours, in which nothing is said that is only known inside.
fn is_coarse(outcome: &Outcome) {
    let detail = &outcome.detail;
    let digits = detail.bytes().any(|byte| byte.is_ascii_digit());
    assert!(!detail.is_empty() && detail.is_ascii() && !digits, "{detail}");
    for part in
        ["/", ":", "proxy", "test", "corp", "internal", ".pem", "loopback", "private", "SSH", "os error"]
    {
        assert!(!detail.contains(part), "{detail}");
    }
    assert!(outcome.headers.is_empty() && outcome.body.is_empty());
}

#[tokio::test]
async fn outcomes_say_their_class_and_nothing_of_the_owners_network_and_no_secret_is_logged() {
    let mut world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = world.settings(folder.path());
    let mut control_plane = ControlPlane::start().await;
    let flags = ["--config", &settings, "--log-filter", "trace", "--log-format", "json"];
    let child = agent(&control_plane.url(), &flags);
    let mut session = control_plane.welcomed().await;
    let mut sent_up = format!("{:?}", session.hello);

    let jobs = world.jobs();
    session.send_jobs(jobs.iter().map(|(job, _)| job.clone()).collect()).await;
    // It logs a lot, and would wait if nobody read it.
    let pid = child.id().unwrap();
    let ended = tokio::spawn(exit(child));
    let outcomes = session.outcomes(jobs.len()).await;
    for outcome in &outcomes {
        let (job, kind) = jobs.iter().find(|(job, _)| job.key == outcome.key).unwrap();
        assert_eq!(outcome.kind(), *kind, "{} {}", job.url, outcome.detail);
        if *kind != OutcomeKind::Response {
            is_coarse(outcome);
        }
        write!(sent_up, "{outcome:?}").unwrap();
    }
    session.acknowledge(outcomes.len() as u64).await;
    signal_to(pid, "-TERM").await;
    loop {
        match session.hear().await.unwrap() {
            Heard::Heartbeat(heartbeat) => session.answer(heartbeat.nonce).await,
            Heard::Goodbye(_) => break,
            other => write!(sent_up, "{other:?}").unwrap(),
        }
    }
    drop(session);
    let (code, log) = ended.await.unwrap();
    assert_eq!(code, 0);

    // They were used.
    let seen = world.secured[3].seen().await;
    assert_eq!(
        (&seen.headers["authorization"], seen.certificate.is_some()),
        (&"Bearer h34dersecret".parse().unwrap(), true)
    );
    assert_eq!(world.proxy.asked().len(), 1);
    assert!(world.proxy.asked()[0].contains("proxy-authorization: Basic"));
    for secret in SECRETS {
        assert!(!sent_up.contains(secret), "{secret} was sent to the control plane");
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    for part in
        ["pr0xyuser", "internal-ca", "client-cert", "internal-headers", &world.proxy.address.to_string()]
    {
        assert!(!sent_up.contains(part), "{part} was sent to the control plane");
    }
    // Its owner learns what the tenant does not.
    for told in [
        "\"level\":\"TRACE\"",
        "wants a user and a password",
        "the address 10.9.8.7 is a private address",
        "attempt ended",
    ] {
        assert!(log.contains(told), "{told} is not in the log");
    }
}

#[tokio::test]
async fn proxies_of_the_environment_do_not_apply_to_endpoints() {
    let trap = Endpoint::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        // Whoever asks gets something that would be noticed.
        let _gone = stream.write_all(b"HTTP/1.1 418 Trapped\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    // Apart from the control plane's address, to which such variables may apply.
    let endpoint = Endpoint::at("127.0.0.2", |mut stream, _| async move {
        stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut control_plane = ControlPlane::start().await;
    let port = endpoint.address.port().to_string();
    let flags = ["--egress-allow-cidrs=127.0.0.0/8", "--egress-allow-http", "--egress-allow-ports", &port];
    let mut command = command(&control_plane.url(), &flags);
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let proxy = format!("http://{}", trap.address);
        command.env(name, &proxy).env(name.to_ascii_lowercase(), &proxy);
    }
    let _child = command.spawn().unwrap();
    let mut session = control_plane.welcomed().await;
    let url = |scheme: &str| format!("{scheme}://{}/", endpoint.address);
    session.send_jobs(vec![job(1, &url("http")), job(2, &url("https"))]).await;
    let mut outcomes = session.outcomes(2).await;
    outcomes.sort_by_key(|outcome| outcome.key.as_ref().unwrap().delivery_id.clone());
    assert_eq!(outcomes[0].http_status, 204);
    // It does not speak TLS; a proxy that was asked would have answered in its place.
    assert_eq!(outcomes[1].kind(), OutcomeKind::Tls);
    assert_eq!((endpoint.connections(), trap.connections()), (2, 0));
}

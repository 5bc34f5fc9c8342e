//! The owner's credentials: who gets them, who does not, and that they go nowhere else.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use postrider_agent::transport::credentials;
use postrider_agent::transport::http::{HttpTransport, Settings};
use postrider_agent::transport::{Report, Transport as _};
use postrider_domain::egress::Policy;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::dns::NameServer;
use crate::endpoint::{Endpoint, equipped, policy, read_request, request};
use crate::secured::{Authority, BOTH, Secured};

/// The owner's files, and names that all lead to loopback.
struct Owner {
    folder: TempDir,
    names: NameServer,
}

impl Owner {
    async fn new() -> Owner {
        let names = NameServer::start(&[Ipv4Addr::LOCALHOST], 60).await;
        Owner { folder: tempfile::tempdir().unwrap(), names }
    }

    fn file(&self, name: &str, content: &str) -> Option<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        Some(path)
    }

    /// A transport that may call these ports.
    fn transport(
        &self,
        roots: RootCertStore,
        ports: &[u16],
        credentials: Vec<credentials::Settings>,
    ) -> HttpTransport {
        let credential_hosts = credentials.iter().flat_map(credentials::Settings::policy_entries).collect();
        let policy = Policy { credential_hosts, ..policy(ports) };
        let dns_servers = vec![self.names.address];
        equipped(policy, Settings { dns_servers, credentials, ..Settings::trusting(roots) })
    }
}

fn entry(host: &str) -> credentials::Settings {
    credentials::Settings { hosts: vec![host.parse().unwrap()], ..credentials::Settings::default() }
}

fn answered(report: &Report) {
    assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
}

#[tokio::test]
async fn headers_go_to_their_hosts_only_and_win_over_the_jobs() {
    for alpn in ["h2", "http/1.1"] {
        let owner = Owner::new().await;
        let mut server = Secured::start(&["api.test", "other.test"], &[alpn], BOTH).await;
        let port = server.endpoint.address.port();
        let headers_file = owner.file("headers", "Authorization: Bearer s3cret\nx-more: 1\n");
        let settings = credentials::Settings { headers_file, ..entry("api.test") };
        let transport = owner.transport(server.roots.clone(), &[port], vec![settings]);
        let mut jobs = Vec::new();
        for host in ["api.test", "other.test", "API.test.", "other.test"] {
            let mut request = request(format!("https://{host}:{port}/"));
            for value in ["Bearer tenants", "Bearer another"] {
                request.headers.append("authorization", value.parse().unwrap());
            }
            answered(&transport.post(request).await);
            let seen = server.seen().await;
            let sent: Vec<_> = seen
                .headers
                .get_all("authorization")
                .iter()
                .map(|v| v.to_str().unwrap().to_owned())
                .collect();
            jobs.push((sent, seen.headers.contains_key("x-more"), seen.headers.contains_key("webhook-id")));
        }
        let owners = (vec!["Bearer s3cret".to_owned()], true, true);
        let tenants = (vec!["Bearer tenants".to_owned(), "Bearer another".to_owned()], false, true);
        assert_eq!(jobs, [owners.clone(), tenants.clone(), owners, tenants], "{alpn}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_for_its_hosts_only_and_instead_of_the_machines() {
    let owner = Owner::new().await;
    let (private, public) = (Authority::new(), Authority::new());
    let inside = Secured::with(private.server(&["api.test", "other.test"]), &["h2"], BOTH).await;
    let outside = Secured::with(public.server(&["api.test", "other.test"]), &["h2"], BOTH).await;
    let (inside_port, outside_port) = (inside.endpoint.address.port(), outside.endpoint.address.port());
    let settings = credentials::Settings { ca: owner.file("ca", &private.pem()), ..entry("api.test") };
    let transport = owner.transport(public.roots(), &[inside_port, outside_port], vec![settings]);
    for (host, port, kind) in [
        ("api.test", inside_port, OutcomeKind::Response),
        ("api.test", outside_port, OutcomeKind::Tls),
        ("other.test", inside_port, OutcomeKind::Tls),
        ("other.test", outside_port, OutcomeKind::Response),
    ] {
        let report = transport.post(request(format!("https://{host}:{port}/"))).await;
        assert_eq!(report.kind, kind, "{host}:{port} {}", report.detail);
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_its_hosts_only() {
    for versions in [BOTH, &[&rustls::version::TLS12][..]] {
        let owner = Owner::new().await;
        let (servers, clients) = (Authority::new(), Authority::new());
        let names = ["api.test", "other.test"];
        let identity = servers.server(&names).demanding(&clients);
        let mut server = Secured::with(identity, &["h2", "http/1.1"], versions).await;
        let port = server.endpoint.address.port();
        let (cert, key, shown) = clients.client("agent");
        let settings = credentials::Settings {
            client_cert: owner.file("cert", &cert),
            client_key: owner.file("key", &key),
            ..entry("api.test")
        };
        let transport = owner.transport(servers.roots(), &[port], vec![settings]);
        answered(&transport.post(request(format!("https://api.test:{port}/"))).await);
        assert_eq!(server.seen().await.certificate, Some(shown));
        let report = transport.post(request(format!("https://other.test:{port}/"))).await;
        // With TLS 1.3 the server refuses only after the handshake is done for the client.
        assert!(matches!(report.kind, OutcomeKind::Tls | OutcomeKind::Protocol), "{:?}", report.kind);
    }
}

#[tokio::test]
async fn credentials_that_change_on_disk_are_used_on_new_connections() {
    let owner = Owner::new().await;
    let (servers, clients) = (Authority::new(), Authority::new());
    let identity = servers.server(&["api.test"]).demanding(&clients);
    let mut server = Secured::with(identity, &["h2", "http/1.1"], BOTH).await;
    let port = server.endpoint.address.port();
    let (cert, key, first) = clients.client("agent");
    let settings = credentials::Settings {
        client_cert: owner.file("cert", &cert),
        client_key: owner.file("key", &key),
        headers_file: owner.file("headers", "x-token: 1"),
        ..entry("api.test")
    };
    let transport = owner.transport(servers.roots(), &[port], vec![settings]);
    let mut seen = async || {
        transport.refresh_credentials().await;
        answered(&transport.post(request(format!("https://api.test:{port}/"))).await);
        let seen = server.seen().await;
        (seen.connection, seen.certificate.unwrap(), seen.headers["x-token"].clone())
    };
    assert_eq!(seen().await, (1, first.clone(), "1".parse().unwrap()));
    assert_eq!(seen().await, (1, first.clone(), "1".parse().unwrap()));
    owner.file("headers", "x-token: 2");
    assert_eq!(seen().await, (2, first.clone(), "2".parse().unwrap()));
    let (cert, key, second) = clients.client("agent");
    owner.file("cert", &cert);
    // A certificate without its key is not used: it is half of a change.
    assert_eq!(seen().await, (2, first, "2".parse().unwrap()));
    owner.file("key", &key);
    assert_eq!(seen().await, (3, second, "2".parse().unwrap()));
}

#[tokio::test]
async fn equal_addresses_with_other_credentials_have_connections_of_their_own() {
    let owner = Owner::new().await;
    let (servers, clients) = (Authority::new(), Authority::new());
    let names = ["a.test", "b.test", "127.0.0.1"];
    let mut server =
        Secured::with(servers.server(&names).demanding(&clients), &["h2", "http/1.1"], BOTH).await;
    let port = server.endpoint.address.port();
    let mut settings = Vec::new();
    let mut certificates = Vec::new();
    for host in names {
        let (cert, key, certificate) = clients.client(host);
        certificates.push(certificate);
        settings.push(credentials::Settings {
            client_cert: owner.file(&format!("{host}.cert"), &cert),
            client_key: owner.file(&format!("{host}.key"), &key),
            ..entry(host)
        });
    }
    let transport = owner.transport(servers.roots(), &[port], settings);
    for _ in 0..2 {
        for (host, certificate) in names.iter().zip(&certificates) {
            answered(&transport.post(request(format!("https://{host}:{port}/"))).await);
            assert_eq!(server.seen().await.certificate.as_ref(), Some(certificate), "{host}");
        }
    }
    assert_eq!(server.endpoint.connections(), names.len());
}

/// An endpoint that shows in its response, body and headers, what it was sent.
async fn indiscreet() -> Endpoint {
    Endpoint::start(|mut stream, _| async move {
        while let Some(request) = read_request(&mut stream).await {
            let token =
                request.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or("none");
            let head = format!(
                "HTTP/1.1 401 No\r\nx-request-id: {token}\r\nserver: {token}\r\nlocation: /?{token}\r\n\
                 retry-after: 7\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
                request.len()
            );
            stream.write_all(&[head, request].concat().into_bytes()).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn what_an_endpoint_shows_of_them_in_its_response_goes_nowhere() {
    let owner = Owner::new().await;
    let endpoint = indiscreet().await;
    let port = endpoint.address.port();
    let headers_file = owner.file("headers", "authorization: Bearer s3cret");
    let with = |keep_responses| {
        let settings = credentials::Settings {
            headers_file: headers_file.clone(),
            allow_http: true,
            keep_responses,
            ..entry("api.test")
        };
        owner.transport(RootCertStore::empty(), &[port], vec![settings])
    };
    let transport = with(false);
    for _ in 0..2 {
        let report = transport.post(request(format!("http://api.test:{port}/"))).await;
        assert!(!format!("{report:?}").contains("s3cret"), "{report:?}");
        let response = report.response.unwrap();
        assert_eq!((response.status, response.body.len()), (401, 0));
        let names: Vec<_> = response.headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["retry-after", "content-type", "content-length"]);
    }
    assert_eq!(endpoint.connections(), 1, "it is read to its end all the same");
    let elsewhere = transport.post(request(format!("http://other.test:{port}/"))).await;
    let response = elsewhere.response.unwrap();
    assert!(response.body.starts_with(b"POST / HTTP/1.1") && response.headers.len() == 6);
    let kept = with(true).post(request(format!("http://api.test:{port}/"))).await;
    let kept = kept.response.unwrap();
    let body = String::from_utf8_lossy(&kept.body);
    assert!(
        body.contains("authorization: ***") && kept.headers.len() == 6,
        "its owner wants it so: {kept:?}"
    );
    assert!(!format!("{kept:?}").contains("s3cret"), "but nobody is shown the owner's header: {kept:?}");
}

#[tokio::test]
async fn they_do_not_travel_in_the_clear_unless_their_owner_says_so() {
    let owner = Owner::new().await;
    let endpoint = indiscreet().await;
    let port = endpoint.address.port();
    let headers_file = owner.file("headers", "authorization: Bearer s3cret");
    let settings = credentials::Settings { headers_file, ..entry("api.test") };
    let transport = owner.transport(RootCertStore::empty(), &[port], vec![settings]);
    let report = transport.post(request(format!("http://api.test:{port}/"))).await;
    assert_eq!(report.kind, OutcomeKind::RefusedByPolicy);
    assert_eq!(report.refusal.unwrap().code().as_str(), "credentials_need_https");
    assert_eq!(endpoint.connections(), 0);
}

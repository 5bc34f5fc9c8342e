//! Endpoints behind TLS, with an authority of the test's own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use postrider_agent::transport::Transport as _;
use postrider_agent::transport::http::HttpTransport;
use postrider_proto::agent::OutcomeKind;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{Endpoint, policy, request, with};

/// An authority and a server with a certificate from it.
struct Secured {
    endpoint: Endpoint,
    roots: RootCertStore,
}

impl Secured {
    async fn start(
        names: &[&str],
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Secured {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private_key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let endpoint = Endpoint::start(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    // The client ends the connection, in whatever way.
                    let _ended = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service_fn(echo))
                        .await;
                }
            }
        })
        .await;
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        Secured { endpoint, roots }
    }

    fn transport(&self) -> HttpTransport {
        with(policy(&[self.endpoint.address.port()]), self.roots.clone(), &[])
    }
}

/// Gives back the method, the host as the server sees it, the path and the body.
async fn echo(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
    let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap();
    let line = format!("{} {host} {} ", request.method(), request.uri().path());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(hyper::Response::new(Full::from([line.as_bytes(), &body].concat())))
}

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test]
async fn http2_is_spoken_where_the_server_does_and_its_connection_is_shared() {
    let server = Secured::start(&["127.0.0.1"], &["h2", "http/1.1"], BOTH).await;
    let transport = server.transport();
    for round in 0..3 {
        let posts = (0..40).map(|_| transport.post(request(server.endpoint.url("https"))));
        let reports = futures::future::join_all(posts).await;
        for report in &reports {
            assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
            assert_eq!((report.trace.http_version, report.trace.tls_version), ("HTTP/2", "TLSv1.3"));
            let expected = format!("POST {} /hook {{\"a\":1}}", server.endpoint.address);
            assert_eq!(report.response.as_ref().unwrap().body, expected);
        }
        let handshakes = reports.iter().filter(|report| report.trace.tls.is_some()).count();
        assert_eq!(handshakes, usize::from(round == 0));
    }
    assert_eq!(server.endpoint.connections(), 1);
}

#[tokio::test]
async fn http1_over_tls_keeps_its_connections() {
    for (versions, expected) in [(BOTH, "TLSv1.3"), (&[&rustls::version::TLS12][..], "TLSv1.2")] {
        let server = Secured::start(&["127.0.0.1"], &["http/1.1"], versions).await;
        let transport = server.transport();
        for _ in 0..2 {
            let posts = (0..5).map(|_| transport.post(request(server.endpoint.url("https"))));
            for report in futures::future::join_all(posts).await {
                assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
                assert_eq!((report.trace.http_version, report.trace.tls_version), ("HTTP/1.1", expected));
            }
        }
        assert!(server.endpoint.connections() <= 5);
    }
}

#[tokio::test]
async fn a_certificate_is_judged_by_the_name_in_the_url() {
    let server = Secured::start(&["localhost"], &["http/1.1"], BOTH).await;
    let mut policy = policy(&[server.endpoint.address.port()]);
    policy.allow_cidrs.push("::1/128".parse().unwrap());
    let transport = with(policy, server.roots.clone(), &[]);
    let by_name = request(format!("https://localhost:{}/", server.endpoint.address.port()));
    let report = transport.post(by_name).await;
    assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
    let report = transport.post(request(server.endpoint.url("https"))).await;
    assert_eq!(report.kind, OutcomeKind::Tls);
    assert_eq!(report.detail, "the endpoint's certificate is for another name");
    assert!(!report.trace.request_sent && report.trace.tls.is_some());
}

#[tokio::test]
async fn a_certificate_from_an_unknown_authority_is_refused() {
    let server = Secured::start(&["127.0.0.1"], &["h2"], BOTH).await;
    let stranger = Secured::start(&["127.0.0.1"], &["h2"], BOTH).await;
    // Both authorities have the same name, so here it is the signature that is wrong.
    let of_a_stranger = (stranger.roots.clone(), "the endpoint's certificate is not valid");
    let of_nobody = (RootCertStore::empty(), "the endpoint's certificate is from an unknown authority");
    for (roots, detail) in [of_a_stranger, of_nobody] {
        let transport = with(policy(&[server.endpoint.address.port()]), roots, &[]);
        let report = transport.post(request(server.endpoint.url("https"))).await;
        assert_eq!(report.kind, OutcomeKind::Tls);
        assert_eq!(report.detail, detail);
        assert!(!report.trace.request_sent);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_a_tls_failure() {
    let plain = Endpoint::start(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    })
    .await;
    let mut request = request(plain.url("https"));
    request.timeout = Duration::from_secs(1);
    let report = crate::endpoint::transport(&plain).post(request).await;
    assert_eq!(report.kind, OutcomeKind::Tls);
}

//! Names that lead elsewhere from one look-up to the next: only what was judged is dialled.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postrider_agent::transport::Transport as _;
use postrider_domain::egress::Policy;
use postrider_proto::agent::OutcomeKind;
use rustls::RootCertStore;
use tokio::io::AsyncWriteExt as _;

use crate::dns::NameServer;
use crate::endpoint::{Endpoint, policy, read_request, request, with};

const ALLOWED: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Loopback too, but not allowed; a trap listens there.
const FORBIDDEN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// An endpoint that closes every connection after its answer, and a trap at the same port of [`FORBIDDEN`].
struct Pair {
    endpoint: Endpoint,
    trap: TcpListener,
}

impl Pair {
    async fn start() -> Pair {
        let endpoint = Endpoint::start(|mut stream, _| async move {
            read_request(&mut stream).await.unwrap();
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(response).await.unwrap();
        })
        .await;
        let trap = TcpListener::bind(SocketAddr::new(FORBIDDEN, endpoint.address.port())).unwrap();
        trap.set_nonblocking(true).unwrap();
        Pair { endpoint, trap }
    }

    fn url(&self) -> String {
        format!("http://hook.test:{}/", self.endpoint.address.port())
    }

    fn policy(&self) -> Policy {
        Policy {
            allow_cidrs: vec!["127.0.0.1/32".parse().unwrap()],
            ..policy(&[self.endpoint.address.port()])
        }
    }

    /// Says whether anybody has connected to the trap.
    fn sprung(&self) -> bool {
        !self.trap.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

#[tokio::test]
async fn a_second_answer_that_is_forbidden_is_refused() {
    let pair = Pair::start().await;
    let rebound = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&rebound);
    let names = NameServer::answering(0, move |_, _| {
        Some(vec![if switch.load(Ordering::SeqCst) { FORBIDDEN } else { ALLOWED }])
    })
    .await;
    let transport = with(pair.policy(), RootCertStore::empty(), &[names.address]);
    for (now_rebound, kind) in [
        (false, OutcomeKind::Response),
        (true, OutcomeKind::RefusedByPolicy),
        (false, OutcomeKind::Response),
        (true, OutcomeKind::RefusedByPolicy),
    ] {
        rebound.store(now_rebound, Ordering::SeqCst);
        let report = transport.post(request(pair.url())).await;
        assert_eq!(report.kind, kind, "{}", report.detail);
        if now_rebound {
            assert_eq!(report.refusal.unwrap().code().as_str(), "v4_loopback");
            assert!(report.trace.peer.is_none() && !report.trace.request_sent);
        } else {
            assert_eq!(report.trace.peer, Some(pair.endpoint.address));
        }
    }
    assert_eq!(pair.endpoint.connections(), 2);
    assert!(!pair.sprung());
}

#[tokio::test]
async fn a_connection_that_is_open_still_is_not_used_when_the_name_leads_elsewhere() {
    let endpoint = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = endpoint.address.port();
    let rebound = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&rebound);
    let names = NameServer::answering(0, move |_, _| {
        Some(if switch.load(Ordering::SeqCst) { vec![ALLOWED, FORBIDDEN] } else { vec![ALLOWED] })
    })
    .await;
    // Both are allowed here: it is the set of addresses that makes connections alike.
    let transport = with(policy(&[port]), RootCertStore::empty(), &[names.address]);
    let url = format!("http://hook.test:{port}/");
    for (now_rebound, connections) in [(false, 1), (false, 1), (true, 2), (true, 2), (false, 2)] {
        rebound.store(now_rebound, Ordering::SeqCst);
        let report = transport.post(request(&url)).await;
        assert_eq!(report.kind, OutcomeKind::Response, "{}", report.detail);
        assert_eq!(endpoint.connections(), connections);
    }
}

#[tokio::test]
async fn answers_that_change_at_every_question_never_lead_to_what_was_not_judged() {
    let pair = Pair::start().await;
    // One of three questions gets the forbidden answer. A look-up asks two, for either family, so the next attempt's
    // answer is often another than that of the last.
    let names =
        NameServer::answering(0, |_, before| Some(vec![if before % 3 == 0 { FORBIDDEN } else { ALLOWED }]))
            .await;
    let transport = with(pair.policy(), RootCertStore::empty(), &[names.address]);
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..60 {
        let report = transport.post(request(pair.url())).await;
        match report.kind {
            OutcomeKind::Response => {
                assert_eq!(report.trace.peer, Some(pair.endpoint.address));
                answered += 1;
            }
            OutcomeKind::RefusedByPolicy => refused += 1,
            other => panic!("{other:?}: {}", report.detail),
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    assert_eq!(pair.endpoint.connections(), answered);
    assert!(!pair.sprung());
}

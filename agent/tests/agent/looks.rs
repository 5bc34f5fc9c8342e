//! Looks at endpoints: what is seen, what is refused, and that nothing else goes out.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use postrider_agent::transport::{Look, Sight, Transport as _};
use postrider_proto::agent::agent_message::Message as Heard;
use postrider_proto::agent::control_message::Message as Said;
use postrider_proto::agent::{Diagnose, Diagnosis, Header, Job, OutcomeKind, TestPost, TestPostOutcome};
use rustls::RootCertStore;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::control_plane::{ControlPlane, Session};
use crate::dns::NameServer;
use crate::endpoint::{Endpoint, policy, read_request, request, transport, with};
use crate::secured::{Authority, BOTH, Secured};
use crate::session::Agent;

fn look(method: Method, url: String) -> Look {
    let headers = HeaderMap::from_iter([(
        "webhook-request-origin".parse().unwrap(),
        HeaderValue::from_static("postrider.example.com"),
    )]);
    let timeout = Duration::from_secs(5);
    Look { method, url, headers, connect_timeout: timeout, timeout }
}

fn code(sight: &Sight) -> &'static str {
    sight.refusal.as_ref().map_or("none", |refusal| refusal.code().as_str())
}

#[tokio::test]
async fn a_look_is_one_request_without_a_body_on_a_connection_of_its_own() {
    let (sender, mut requests) = mpsc::channel(10);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                sender.send(request).await.unwrap();
                let answer = "HTTP/1.1 204 No Content\r\nWebHook-Allowed-Origin: *\r\nwebhook-allowed-rate: 60\r\n\
                              set-cookie: s3cret\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let transport = transport(&endpoint);
    transport.post(request(endpoint.url("http"))).await;
    requests.recv().await.unwrap();
    for (method, number) in [(Method::HEAD, 2), (Method::OPTIONS, 3)] {
        let sight = transport.look(look(method.clone(), endpoint.url("http"))).await;
        let sent = requests.recv().await.unwrap();
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("{method} /hook?a=b HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("webhook-request-origin: postrider.example.com") && body.is_empty(), "{head}");
        assert_eq!((sight.kind, sight.status), (OutcomeKind::Response, Some(204)));
        let answers = [("webhook-allowed-origin", "*".to_owned()), ("webhook-allowed-rate", "60".to_owned())];
        assert_eq!(sight.headers, answers);
        assert_eq!(endpoint.connections(), number, "no connection is shared with jobs");
        let trace = sight.trace;
        assert!(trace.connect.is_some() && trace.first_byte.is_some() && trace.tls.is_none());
        assert_eq!(trace.peer, Some(endpoint.address));
        assert!(!sight.seen.through_proxy && sight.seen.certificates.is_empty());
    }
    // What a look has opened is not kept for jobs either.
    transport.post(request(endpoint.url("http"))).await;
    assert_eq!(endpoint.connections(), 3);
}

#[tokio::test]
async fn the_chain_is_seen_whether_it_is_accepted_or_not() {
    let good = Secured::start(&["127.0.0.1"], &["h2"], BOTH).await;
    let sight = good.transport().look(look(Method::HEAD, good.endpoint.url("https"))).await;
    assert_eq!(sight.kind, OutcomeKind::Response, "{}", sight.detail);
    assert_eq!((sight.trace.http_version, sight.trace.tls_version), ("HTTP/2", "TLSv1.3"));
    assert!(!sight.seen.certificates.is_empty() && sight.trace.tls.is_some());

    let expired = Secured::with(Authority::new().expired(&["127.0.0.1"]), &["h2"], BOTH).await;
    let other_name = Secured::start(&["hook.test"], &["h2"], BOTH).await;
    for (server, detail) in [
        (&expired, "the endpoint's certificate has expired"),
        (&other_name, "the endpoint's certificate is for another name"),
    ] {
        let sight = server.transport().look(look(Method::HEAD, server.endpoint.url("https"))).await;
        assert_eq!((sight.kind, sight.detail), (OutcomeKind::Tls, detail));
        assert!(!sight.seen.certificates.is_empty() && sight.trace.tls.is_some());
        // And jobs, which share its settings, are judged as before.
        let report = server.transport().post(request(server.endpoint.url("https"))).await;
        assert_eq!((report.kind, &*report.detail), (OutcomeKind::Tls, detail));
    }
    let nobody = with(policy(&[good.endpoint.address.port()]), RootCertStore::empty(), &[]);
    let sight = nobody.look(look(Method::HEAD, good.endpoint.url("https"))).await;
    assert_eq!(sight.detail, "the endpoint's certificate is from an unknown authority");
    assert!(!sight.seen.certificates.is_empty());
}

#[tokio::test]
async fn a_look_is_judged_as_a_job_is_and_a_name_is_looked_up_once() {
    let endpoint = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = endpoint.address.port();
    let names = NameServer::start(&[Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 1, 2, 3)], 0).await;
    let transport = with(policy(&[port]), RootCertStore::empty(), &[names.address]);
    let sight = transport.look(look(Method::HEAD, format!("http://hook.test:{port}/"))).await;
    assert_eq!((sight.kind, code(&sight)), (OutcomeKind::RefusedByPolicy, "v4_private"));
    assert!(!sight.detail.contains("10.1.2.3") && sight.trace.connect.is_none() && sight.trace.dns.is_some());
    let addresses: Vec<_> = sight.seen.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        addresses,
        ["10.1.2.3", "127.0.0.1"],
        "what was refused is what the owner's operator must see"
    );
    for (url, expected) in [
        ("http://10.1.2.3/", "v4_private"),
        ("ftp://127.0.0.1/", "scheme"),
        ("http://127.0.0.1:1/", "port"),
        ("http://169.254.169.254/latest/meta-data/", "v4_link_local"),
    ] {
        let sight = transport.look(look(Method::HEAD, url.to_owned())).await;
        assert_eq!(sight.kind, OutcomeKind::RefusedByPolicy, "{url}");
        assert!(["port", expected].contains(&code(&sight)), "{url}: {}", code(&sight));
    }
    assert_eq!(endpoint.connections(), 0, "nothing was dialled");
    let once = NameServer::start(&[Ipv4Addr::LOCALHOST], 0).await;
    let transport = with(policy(&[port]), RootCertStore::empty(), &[once.address]);
    let sight = transport.look(look(Method::HEAD, format!("http://hook.test:{port}/"))).await;
    assert_eq!((sight.kind, sight.seen.addresses.len()), (OutcomeKind::Response, 1), "{}", sight.detail);
    let asked_for_addresses = once.questions().iter().filter(|name| name.contains("hook.test")).count();
    assert!(asked_for_addresses <= 2, "A and AAAA, once each");
}

#[tokio::test]
async fn a_look_ends_at_its_deadline() {
    let silent = Endpoint::start(|stream, _| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let wanted = Look { timeout: Duration::from_millis(200), ..look(Method::HEAD, silent.url("http")) };
    let sight = transport(&silent).look(wanted).await;
    assert_eq!(sight.kind, OutcomeKind::Timeout);
    assert!(sight.trace.total >= Duration::from_millis(200) && sight.trace.connect.is_some());
}

async fn diagnosis(session: &mut Session) -> Diagnosis {
    loop {
        match session.hear().await.unwrap() {
            Heard::Diagnosis(diagnosis) => return diagnosis,
            _ => continue,
        }
    }
}

fn asked(id: u64, method: &str, url: String) -> Said {
    let headers = vec![Header { name: "user-agent".into(), value: "Postrider/test".into() }];
    Said::Diagnose(Diagnose {
        id,
        method: method.into(),
        url,
        headers,
        connect_timeout_ms: 5000,
        timeout_ms: 5000,
    })
}

#[tokio::test]
async fn the_session_answers_a_few_at_once_and_only_for_requests_that_change_nothing() {
    let silent = Endpoint::start(|mut stream, _| async move {
        while let Some(request) = read_request(&mut stream).await {
            if request.starts_with("OPTIONS") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &silent);
    let mut session = control_plane.welcomed().await;
    assert_eq!(session.hello.capabilities, ["diagnose", "test_post"]);
    session.say(asked(1, "OPTIONS", silent.url("http"))).await;
    let answer = diagnosis(&mut session).await;
    assert_eq!((answer.id, answer.kind(), answer.http_status), (1, OutcomeKind::Response, 200));
    assert_eq!(answer.peer, silent.address.to_string());
    session.say(asked(2, "DELETE", silent.url("http"))).await;
    assert_eq!(diagnosis(&mut session).await.kind(), OutcomeKind::Protocol);
    assert_eq!(silent.connections(), 1);
    for id in 3..=7 {
        session.say(asked(id, "HEAD", silent.url("http"))).await;
    }
    let refused = diagnosis(&mut session).await;
    assert_eq!((refused.id, refused.kind()), (7, OutcomeKind::NotStarted), "four are under way");
    session.say(asked(8, "HEAD", "http://10.1.2.3/".into())).await;
}

async fn outcome(session: &mut Session) -> TestPostOutcome {
    loop {
        match session.hear().await.unwrap() {
            Heard::TestPostOutcome(outcome) => return outcome,
            _ => continue,
        }
    }
}

fn posted(id: u64, url: String, start_by_ms: u64) -> Said {
    let job = Job {
        start_by_ms,
        connect_timeout_ms: 5000,
        timeout_ms: 5000,
        url,
        headers: vec![Header { name: "webhook-id".into(), value: "evt_1".into() }],
        body: "{}".into(),
        keep_response_bytes: 100,
        ..Job::default()
    };
    Said::TestPost(TestPost { id, job: Some(job) })
}

#[tokio::test]
async fn the_session_posts_test_events_beside_its_jobs_and_answers_each() {
    let (sender, mut requests) = mpsc::channel(10);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                sender.send(request).await.unwrap();
                let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 3\r\n\r\nwho";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &endpoint);
    let mut session = control_plane.welcomed().await;
    session.say(posted(1, endpoint.url("http"), u64::MAX)).await;
    let answer = outcome(&mut session).await;
    let said = answer.outcome.unwrap();
    assert_eq!((answer.id, said.kind(), said.http_status), (1, OutcomeKind::Response, 401));
    assert_eq!((&*said.body, said.sequence, said.request_sent), (&b"who"[..], 0, true));
    assert!(requests.recv().await.unwrap().starts_with("POST /hook?a=b HTTP/1.1\r\n"));
    session.say(posted(2, "http://10.1.2.3/".into(), u64::MAX)).await;
    let refused = outcome(&mut session).await.outcome.unwrap();
    assert_eq!(refused.kind(), OutcomeKind::RefusedByPolicy);
    session.say(posted(3, endpoint.url("http"), 0)).await;
    let late = outcome(&mut session).await;
    assert_eq!((late.id, late.outcome.unwrap().kind()), (3, OutcomeKind::NotStarted));
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn a_session_posts_a_few_test_events_at_once() {
    let silent = Endpoint::start(|stream, _| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &silent);
    let mut session = control_plane.welcomed().await;
    for id in 1..=17 {
        session.say(posted(id, silent.url("http"), u64::MAX)).await;
    }
    let refused = outcome(&mut session).await;
    assert_eq!((refused.id, refused.outcome.unwrap().kind()), (17, OutcomeKind::NotStarted));
}

//! The session, rule by rule of the agent protocol.

use std::sync::Arc;
use std::time::Duration;

use postrider_agent::app::AppError;
use postrider_proto::agent::agent_message::Message as Heard;
use postrider_proto::agent::control_message::Message as Said;
use postrider_proto::agent::{Cancel, Drain, Outcome, OutcomeKind, Welcome};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use crate::control_plane::{ControlPlane, SERVER_TIME_MS, Session, job, key, welcome};
use crate::endpoint::{Endpoint, now, read_request};
use crate::session::Agent;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An endpoint that says when a request has come, and answers it when it may.
struct Held {
    endpoint: Endpoint,
    came: mpsc::Receiver<String>,
    may_answer: Arc<Semaphore>,
}

impl Held {
    async fn start() -> Held {
        let (sender, came) = mpsc::channel(100);
        let may_answer = Arc::new(Semaphore::new(0));
        let permits = Arc::clone(&may_answer);
        let endpoint = Endpoint::start(move |mut stream, _| {
            let (sender, permits) = (sender.clone(), Arc::clone(&permits));
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    sender.send(request).await.unwrap();
                    permits.acquire().await.unwrap().forget();
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        Held { endpoint, came, may_answer }
    }

    fn url(&self) -> String {
        self.endpoint.url("http")
    }
}

fn sequences(outcomes: &[Outcome]) -> Vec<u64> {
    outcomes.iter().map(|outcome| outcome.sequence).collect()
}

#[tokio::test]
async fn hello_says_who_and_outcomes_come_until_they_are_acknowledged() {
    let endpoint = Endpoint::answering(OK).await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &endpoint);

    let mut first = control_plane.welcomed().await;
    let hello = &first.hello;
    assert_eq!((hello.protocol_min, hello.protocol_max, hello.stream), (1, 1, 0));
    assert_eq!((hello.agent_id.as_str(), hello.pool.as_str()), ("agent-1", "default"));
    assert_eq!((hello.max_in_flight, hello.max_in_flight_bytes), (5, 64 << 20));
    assert_eq!((hello.next_outcome_sequence, hello.in_flight.len()), (1, 0));
    assert_eq!((hello.instance_id.len(), hello.egress_policy_hash.len()), (32, 64));
    let instance = hello.instance_id.clone();

    first.send_jobs((1..=3).map(|number| job(number, &endpoint.url("http"))).collect()).await;
    let outcomes = first.outcomes(3).await;
    assert_eq!(sequences(&outcomes), [1, 2, 3]);
    for outcome in &outcomes {
        assert_eq!((outcome.kind(), outcome.http_status), (OutcomeKind::Response, 200));
        assert_eq!((&outcome.body[..], outcome.request_sent), (&b"ok"[..], true));
        assert!(outcome.total_us > 0 && outcome.first_byte_us.is_some() && outcome.dns_us.is_none());
    }
    first.acknowledge(1).await;
    // Its acknowledgement was heard when this one's outcome is here.
    first.send_jobs(vec![job(4, &endpoint.url("http"))]).await;
    assert_eq!(sequences(&first.outcomes(1).await), [4]);
    drop(first);

    let mut second = control_plane.welcomed().await;
    assert_eq!(second.hello.next_outcome_sequence, 2);
    assert_eq!(second.hello.instance_id, instance);
    assert_eq!(second.hello.in_flight.len(), 3, "those whose outcomes are not acknowledged");
    second.send_jobs(vec![job(5, &endpoint.url("http"))]).await;
    let outcomes = second.outcomes(4).await;
    assert_eq!(sequences(&outcomes), [2, 3, 4, 5], "what was not acknowledged comes first");
    assert_eq!(outcomes[3].key, Some(key(5)));
}

#[tokio::test]
async fn a_job_goes_on_without_the_control_plane_and_is_reported_when_it_is_back() {
    let mut held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &held.endpoint);
    let first = control_plane.welcomed().await;
    first.send_jobs(vec![job(1, &held.url()), job(2, &held.url())]).await;
    for _ in 0..2 {
        held.came.recv().await.unwrap();
    }
    drop(first);

    let second = control_plane.session().await;
    let mut named: Vec<_> = second.hello.in_flight.iter().map(|key| key.delivery_id.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, ["dlv_1", "dlv_2"]);
    second.say(Said::Welcome(Welcome { forget: vec![key(1)], ..welcome() })).await;
    drop(second);

    let mut third = control_plane.welcomed().await;
    assert_eq!(third.hello.in_flight, [key(2)], "what is forgotten is not named");
    held.may_answer.add_permits(2);
    let outcomes = third.outcomes(2).await;
    assert_eq!(sequences(&outcomes), [1, 2], "but it is reported");
    assert!(outcomes.iter().all(|outcome| outcome.kind() == OutcomeKind::Response));
    assert!(held.came.try_recv().is_err(), "nothing was sent twice");
}

#[tokio::test]
async fn a_job_past_its_start_by_is_not_started() {
    let endpoint = Endpoint::answering(OK).await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &endpoint);
    let mut session = control_plane.welcomed().await;
    let late = [SERVER_TIME_MS - 1, SERVER_TIME_MS / 2, 0].map(|start_by_ms| {
        let mut job = job(start_by_ms as u32, &endpoint.url("http"));
        job.start_by_ms = start_by_ms;
        job
    });
    session.send_jobs(late.to_vec()).await;
    for outcome in session.outcomes(3).await {
        assert_eq!(outcome.kind(), OutcomeKind::NotStarted);
        assert!(!outcome.request_sent && outcome.total_us == 0);
    }
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_outcome_too() {
    let endpoint = Endpoint::answering(OK).await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &endpoint);
    let mut session = control_plane.welcomed().await;
    let mut framing = job(1, &endpoint.url("http"));
    framing.headers[0].name = "transfer-encoding".into();
    session.send_jobs(vec![framing, job(2, "http://10.0.0.1/"), job(3, "nonsense")]).await;
    let mut outcomes = session.outcomes(3).await;
    outcomes.sort_by_key(|outcome| outcome.key.as_ref().unwrap().delivery_id.clone());
    assert_eq!(outcomes[0].kind(), OutcomeKind::Protocol);
    assert_eq!(
        (outcomes[1].kind(), outcomes[1].refusal_code.as_str()),
        (OutcomeKind::RefusedByPolicy, "port")
    );
    assert_eq!(outcomes[2].refusal_code, "url_invalid");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn a_permanent_reject_ends_the_agent() {
    let endpoint = Endpoint::answering(OK).await;
    let mut control_plane = ControlPlane::start().await;
    let agent = Agent::start(&control_plane, &endpoint);
    control_plane.session().await.reject(true, 0).await;
    let ended = agent.ended().await.unwrap_err();
    assert!(matches!(ended, AppError::Rejected(_)));
    let sentence = ended.to_string();
    assert!(sentence.contains("update this agent") && sentence.contains("PROTOCOL_VERSION"), "{sentence}");
}

#[tokio::test]
async fn another_reject_says_when_to_come_back() {
    let endpoint = Endpoint::answering(OK).await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &endpoint);
    let first = control_plane.session().await;
    let began = now();
    first.reject(false, 700).await;
    control_plane.welcomed().await;
    assert!(now() - began >= Duration::from_millis(700));
}

#[tokio::test]
async fn a_control_plane_that_breaks_the_protocol_loses_the_stream() {
    let held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &held.endpoint);
    let mut over_credit = control_plane.welcomed().await;
    over_credit.send_jobs((1..=6).map(|number| job(number, &held.url())).collect()).await;
    closes(&mut over_credit).await;
    let session = control_plane.session().await;
    assert_eq!(session.hello.in_flight.len(), 5);
    session.say(Said::Jobs(Default::default())).await;
    drop(session);
    let mut acknowledges_too_much = control_plane.welcomed().await;
    acknowledges_too_much.acknowledge(99).await;
    closes(&mut acknowledges_too_much).await;
}

/// Waits for the agent to close its side.
async fn closes(session: &mut Session) {
    while session.hear().await.is_some() {}
}

#[tokio::test]
async fn heartbeats_are_sent_and_silence_ends_a_session() {
    let endpoint = Endpoint::answering(OK).await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &endpoint);
    let mut session = control_plane.session().await;
    let quick = Welcome { heartbeat_interval_ms: 50, silence_limit_ms: 300, ..welcome() };
    session.say(Said::Welcome(quick)).await;
    for expected in 1..=10 {
        let Some(Heard::Heartbeat(heartbeat)) = session.hear().await else { panic!("expected a heartbeat") };
        assert_eq!(heartbeat.nonce, expected);
        session.answer(heartbeat.nonce).await;
    }
    let silent_since = now();
    closes(&mut session).await;
    assert!(now() - silent_since >= Duration::from_millis(240));
    control_plane.session().await;
}

#[tokio::test]
async fn a_cancelled_job_that_is_under_way_goes_on() {
    let mut held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &held.endpoint);
    let mut session = control_plane.welcomed().await;
    session.send_jobs(vec![job(1, &held.url())]).await;
    held.came.recv().await.unwrap();
    session.say(Said::Cancel(Cancel { keys: vec![key(1), key(2)] })).await;
    held.may_answer.add_permits(1);
    assert_eq!(session.outcomes(1).await[0].kind(), OutcomeKind::Response);
}

#[tokio::test]
async fn a_job_sent_twice_is_made_once() {
    let mut held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &held.endpoint);
    let mut session = control_plane.welcomed().await;
    session.send_jobs(vec![job(1, &held.url()), job(1, &held.url()), job(2, &held.url())]).await;
    for _ in 0..2 {
        held.came.recv().await.unwrap();
    }
    held.may_answer.add_permits(3);
    session.outcomes(2).await;
    assert!(held.came.try_recv().is_err());
}

#[tokio::test]
async fn an_agent_that_is_drained_finishes_reports_and_comes_back() {
    let mut held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let _agent = Agent::start(&control_plane, &held.endpoint);
    let mut session = control_plane.welcomed().await;
    session.send_jobs(vec![job(1, &held.url())]).await;
    held.came.recv().await.unwrap();
    session.say(Said::Drain(Drain { reconnect_after_ms: 300 })).await;
    held.may_answer.add_permits(1);
    assert_eq!(sequences(&session.outcomes(1).await), [1]);
    session.acknowledge(1).await;
    assert!(matches!(session.hear().await, Some(Heard::Goodbye(_))));
    let left = now();
    drop(session);
    let back = control_plane.session().await;
    assert!(now() - left >= Duration::from_millis(300));
    assert_eq!(back.hello.next_outcome_sequence, 2);
}

#[tokio::test]
async fn an_agent_that_is_stopped_finishes_hands_back_and_says_goodbye() {
    let mut held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let agent = Agent::start(&control_plane, &held.endpoint);
    let mut session = control_plane.welcomed().await;
    session.send_jobs(vec![job(1, &held.url())]).await;
    held.came.recv().await.unwrap();
    agent.stop.cancel();
    assert!(matches!(session.hear().await, Some(Heard::Draining(_))));
    let Some(Heard::Heartbeat(confirming)) = session.hear().await else { panic!("expected a heartbeat") };
    // This one was under way when the agent said Draining.
    session.send_jobs(vec![job(2, &held.url())]).await;
    let handed_back = session.outcomes(1).await;
    assert_eq!((handed_back[0].kind(), &handed_back[0].key), (OutcomeKind::NotStarted, &Some(key(2))));
    held.may_answer.add_permits(1);
    assert_eq!(session.outcomes(1).await[0].kind(), OutcomeKind::Response);
    session.acknowledge(2).await;
    session.answer(confirming.nonce).await;
    assert!(matches!(session.hear().await, Some(Heard::Goodbye(_))));
    drop(session);
    agent.ended().await.unwrap();
    assert!(held.came.try_recv().is_err());
}

/// The control plane gives jobs as soon as it has heard Hello. Left without a word, it could not know for a long time that
/// they were never started.
#[tokio::test]
async fn an_agent_that_is_stopped_between_hello_and_welcome_hands_back() {
    let mut held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let agent = Agent::start(&control_plane, &held.endpoint);
    let mut session = control_plane.session().await;
    agent.stop.cancel();
    session.welcome().await;
    session.send_jobs(vec![job(1, &held.url())]).await;
    let mut handed_back = Vec::new();
    loop {
        match session.hear().await.unwrap() {
            Heard::Draining(_) => {}
            Heard::Heartbeat(heartbeat) => session.answer(heartbeat.nonce).await,
            Heard::Outcomes(outcomes) => {
                handed_back.extend(outcomes.outcomes);
                session.acknowledge(1).await;
            }
            Heard::Goodbye(_) => break,
            other => panic!("expected Goodbye, got {other:?}"),
        }
    }
    assert_eq!((handed_back.len(), handed_back[0].kind()), (1, OutcomeKind::NotStarted));
    drop(session);
    agent.ended().await.unwrap();
    assert!(held.came.try_recv().is_err());
}

#[tokio::test]
async fn an_agent_that_is_stopped_comes_back_to_report() {
    let mut held = Held::start().await;
    let mut control_plane = ControlPlane::start().await;
    let agent = Agent::start(&control_plane, &held.endpoint);
    let session = control_plane.welcomed().await;
    session.send_jobs(vec![job(1, &held.url())]).await;
    held.came.recv().await.unwrap();
    agent.stop.cancel();
    drop(session);
    let mut session = control_plane.welcomed().await;
    assert!(matches!(session.hear().await, Some(Heard::Draining(_))));
    held.may_answer.add_permits(1);
    let outcomes = session.outcomes(1).await;
    assert_eq!(outcomes[0].kind(), OutcomeKind::Response);
    session.acknowledge(1).await;
    loop {
        match session.hear().await.unwrap() {
            Heard::Heartbeat(heartbeat) => session.answer(heartbeat.nonce).await,
            Heard::Goodbye(_) => break,
            other => panic!("expected Goodbye, got {other:?}"),
        }
    }
    drop(session);
    agent.ended().await.unwrap();
}

#[tokio::test]
async fn an_agent_with_nothing_to_report_stops_without_a_control_plane() {
    let endpoint = Endpoint::answering(OK).await;
    let control_plane = ControlPlane::start().await;
    let agent = Agent::start(&control_plane, &endpoint);
    drop(control_plane);
    agent.stop.cancel();
    agent.ended().await.unwrap();
}

//! Renewals: in time, with a new key each, and without a job noticing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider_agent::app::AppError;
use postrider_proto::agent::agent_message::Message as Heard;
use postrider_proto::agent::{Outcome, OutcomeKind};
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;
use tonic::Status;

use crate::authority::{Authority, requested_key};
use crate::control_plane::{Session, job};
use crate::endpoint::{Endpoint, now, read_request};
use crate::session::Agent;
use crate::tls_control_plane::{Answer, NAMES, TlsControlPlane};

/// How often each job's request came.
#[derive(Default)]
struct Count(Mutex<BTreeMap<String, u32>>);

impl Count {
    fn note(&self, request: &str) {
        let id = request.lines().find_map(|line| line.strip_prefix("webhook-id: ")).unwrap();
        *self.0.lock().unwrap().entry(id.to_owned()).or_default() += 1;
    }

    fn all(&self) -> BTreeMap<String, u32> {
        self.0.lock().unwrap().clone()
    }
}

/// An endpoint that takes its time and counts.
async fn counting(delay: Duration) -> (Endpoint, Arc<Count>) {
    let count = Arc::<Count>::default();
    let counted = Arc::clone(&count);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let count = Arc::clone(&counted);
        async move {
            while let Some(request) = read_request(&mut stream).await {
                count.note(&request);
                sleep(delay).await;
                if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (endpoint, count)
}

fn short(control_plane: &TlsControlPlane, renew_after: u64, valid_for: u64) {
    control_plane.change(|state| {
        state.renew_after = Duration::from_secs(renew_after);
        state.valid_for = Duration::from_secs(valid_for);
    });
}

#[tokio::test]
async fn a_renewal_has_a_new_key_and_streams_move_to_it() {
    let endpoint = Endpoint::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut control_plane = TlsControlPlane::start().await;
    short(&control_plane, 1, 60);
    let _agent = Agent::enroll(&control_plane, &endpoint, 2);
    let mut keys = BTreeSet::from([requested_key(&control_plane.asked().await.request)]);
    let mut sessions = [control_plane.welcomed().await, control_plane.welcomed().await];
    for _ in 0..2 {
        let former = sessions[0].certificate.clone().unwrap();
        assert_eq!(Some(&former), sessions[1].certificate.as_ref());
        let asked = control_plane.asked().await;
        assert_eq!(asked.certificate.as_ref(), Some(&former), "asked for with the former one");
        assert!(keys.insert(requested_key(&asked.request)), "a new key each time");
        let moved = [control_plane.welcomed().await, control_plane.welcomed().await];
        let numbers: BTreeSet<_> = moved.iter().map(|session| session.hello.stream).collect();
        assert_eq!(numbers, BTreeSet::from([0, 1]));
        for session in &moved {
            assert_ne!(session.certificate.as_ref(), Some(&former));
            assert_eq!(session.hello.instance_id, sessions[0].hello.instance_id);
        }
        for mut former in std::mem::replace(&mut sessions, moved) {
            // Closed by the agent, after the new one was welcome.
            while former.hear().await.is_some() {}
        }
    }
}

/// A control plane that keeps an agent busy through whatever happens to its streams: it gives jobs, and gives those
/// again that a new Hello does not name and whose outcome it has not heard, as the real one does.
struct Dispatch {
    url: String,
    next: u32,
    last: u32,
    given: BTreeSet<u32>,
    done: BTreeMap<u32, Outcome>,
}

impl Dispatch {
    fn number(delivery: &str) -> u32 {
        delivery.trim_start_matches("dlv_").parse().unwrap()
    }

    async fn take_over(&mut self, session: &Session) {
        let named: BTreeSet<u32> =
            session.hello.in_flight.iter().map(|key| Dispatch::number(&key.delivery_id)).collect();
        let again: Vec<u32> = self.given.iter().copied().filter(|number| !named.contains(number)).collect();
        self.send(session, again).await;
    }

    async fn fill(&mut self, session: &Session) {
        let mut fresh = Vec::new();
        while self.given.len() < 5 && self.next < self.last {
            self.next += 1;
            self.given.insert(self.next);
            fresh.push(self.next);
        }
        self.send(session, fresh).await;
    }

    async fn send(&self, session: &Session, numbers: Vec<u32>) {
        if !numbers.is_empty() {
            session.send_jobs(numbers.into_iter().map(|number| job(number, &self.url)).collect()).await;
        }
    }

    async fn hear(&mut self, session: &Session, heard: Heard) {
        match heard {
            Heard::Outcomes(outcomes) => {
                let last = outcomes.outcomes.last().unwrap().sequence;
                for outcome in outcomes.outcomes {
                    let number = Dispatch::number(&outcome.key.as_ref().unwrap().delivery_id);
                    self.given.remove(&number);
                    self.done.insert(number, outcome);
                }
                session.acknowledge(last).await;
                self.fill(session).await;
            }
            Heard::Heartbeat(heartbeat) => session.answer(heartbeat.nonce).await,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn renewals_under_load_lose_nothing_and_repeat_nothing() {
    const JOBS: u32 = 1500;
    let (endpoint, count) = counting(Duration::from_millis(10)).await;
    let mut control_plane = TlsControlPlane::start().await;
    short(&control_plane, 1, 60);
    let _agent = Agent::enroll(&control_plane, &endpoint, 1);
    let mut dispatch = Dispatch {
        url: endpoint.url("http"),
        next: 0,
        last: JOBS,
        given: BTreeSet::new(),
        done: BTreeMap::new(),
    };
    let mut session = control_plane.welcomed().await;
    dispatch.fill(&session).await;
    let mut moves = 0;
    while dispatch.done.len() < JOBS as usize || moves < 2 {
        tokio::select! {
            biased;
            next = control_plane.session() => {
                next.welcome().await;
                dispatch.take_over(&next).await;
                session = next;
                moves += 1;
            }
            heard = session.hear() => match heard {
                Some(heard) => dispatch.hear(&session, heard).await,
                None => {
                    session = control_plane.welcomed().await;
                    dispatch.take_over(&session).await;
                    moves += 1;
                }
            }
        }
    }
    assert!(dispatch.done.values().all(|outcome| outcome.kind() == OutcomeKind::Response), "none failed");
    let counts = count.all();
    assert_eq!(counts.len(), JOBS as usize, "none was lost");
    assert!(counts.values().all(|times| *times == 1), "none was repeated: {counts:?}");
}

#[tokio::test]
async fn an_agent_that_is_stopped_while_a_stream_moves_says_so_on_the_new_one() {
    let endpoint = Endpoint::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut control_plane = TlsControlPlane::start().await;
    short(&control_plane, 1, 60);
    let agent = Agent::enroll(&control_plane, &endpoint, 1);
    let former = control_plane.welcomed().await;
    let mut next = control_plane.session().await;
    // Under way when the stream moved, so nobody starts it; the Hello takes it back.
    former.send_jobs(vec![job(1, &endpoint.url("http"))]).await;
    assert!(next.hello.in_flight.is_empty());
    agent.stop.cancel();
    next.welcome().await;
    assert!(matches!(next.hear().await, Some(Heard::Draining(_))));
    let Some(Heard::Heartbeat(heartbeat)) = next.hear().await else { panic!("expected a heartbeat") };
    next.answer(heartbeat.nonce).await;
    assert!(matches!(next.hear().await, Some(Heard::Goodbye(_))));
    drop((former, next));
    agent.ended().await.unwrap();
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn a_renewal_that_fails_is_tried_again_with_the_same_key() {
    let endpoint = Endpoint::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut control_plane = TlsControlPlane::start().await;
    short(&control_plane, 1, 60);
    control_plane.change(|state| {
        let busy = || Answer::Refuse(Status::unavailable("busy"));
        state.answers.extend([Answer::Grant, busy(), Answer::Lose, Answer::Grant]);
    });
    let _agent = Agent::enroll(&control_plane, &endpoint, 1);
    let enrolled = requested_key(&control_plane.asked().await.request);
    let first = control_plane.welcomed().await;
    let mut keys = BTreeSet::new();
    for _ in 0..3 {
        keys.insert(requested_key(&control_plane.asked().await.request));
    }
    assert!(keys.len() == 1 && !keys.contains(&enrolled));
    let second = control_plane.welcomed().await;
    assert_ne!(first.certificate, second.certificate);
}

#[tokio::test]
async fn a_key_that_is_not_wanted_is_replaced() {
    let endpoint = Endpoint::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut control_plane = TlsControlPlane::start().await;
    short(&control_plane, 1, 60);
    control_plane.change(|state| {
        state.answers.extend([Answer::Grant, Answer::Refuse(Status::invalid_argument("this key is known"))]);
    });
    let _agent = Agent::enroll(&control_plane, &endpoint, 1);
    let mut keys = BTreeSet::new();
    for _ in 0..3 {
        keys.insert(requested_key(&control_plane.asked().await.request));
    }
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn the_authorities_of_a_renewal_take_the_place_of_the_former_ones() {
    let endpoint = Endpoint::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut control_plane = TlsControlPlane::start().await;
    short(&control_plane, 1, 60);
    let _agent = Agent::enroll(&control_plane, &endpoint, 1);
    let first = control_plane.welcomed().await;
    control_plane.asked().await;
    // Both are known for a while; the new one issues.
    let (old, new) = (control_plane.change(|state| Arc::clone(&state.authority)), Arc::new(Authority::new()));
    control_plane.change(|state| {
        state.bundle = vec![old.certificate(), new.certificate()];
        state.trusted.add(new.certificate()).unwrap();
        state.authority = Arc::clone(&new);
    });
    control_plane.asked().await;
    let second = control_plane.welcomed().await;
    assert_ne!(first.certificate, second.certificate);
    // And then only the new one.
    control_plane.change(|state| {
        state.bundle = vec![new.certificate()];
        state.trusted = new.roots();
    });
    control_plane.show(&new, NAMES);
    drop(second);
    control_plane.welcomed().await;
    control_plane.asked().await;
    // The former one is nobody now.
    control_plane.change(|state| state.renew_after = Duration::from_secs(30));
    control_plane.asked().await;
    control_plane.welcomed().await;
    control_plane.show(&old, NAMES);
    while control_plane.handshakes.try_recv().is_ok() {}
    control_plane.failed_handshake().await;
}

#[tokio::test]
async fn an_identity_that_cannot_be_renewed_ends_when_its_certificate_does() {
    let endpoint = Endpoint::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut control_plane = TlsControlPlane::start().await;
    short(&control_plane, 1, 3);
    control_plane.change(|state| {
        state.answers.push_back(Answer::Grant);
        state.answers.push_back(Answer::Never);
        state.answers.push_back(Answer::Refuse(Status::unauthenticated("used up")));
    });
    let began = now();
    let agent = Agent::enroll(&control_plane, &endpoint, 1);
    let _session = control_plane.welcomed().await;
    let ended = agent.ended().await.unwrap_err();
    let lived = now() - began;
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&lived), "{lived:?}");
    let AppError::Identity(error) = &ended else { panic!("{ended}") };
    assert!(error.is_rejection());
    let sentence = ended.to_string();
    assert!(sentence.contains("has expired, and") && sentence.contains("used up"), "{sentence}");
}

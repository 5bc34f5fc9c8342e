//! Every vector of `egress.json` as a job for the real agent, in a network where any SYN that it sends would be seen.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postrider_proto::agent::{Outcome, OutcomeKind};
use serde_json::Value;
use tokio::process::Child;
use tokio::time::interval;

use crate::control_plane::{ControlPlane, Session, job};
use crate::dns::NameServer;
use crate::endpoint::{Endpoint, now};
use crate::namespace::{Syns, inside, ip};
use crate::process::agent;

const VECTORS: &str = include_str!("../../../domain/tests/vectors/egress.json");

#[derive(Clone)]
struct Vector {
    url: String,
    stage: String,
    code: String,
    resolves: Vec<IpAddr>,
    resolves_next: Vec<IpAddr>,
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let vectors: Vec<Vector> = vectors.iter().map(read).collect();
    assert_eq!(vectors.len(), 165);
    vectors
}

fn read(vector: &Value) -> Vector {
    let text = |key: &str| vector[key].as_str().unwrap().to_owned();
    let addresses = |key: &str| {
        let answers = vector[key].as_array().into_iter().flatten();
        answers.map(|answer| answer.as_str().unwrap().parse().unwrap()).collect()
    };
    Vector {
        url: text("url"),
        stage: text("stage"),
        code: text("code"),
        resolves: addresses("resolves"),
        resolves_next: addresses("resolves_next"),
    }
}

impl Vector {
    /// The host as a name server is asked for it.
    fn name(&self) -> String {
        let rest = self.url.split_once("//").map_or("", |(_, rest)| rest);
        rest.split(['/', ':', '?']).next().unwrap_or_default().to_ascii_lowercase()
    }

    /// Where the agent may connect to, for a vector that is allowed.
    fn targets(&self) -> Vec<SocketAddr> {
        let url = postrider_domain::egress::EndpointUrl::parse(&self.url).unwrap();
        let addresses = match url.host() {
            postrider_domain::egress::Host::Address(address) => vec![address],
            postrider_domain::egress::Host::Name(_) => self.resolves.clone(),
        };
        addresses.into_iter().map(|address| on_the_wire(address, url.port())).collect()
    }
}

/// An IPv4-mapped address is IPv4 in packets.
fn on_the_wire(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

/// A name server that knows the vectors' names. A name that is looked up again gets what is next.
async fn name_server(vectors: &[Vector]) -> NameServer {
    let known: HashMap<String, (Vec<IpAddr>, Vec<IpAddr>)> = vectors
        .iter()
        .filter(|vector| matches!(vector.stage.as_str(), "dns" | "rebind" | "redirect"))
        .map(|vector| (vector.name(), (vector.resolves.clone(), vector.resolves_next.clone())))
        .collect();
    let asked = std::sync::Mutex::new(HashMap::<String, usize>::new());
    NameServer::answering(0, move |name, _| {
        let mut asked = asked.lock().unwrap();
        let before = asked.entry(name.to_owned()).or_default();
        *before += 1;
        let (first, next) = known.get(name)?;
        // A look-up asks for either family, once each.
        Some(if *before <= 2 || next.is_empty() { first.clone() } else { next.clone() })
    })
    .await
}

/// An agent in this namespace, and its session.
async fn connected(more: &[&str]) -> (ControlPlane, Child, Session) {
    let mut control_plane = ControlPlane::start().await;
    let child = agent(&control_plane.url(), more);
    let session = control_plane.welcomed().await;
    (control_plane, child, session)
}

/// The outcomes of jobs to these URLs, in their order.
async fn outcomes(session: &mut Session, urls: &[String]) -> Vec<Outcome> {
    let jobs = (0..).zip(urls).map(|(number, url)| {
        let mut job = job(number, url);
        job.connect_timeout_ms = 1_500;
        job
    });
    session.send_jobs(jobs.collect()).await;
    let mut outcomes = session.outcomes(urls.len()).await;
    session.acknowledge(outcomes.iter().map(|outcome| outcome.sequence).max().unwrap()).await;
    outcomes.sort_by_key(|outcome| {
        outcome.key.as_ref().unwrap().delivery_id["dlv_".len()..].parse::<usize>().unwrap()
    });
    outcomes
}

fn urls(vectors: &[Vector]) -> Vec<String> {
    vectors.iter().map(|vector| vector.url.clone()).collect()
}

#[test]
fn every_vector_gets_its_verdict_and_only_allowed_addresses_get_a_syn() {
    inside(async || {
        let vectors = vectors();
        let names = name_server(&vectors).await;
        let syns = Syns::watch();
        let (control_plane, _agent, mut session) =
            connected(&["--dns-servers", &names.address.to_string()]).await;
        let once: Vec<_> = vectors
            .iter()
            .filter(|vector| !matches!(vector.stage.as_str(), "rebind" | "redirect"))
            .cloned()
            .collect();
        let mut wrong = Vec::new();
        for (vector, outcome) in once.iter().zip(outcomes(&mut session, &urls(&once)).await) {
            let expected = match vector.code.as_str() {
                // Nobody answers there.
                "ok" => (OutcomeKind::Timeout, ""),
                "dns_empty" => (OutcomeKind::Dns, "dns_empty"),
                code => (OutcomeKind::RefusedByPolicy, code),
            };
            if (outcome.kind(), outcome.refusal_code.as_str()) != expected || outcome.request_sent {
                wrong.push(format!("{}: {:?} {}", vector.url, outcome.kind(), outcome.refusal_code));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let allowed: BTreeSet<_> =
            once.iter().filter(|vector| vector.code == "ok").flat_map(Vector::targets).collect();
        assert!(allowed.len() >= 15, "{allowed:?}");
        let mut seen = syns.seen();
        assert!(seen.remove(&control_plane.address), "its own connection is seen too");
        assert_eq!(seen, allowed);
    });
}

#[test]
fn every_vector_that_is_refused_would_have_sent_a_syn_without_the_guard() {
    inside(async || {
        // As above, but for an owner who allows everything: so it is the guard that keeps packets back there.
        let forbidden: Vec<_> = vectors()
            .into_iter()
            .filter(|vector| vector.code != "ok" && matches!(vector.stage.as_str(), "ip" | "dns"))
            .collect();
        let names = name_server(&forbidden).await;
        let syns = Syns::watch();
        let (_control_plane, _agent, mut session) = connected(&[
            "--dns-servers",
            &names.address.to_string(),
            "--egress-allow-cidrs=0.0.0.0/0,::/0",
            "--egress-dangerously-allow-link-local-and-metadata",
        ])
        .await;
        outcomes(&mut session, &urls(&forbidden)).await;
        let seen = syns.seen();
        let mut missing = Vec::new();
        for target in forbidden.iter().flat_map(Vector::targets) {
            // The kernel itself sends no SYN to several receivers at once, and takes 'any' for loopback.
            let to_one = match target.ip() {
                IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && ip.octets()[0] != 0,
                IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
            };
            if to_one && !seen.contains(&target) {
                missing.push(target);
            }
        }
        assert!(missing.is_empty(), "{missing:?}\nof {seen:?}");
        assert!(seen.len() > 40, "{seen:?}");
    });
}

#[test]
fn a_name_that_leads_elsewhere_at_the_second_look_up_gets_one_syn_to_the_first() {
    inside(async || {
        let vector = vectors().into_iter().find(|vector| vector.stage == "rebind").unwrap();
        let names = name_server(std::slice::from_ref(&vector)).await;
        let syns = Syns::watch();
        let (control_plane, _agent, mut session) =
            connected(&["--dns-servers", &names.address.to_string()]).await;
        let first = outcomes(&mut session, &urls(std::slice::from_ref(&vector))).await;
        assert_eq!(first[0].kind(), OutcomeKind::Timeout);
        let second = outcomes(&mut session, &urls(std::slice::from_ref(&vector))).await;
        assert_eq!((second[0].kind(), &second[0].refusal_code), (OutcomeKind::RefusedByPolicy, &vector.code));
        let mut seen = syns.seen();
        seen.remove(&control_plane.address);
        assert_eq!(seen, vector.targets().into_iter().collect());
    });
}

#[test]
fn a_redirect_gets_no_look_up_and_no_syn() {
    inside(async || {
        let vector = vectors().into_iter().find(|vector| vector.stage == "redirect").unwrap();
        let names = name_server(std::slice::from_ref(&vector)).await;
        let response = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", vector.url);
        let endpoint = Endpoint::answering(response.leak()).await;
        let syns = Syns::watch();
        let (control_plane, _agent, mut session) = connected(&[
            "--dns-servers",
            &names.address.to_string(),
            "--egress-allow-cidrs=127.0.0.1",
            "--egress-allow-http",
            "--egress-allow-ports",
            &endpoint.address.port().to_string(),
        ])
        .await;
        let outcomes = outcomes(&mut session, &[endpoint.url("http")]).await;
        assert_eq!((outcomes[0].http_status, &outcomes[0].refusal_code), (302, &vector.code));
        assert_eq!(syns.seen(), BTreeSet::from([control_plane.address, endpoint.address]));
        assert_eq!(names.asked(), 0);
    });
}

#[test]
fn an_address_that_the_machine_gets_later_is_refused_as_its_own() {
    inside(async || {
        let (_control_plane, _agent, mut session) = connected(&[]).await;
        ip("addr add 93.184.216.35/32 dev out");
        let began = now();
        let mut ticks = interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let outcome = outcomes(&mut session, &["https://93.184.216.35/".to_owned()]).await.remove(0);
            if outcome.refusal_code == "own_address" {
                break;
            }
            assert_eq!(outcome.kind(), OutcomeKind::Connect, "nobody listens there");
            assert!(now() - began < Duration::from_secs(30), "the agent does not notice its new address");
        }
    });
}

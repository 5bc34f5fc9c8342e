//! Many agents that all come back at once, after the control plane was away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::{AgentMessage, ControlMessage, Heartbeat};
use postrider_proto::v1::{self, AgentState};
use postrider_tests::applicant::{credentials, hello, new_key};
use postrider_tests::clock::now;
use postrider_tests::frames::{ACK, END_HEADERS, Frame, Port, Wire, frame, grpc, kind, message};
use postrider_tests::process::raise_file_limit;
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, when, within};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::enrollment::{channel, enroll_with};
use super::{Besieged, Enrolled};

/// Agents.
const MANY: usize = 2_000;
/// As many as enroll over one connection, and from one address: fewer than are let in at once.
const TOGETHER: usize = 50;
/// By when all are back.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// How often they are heard.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The first wait before coming back, at the most, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// What the agents do together.
#[derive(Default)]
struct Count {
    welcomed: AtomicUsize,
    tries: AtomicUsize,
}

/// An agent that keeps a stream open for as long as it is there, and does nothing else.
struct Agent {
    port: Port,
    enrolled: Enrolled,
    count: Arc<Count>,
}

impl Agent {
    async fn run(self) {
        let mut wait = WAITS.0;
        loop {
            self.count.tries.fetch_add(1, Ordering::Relaxed);
            if let Ok(wire) = self.open().await {
                self.count.welcomed.fetch_add(1, Ordering::Relaxed);
                wait = WAITS.0;
                // It is over when it is over.
                drop(keep(wire).await);
                self.count.welcomed.fetch_sub(1, Ordering::Relaxed);
            }
            sleep(wait.mul_f64(rand::random())).await;
            wait = (wait * 2).min(WAITS.1);
        }
    }

    /// Up to its Welcome.
    async fn open(&self) -> Result<Wire> {
        let mut wire = timeout(Duration::from_secs(10), self.port.greeted(&[])).await??;
        let headers = grpc("/postrider.agent.v1.SessionService/Connect", &[]);
        let hello = says(Said::Hello(self.enrolled.hello.clone()));
        wire.send(&[frame(kind::HEADERS, END_HEADERS, 1, &headers), hello].concat()).await?;
        loop {
            let heard = timeout(Duration::from_secs(10), wire.ear.next()).await??.context("closed")?;
            if heard.kind == kind::DATA {
                let heard = ControlMessage::decode(heard.payload.get(5..).context("no message")?)?;
                match heard.message {
                    Some(Heard::Welcome(_)) => return Ok(wire),
                    other => bail!("instead of Welcome: {other:?}"),
                }
            }
        }
    }
}

fn says(said: Said) -> Vec<u8> {
    let said = AgentMessage { message: Some(said) };
    frame(kind::DATA, 0, 1, &message(&said.encode_to_vec()))
}

/// Is heard regularly, until the other side closes.
async fn keep(wire: Wire) -> Result<()> {
    let Wire { mut ear, mut mouth } = wire;
    let (pings, mut asked) = mpsc::channel(8);
    let hear = async {
        while let Some(frame) = ear.next().await? {
            match frame {
                Frame { kind: kind::PING, flags: 0, payload, .. } => pings.send(payload).await?,
                Frame { kind: kind::GOAWAY, .. } => break,
                _ => {}
            }
        }
        Ok(())
    };
    let mut beat = interval(HEARTBEAT);
    let speak = async {
        loop {
            tokio::select! {
                Some(ping) = asked.recv() => mouth.send(&frame(kind::PING, ACK, 0, &ping)).await?,
                _ = beat.tick() => mouth.send(&says(Said::Heartbeat(Heartbeat::default()))).await?,
            }
        }
    };
    tokio::select! {
        heard = hear => heard,
        spoken = speak => spoken,
    }
}

/// Enrolls some, each lot from an address of its own, and lets them run.
async fn agents(besieged: &Besieged, count: &Arc<Count>) -> Result<JoinSet<()>> {
    let port = besieged.agents().await?;
    let join = besieged.api.join("acme", u32::try_from(MANY)?).await?;
    let mut lots = JoinSet::new();
    for lot in 0..MANY / TOGETHER {
        let channel = channel(&port, [127, 0, 1, u8::try_from(lot + 1)?])?;
        let join = join.clone();
        lots.spawn(async move {
            let mut enrolled = Vec::new();
            for _ in 0..TOGETHER {
                let key = new_key()?;
                let identity = enroll_with(&channel, &join, &key).await?;
                enrolled
                    .push(Enrolled { hello: hello(&identity), credentials: credentials(&identity, &key) });
            }
            anyhow::Ok(enrolled)
        });
    }
    let (address, mut running) = (besieged.control_plane.agents_address(), JoinSet::new());
    for lot in lots.join_all().await {
        for enrolled in lot? {
            let port = Port::new(address, &port.trust, Some(&enrolled.credentials))?;
            running.spawn(Agent { port, enrolled, count: count.clone() }.run());
        }
    }
    Ok(running)
}

/// As many as the control plane says are connected.
async fn connected(besieged: &Besieged) -> Result<usize> {
    let mut request = v1::ListAgentsRequest { page_size: 1000, ..v1::ListAgentsRequest::default() };
    let mut count = 0;
    loop {
        let page = besieged.api.agents().list_agents(request.clone()).await?.into_inner();
        count += page.agents.iter().filter(|agent| agent.state() == AgentState::Connected).count();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(count);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_agents_are_back_within_a_minute_of_a_restart() -> Result<()> {
    let _turn = turn::take().await;
    raise_file_limit()?;
    let mut besieged = Besieged::start(&[]).await?;
    let count = Arc::new(Count::default());
    let begun = now();
    let _agents = agents(&besieged, &count).await?;
    println!("{MANY} agents have enrolled after {:?}", begun.elapsed());
    let all = |count: &Count| Ok(when(count.welcomed.load(Ordering::Relaxed) == MANY));
    within(BACK_WITHIN, "all are connected", async || all(&count)).await?;
    println!("all are connected after {:?}", begun.elapsed());
    assert_eq!(connected(&besieged).await?, MANY);

    besieged.control_plane.kill()?;
    within(PATIENCE, "all have lost it", async || Ok(when(count.welcomed.load(Ordering::Relaxed) == 0)))
        .await?;
    count.tries.store(0, Ordering::Relaxed);
    let begun = now();
    besieged.control_plane.restart().await?;
    within(BACK_WITHIN, "all are back", async || all(&count)).await?;
    let (after, tries) = (begun.elapsed(), count.tries.load(Ordering::Relaxed));
    assert_eq!(connected(&besieged).await?, MANY);
    println!("{MANY} agents are back {after:?} after the restart, in {tries} tries");
    ensure!(after < BACK_WITHIN, "{after:?}");
    Ok(())
}

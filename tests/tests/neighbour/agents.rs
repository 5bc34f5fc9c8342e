//! What an agent of another tenant's pool can do: hold jobs for ever, and say more than it was asked.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::{AgentMessage, Heartbeat, Hello, JobKey, Outcome, OutcomeKind, Outcomes};
use postrider_proto::v1::{self, Role};
use postrider_tests::api::event;
use postrider_tests::applicant::{AgentPort, Credentials, Session, credentials, hello, new_key};
use postrider_tests::clock::now;

use crate::street::{EVIL, Street};

/// How long an attack goes on.
const ATTACK: Duration = Duration::from_secs(8);

/// An agent of the evil pool.
struct Liar {
    port: AgentPort,
    hello: Hello,
    credentials: Credentials,
}

impl Liar {
    async fn enroll(street: &Street) -> Result<Self> {
        let api = street.world.control_plane.api(EVIL)?;
        let port = street.world.control_plane.agent_port(&api).await?;
        let (join, key) = (api.join(EVIL, 1).await?, new_key()?);
        let identity = port.enroll(&join, &key).await?;
        Ok(Self { port, hello: hello(&identity), credentials: credentials(&identity, &key) })
    }

    async fn says(&self, hello: Hello) -> Result<Session> {
        Ok(self.port.connect(Some(&self.credentials), hello).await?)
    }

    async fn welcomed(&self, hello: Hello) -> Result<Session> {
        let mut session = self.says(hello).await?;
        match session.hear().await? {
            Heard::Welcome(_) => Ok(session),
            other => bail!("instead of Welcome: {other:?}"),
        }
    }
}

fn key(number: u64) -> JobKey {
    JobKey {
        delivery_id: format!("dlv_{}-{number}", "0".repeat(26)),
        attempt: 1,
        epoch: 1,
        tag: vec![7; 16].into(),
    }
}

fn outcomes(count: u64) -> AgentMessage {
    let outcome = |sequence| Outcome {
        sequence,
        key: Some(key(sequence)),
        kind: OutcomeKind::Response.into(),
        http_status: 200,
        ..Outcome::default()
    };
    AgentMessage { message: Some(Said::Outcomes(Outcomes { outcomes: (1..=count).map(outcome).collect() })) }
}

/// It says that it holds 40,000 jobs at once, takes what it gets, and sends nothing but heartbeats.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_keeps_its_jobs() -> Result<()> {
    let street = Street::start(&[]).await?;
    let operator = street.attacker(Role::Operator).await?;
    for number in 0..34 {
        let subscription = v1::Subscription {
            tenant: EVIL.to_owned(),
            url: format!("http://127.0.0.1:9/{number}"),
            pool: EVIL.to_owned(),
            max_in_flight: 1000,
            ..v1::Subscription::default()
        };
        operator.subscribe(subscription, "").await?;
    }
    let liar = Liar::enroll(&street).await?;
    let large = Hello { max_in_flight: 40_000, max_in_flight_bytes: u64::MAX, ..liar.hello.clone() };
    let mut session = liar.welcomed(large).await?;
    let (beats, mut heard) = (session.to.clone(), 0_usize);
    let attack = async {
        for _ in 0..20 {
            let events = vec![event("evil.kept", "1"); 50];
            let request = v1::EmitBatchRequest { tenant: EVIL.to_owned(), events };
            drop(operator.events().emit_batch(request).await);
        }
        let begun = now();
        while begun.elapsed() < ATTACK {
            let beat = AgentMessage { message: Some(Said::Heartbeat(Heartbeat { nonce: 1 })) };
            // The control plane may have ended the session.
            if beats.send(beat).await.is_err() {
                break;
            }
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(500), session.hear()).await {
                let Ok(message) = message else { break };
                heard += usize::from(matches!(message, Heard::Jobs(_)));
            }
        }
        Ok(())
    };
    street.attack("an agent that keeps its jobs", attack).await?;
    (heard > 0).then_some(()).context("the liar was given no job")
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_nobody_asked_for() -> Result<()> {
    let street = Street::start(&[]).await?;
    let liar = Liar::enroll(&street).await?;
    let attack = async {
        let begun = now();
        while begun.elapsed() < ATTACK {
            let session = liar.says(liar.hello.clone()).await?;
            for _ in 0..4 {
                if session.to.send(outcomes(50_000)).await.is_err() {
                    break;
                }
            }
            let mut session = session;
            while session.hear().await.is_ok() {}
        }
        Ok(())
    };
    street.attack("outcomes that nobody asked for", attack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_jobs_that_it_was_never_given() -> Result<()> {
    let street = Street::start(&[]).await?;
    let liar = Liar::enroll(&street).await?;
    let claims =
        Hello { max_in_flight: 100_000, in_flight: (1..=100_000).map(key).collect(), ..liar.hello.clone() };
    let attack = async {
        let begun = now();
        while begun.elapsed() < ATTACK {
            if let Ok(mut session) = liar.says(claims.clone()).await {
                while session.hear().await.is_ok() {}
            }
        }
        Ok(())
    };
    street.attack("claims of jobs that it was never given", attack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_fill_the_log() -> Result<()> {
    let street = Street::start(&[]).await?;
    let liar = Liar::enroll(&street).await?;
    let attack = async {
        let begun = now();
        while begun.elapsed() < ATTACK {
            let name = "x\n".repeat(1 << 19);
            let hello = Hello { agent_id: name.clone(), pool: name, ..liar.hello.clone() };
            if let Ok(mut session) = liar.says(hello).await {
                drop(session.hear().await);
            }
        }
        Ok(())
    };
    street.attack("names that fill the log", attack).await?;
    let longest = street.world.control_plane.log().lines().map(str::len).max().unwrap_or(0);
    (longest < 4_000).then_some(()).with_context(|| format!("a log line of {longest} bytes"))
}

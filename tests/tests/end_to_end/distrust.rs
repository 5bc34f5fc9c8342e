//! Agents that lie, over real TLS: they settle nothing that they were not given, forge no log line, and are on record.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::{
    AgentMessage, Heartbeat, Hello, Job, JobKey, Outcome, OutcomeKind, Outcomes, Reject, RejectCode,
};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{Api, duration, event};
use postrider_tests::applicant::{Credentials, Session, credentials, hello, new_key};
use postrider_tests::wait::{eventually, when, within};
use postrider_tests::world::{ControlPlane, Security, TENANT, TlsFiles};
use tempfile::TempDir;

const POOL: &str = "acme";

struct World {
    control_plane: ControlPlane,
    api: Api,
    _folder: TempDir,
}

#[derive(Clone)]
struct Agent {
    hello: Hello,
    credentials: Credentials,
}

impl World {
    /// With one subscription, whose attempts may take a second.
    async fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("postrider-test-")?;
        let files = TlsFiles::make(&folder.path().join("tls"))?;
        let lines = &["admin_listen = \"127.0.0.1:0\""];
        let control_plane = ControlPlane::start(folder.path(), lines, Security::Tls(files)).await?;
        let api = control_plane.api(TENANT)?;
        api.create_tenant().await?;
        api.allow_pool(POOL).await?;
        let wanted = v1::Subscription {
            url: "https://example.com/hook".to_owned(),
            pool: POOL.to_owned(),
            timeout: Some(duration(Duration::from_secs(1))),
            ..v1::Subscription::default()
        };
        api.subscribe(wanted, "").await?;
        Ok(Self { control_plane, api, _folder: folder })
    }

    async fn agent(&self) -> Result<Agent> {
        let port = self.control_plane.agent_port(&self.api).await?;
        let (join, key) = (self.api.join(POOL, 1).await?, new_key()?);
        let identity = port.enroll(&join, &key).await?;
        Ok(Agent { hello: hello(&identity), credentials: credentials(&identity, &key) })
    }

    async fn says(&self, agent: &Agent, hello: Hello) -> Result<Session> {
        let port = self.control_plane.agent_port(&self.api).await?;
        Ok(port.connect(Some(&agent.credentials), hello).await?)
    }

    async fn welcomed(&self, agent: &Agent, in_flight: &[JobKey]) -> Result<Session> {
        let hello = Hello { in_flight: in_flight.to_vec(), ..agent.hello.clone() };
        let mut session = self.says(agent, hello).await?;
        match session.hear().await? {
            Heard::Welcome(_) => Ok(session),
            other => bail!("instead of Welcome: {other:?}"),
        }
    }

    async fn emit(&self) -> Result<String> {
        Ok(self.api.emit_to_one(event("order.paid", "1")).await?.1)
    }

    async fn rejections(&self) -> Result<Vec<v1::AuditRecord>> {
        let request = v1::ListAuditRecordsRequest { action: "RejectAgent".to_owned(), ..Default::default() };
        Ok(self.api.audit().list_audit_records(request).await?.into_inner().records)
    }

    async fn misconduct(&self, kind: &str) -> Result<f64> {
        let admin = self.control_plane.admin().context("no admin port")?;
        admin.scrape().await?.value(&format!("postrider_agent_misconduct_total{{kind=\"{kind}\"}}"))
    }
}

async fn job(session: &mut Session) -> Result<Job> {
    loop {
        if let Heard::Jobs(jobs) = session.hear().await? {
            return jobs.jobs.into_iter().next().context("a message of jobs without one");
        }
    }
}

async fn rejected(session: &mut Session) -> Result<Reject> {
    loop {
        if let Heard::Reject(reject) = session.hear().await? {
            return Ok(reject);
        }
    }
}

fn outcome(sequence: u64, key: &JobKey, status: u32) -> Outcome {
    Outcome {
        sequence,
        key: Some(key.clone()),
        kind: OutcomeKind::Response.into(),
        http_status: status,
        ..Outcome::default()
    }
}

async fn tell(session: &Session, outcomes: Vec<Outcome>) -> Result<()> {
    let said = AgentMessage { message: Some(Said::Outcomes(Outcomes { outcomes })) };
    Ok(session.to.send(said).await?)
}

#[tokio::test]
async fn an_agent_settles_nothing_that_was_given_to_another_one() -> Result<()> {
    let world = World::start().await?;
    let (honest, liar) = (world.agent().await?, world.agent().await?);
    let mut working = world.welcomed(&honest, &[]).await?;
    let delivery = world.emit().await?;
    let key = job(&mut working).await?.key.context("a job without a key")?;
    assert_eq!((key.tag.len(), &key.delivery_id), (16, &delivery));
    let subscription = world.api.subscription(&delivery_of(&world, &delivery).await?).await?;

    // It reports, with the tag that the other one was given, with others, and with none.
    let forged = [
        key.clone(),
        JobKey { attempt: 2, ..key.clone() },
        JobKey { attempt: u32::MAX, ..key.clone() },
        JobKey { tag: vec![0; 16].into(), ..key.clone() },
        JobKey { tag: Vec::new().into(), ..key.clone() },
    ];
    for (forged, status) in forged.iter().flat_map(|key| [(key, 200), (key, 410)]) {
        let mut session = world.welcomed(&liar, &[]).await?;
        tell(&session, vec![outcome(1, forged, status)]).await?;
        assert_eq!(rejected(&mut session).await?.code(), RejectCode::ProtocolError, "{forged:?}");
        // Or it claims the job in its Hello.
        let hello = Hello { in_flight: vec![forged.clone()], ..liar.hello.clone() };
        let mut session = world.says(&liar, hello).await?;
        assert_eq!(rejected(&mut session).await?.code(), RejectCode::ProtocolError, "{forged:?}");
    }
    let (found, attempts) = world.api.delivery(&delivery).await?;
    assert_eq!((found.state(), found.attempt_count, attempts.len()), (DeliveryState::Attempting, 0, 0));
    assert_eq!(world.api.subscription(&subscription.id).await?.state, subscription.state);
    assert_eq!((world.misconduct("outcome").await?, world.misconduct("claim").await?), (10.0, 10.0));
    let records = world.rejections().await?;
    assert_eq!(records.len(), 2, "one a minute for each kind: {records:?}");
    assert!(records.iter().all(|record| record.actor == liar.hello.agent_id), "{records:?}");

    tell(&working, vec![outcome(1, &key, 200)]).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!((attempts.len(), &attempts[0].agent), (1, &honest.hello.agent_id));
    Ok(())
}

async fn delivery_of(world: &World, delivery: &str) -> Result<String> {
    Ok(world.api.delivery(delivery).await?.0.subscription)
}

#[tokio::test]
async fn after_a_restart_an_attempt_is_still_its_agents_alone() -> Result<()> {
    let mut world = World::start().await?;
    let (honest, liar) = (world.agent().await?, world.agent().await?);
    let mut working = world.welcomed(&honest, &[]).await?;
    let delivery = world.emit().await?;
    let key = job(&mut working).await?.key.context("a job without a key")?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    world.api = world.control_plane.api(TENANT)?;
    let hello = Hello { in_flight: vec![key.clone()], ..liar.hello.clone() };
    let mut session = world.says(&liar, hello).await?;
    assert_eq!(rejected(&mut session).await?.code(), RejectCode::ProtocolError);
    let later = JobKey { attempt: 2, ..key.clone() };
    let hello = Hello { in_flight: vec![later], ..honest.hello.clone() };
    let mut session = world.says(&honest, hello).await?;
    assert_eq!(rejected(&mut session).await?.code(), RejectCode::ProtocolError, "another attempt");
    let session = world.welcomed(&honest, std::slice::from_ref(&key)).await?;
    tell(&session, vec![outcome(1, &key, 200)]).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!((attempts.len(), attempts[0].number), (1, 1));
    Ok(())
}

#[tokio::test]
async fn floods_of_outcomes_and_messages_end_the_session() -> Result<()> {
    let world = World::start().await?;
    let agent = world.agent().await?;
    let key = JobKey {
        delivery_id: format!("dlv_{}-1", "0".repeat(26)),
        attempt: 1,
        epoch: 1,
        ..JobKey::default()
    };
    let many = |count: u64| (1..=count).map(|sequence| outcome(sequence, &key, 200)).collect::<Vec<_>>();
    let large = Outcome { body: vec![0; 2 << 20].into(), ..outcome(1, &key, 200) };
    for outcomes in [many(257), many(100_000), vec![large], Vec::new()] {
        let mut session = world.welcomed(&agent, &[]).await?;
        tell(&session, outcomes).await?;
        assert_eq!(rejected(&mut session).await?.code(), RejectCode::ProtocolError);
    }
    let mut session = world.welcomed(&agent, &[]).await?;
    let beats = session.to.clone();
    let beating = tokio::spawn(async move {
        let beat = |nonce| AgentMessage { message: Some(Said::Heartbeat(Heartbeat { nonce })) };
        for nonce in 0..100_000 {
            if beats.send(beat(nonce)).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(rejected(&mut session).await?.code(), RejectCode::ProtocolError);
    beating.abort();
    assert_eq!(world.misconduct("flood").await?, 4.0);
    assert_eq!(world.rejections().await?.len(), 2, "one a minute for each kind");
    Ok(())
}

#[tokio::test]
async fn an_agent_forges_no_line_of_the_log() -> Result<()> {
    let world = World::start().await?;
    let agent = world.agent().await?;
    let forged = "x\n2026-11-30T00:00:00.000000Z  INFO postrider_control_plane::app: forged line\u{1b}[31m";
    let names = [forged.to_owned(), "a".repeat(1 << 20)];
    for name in names {
        let texts = [
            Hello { agent_id: name.clone(), ..agent.hello.clone() },
            Hello { pool: name.clone(), ..agent.hello.clone() },
            Hello { instance_id: name.clone(), agent_version: name.clone(), ..agent.hello.clone() },
            Hello {
                capabilities: vec![name.clone()],
                egress_policy_hash: name.clone(),
                ..agent.hello.clone()
            },
        ];
        for hello in texts {
            let mut session = world.says(&agent, hello).await?;
            session.hear().await?;
        }
    }
    let mut session = world.welcomed(&agent, &[]).await?;
    world.emit().await?;
    let key = job(&mut session).await?.key.context("a job without a key")?;
    let code = forged.repeat(1_000);
    let refused = Outcome {
        kind: OutcomeKind::RefusedByPolicy.into(),
        http_status: 0,
        refusal_code: code,
        detail: forged.to_owned(),
        ..outcome(1, &key, 0)
    };
    tell(&session, vec![refused]).await?;
    let logged =
        async || Ok(when(world.control_plane.log().contains("refused by the agent's egress policy")));
    eventually("the refusal is in the log", logged).await?;
    let log = world.control_plane.log();
    ensure!(!log.lines().any(|line| line.starts_with("2026-11-30T00:00:00")), "a line is forged");
    ensure!(!log.contains('\u{1b}'), "an escape sequence is in the log");
    let longest = log.lines().map(str::len).max().unwrap_or(0);
    ensure!(longest < 2_000, "a line of {longest} bytes");
    Ok(())
}

/// It takes the job, sends heartbeats, and never reports.
#[tokio::test]
async fn a_job_is_taken_back_from_an_agent_that_only_sends_heartbeats() -> Result<()> {
    let world = World::start().await?;
    let (hoarder, honest) = (world.agent().await?, world.agent().await?);
    let mut hoarding = world.welcomed(&hoarder, &[]).await?;
    let delivery = world.emit().await?;
    let kept = job(&mut hoarding).await?.key.context("a job without a key")?;
    let beats = hoarding.to.clone();
    let beating = tokio::spawn(async move {
        for nonce in 1.. {
            let beat = AgentMessage { message: Some(Said::Heartbeat(Heartbeat { nonce })) };
            if beats.send(beat).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let taken_back = async || Ok(when(world.api.delivery(&delivery).await?.0.attempt_count == 1));
    within(Duration::from_secs(60), "the job is taken back", taken_back).await?;
    let mut working = world.welcomed(&honest, &[]).await?;
    // The hoarder has credit for seven more, so either of them may get the next attempt.
    let next = tokio::select! {
        given = job(&mut working) => Some(given?),
        given = job(&mut hoarding) => { given?; None }
    };
    if let Some(key) = next.and_then(|job| job.key) {
        assert_eq!((key.attempt, &key.delivery_id), (2, &kept.delivery_id));
        tell(&working, vec![outcome(1, &key, 200)]).await?;
        world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    }
    beating.abort();
    Ok(())
}

//! Trust that changes under load: certificates are renewed, an authority rolls, an agent is revoked. Nothing is lost, and
//! only a revocation may repeat what was in flight.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_domain::time::Timestamp;
use postrider_proto::v1::{self, AgentState};
use postrider_tests::api::duration;
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::receiver::Answer;
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::{AgentSettings, World};
use rustix::process::Signal;

/// Certificates that last for this long are renewed about twice in each test.
const SHORT: &str = "agent_certificate_lifetime = \"10s\"";
const LOAD: Load = Load { events: 3_600, per_second: 200 };

async fn world() -> Result<World> {
    World::with(AgentSettings { max_in_flight: 64, ..AgentSettings::default() }, &[SHORT]).await
}

async fn count(world: &World, action: &str) -> Result<usize> {
    let request =
        v1::ListAuditRecordsRequest { action: action.to_owned(), page_size: 1000, ..Default::default() };
    Ok(world.api.audit().list_audit_records(request).await?.into_inner().records.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_under_load_lose_nothing_and_repeat_nothing() -> Result<()> {
    let _turn = turn::take().await;
    let world = world().await?;
    let routes = [world.subscribe("/a").await?];
    let emitter = Emitter::start(world.api.clone(), LOAD);
    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &routes).pass(LOAD.events, 0)?;
    let renewed = count(&world, "RenewAgent").await?;
    assert!(renewed >= 2, "the agent has renewed {renewed} times");
    assert_eq!(count(&world, "EnrollAgent").await?, 1);
    let deliveries = world.api.deliveries_in(&[]).await?;
    assert!(deliveries.iter().all(|delivery| delivery.attempt_count == 1), "an attempt has failed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_rolls_under_load_loses_nothing_and_repeats_nothing() -> Result<()> {
    let _turn = turn::take().await;
    let world = world().await?;
    let routes = [world.subscribe("/a").await?];
    let mut emitter = Emitter::start(world.api.clone(), LOAD);
    emitter.acknowledged(200).await?;
    let overlap = Some(duration(Duration::from_secs(12)));
    let rotated = world.api.agents().rotate_authority(v1::RotateAuthorityRequest { overlap }).await?;
    let new = rotated.into_inner().authority.context("an authority")?.id;
    let alone = async || {
        let listed = world.api.agents().list_authorities(v1::ListAuthoritiesRequest {}).await?.into_inner();
        Ok(when(listed.authorities.len() == 1 && listed.authorities[0].id == new))
    };
    eventually("the former authority has retired", alone).await?;
    assert!(!emitter.is_done(), "the load was over before the authority had rolled");
    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &routes).pass(LOAD.events, 0)?;
    world.agent_connected().await?;
    assert_eq!(count(&world, "EnrollAgent").await?, 1, "nobody had to enroll again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_starts_no_post_after_five_seconds_and_nothing_is_lost() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(64).await?;
    let _other = world.another_agent("agent-2").await?;
    let routes = [world.subscribe("/a").await?];
    // More at once than one agent gets before the other is preferred.
    world.receiver.script("/a", [Answer::Late(204, Duration::from_millis(50))]);
    let load = Load { events: 2_400, per_second: 200 };
    let mut emitter = Emitter::start(world.api.clone(), load);
    emitter.acknowledged(400).await?;
    let revoked = world.agent_connected().await?.id;
    let before = world.api.deliveries_in(&[]).await?;
    let by_it =
        |delivery: &v1::Delivery| delivery.last_attempt.as_ref().is_some_and(|last| last.agent == revoked);
    assert!(before.iter().any(by_it), "it has delivered nothing");
    let request = v1::RevokeAgentRequest { agent: revoked.clone(), reason: String::new() };
    let answer = world.api.agents().revoke_agent(request).await?.into_inner().agent.context("an agent")?;
    assert_eq!(answer.state(), AgentState::Revoked);
    // Its join token is good for no other agent either.
    let status = world.agent.exit(PATIENCE).await?;
    assert_eq!(status.code(), Some(3), "the agent ends for good: {status}");

    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &routes).pass(load.events, 64)?;
    let since = time(answer.revoke_time.as_ref())? + Duration::from_secs(5);
    for delivery in world.api.deliveries_in(&[]).await?.iter().filter(|delivery| by_it(delivery)) {
        let last = delivery.last_attempt.as_ref().context("an attempt")?;
        assert!(time(last.start_time.as_ref())? < since, "{last:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_comes_back_after_a_restart_without_its_join_token() -> Result<()> {
    let mut world = World::start().await?;
    let before = world.agent_connected().await?;
    world.agent.signal(Signal::TERM)?;
    assert_eq!(world.agent.exit(PATIENCE).await?.code(), Some(0));
    world.agent.settings.join = Some(String::new());
    world.agent.start()?;
    let back = async || {
        let seen = world.api.agent(&before.id).await?;
        Ok(seen.filter(|agent| agent.instance != before.instance && agent.state() == AgentState::Connected))
    };
    eventually("it is back with the identity that it had", back).await?;
    assert_eq!(count(&world, "EnrollAgent").await?, 1);
    Ok(())
}

fn time(time: Option<&prost_types::Timestamp>) -> Result<Timestamp> {
    let time = time.context("no time")?;
    Ok(Timestamp::from_millis(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000))
}

//! kill -9, of either side and of both, under load. What was acknowledged is never lost; a delivery is repeated only
//! when nobody can know how its attempt ended.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{duration, event};
use postrider_tests::clock::now;
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::receiver::Answer;
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when, within};
use postrider_tests::world::World;
use rand::Rng as _;

/// How long a slow endpoint takes: there is always something in flight.
const SLOW: Duration = Duration::from_millis(40);
/// What the agent may have in flight, and so the most that a kill of it may repeat.
const IN_FLIGHT: u32 = 16;

/// Waits until so many events more are acknowledged, a number that no two runs share: a random moment.
async fn a_while(emitter: &mut Emitter) -> Result<()> {
    let goal = emitter.ledger.acknowledged_count() + rand::rng().random_range(100..300);
    emitter.acknowledged(goal).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_killed_again_and_again_loses_nothing_and_repeats_nothing() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(64).await?;
    let routes = [world.subscribe("/fast").await?, world.subscribe("/slow").await?];
    world.receiver.script("/slow", [Answer::Late(204, SLOW)]);
    let load = Load { events: 2_500, per_second: 300 };
    let mut emitter = Emitter::start(world.api.clone(), load);
    let mut kills = 0;
    while kills < 6 && !emitter.is_done() {
        a_while(&mut emitter).await?;
        world.control_plane.kill()?;
        world.control_plane.restart().await?;
        kills += 1;
    }
    assert!(kills >= 4, "the load was over after {kills} kills");
    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &routes).pass(load.events, 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_flight_at_a_killed_control_plane_goes_on_within_five_seconds() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(IN_FLIGHT).await?;
    let route = world.subscribe("/a").await?;
    // These attempts are under way when the control plane is killed, and end while it is away or after.
    world.receiver.script("/a", [Answer::Late(204, Duration::from_secs(2))]);
    let emitter = Emitter::start(world.api.clone(), Load { events: 48, per_second: 1_000 });
    let ledger = emitter.done().await?;
    let full = IN_FLIGHT as usize;
    eventually("the agent is full", async || Ok(when(world.receiver.open("/a") == full))).await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    let restarted = now();
    // The first ones are settled from what the agent reports, and those that waited are handed out.
    within(Duration::from_secs(5), "work goes on after the restart", async || {
        let posts = world.receiver.count();
        Ok(when(posts > full && !world.api.deliveries_in(&[DeliveryState::Delivered]).await?.is_empty()))
    })
    .await?;
    println!("resumed {:?} after the restart", restarted.elapsed());
    world.receiver.script("/a", [Answer::Status(204)]);
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &[route]).pass(48, 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_repeats_at_most_what_it_had_in_flight() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(IN_FLIGHT).await?;
    world.receiver.script("/a", [Answer::Late(204, SLOW)]);
    let wanted = v1::Subscription { timeout: Some(duration(Duration::from_secs(1))), ..Default::default() };
    let route = world.subscribe_with("/a", wanted).await?;
    let load = Load { events: 1_000, per_second: 200 };
    let mut emitter = Emitter::start(world.api.clone(), load);
    let mut kills = 0;
    while kills < 3 && !emitter.is_done() {
        a_while(&mut emitter).await?;
        world.agent.kill()?;
        kills += 1;
        world.agent.start()?;
        world.agent_connected().await?;
    }
    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &[route]).pass(load.events, kills * IN_FLIGHT as usize)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_killed_agent_reach_another_one_within_their_timeout_and_five_seconds() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(IN_FLIGHT).await?;
    let timeout = Duration::from_secs(2);
    world.receiver.script("/a", std::iter::repeat_n(Answer::Hang, 8).chain([Answer::Status(204)]));
    let wanted = v1::Subscription { timeout: Some(duration(timeout)), ..Default::default() };
    let route = world.subscribe_with("/a", wanted).await?;
    let ledger = postrider_tests::ledger::Ledger::default();
    for number in 0..8 {
        let made = v1::NewEvent { id: format!("e{number}"), ..event("a.b", "{}") };
        ledger.sent(&made.id, "a.b", "{}");
        world.api.emit(made.clone()).await?;
        ledger.acknowledged(&made.id);
    }
    eventually("all are in flight", async || Ok(when(world.receiver.open("/a") == 8))).await?;
    let in_flight = world.receiver.count();
    assert_eq!(in_flight, 8);
    let _other = world.another_agent("agent-2").await?;
    world.agent.kill()?;
    let killed = now();
    let limit = timeout + Duration::from_secs(5);
    within(limit, "another agent has posted them", async || Ok(when(world.receiver.count() == 16))).await?;
    println!("given to another agent {:?} after the kill", killed.elapsed());
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &[route]).pass(8, in_flight)?;
    let (delivery, attempts) = {
        let delivered = world.api.deliveries_in(&[DeliveryState::Delivered]).await?;
        world.api.delivery(&delivered[0].id).await?
    };
    // What happened is visible: the first attempt's agent was lost.
    assert_eq!((delivery.attempt_count, attempts.len()), (2, 2));
    assert_eq!(attempts[0].outcome(), v1::OutcomeClass::AgentLost);
    let [first, second] = ["agent-1", "agent-2"].map(|name| world.api.agent(name));
    let (first, second) = (first.await?.context("the first")?, second.await?.context("the second")?);
    assert_eq!((&attempts[0].agent, &attempts[1].agent), (&first.id, &second.id));
    Ok(())
}

/// The dead process holds the whole cap of the lane. The attempts' timeout and the margin after it are far longer than
/// what this test waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_alone_and_started_again_serves_its_lane_at_once() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(IN_FLIGHT).await?;
    let timeout = Duration::from_secs(60);
    let full = IN_FLIGHT as usize;
    world.receiver.script("/a", std::iter::repeat_n(Answer::Hang, full).chain([Answer::Status(204)]));
    let wanted = v1::Subscription { timeout: Some(duration(timeout)), ..Default::default() };
    let route = world.subscribe_with("/a", wanted).await?;
    let emitter = Emitter::start(world.api.clone(), Load { events: 200, per_second: 1_000 });
    eventually("the agent is full", async || Ok(when(world.receiver.open("/a") == full))).await?;
    world.agent.kill()?;
    let killed = now();
    world.agent.start()?;
    within(timeout / 4, "the lane goes on", async || Ok(when(world.receiver.count() > full))).await?;
    println!("served again {:?} after the kill", killed.elapsed());
    let ledger = emitter.done().await?;
    world.api.all_ended(timeout / 2).await?;
    world.verdict(&ledger, &[route]).pass(200, full)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_killed_at_once_repeat_at_most_what_was_in_flight() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(IN_FLIGHT).await?;
    world.receiver.script("/a", [Answer::Late(204, SLOW)]);
    let route = world.subscribe("/a").await?;
    let load = Load { events: 1_000, per_second: 200 };
    let mut emitter = Emitter::start(world.api.clone(), load);
    let mut kills = 0;
    while kills < 3 && !emitter.is_done() {
        a_while(&mut emitter).await?;
        world.control_plane.kill()?;
        world.agent.kill()?;
        kills += 1;
        world.agent.start()?;
        world.control_plane.restart().await?;
        world.agent_connected().await?;
    }
    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    ensure!(kills > 0, "nothing was killed");
    world.verdict(&ledger, &[route]).pass(load.events, kills * IN_FLIGHT as usize)
}

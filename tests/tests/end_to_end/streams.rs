//! The link between agent and control plane breaks, or one of them sleeps: nothing is lost, and nothing is repeated
//! that somebody knows the end of.

use std::time::Duration;

use anyhow::Result;
use postrider_proto::v1;
use postrider_tests::api::{duration, event};
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::proxy::Proxy;
use postrider_tests::receiver::Answer;
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::{AgentSettings, World};
use rand::Rng as _;
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_cut_every_few_seconds_lose_nothing_and_repeat_nothing() -> Result<()> {
    let _turn = turn::take().await;
    let settings = AgentSettings { max_in_flight: 64, ..AgentSettings::default() };
    let mut world = World::without_agent(settings, &[]).await?;
    let proxy = Proxy::start(world.control_plane.agents_address()).await?;
    world.agent.settings.control_plane = format!("https://{}", proxy.address());
    world.agent.start()?;
    world.agent_connected().await?;
    let routes = [world.subscribe("/fast").await?, world.subscribe("/slow").await?];
    world.receiver.script("/slow", [Answer::Late(204, Duration::from_millis(60))]);
    let load = Load { events: 3_000, per_second: 200 };
    let emitter = Emitter::start(world.api.clone(), load);
    let mut cuts = 0;
    while !emitter.is_done() {
        let pause = Duration::from_millis(rand::rng().random_range(1_000..3_000));
        tokio::time::sleep(pause).await;
        cuts += proxy.cut();
    }
    let ledger = emitter.done().await?;
    assert!(cuts >= 3, "only {cuts} streams were cut");
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &routes).pass(load.events, 0)
}

/// An agent that sleeps with jobs, and wakes after they were given to another: it may report what it began, and must
/// start nothing that it should have started long ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_slept_starts_nothing_that_is_too_late() -> Result<()> {
    let turn = turn::take().await;
    let mut world = World::with_max_in_flight(64).await?;
    world.receiver.script("/slow", [Answer::Late(204, Duration::from_millis(100))]);
    let wanted = v1::Subscription { timeout: Some(duration(Duration::from_secs(1))), ..Default::default() };
    let route = world.subscribe_with("/slow", wanted).await?;
    let load = Load { events: 400, per_second: 400 };
    let emitter = Emitter::start(world.api.clone(), load);
    eventually("attempts are under way", async || Ok(when(world.receiver.count() > 50))).await?;
    world.agent.signal(Signal::STOP)?;
    let ledger = emitter.done().await?;
    // What follows is a long wait, and no load.
    drop(turn);
    // Nothing is heard of it for 30 s: then it is lost, and what it had goes to another, which has to work for it.
    let _other = world.another_agent("agent-2").await?;
    world.api.all_ended(PATIENCE * 2).await?;
    let before = world.receiver.count();
    world.agent.signal(Signal::CONT)?;
    world.agent_connected().await?;
    let (_, delivery) = world.api.emit_to_one(event("after.all", "{}")).await?;
    world.api.delivery_in(&delivery, v1::DeliveryState::Delivered).await?;
    world.api.all_ended(PATIENCE).await?;
    let posts = world.receiver.posts();
    let late: Vec<_> = posts[before..].iter().filter(|post| ledger.events().contains_key(&post.id)).collect();
    assert!(late.is_empty(), "{} jobs were started when the agent woke", late.len());
    let emitted: Vec<_> = posts.into_iter().filter(|post| ledger.events().contains_key(&post.id)).collect();
    postrider_tests::checker::Verdict::of(&ledger, &[route], &emitted).pass(load.events, 64)
}

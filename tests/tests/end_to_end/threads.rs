//! A control plane whose container lets it start no more threads.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1;
use postrider_tests::api::event;
use postrider_tests::threads::NoThreads;
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::World;

/// More than a lane keeps in memory, so that it has to be read.
const EVENTS: usize = 600;
/// Longer than tokio keeps an idle thread by default: a program that does not see to it has none left then, and
/// nothing tells when.
const IDLE: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_delivered_though_no_thread_can_be_started() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::start().await?;
    let route = world.subscribe("/a").await?;
    let (tenant, subscription) = (world.api.tenant(), route.subscription.clone());
    let pause = v1::PauseSubscriptionRequest { tenant: tenant.clone(), subscription: subscription.clone() };
    world.api.subscriptions().pause_subscription(pause).await?;
    for number in 0..EVENTS {
        world.api.emit(event("a.b", &number.to_string())).await?;
    }
    tokio::time::sleep(IDLE).await;

    let limited = NoThreads::of(world.control_plane.pid().context("no control plane runs")?)?;
    let resume = v1::ResumeSubscriptionRequest { tenant, subscription };
    world.api.subscriptions().resume_subscription(resume).await?;
    let arrived = async || Ok(when(world.receiver.posts_to("/a").len() >= EVENTS));
    eventually("all is delivered while no thread can be started", arrived).await?;
    world.api.emit(event("a.b", "{}")).await?;
    drop(limited);
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(world.receiver.posts_to("/a").len(), EVENTS + 1, "each once");
    assert!(!world.control_plane.log().contains("panicked"));
    world.control_plane.signal(rustix::process::Signal::TERM)?;
    assert_eq!(world.control_plane.exit(PATIENCE).await?.code(), Some(0));
    Ok(())
}

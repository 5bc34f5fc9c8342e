//! Restarts in good order: SIGTERM repeats nothing, loses nothing and fails nothing.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{duration, event};
use postrider_tests::clock::now;
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::receiver::Answer;
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::{Agent, World};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Stops an agent with SIGTERM and starts it again.
async fn restart_agent(world: &World, agent: &mut Agent) -> Result<()> {
    agent.signal(Signal::TERM)?;
    let status = agent.exit(PATIENCE).await?;
    assert_eq!(status.code(), Some(0), "{status}");
    agent.start()?;
    world.api.agent_connected(&agent.settings.id, agent.settings.streams).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_repeat_nothing_and_fail_nothing() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(64).await?;
    let mut other = world.another_agent("agent-2").await?;
    let routes = [world.subscribe("/fast").await?, world.subscribe("/slow").await?];
    world.receiver.script("/slow", [Answer::Late(204, Duration::from_millis(50))]);
    let load = Load { events: 2_400, per_second: 200 };
    let mut emitter = Emitter::start(world.api.clone(), load);
    for _ in 0..2 {
        let goal = emitter.ledger.acknowledged_count() + 150;
        emitter.acknowledged(goal).await?;
        world.control_plane.signal(Signal::TERM)?;
        let status = world.control_plane.exit(PATIENCE).await?;
        assert_eq!(status.code(), Some(0), "{status}");
        world.control_plane.restart().await?;
        world.agent_connected().await?;
        let mut agent = std::mem::replace(&mut world.agent, other);
        restart_agent(&world, &mut agent).await?;
        other = agent;
    }
    assert!(!emitter.is_done(), "the load was over before the restarts");
    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &routes).pass(load.events, 0)?;
    // Not a single attempt failed: one each.
    let deliveries = world.api.deliveries_in(&[]).await?;
    let attempted_twice = deliveries.iter().filter(|delivery| delivery.attempt_count != 1).count();
    assert_eq!((deliveries.len(), attempted_twice), (load.events * routes.len(), 0));
    assert!(deliveries.iter().all(|delivery| delivery.state() == DeliveryState::Delivered));
    Ok(())
}

#[tokio::test]
async fn a_control_plane_told_to_stop_finishes_what_is_under_way() -> Result<()> {
    let mut world = World::start().await?;
    world.receiver.script("/a", [Answer::Late(204, Duration::from_secs(1))]);
    world.subscribe("/a").await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    eventually("it is under way", async || Ok(when(world.receiver.open("/a") == 1))).await?;
    world.control_plane.signal(Signal::TERM)?;
    assert_eq!(world.control_plane.exit(PATIENCE).await?.code(), Some(0));
    assert_eq!(world.receiver.posts()[0].answered, 204);
    // The outcome was stored before the end: the agent, which could tell it again, is gone.
    world.agent.kill()?;
    world.control_plane.restart().await?;
    let (delivered, attempts) = world.api.delivery(&delivery).await?;
    assert_eq!((delivered.state(), attempts.len()), (DeliveryState::Delivered, 1));
    Ok(())
}

#[tokio::test]
async fn a_second_signal_is_obeyed_at_once() -> Result<()> {
    let mut world = World::start().await?;
    world.receiver.script("/a", [Answer::Hang]);
    let wanted = v1::Subscription { timeout: Some(duration(PATIENCE)), ..v1::Subscription::default() };
    world.subscribe_with("/a", wanted).await?;
    world.api.emit(event("a.b", "{}")).await?;
    eventually("it is under way", async || Ok(when(world.receiver.open("/a") == 1))).await?;

    world.control_plane.signal(Signal::TERM)?;
    eventually("it is stopping", async || Ok(when(world.control_plane.log().contains("stopping")))).await?;
    world.control_plane.signal(Signal::TERM)?;
    let begun = now();
    assert_eq!(world.control_plane.exit(PATIENCE).await?.code(), Some(130));
    world.agent.signal(Signal::TERM)?;
    eventually("it is stopping", async || Ok(when(world.agent.log().contains("stopping")))).await?;
    world.agent.signal(Signal::INT)?;
    assert_eq!(world.agent.exit(PATIENCE).await?.code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_stopping_control_plane_refuses_events_in_words() -> Result<()> {
    let mut world = World::start().await?;
    world.receiver.script("/a", [Answer::Late(204, Duration::from_secs(2))]);
    world.subscribe("/a").await?;
    world.api.emit(event("a.b", "{}")).await?;
    eventually("it is under way", async || Ok(when(world.receiver.open("/a") == 1))).await?;
    world.control_plane.signal(Signal::TERM)?;
    eventually("it is stopping", async || Ok(when(world.control_plane.log().contains("stopping")))).await?;
    let refused = world.api.emit(event("a.b", "{}")).await;
    assert_eq!(refused.map_err(|status| status.code()).err(), Some(tonic::Code::Unavailable));
    assert_eq!(world.control_plane.exit(PATIENCE).await?.code(), Some(0));
    Ok(())
}

/// A client must not take the end of a server that stops for the end of its own work.
#[tokio::test]
async fn a_stream_of_events_that_a_stopping_control_plane_leaves_unanswered_ends_with_an_error() -> Result<()>
{
    let mut world = World::start().await?;
    // Something is under way, so that the stop takes its time.
    world.receiver.script("/a", [Answer::Late(204, Duration::from_secs(2))]);
    world.subscribe("/a").await?;
    let (requests, queue) = mpsc::channel(8);
    let mut answers = world.api.events().emit_stream(ReceiverStream::new(queue)).await?.into_inner();
    let request = |reference| v1::EmitStreamRequest {
        reference,
        tenant: world.api.tenant(),
        event: Some(event("a.b", "{}")),
    };
    requests.send(request(1)).await?;
    let first = answers.message().await?.map(|answer| answer.reference);
    assert_eq!(first, Some(1));
    eventually("it is under way", async || Ok(when(world.receiver.open("/a") == 1))).await?;
    world.control_plane.signal(Signal::TERM)?;
    eventually("it is stopping", async || Ok(when(world.control_plane.log().contains("stopping")))).await?;
    // It may be gone already, in which case the answers say so.
    drop(requests.send(request(2)).await);
    match answers.message().await {
        Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
        Ok(None) => anyhow::bail!("the stream ended with OK, and the second event is not answered"),
        Ok(Some(answer)) => {
            let result = answer.result.and_then(|result| result.result);
            let told = matches!(&result, Some(v1::emit_result::Result::Error(error)) if error.code == 14);
            assert!(answer.reference == 2 && told, "{result:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn lines_that_a_stopping_control_plane_did_not_take_are_a_failure() -> Result<()> {
    let mut world = World::start().await?;
    world.receiver.script("/a", [Answer::Late(204, Duration::from_secs(2))]);
    world.subscribe("/a").await?;
    let command = world.cli().command(&["emit", "a.b", "--lines", "-o", "json"])?;
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(b"1\n").await?;
    eventually("the first is under way", async || Ok(when(world.receiver.open("/a") == 1))).await?;
    world.control_plane.signal(Signal::TERM)?;
    eventually("it is stopping", async || Ok(when(world.control_plane.log().contains("stopping")))).await?;
    // It may have ended already, which is as good.
    drop(input.write_all(b"2\n3\n").await);
    drop(input);
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(6), "{said}{}", String::from_utf8_lossy(&ended.stdout));
    Ok(())
}

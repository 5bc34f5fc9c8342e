//! Replays: deliveries that have ended are attempted again, each once, oldest first, beside live traffic.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState, OperationState};
use postrider_tests::api::{Api, event, no_retries};
use postrider_tests::receiver::{Answer, Post};
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when, within};
use postrider_tests::world::World;
use rustix::process::Signal;

async fn begin(api: &Api, replay: v1::Replay) -> Result<v1::Operation> {
    let request = v1::ReplayDeliveriesRequest {
        tenant: api.tenant(),
        replay: Some(replay),
        ..v1::ReplayDeliveriesRequest::default()
    };
    let answer = api.operations().replay_deliveries(request).await?;
    answer.into_inner().operation.context("an answer without an operation")
}

async fn get(api: &Api, id: &str) -> Result<v1::Operation> {
    let request = v1::GetOperationRequest { tenant: api.tenant(), operation: id.to_owned() };
    let answer = api.operations().get_operation(request).await?;
    answer.into_inner().operation.context("an answer without an operation")
}

async fn done(api: &Api, id: &str) -> Result<v1::Operation> {
    within(PATIENCE, "the operation is done", async || {
        Ok(Some(get(api, id).await?).filter(|found| found.state() == OperationState::Done))
    })
    .await
}

fn counts(operation: &v1::Operation) -> (u64, u64, u64) {
    (operation.matched, operation.done, operation.skipped)
}

/// Emits events one after the other, so that their order is known, and waits until they have ended.
async fn ended(world: &World, event_type: &str, count: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(world.api.emit(event(event_type, &number.to_string())).await?.event_id);
    }
    world.api.all_ended(PATIENCE).await?;
    Ok(ids)
}

fn posted(posts: &[Post]) -> Vec<String> {
    posts.iter().map(|post| post.id.clone()).collect()
}

#[tokio::test]
async fn exhausted_deliveries_are_driven_again_by_state_type_and_time() -> Result<()> {
    let world = World::start().await?;
    // The last one answers all that follow.
    let answers = vec![Answer::Status(500); 6].into_iter().chain([Answer::Status(204)]);
    world.receiver.script("/a", answers);
    let wanted = v1::Subscription { retry_policy: no_retries(), max_in_flight: 1, ..Default::default() };
    world.subscribe_with("/a", wanted).await?;
    let failed = ended(&world, "a.failed", 6).await?;
    let delivered = ended(&world, "b.delivered", 4).await?;
    let exhausted = v1::Replay { states: vec![DeliveryState::Exhausted.into()], ..v1::Replay::default() };

    let counted = begin(&world.api, v1::Replay { dry_run: true, ..exhausted.clone() }).await?;
    assert_eq!(counts(&done(&world.api, &counted.id).await?), (6, 0, 0));
    assert_eq!(world.receiver.posts_to("/a").len(), 10, "a dry run attempts nothing");

    let replayed = begin(&world.api, exhausted.clone()).await?;
    assert_eq!(counts(&done(&world.api, &replayed.id).await?), (6, 6, 0));
    world.api.all_ended(PATIENCE).await?;
    let posts = world.receiver.posts_to("/a");
    assert_eq!(posted(&posts[10..]), failed, "oldest first");
    assert!(posts[10..].iter().all(|post| post.answered == 204));
    // They have ended anew: neither is this replay for them, nor is there anything exhausted for another.
    let again = begin(&world.api, exhausted).await?;
    assert_eq!(counts(&done(&world.api, &again.id).await?), (0, 0, 0));

    let by_type = v1::Replay { event_types: vec!["b.delivered".into()], ..v1::Replay::default() };
    let by_type = begin(&world.api, by_type).await?;
    assert_eq!(counts(&done(&world.api, &by_type.id).await?), (4, 4, 0));
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(posted(&world.receiver.posts_to("/a")[16..]), delivered);

    let before = v1::Replay { end_time: replayed.create_time, ..v1::Replay::default() };
    let start = v1::Replay { start_time: replayed.create_time, ..v1::Replay::default() };
    let (before, start) = (begin(&world.api, before).await?, begin(&world.api, start).await?);
    assert_eq!(counts(&done(&world.api, &start.id).await?), (0, 0, 0));
    assert_eq!(counts(&done(&world.api, &before.id).await?), (10, 10, 0));
    Ok(())
}

#[tokio::test]
async fn a_replay_is_paused_resumed_and_cancelled_and_keeps_to_its_rate() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    ended(&world, "a.b", 40).await?;
    let begun = begin(&world.api, v1::Replay { max_per_second: 10, ..v1::Replay::default() }).await?;
    eventually("it has begun", async || Ok(when(get(&world.api, &begun.id).await?.done >= 3))).await?;
    let cli = world.cli();
    let paused = cli.json(&["operations", "pause", &begun.id]).await?;
    assert_eq!(paused["state"], "paused");
    // A step may have been under way.
    let held = eventually("it stands still", async || {
        let first = get(&world.api, &begun.id).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let second = get(&world.api, &begun.id).await?;
        Ok(when(first == second).map(|()| second))
    })
    .await?;
    assert!(held.done < 40 && held.progress < 1.0, "{held:?}");
    cli.json(&["operations", "resume", &begun.id]).await?;
    eventually("it goes on", async || Ok(when(get(&world.api, &begun.id).await?.done > held.done))).await?;
    let cancelled = cli.json(&["operations", "cancel", &begun.id]).await?;
    assert_eq!((&cancelled["state"], cancelled["end_time"].is_string()), (&"cancelled".into(), true));
    let refused = cli.run(&["operations", "resume", &begun.id]).await?;
    assert!(refused.code == 4 && refused.stderr.contains("has ended"), "{refused:?}");
    // By the command, waiting for its end.
    let all = cli.json(&["replay", "--state", "delivered", "--max-per-second", "1000", "--wait"]).await?;
    assert_eq!((&all["state"], &all["done"]), (&"done".into(), &40.into()));
    let audited = cli.run(&["audit", "list"]).await?.stdout;
    for action in ["ReplayDeliveries", "PauseOperation", "ResumeOperation", "CancelOperation"] {
        assert!(audited.contains(action), "{action} in {audited}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_replayed_is_refused_by_field() -> Result<()> {
    let world = World::start().await?;
    let pending = v1::Replay { states: vec![DeliveryState::Pending.into()], ..v1::Replay::default() };
    let fast = v1::Replay { max_per_second: 10_001, ..v1::Replay::default() };
    let pattern = v1::Replay { event_types: vec!["a.*".into()], ..v1::Replay::default() };
    for (replay, field) in
        [(pending, "replay.states"), (fast, "replay.max_per_second"), (pattern, "replay.event_types")]
    {
        let refused = begin(&world.api, replay).await.err().context("it is not refused")?;
        ensure!(format!("{refused:?}").contains(field), "{refused:?}");
    }
    Ok(())
}

/// However often the control plane is killed meanwhile, each is attempted again, and the operation ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_survives_kills_and_repeats_nothing_while_agents_live() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(64).await?;
    world.subscribe("/a").await?;
    let ids = ended(&world, "a.b", 600).await?;
    let begun = begin(&world.api, v1::Replay { max_per_second: 200, ..v1::Replay::default() }).await?;
    for part in [100, 250, 400] {
        eventually("it is under way", async || Ok(when(get(&world.api, &begun.id).await?.done >= part)))
            .await?;
        world.control_plane.signal(Signal::KILL)?;
        world.control_plane.exit(PATIENCE).await?;
        world.control_plane.restart().await?;
        world.agent_connected().await?;
    }
    done(&world.api, &begun.id).await?;
    world.api.all_ended(PATIENCE).await?;
    let mut posts = posted(&world.receiver.posts_to("/a")[ids.len()..]);
    posts.sort_unstable();
    let mut expected = ids;
    expected.sort_unstable();
    assert_eq!(posts, expected);
    Ok(())
}

//! Order, with real processes that are killed and endpoints that fail: a receiver never sees an event before the one it follows.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, DeliveryOrder, DeliveryState, HeadOfLine, HoldReason};
use postrider_tests::api::{Api, event, retries};
use postrider_tests::receiver::{Answer, Post};
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when, within};
use postrider_tests::world::World;
use tokio::task::JoinHandle;

const EVENTS: usize = 150;
const KEYS: usize = 5;

/// The number of an event; its key is the rest of it by [`KEYS`].
fn number(post: &Post) -> usize {
    let body: serde_json::Value = serde_json::from_slice(&post.body).expect("the body is JSON");
    body["data"]["number"].as_u64().and_then(|number| number.try_into().ok()).expect("the data is ours")
}

/// Emits events of several keys, each when the one before it was accepted, whatever becomes of the server meanwhile.
fn emit_in_turn(api: Api) -> JoinHandle<()> {
    tokio::spawn(async move {
        for number in 0..EVENTS {
            let key = number % KEYS;
            let named = v1::NewEvent {
                id: format!("event-{number}"),
                ordering_key: format!("key-{key}"),
                ..event("a.b", &format!(r#"{{"number":{number}}}"#))
            };
            while api.emit(named.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    })
}

/// That each POST came when all that it follows had been accepted by the receiver.
fn check(posts: &[Post], follows: impl Fn(usize, usize) -> bool) {
    let mut received = HashSet::new();
    for post in posts {
        let this = number(post);
        let missing: Vec<usize> =
            (0..this).filter(|other| follows(this, *other) && !received.contains(other)).collect();
        assert!(missing.is_empty(), "{this} came before {missing:?}");
        if (200..300).contains(&post.answered) {
            received.insert(this);
        }
    }
    assert_eq!(received.len(), EVENTS, "not everything was received");
}

async fn kept_over_kills(order: DeliveryOrder, follows: impl Fn(usize, usize) -> bool) -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::start().await?;
    // Every third POST fails, with delays that would let others overtake.
    let flaky = [204, 500, 204].map(Answer::Status);
    world.receiver.script("/ordered", flaky.into_iter().cycle().take(3 * EVENTS));
    let wanted = v1::Subscription {
        order: order.into(),
        timeout: Some(postrider_tests::api::duration(Duration::from_secs(1))),
        retry_policy: retries([Duration::from_secs(1); 30]),
        ..v1::Subscription::default()
    };
    world.subscribe_with("/ordered", wanted).await?;
    let emitting = emit_in_turn(world.api.clone());
    for goal in [20, 50, 80, 110] {
        within(PATIENCE, "more POSTs have come", async || Ok(when(world.receiver.count() > goal))).await?;
        if goal % 60 == 20 {
            world.control_plane.kill()?;
            world.control_plane.restart().await?;
        } else {
            world.agent.kill()?;
            world.agent.start()?;
            world.agent_connected().await?;
        }
    }
    emitting.await.context("the emitter broke off")?;
    world.receiver.script("/ordered", [Answer::Status(204)]);
    world.api.all_ended(2 * PATIENCE).await?;
    check(&world.receiver.posts_to("/ordered"), follows);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_each_key_is_kept_over_failures_and_kills() -> Result<()> {
    kept_over_kills(DeliveryOrder::PerKey, |this, other| this % KEYS == other % KEYS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_order_is_kept_over_failures_and_kills() -> Result<()> {
    kept_over_kills(DeliveryOrder::Strict, |_, _| true).await
}

/// A subscription with an order and few retries, and two events of one key and one of another, the first of which nobody accepts.
async fn stuck(world: &World, head_of_line: HeadOfLine) -> Result<[String; 3]> {
    let wanted = v1::Subscription {
        order: DeliveryOrder::PerKey.into(),
        head_of_line: head_of_line.into(),
        retry_policy: retries([Duration::from_secs(1)]),
        ..v1::Subscription::default()
    };
    world.subscribe_with("/in", wanted).await?;
    // An endpoint's word on one event: it does not open the breaker.
    world.receiver.script("/in", [Answer::Status(400)]);
    let keyed = |key: &str| v1::NewEvent { ordering_key: key.into(), ..event("a.b", "{}") };
    let (_, first) = world.api.emit_to_one(keyed("7")).await?;
    eventually("the first has failed", async || Ok(when(world.receiver.count() == 1))).await?;
    let (_, second) = world.api.emit_to_one(keyed("7")).await?;
    let (_, other) = world.api.emit_to_one(keyed("8")).await?;
    Ok([first, second, other])
}

#[tokio::test]
async fn those_behind_one_that_is_given_up_go_on_and_other_keys_never_wait() -> Result<()> {
    let world = World::start().await?;
    let [first, second, other] = stuck(&world, HeadOfLine::Skip).await?;
    let (waiting, _) = world.api.delivery(&second).await?;
    assert_eq!((waiting.attempt_count, waiting.hold_reason()), (0, HoldReason::Order));
    eventually("the other key's has been tried", async || {
        Ok(when(world.api.delivery(&other).await?.0.attempt_count > 0))
    })
    .await?;
    world.api.delivery_in(&first, DeliveryState::Exhausted).await?;
    world.api.delivery_in(&second, DeliveryState::Exhausted).await?;
    Ok(())
}

#[tokio::test]
async fn those_behind_one_that_blocks_wait_until_it_is_cancelled() -> Result<()> {
    let world = World::start().await?;
    let [first, second, _] = stuck(&world, HeadOfLine::Block).await?;
    eventually("the first goes on beyond its schedule", async || {
        Ok(when(world.api.delivery(&first).await?.0.attempt_count >= 4))
    })
    .await?;
    assert_eq!(world.api.delivery(&second).await?.0.attempt_count, 0);
    world.receiver.script("/in", [Answer::Status(204)]);
    let cancel = v1::CancelDeliveryRequest { tenant: world.api.tenant(), delivery: first.clone() };
    match world.api.deliveries().cancel_delivery(cancel).await {
        Ok(_) => world.api.delivery_in(&first, DeliveryState::Cancelled).await?,
        // An attempt was under way, and has succeeded now.
        Err(_) => world.api.delivery_in(&first, DeliveryState::Delivered).await?,
    };
    world.api.delivery_in(&second, DeliveryState::Delivered).await?;
    Ok(())
}

#[tokio::test]
async fn blocking_without_an_order_is_refused_with_advice() -> Result<()> {
    let world = World::start().await?;
    let wanted = v1::Subscription { head_of_line: HeadOfLine::Block.into(), ..v1::Subscription::default() };
    let refused = world.subscribe_with("/in", wanted).await.expect_err("nothing waits for anything");
    assert!(format!("{refused:?}").contains("needs an order"), "{refused:?}");
    Ok(())
}

//! How fast an endpoint is called, and that it is left alone when it fails or asks for it.

use std::time::Duration;

use anyhow::Result;
use postrider_proto::v1::{self, DeliveryState, HoldReason};
use postrider_tests::api::{Api, event, retries};
use postrider_tests::receiver::{Answer, Receiver};
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{AgentSettings, World};

#[tokio::test]
async fn a_rate_limit_is_kept_and_nothing_is_lost_by_it() -> Result<()> {
    let world = World::start().await?;
    let (per_second, burst, events) = (5.0, 2, 12);
    let rate_limit = Some(v1::RateLimit { per_second, burst });
    world.subscribe_with("/slow", v1::Subscription { rate_limit, ..v1::Subscription::default() }).await?;
    for _ in 0..events {
        world.api.emit(event("a.b", "{}")).await?;
    }
    eventually("all have come", async || Ok(when(world.receiver.count() == events))).await?;
    let posts = world.receiver.posts();
    // Handed out exactly by the limit; how long each takes to arrive differs by a little.
    let took = posts[events - 1].at - posts[0].at;
    let least = Duration::from_secs_f64((events as f64 - f64::from(burst)) / per_second);
    assert!(took + Duration::from_millis(150) >= least, "{events} in {took:?}");
    Ok(())
}

/// The flood is one event to many subscriptions. A neighbour delivers to the same host, and another tenant elsewhere.
#[tokio::test]
async fn a_flood_of_subscriptions_reaches_one_host_at_its_rate_and_leaves_others_their_share() -> Result<()> {
    const FLOOD: usize = 60;
    let elsewhere = Receiver::start().await?;
    let settings = AgentSettings { ports: vec![elsewhere.port()], ..AgentSettings::default() };
    let world = World::with(settings, &["destination_rate = 20", "destination_burst = 20"]).await?;
    for number in 0..FLOOD {
        world.subscribe(&format!("/flood/{number}")).await?;
    }
    let neighbour = tenant(&world, "neighbour", world.receiver.url("/neighbour")).await?;
    let free = tenant(&world, "free", elsewhere.url("/free")).await?;
    world.api.emit(event("a.b", "{}")).await?;
    for _ in 0..5 {
        neighbour.emit(event("a.b", "{}")).await?;
        free.emit(event("a.b", "{}")).await?;
    }
    eventually("a delivery says why it waits", async || {
        let pending = world.api.deliveries_in(&[DeliveryState::Pending]).await?;
        Ok(when(pending.iter().any(|delivery| delivery.hold_reason() == HoldReason::Destination)))
    })
    .await?;
    eventually("all have come", async || {
        Ok(when(world.receiver.count() == FLOOD + 5 && elsewhere.count() == 5))
    })
    .await?;
    let posts = world.receiver.posts();
    // Handed out exactly by the limit; how long each takes to arrive differs by a little.
    let (first, last) = (posts[0].at, posts[FLOOD + 4].at);
    assert!(last - first >= Duration::from_millis(2_100), "{:?}", last - first);
    let neighbours = world.receiver.posts_to("/neighbour");
    let behind = posts.iter().filter(|post| post.at > neighbours[4].at).count();
    assert!(behind >= FLOOD / 4, "the neighbour's last one has only {behind} behind it");
    let last_elsewhere = elsewhere.posts()[4].at;
    assert!(posts.iter().filter(|post| post.at > last_elsewhere).count() >= FLOOD / 4, "it was slowed");
    Ok(())
}

/// Another tenant, with a subscription.
async fn tenant(world: &World, name: &str, url: String) -> Result<Api> {
    let api = world.control_plane.api(name)?;
    api.create_tenant().await?;
    api.subscribe(v1::Subscription { url, ..v1::Subscription::default() }, "").await?;
    Ok(api)
}

#[tokio::test]
async fn an_endpoint_that_fails_is_probed_and_its_deliveries_wait_without_attempts() -> Result<()> {
    let world = World::start().await?;
    world.receiver.script("/down", [Answer::Status(500)]);
    let wanted = v1::Subscription {
        max_in_flight: 2,
        retry_policy: retries([Duration::from_secs(1); 50]),
        ..v1::Subscription::default()
    };
    world.subscribe_with("/down", wanted).await?;
    for _ in 0..40 {
        world.api.emit(event("a.b", "{}")).await?;
    }
    let held = eventually("deliveries wait for the breaker", async || {
        let pending = world.api.deliveries_in(&[DeliveryState::Pending]).await?;
        Ok(pending.into_iter().find(|delivery| delivery.hold_reason() == HoldReason::CircuitOpen))
    });
    assert_eq!(held.await?.attempt_count, 0);
    // Ten failures in a row open it, one more is under way beside each of the first two, and some may have probed it since.
    assert!(world.receiver.count() <= 14, "{} attempts", world.receiver.count());
    world.receiver.script("/down", [Answer::Status(204)]);
    world.api.all_ended(Duration::from_secs(60)).await?;
    assert_eq!(world.api.deliveries_in(&[DeliveryState::Delivered]).await?.len(), 40);
    Ok(())
}

#[tokio::test]
async fn retry_after_holds_the_other_deliveries_too_until_the_subscription_is_resumed() -> Result<()> {
    let world = World::start().await?;
    let busy = Answer::Header(503, "retry-after", "3600".to_owned());
    world.receiver.script("/busy", [busy, Answer::Status(204)]);
    let route = world.subscribe_with("/busy", v1::Subscription::default()).await?;
    world.api.emit(event("a.b", "{}")).await?;
    eventually("it has asked to wait", async || Ok(when(world.receiver.count() == 1))).await?;
    let (_, second) = world.api.emit_to_one(event("a.b", "{}")).await?;
    eventually("the second delivery waits too", async || {
        let (delivery, _) = world.api.delivery(&second).await?;
        Ok(when(delivery.hold_reason() == HoldReason::RetryAfter && delivery.attempt_count == 0))
    })
    .await?;
    let (tenant, subscription) = (world.api.tenant(), route.subscription.clone());
    let mut api = world.api.subscriptions();
    api.pause_subscription(v1::PauseSubscriptionRequest {
        tenant: tenant.clone(),
        subscription: subscription.clone(),
    })
    .await?;
    api.resume_subscription(v1::ResumeSubscriptionRequest { tenant, subscription }).await?;
    world.api.delivery_in(&second, DeliveryState::Delivered).await?;
    Ok(())
}

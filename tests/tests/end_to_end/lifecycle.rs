//! What becomes of a delivery, and what people can do about it.

use std::time::Duration;

use anyhow::Result;
use postrider_proto::v1::{self, DeliveryState, HoldReason, OutcomeClass, SubscriptionState};
use postrider_tests::api::{event, no_retries};
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{AgentSettings, World};
use tonic::Code;

#[tokio::test]
async fn a_paused_subscription_holds_its_deliveries_and_a_resumed_one_sends_them() -> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe("/a").await?;
    let (tenant, subscription) = (world.api.tenant(), route.subscription);
    let pause = v1::PauseSubscriptionRequest { tenant: tenant.clone(), subscription: subscription.clone() };
    world.api.subscriptions().pause_subscription(pause).await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let held = eventually("the delivery is held", async || {
        let (held, _) = world.api.delivery(&delivery).await?;
        Ok(Some(held).filter(|held| held.hold_reason() == HoldReason::Paused))
    });
    let held = held.await?;
    assert_eq!((held.state(), held.attempt_count), (DeliveryState::Pending, 0));
    assert_eq!(world.receiver.count(), 0);

    let resume = v1::ResumeSubscriptionRequest { tenant, subscription };
    world.api.subscriptions().resume_subscription(resume).await?;
    let (delivered, _) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!((delivered.attempt_count, delivered.hold_reason()), (1, HoldReason::Unspecified));
    assert_eq!(world.receiver.count(), 1);
    Ok(())
}

#[tokio::test]
async fn without_an_agent_in_the_pool_deliveries_wait_and_spend_no_attempt() -> Result<()> {
    let mut world = World::without_agent(AgentSettings::default(), &[]).await?;
    world.api.allow_pool("eu").await?;
    let elsewhere = v1::Subscription { pool: "eu".into(), ..v1::Subscription::default() };
    world.subscribe_with("/eu", elsewhere).await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let held_for_want_of_an_agent = async || {
        eventually("the delivery is held", async || {
            let (held, attempts) = world.api.delivery(&delivery).await?;
            let held = held.hold_reason() == HoldReason::NoAgent && held.attempt_count == 0;
            Ok(when(held && attempts.is_empty()))
        })
        .await
    };
    held_for_want_of_an_agent().await?;
    // An agent of another pool does not help.
    let _other = world.another_agent("elsewhere").await?;
    held_for_want_of_an_agent().await?;
    world.agent.settings.pool = "eu".into();
    world.agent.settings.join = Some(world.api.join("eu", 1).await?.expose_text().to_string());
    world.agent.start()?;
    let (delivered, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!(
        (delivered.attempt_count, attempts[0].agent.as_str()),
        (1, world.agent_connected().await?.id.as_str())
    );
    assert_eq!(world.receiver.posts_to("/eu").len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_exhausted_delivery_is_visible_and_can_be_retried() -> Result<()> {
    let world = World::start().await?;
    world.receiver.script("/a", [Answer::Status(500), Answer::Status(200)]);
    let once = v1::Subscription { retry_policy: no_retries(), ..v1::Subscription::default() };
    world.subscribe_with("/a", once).await?;
    let (id, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let (exhausted, attempts) = world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
    assert!(exhausted.end_time.is_some() && exhausted.next_attempt_time.is_none());
    assert_eq!((attempts[0].outcome(), attempts[0].http_status), (OutcomeClass::HttpStatus, 500));

    let retry = |request_id: &str| v1::RetryDeliveryRequest {
        tenant: world.api.tenant(),
        delivery: delivery.clone(),
        request_id: request_id.to_owned(),
    };
    world.api.deliveries().retry_delivery(retry("again")).await?;
    let (delivered, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!((delivered.attempt_count, attempts.len()), (2, 2));
    // The same request once more acts no second time; another one does.
    world.api.deliveries().retry_delivery(retry("again")).await?;
    world.api.deliveries().retry_delivery(retry("once more")).await?;
    eventually("the third POST", async || Ok(when(world.receiver.count() == 3))).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!(world.receiver.count(), 3);
    assert!(world.receiver.posts().iter().all(|post| post.id == id));
    Ok(())
}

#[tokio::test]
async fn a_cancelled_delivery_is_never_attempted() -> Result<()> {
    let mut world = World::without_agent(AgentSettings::default(), &[]).await?;
    world.subscribe("/a").await?;
    let (_, cancelled) = world.api.emit_to_one(event("a.b", "1")).await?;
    let (_, other) = world.api.emit_to_one(event("a.b", "2")).await?;
    let cancel = v1::CancelDeliveryRequest { tenant: world.api.tenant(), delivery: cancelled.clone() };
    let answer = world.api.deliveries().cancel_delivery(cancel.clone()).await?.into_inner();
    assert_eq!(answer.delivery.map(|delivery| delivery.state()), Some(DeliveryState::Cancelled));
    let again = world.api.deliveries().cancel_delivery(cancel).await;
    assert_eq!(again.map_err(|status| status.code()).err(), Some(Code::FailedPrecondition));
    world.agent.start()?;
    world.api.delivery_in(&other, DeliveryState::Delivered).await?;
    let (cancelled, attempts) = world.api.delivery(&cancelled).await?;
    assert_eq!((cancelled.state(), attempts.len()), (DeliveryState::Cancelled, 0));
    assert_eq!(world.receiver.count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_deleted_subscription_gets_nothing_more_and_its_history_stays_visible() -> Result<()> {
    let world = World::start().await?;
    let retry_policy = postrider_tests::api::retries([Duration::from_secs(3600)]);
    world.receiver.script("/gone", [Answer::Status(500)]);
    let wanted = v1::Subscription { retry_policy, ..v1::Subscription::default() };
    let gone = world.subscribe_with("/gone", wanted).await?;
    let (_, waiting) = world.api.emit_to_one(event("a.b", "1")).await?;
    world.api.delivery_in(&waiting, DeliveryState::Waiting).await?;

    let tenant = world.api.tenant();
    let delete = v1::DeleteSubscriptionRequest { tenant, subscription: gone.subscription.clone() };
    world.api.subscriptions().delete_subscription(delete).await?;
    let (cancelled, attempts) = world.api.delivery_in(&waiting, DeliveryState::Cancelled).await?;
    assert_eq!((cancelled.attempt_count, attempts.len()), (1, 1));
    assert!(world.api.subscription(&gone.subscription).await.is_err());

    world.subscribe("/stays").await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "2")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!((world.receiver.posts_to("/gone").len(), world.receiver.posts_to("/stays").len()), (1, 1));
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_is_gone_disables_its_subscription() -> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe("/gone").await?;
    world.receiver.script("/gone", [Answer::Status(410), Answer::Status(200)]);
    let (_, first) = world.api.emit_to_one(event("a.b", "1")).await?;
    let disabled = eventually("the subscription is disabled", async || {
        let found = world.api.subscription(&route.subscription).await?;
        Ok(Some(found).filter(|found| found.state() == SubscriptionState::Disabled))
    });
    let disabled = disabled.await?;
    assert!(disabled.state_reason.contains("410"));
    assert_eq!(disabled.disable_cause(), v1::DisableCause::Gone);
    let (_, second) = world.api.emit_to_one(event("a.b", "2")).await?;
    eventually("the deliveries are held", async || {
        let (delivery, _) = world.api.delivery(&second).await?;
        Ok(when(delivery.hold_reason() == HoldReason::Disabled))
    })
    .await?;
    // Another subscription is served, so it is not that nothing moves.
    world.subscribe("/healthy").await?;
    world.api.emit(event("a.b", "3")).await?;
    eventually("the healthy one", async || Ok(when(world.receiver.posts_to("/healthy").len() == 1))).await?;
    assert_eq!(world.receiver.posts_to("/gone").len(), 1);

    let subscription = route.subscription;
    let resume = v1::ResumeSubscriptionRequest { tenant: world.api.tenant(), subscription };
    world.api.subscriptions().resume_subscription(resume).await?;
    for delivery in [first, second] {
        world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    }
    Ok(())
}

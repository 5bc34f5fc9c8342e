//! Endpoints that fail continuously: how that is shown, what follows, and who is told.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{
    self, DeliveryState, DisableCause, HealthState, HoldReason, SubscriptionState, WhileDisabled,
};
use postrider_tests::api::{Api, duration, event, retries};
use postrider_tests::checker::Route;
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{PATIENCE, eventually, when, within};
use postrider_tests::world::{AgentSettings, World};
use serde_json::Value;
use tonic::Code;

/// The tenant of operational events.
const OWN: &str = "postrider";

/// Tried again every second, and disabled after that long.
fn impatient(disable_after: Duration, while_disabled: WhileDisabled) -> v1::Subscription {
    v1::Subscription {
        retry_policy: retries([Duration::from_secs(1); 50]),
        failure_policy: Some(v1::FailurePolicy {
            disable_after: Some(duration(disable_after)),
            while_disabled: while_disabled.into(),
        }),
        ..v1::Subscription::default()
    }
}

async fn until(api: &Api, id: &str, state: SubscriptionState) -> Result<v1::Subscription> {
    eventually(&format!("the subscription is {state:?}"), async || {
        let found = api.subscription(id).await?;
        Ok(Some(found).filter(|found| found.state() == state))
    })
    .await
}

/// Subscribes to operational events at a path of the receiver.
async fn listen_to_operational(world: &World, path: &str) -> Result<Api> {
    let own = world.control_plane.api(OWN)?;
    own.subscribe(v1::Subscription { url: world.receiver.url(path), ..Default::default() }, "").await?;
    Ok(own)
}

/// Waits for an operational event of a type whose data is as wanted, and gives the data.
async fn told(world: &World, path: &str, event_type: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    within(2 * PATIENCE, &format!("{event_type} is told"), async || {
        let bodies = world.receiver.posts_to(path);
        let bodies = bodies.iter().filter_map(|post| serde_json::from_slice::<Value>(&post.body).ok());
        let mut found = bodies.filter(|body| body["event"] == event_type && wanted(&body["data"]));
        Ok(found.next().map(|mut body| body["data"].take()))
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_only_fails_is_disabled_probed_and_enabled_and_nothing_is_lost() -> Result<()> {
    let world = World::start().await?;
    listen_to_operational(&world, "/own").await?;
    let wanted = impatient(Duration::from_secs(3), WhileDisabled::Queue);
    let Route { subscription, .. } = world.subscribe_with("/down", wanted).await?;
    let unknown = world.api.subscription(&subscription).await?.health.context("it has health")?;
    assert_eq!((unknown.state(), unknown.backlog), (HealthState::Unknown, 0));

    world.receiver.script("/down", [Answer::Status(503)]);
    let (_, first) = world.api.emit_to_one(event("a.b", "1")).await?;
    let disabled = until(&world.api, &subscription, SubscriptionState::Disabled).await?;
    assert_eq!(disabled.disable_cause(), DisableCause::Failing);
    assert!(disabled.state_reason.contains("failed continuously"), "{}", disabled.state_reason);
    assert!(disabled.state_reason.contains("503"), "{}", disabled.state_reason);
    let health = disabled.health.context("it has health")?;
    assert_eq!(
        (health.state(), health.last_failure_status, health.backlog),
        (HealthState::CircuitOpen, 503, 1)
    );
    assert!(health.failing_since.is_some() && health.consecutive_failures >= 3, "{health:?}");
    let told_disabled = told(&world, "/own", "subscription.disabled", |_| true).await?;
    assert_eq!(
        (&told_disabled["subscription"], &told_disabled["cause"]),
        (&subscription.clone().into(), &"failing".into())
    );

    // New events wait; people see why.
    let mut held = vec![first];
    for number in 2..9 {
        held.push(world.api.emit_to_one(event("a.b", &number.to_string())).await?.1);
    }
    let last = held.last().context("there are some")?;
    let (delivery, _) = world.api.delivery(last).await?;
    assert_eq!((delivery.state(), delivery.hold_reason()), (DeliveryState::Pending, HoldReason::Disabled));
    let shown = world.cli().run(&["subscriptions", "get", &subscription]).await?.stdout;
    for part in [
        "disabled (the endpoint has failed continuously",
        "circuit open: ",
        "status 503",
        "after 3s of continuous failure",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }

    // A probe finds out that it is repaired: what was held goes out.
    world.receiver.script("/down", [Answer::Status(204)]);
    let enabled = until(&world.api, &subscription, SubscriptionState::Active).await?;
    assert_eq!((enabled.disable_cause(), enabled.state_reason.as_str()), (DisableCause::Unspecified, ""));
    for delivery in &held {
        world.api.delivery_in(delivery, DeliveryState::Delivered).await?;
    }
    let told_recovering = told(&world, "/own", "subscription.recovering", |_| true).await?;
    assert_eq!(told_recovering["enabled_again"], true);
    told(&world, "/own", "subscription.recovered", |_| true).await?;
    let health = world.api.subscription(&subscription).await?.health.context("it has health")?;
    assert_eq!((health.state(), health.failing_since, health.backlog), (HealthState::Healthy, None, 0));
    Ok(())
}

#[tokio::test]
async fn who_drops_is_not_owed_the_events_of_that_time_and_what_waited_is_cancelled() -> Result<()> {
    let world = World::start().await?;
    let wanted = impatient(Duration::from_secs(2), WhileDisabled::Drop);
    let Route { subscription, .. } = world.subscribe_with("/down", wanted).await?;
    world.receiver.script("/down", [Answer::Status(500)]);
    for number in 0..5 {
        world.api.emit(event("a.b", &number.to_string())).await?;
    }
    until(&world.api, &subscription, SubscriptionState::Disabled).await?;
    assert_eq!(world.api.emit(event("a.b", "5")).await?.deliveries, 0, "it is not owed");
    eventually("what waited is cancelled, but for one to probe with", async || {
        let cancelled = world.api.deliveries_in(&[DeliveryState::Cancelled]).await?;
        Ok(when(cancelled.len() == 4))
    })
    .await?;
    world.receiver.script("/down", [Answer::Status(204)]);
    until(&world.api, &subscription, SubscriptionState::Active).await?;
    assert_eq!(world.api.deliveries_in(&[DeliveryState::Delivered]).await?.len(), 1);
    let (_, delivery) = world.api.emit_to_one(event("a.b", "6")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    Ok(())
}

#[tokio::test]
async fn since_when_it_fails_survives_a_kill_and_a_resumed_one_is_tried_at_once() -> Result<()> {
    let mut world = World::start().await?;
    let wanted = impatient(Duration::from_secs(3_600), WhileDisabled::Queue);
    let Route { subscription, .. } = world.subscribe_with("/down", wanted).await?;
    world.receiver.script("/down", [Answer::Status(500)]);
    world.api.emit(event("a.b", "1")).await?;
    let failing = async |api: &Api, at_least: u32| {
        eventually("it fails", async || {
            let health = api.subscription(&subscription).await?.health.unwrap_or_default();
            Ok(Some(health).filter(|health| health.consecutive_failures >= at_least))
        })
        .await
    };
    // It is written within a second; more failures take longer.
    let before = failing(&world.api, 4).await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    let after = failing(&world.api, 1).await?;
    assert_eq!(after.failing_since, before.failing_since);
    assert!(after.disable_time.is_some());

    // It is disabled as soon as the policy says less.
    let update = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            id: subscription.clone(),
            tenant: world.api.tenant(),
            ..impatient(Duration::from_secs(1), WhileDisabled::Queue)
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["failure_policy".into()] }),
    };
    world.api.subscriptions().update_subscription(update).await?;
    until(&world.api, &subscription, SubscriptionState::Disabled).await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    let disabled = world.api.subscription(&subscription).await?;
    assert_eq!(
        (disabled.state(), disabled.disable_cause()),
        (SubscriptionState::Disabled, DisableCause::Failing)
    );
    world.receiver.script("/down", [Answer::Status(204)]);
    let resume =
        v1::ResumeSubscriptionRequest { tenant: world.api.tenant(), subscription: subscription.clone() };
    world.api.subscriptions().resume_subscription(resume).await?;
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(world.api.deliveries_in(&[DeliveryState::Delivered]).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn agents_backlogs_and_keys_are_told_of() -> Result<()> {
    let lines = ["agent_offline_after = \"1s\"", "backlog_warn_count = 5", "backlog_warn_age = \"1day\""];
    let world = World::with(AgentSettings::default(), &lines).await?;
    listen_to_operational(&world, "/own").await?;
    world.api.allow_pool("empty").await?;
    let wanted = v1::Subscription { pool: "empty".into(), ..v1::Subscription::default() };
    let Route { subscription, .. } = world.subscribe_with("/stranded", wanted).await?;
    let rotate = v1::RotateSigningKeyRequest {
        tenant: world.api.tenant(),
        subscription: subscription.clone(),
        overlap: Some(duration(Duration::from_secs(28))),
        ..v1::RotateSigningKeyRequest::default()
    };
    world.api.signing_keys().rotate_signing_key(rotate).await?;
    for number in 0..6 {
        world.api.emit(event("a.b", &number.to_string())).await?;
    }
    let mut second = world.another_agent("agent-2").await?;
    second.kill()?;

    let growing = told(&world, "/own", "subscription.backlog_growing", |_| true).await?;
    assert_eq!((&growing["subscription"], &growing["backlog"]), (&subscription.clone().into(), &6.into()));
    let stranded = told(&world, "/own", "agent.offline", |data| data["pool"] == "empty").await?;
    assert_eq!((&stranded["agent"], &stranded["waiting_deliveries"]), (&Value::Null, &6.into()));
    let away = told(&world, "/own", "agent.offline", |data| data["display_name"] == "agent-2").await?;
    second.start()?;
    let back = told(&world, "/own", "agent.online", |data| data["display_name"] == "agent-2").await?;
    assert_eq!(away["agent"], back["agent"]);
    let expiring = told(&world, "/own", "signing_key.expiring", |_| true).await?;
    assert_eq!((&expiring["subscription"], &expiring["scheme"]), (&subscription.into(), &"v1".into()));
    // Each once.
    let types: Vec<String> = world
        .receiver
        .posts_to("/own")
        .iter()
        .filter_map(|post| {
            serde_json::from_slice::<Value>(&post.body).ok()?["event"].as_str().map(str::to_owned)
        })
        .collect();
    let count = |wanted: &str| types.iter().filter(|found| *found == wanted).count();
    assert_eq!((count("subscription.backlog_growing"), count("signing_key.expiring")), (1, 1), "{types:?}");
    Ok(())
}

#[tokio::test]
async fn the_tenant_of_operational_events_is_postriders_own() -> Result<()> {
    let world = World::start().await?;
    let own = world.control_plane.api(OWN)?;
    let list = v1::ListEventTypesRequest { tenant: OWN.into(), ..v1::ListEventTypesRequest::default() };
    let types = own.event_types().list_event_types(list).await?.into_inner().event_types;
    assert_eq!(types.len(), 8);
    assert!(types.iter().all(|one| !one.description.is_empty() && !one.example.is_empty()));
    let refused = [
        own.emit(event("agent.offline", "{}")).await.map(drop),
        own.tenants()
            .delete_tenant(v1::DeleteTenantRequest { tenant: OWN.into(), with_subscriptions: true })
            .await
            .map(drop),
        own.event_types()
            .delete_event_type(v1::DeleteEventTypeRequest {
                tenant: OWN.into(),
                name: "agent.offline".into(),
            })
            .await
            .map(drop),
    ];
    for refused in refused {
        let status = refused.err().context("it was not refused")?;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("reserved for operational events"), "{status:?}");
    }
    let create = own.create_tenant().await.err().context("it was made twice")?;
    assert!(format!("{create:#}").contains("postrider"), "{create:#}");

    // A subscription of it works like any other, and its own trouble makes no events.
    let path = "/own";
    let impatient =
        |url: String| v1::Subscription { url, ..impatient(Duration::from_secs(1), WhileDisabled::Queue) };
    let made = own.subscribe(impatient(world.receiver.url(path)), "").await?;
    world.receiver.script(path, [Answer::Status(500)]);
    let down = world.subscribe_with("/down", impatient(String::new())).await?.subscription;
    world.receiver.script("/down", [Answer::Status(500)]);
    world.api.emit_to_one(event("a.b", "1")).await?;
    until(&own, &made.id, SubscriptionState::Disabled).await?;
    let events = v1::ListEventsRequest { tenant: OWN.into(), ..v1::ListEventsRequest::default() };
    let events = own.events().list_events(events).await?.into_inner().events;
    assert!(!events.is_empty());
    for event in events {
        let request = v1::GetEventRequest { tenant: OWN.into(), event: event.id };
        let event = own.events().get_event(request).await?.into_inner().event.context("no event")?;
        let data: Value = serde_json::from_slice(&event.data)?;
        assert_eq!(data["subscription"], down.as_str(), "of the other tenant's trouble alone");
    }
    Ok(())
}

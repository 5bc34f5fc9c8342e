//! Emitting the same event again changes nothing, whatever happened in between.

use anyhow::{Context as _, Result};
use postrider_proto::v1;
use postrider_tests::api::event;
use postrider_tests::wait::PATIENCE;
use postrider_tests::world::World;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn keyed(key: &str, data: &str) -> v1::NewEvent {
    v1::NewEvent { idempotency_key: key.to_owned(), ..event("a.b", data) }
}

fn named(id: &str, data: &str) -> v1::NewEvent {
    v1::NewEvent { id: id.to_owned(), ..event("a.b", data) }
}

/// The refusal's code and reason.
fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> Result<(Code, String)> {
    let status = answer.err().context("it was accepted")?;
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    Ok((status.code(), reason))
}

#[tokio::test]
async fn a_key_makes_one_event_even_when_the_control_plane_is_killed_in_between() -> Result<()> {
    let mut world = World::start().await?;
    world.subscribe("/a").await?;
    let first = world.api.emit(keyed("k", r#"{"n":1}"#)).await?;
    let mine = world.api.emit(named("my-event", r#"{"n":2}"#)).await?;
    assert!(!first.duplicate && !mine.duplicate && mine.event_id == "my-event");
    for round in 0..2 {
        let again = world.api.emit(keyed("k", r#"{"n":1}"#)).await?;
        assert!(again.duplicate, "round {round}");
        assert_eq!((&again.event_id, again.accept_time), (&first.event_id, first.accept_time));
        let again = world.api.emit(named("my-event", r#"{"n":2}"#)).await?;
        assert!(again.duplicate && again.event_id == "my-event", "round {round}");

        let other = refusal(world.api.emit(keyed("k", r#"{"n": 1}"#)).await)?;
        assert_eq!(other, (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".into()));
        let other = refusal(world.api.emit(named("my-event", "{}")).await)?;
        assert_eq!(other, (Code::AlreadyExists, "EVENT_ID_REUSED".into()));
        if round == 0 {
            world.control_plane.kill()?;
            world.control_plane.restart().await?;
        }
    }
    let another = world.api.emit(keyed("k2", r#"{"n":1}"#)).await?;
    assert!(!another.duplicate && another.event_id != first.event_id);
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(world.receiver.count(), 3);
    Ok(())
}

#[tokio::test]
async fn many_emits_of_one_key_at_once_make_one_event() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    let mut emits = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let api = world.api.clone();
        emits.spawn(async move { api.emit(keyed("k", "{}")).await });
    }
    let mut ids = std::collections::HashSet::new();
    let mut first_ones = 0;
    while let Some(answer) = emits.join_next().await {
        let answer = answer??;
        first_ones += usize::from(!answer.duplicate);
        ids.insert(answer.event_id);
    }
    assert_eq!((ids.len(), first_ones), (1, 1));
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(world.receiver.count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_key_belongs_to_its_tenant() -> Result<()> {
    let world = World::start().await?;
    let other = world.control_plane.api("other")?;
    other.create_tenant().await?;
    let mine = world.api.emit(keyed("k", "1")).await?;
    let theirs = other.emit(keyed("k", "2")).await?;
    assert!(!theirs.duplicate && theirs.event_id != mine.event_id);
    Ok(())
}

#[tokio::test]
async fn a_request_id_makes_one_subscription_even_when_the_control_plane_is_killed_in_between() -> Result<()>
{
    let mut world = World::start().await?;
    let request = v1::CreateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            tenant: world.api.tenant(),
            url: world.receiver.url("/a"),
            event_types: vec!["*".into()],
            ..v1::Subscription::default()
        }),
        request_id: "one".into(),
        ..v1::CreateSubscriptionRequest::default()
    };
    let first = world.api.subscriptions().create_subscription(request.clone()).await?.into_inner();
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    // Whether an agent is there belongs to the moment: it may not be back yet.
    world.agent_connected().await?;
    let again = world.api.subscriptions().create_subscription(request.clone()).await?.into_inner();
    assert_eq!(again, first);
    let mut other = request;
    other.secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=".into();
    let refused = refusal(world.api.subscriptions().create_subscription(other).await)?;
    assert_eq!(refused, (Code::AlreadyExists, "REQUEST_ID_REUSED".into()));
    Ok(())
}

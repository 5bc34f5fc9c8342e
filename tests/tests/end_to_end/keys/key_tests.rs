//! Test events, of keys and of subscriptions: one attempt each, answered at once, without any
//! effect on deliveries.

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, DeliveryState, HealthState, OutcomeClass, Role};
use postrider_tests::api::{Api, event, no_retries};
use postrider_tests::applicant::{credentials, hello, new_key};
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{AgentSettings, TENANT, World};
use tonic::{Code, Status};

use super::Keys;

async fn test(
    api: &Api,
    subscription: &str,
    event_type: &str,
) -> Result<v1::TestSubscriptionResponse, Status> {
    let request = v1::TestSubscriptionRequest {
        tenant: api.tenant(),
        subscription: subscription.to_owned(),
        event_type: event_type.to_owned(),
        request_id: "asked-for-it".to_owned(),
    };
    Ok(api.subscriptions().test_subscription(request).await?.into_inner())
}

async fn audited(api: &Api, action: &str) -> Result<Vec<v1::AuditRecord>> {
    let request = v1::ListAuditRecordsRequest { action: action.to_owned(), ..Default::default() };
    Ok(api.audit().list_audit_records(request).await?.into_inner().records)
}

#[tokio::test]
async fn twenty_refused_key_tests_leave_health_untouched_and_the_next_event_is_delivered_at_once()
-> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe("/in").await?;
    let keys = Keys { api: &world.api, subscription: route.subscription.clone() };
    let (new, _) = keys.create("", "", "").await?;
    let before = world.api.subscription(&route.subscription).await?;
    world.receiver.script("/in", [Answer::Body(401, "who are you?".into())]);
    for _ in 0..20 {
        let answer = keys.test_key(&new).await?;
        assert!(answer.verdict.contains("401: it does not know this key yet"), "{}", answer.verdict);
        let attempt = answer.attempt.context("no attempt")?;
        assert_eq!((attempt.outcome(), attempt.http_status), (OutcomeClass::HttpStatus, 401));
        assert_eq!(attempt.response_body, "who are you?");
        assert!(attempt.request_sent && attempt.timings.is_some_and(|timings| timings.total.is_some()));
    }
    let after = world.api.subscription(&route.subscription).await?;
    assert_eq!((&after.health, after.state()), (&before.health, before.state()));
    assert_eq!(after.health.map(|health| health.state()), Some(HealthState::Unknown));
    assert!(world.api.deliveries_in(&[]).await?.is_empty(), "no delivery, no attempt");
    assert_eq!(world.receiver.count(), 20, "one POST a key test");

    world.receiver.script("/in", [Answer::Status(204)]);
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    let records = audited(&world.api, "TestSigningKey").await?;
    assert!(records.len() == 20 && records[0].detail.contains(&format!("signed only with {new}")));
    Ok(())
}

/// Makes failures of real deliveries until the breaker is open.
async fn breaker_opened(world: &World, subscription: &str) -> Result<()> {
    for number in 0..12 {
        world.api.emit_to_one(event("a.b", &number.to_string())).await?;
    }
    eventually("the breaker is open", async || {
        let found = world.api.subscription(subscription).await?;
        Ok(when(found.health.is_some_and(|health| health.state() == HealthState::CircuitOpen)))
    })
    .await
}

#[tokio::test]
async fn test_events_are_answered_while_nothing_is_delivered() -> Result<()> {
    let world = World::start().await?;
    let wanted = v1::Subscription { retry_policy: no_retries(), ..v1::Subscription::default() };
    let route = world.subscribe_with("/in", wanted).await?;
    let keys = Keys { api: &world.api, subscription: route.subscription.clone() };
    let (new, _) = keys.create("", "", "").await?;
    let accepted = async || -> Result<()> {
        assert!(keys.test_key(&new).await?.verdict.contains("it has this key"));
        let tested = test(&world.api, &route.subscription, "").await?;
        assert_eq!(tested.verdict, "the receiver accepted the test event");
        Ok(())
    };
    let id = || (world.api.tenant(), route.subscription.clone());
    world.receiver.script("/in", [Answer::Status(500)]);
    breaker_opened(&world, &route.subscription).await?;
    let before = world.api.subscription(&route.subscription).await?.health;
    world.receiver.script("/in", [Answer::Status(204)]);
    accepted().await?;
    let after = world.api.subscription(&route.subscription).await?.health.context("no health")?;
    let failures = |health: &v1::SubscriptionHealth| (health.state(), health.consecutive_failures);
    assert_eq!(before.as_ref().map(failures), Some(failures(&after)), "a success does not count either");
    assert_eq!(keys.get(&new).await?.advice, "the receiver has it: activate it");

    let (tenant, subscription) = id();
    world
        .api
        .subscriptions()
        .pause_subscription(v1::PauseSubscriptionRequest { tenant, subscription })
        .await?;
    accepted().await?;
    // 410 disables a subscription that is delivered to; here it is an answer like any other.
    let gone = world.subscribe("/gone").await?.subscription;
    world.receiver.script("/gone", [Answer::Status(410)]);
    let answer = test(&world.api, &gone, "").await?;
    assert_eq!(answer.attempt.map(|attempt| attempt.http_status), Some(410));
    let state = world.api.subscription(&gone).await?.state();
    assert_eq!(state, v1::SubscriptionState::Active);
    Ok(())
}

#[tokio::test]
async fn a_test_event_is_as_deliveries_are_and_nothing_of_it_is_kept() -> Result<()> {
    let world = World::start().await?;
    let entry = v1::EventType {
        tenant: TENANT.into(),
        name: "doc.done".into(),
        description: "Done.".into(),
        example: r#"{"documentId": "doc_1"}"#.into(),
        ..v1::EventType::default()
    };
    let request = v1::CreateEventTypeRequest { event_type: Some(entry) };
    world.api.event_types().create_event_type(request).await?;
    let wanted = v1::Subscription {
        event_types: vec!["other.*".into()],
        filter: "event.data.never == 1".into(),
        headers: [("authorization".to_owned(), "Bearer the-s3cret".to_owned())].into(),
        ..v1::Subscription::default()
    };
    let route = world.subscribe_with("/in", wanted).await?;
    world.receiver.script("/in", [Answer::Body(200, "you sent Bearer the-s3cret".into())]);
    for (event_type, body) in [
        ("", format!(r#""data":{{"subscription":"{}"}}}}"#, route.subscription)),
        ("doc.done", r#""data":{"documentId": "doc_1"}}"#.to_owned()),
    ] {
        let tested = test(&world.api, &route.subscription, event_type).await?;
        let post = world.receiver.posts().pop().context("nothing arrived")?;
        let sent = String::from_utf8(post.body.to_vec())?;
        let named = if event_type.is_empty() { "postrider.test" } else { event_type };
        assert!(sent.contains(&format!(r#"{{"event":"{named}","#)) && sent.ends_with(&body), "{sent}");
        assert_eq!((post.id.as_str(), post.method.as_str()), (tested.event_id.as_str(), "POST"));
        assert_eq!(post.headers["authorization"], "Bearer the-s3cret");
        assert!(super::verifies(&post, &route.secret)?, "signed as deliveries are");
        let attempt = tested.attempt.context("no attempt")?;
        assert_eq!(attempt.response_body, "you sent ***", "what the subscription's owner hides stays hidden");
    }
    let list = v1::ListEventsRequest { tenant: TENANT.into(), ..v1::ListEventsRequest::default() };
    assert!(world.api.events().list_events(list).await?.into_inner().events.is_empty());
    let records = audited(&world.api, "TestSubscription").await?;
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.request_id == "asked-for-it" && record.tenant == TENANT));

    let printed = world.cli().run(&["subscriptions", "test", &route.subscription]).await?;
    assert!(
        printed.code == 0 && printed.stdout.contains("the receiver accepted the test event"),
        "{printed:?}"
    );
    world.receiver.script("/in", [Answer::Status(401)]);
    let keys = Keys { api: &world.api, subscription: route.subscription.clone() };
    let key = keys.list().await?[0].id.clone();
    let printed = world.cli().run(&["keys", "test", &route.subscription, &key]).await?;
    assert!(printed.code == 5 && printed.stdout.contains("it does not know this key yet"), "{printed:?}");
    Ok(())
}

#[tokio::test]
async fn who_cannot_send_test_events_is_named_and_failures_are_answers() -> Result<()> {
    let mut world = World::without_agent(AgentSettings::default(), &[]).await?;
    let route = world.subscribe("/in").await?;
    let nobody = test(&world.api, &route.subscription, "").await.err().context("somebody sent it")?;
    assert_eq!(nobody.code(), Code::Unavailable);
    assert!(nobody.message().contains("no agent of the pool default is connected"), "{nobody:?}");
    assert!(audited(&world.api, "TestSubscription").await?.is_empty(), "nothing was sent");

    // An agent without the capability.
    let port = world.control_plane.agent_port(&world.api).await?;
    let (join, key) = (world.api.join("default", 1).await?, new_key()?);
    let identity = port.enroll(&join, &key).await?;
    let mut session = port.connect(Some(&credentials(&identity, &key)), hello(&identity)).await?;
    session.hear().await?;
    world.api.agent_connected(&identity.agent_id, 1).await?;
    let refused = test(&world.api, &route.subscription, "").await.err().context("it was sent")?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("version test, is too old to send test events"), "{refused:?}");

    world.agent.start()?;
    world.agent_connected().await?;
    let closed = v1::Subscription { url: "http://127.0.0.1:1/".into(), ..v1::Subscription::default() };
    let closed = world.api.subscribe(closed, "").await?;
    let answer = test(&world.api, &closed.id, "").await?;
    assert_eq!(answer.attempt.map(|attempt| attempt.outcome()), Some(OutcomeClass::RefusedByPolicy));
    assert!(answer.verdict.contains("egress"), "{}", answer.verdict);
    world.receiver.script("/in", [Answer::Hang]);
    let slow = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            tenant: TENANT.into(),
            id: route.subscription.clone(),
            timeout: Some(postrider_tests::api::duration(std::time::Duration::from_secs(1))),
            ..v1::Subscription::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["timeout".into()] }),
    };
    world.api.subscriptions().update_subscription(slow).await?;
    let answer = test(&world.api, &route.subscription, "").await?;
    assert_eq!(answer.attempt.map(|attempt| attempt.outcome()), Some(OutcomeClass::Timeout));
    let viewer =
        v1::CreateTokenRequest { role: Role::Viewer.into(), tenant: TENANT.into(), ..Default::default() };
    let viewer = world.api.tokens().create_token(viewer).await?.into_inner().secret;
    let viewer = Api::new(world.control_plane.channel()?, TENANT, &viewer)?;
    let refused = test(&viewer, &route.subscription, "").await.err().context("a viewer may send")?;
    assert_eq!(refused.code(), Code::PermissionDenied);
    Ok(())
}

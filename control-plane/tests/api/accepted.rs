//! What Emit accepts is what filters, schemas, examples and explanations read, and what comes back.

use postrider_proto::v1::emit_result::Result as Emitted;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::event_type_service_server::EventTypeService as _;
use postrider_proto::v1::explain_match_request::Subject;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::{self, FilterAnswer, NewEvent};
use tonic::{Code, Request, Status};

use crate::world::{World, admin};

/// A world with the tenant `acme`, which has nothing.
async fn world(folder: &tempfile::TempDir) -> World {
    let world = World::start(folder.path()).await;
    for id in ["acme", "other"] {
        let tenant = Some(v1::Tenant { id: id.into(), ..Default::default() });
        world.api.create_tenant(admin(v1::CreateTenantRequest { tenant })).await.unwrap();
    }
    world
}

fn subscription(filter: &str) -> v1::Subscription {
    v1::Subscription {
        tenant: "acme".into(),
        url: "https://hooks.example.com/".into(),
        event_types: vec!["*".into()],
        filter: filter.into(),
        ..Default::default()
    }
}

async fn subscribe(world: &World, filter: &str) -> Result<v1::Subscription, Status> {
    let request =
        v1::CreateSubscriptionRequest { subscription: Some(subscription(filter)), ..Default::default() };
    let made = world.api.create_subscription(admin(request)).await?.into_inner();
    Ok(made.subscription.unwrap())
}

fn event(data: &str) -> NewEvent {
    NewEvent { r#type: "a.b".into(), data: data.to_owned().into(), ..Default::default() }
}

async fn emit(world: &World, event: NewEvent) -> Result<v1::EmitResponse, Status> {
    emit_carrying(world, event, &[]).await
}

async fn emit_carrying(
    world: &World,
    event: NewEvent,
    metadata: &[(&'static str, &'static str)],
) -> Result<v1::EmitResponse, Status> {
    let request = v1::EmitRequest { tenant: "acme".into(), event: Some(event) };
    let mut request: Request<v1::EmitRequest> = admin(request);
    for (name, value) in metadata {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    Ok(world.api.emit(request).await?.into_inner())
}

async fn stored(world: &World, id: &str) -> v1::Event {
    let request = v1::GetEventRequest { tenant: "acme".into(), event: id.to_owned() };
    world.api.get_event(admin(request)).await.unwrap().into_inner().event.unwrap()
}

const ODD: [&str; 4] = [
    r#"{"country":"FR","note":"cut \ud83d"}"#,
    r#"{"country":"FR","\ude00\ud83d":[1]}"#,
    r#"{"country":"FR","n":1e400}"#,
    r#"{"country":"FR","n":{"m":[-1E+999]}}"#,
];

#[tokio::test]
async fn every_accepted_text_meets_filters() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    subscribe(&world, "event.data.country == 'DE'").await.unwrap();
    subscribe(&world, "event.data.country == 'FR' && size(event.data) == 2").await.unwrap();
    let events = ODD.map(event).to_vec();
    for event in events.clone() {
        let emitted = emit(&world, event.clone()).await.unwrap();
        assert_eq!(emitted.deliveries, 1, "{event:?}");
        assert_eq!(stored(&world, &emitted.event_id).await.data, event.data);
        let request = v1::ExplainMatchRequest {
            tenant: "acme".into(),
            subject: Some(Subject::Supposed(event)),
            ..Default::default()
        };
        let explained = world.api.explain_match(admin(request)).await.unwrap().into_inner().explanations;
        let answers: Vec<_> = explained.iter().map(|explanation| explanation.filter_answer()).collect();
        assert!(answers.contains(&FilterAnswer::Passes) && answers.contains(&FilterAnswer::Rejects));
    }
    let request = v1::EmitBatchRequest { tenant: "acme".into(), events };
    let results = world.api.emit_batch(admin(request)).await.unwrap().into_inner().results;
    for result in results {
        assert!(matches!(result.result, Some(Emitted::Accepted(accepted)) if accepted.deliveries == 1));
    }
    world.end().await;
}

#[tokio::test]
async fn every_accepted_text_meets_schemas() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    let entry = |example: &str| v1::EventType {
        tenant: "acme".into(),
        name: "a.b".into(),
        schema: r#"{"type":"object","properties":{"country":{"type":"string"},"n":{"maximum":5}}}"#.into(),
        validation: v1::Strictness::Reject.into(),
        example: example.to_owned(),
        ..Default::default()
    };
    let create = |entry| v1::CreateEventTypeRequest { event_type: Some(entry) };
    let refused = world.api.create_event_type(admin(create(entry(r#"{"n":1e400}"#)))).await.unwrap_err();
    assert!(refused.message().contains("greater than the maximum"), "{}", refused.message());
    world.api.create_event_type(admin(create(entry(ODD[0])))).await.unwrap();
    for data in [ODD[0], ODD[1], ODD[3], r#"{"n":-1e400}"#] {
        emit(&world, event(data)).await.unwrap();
    }
    let refused = emit(&world, event(ODD[2])).await.unwrap_err();
    assert!(refused.message().contains("greater than the maximum"), "{}", refused.message());
    world.end().await;
}

#[tokio::test]
async fn a_filter_with_a_constant_that_has_no_value_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    for filter in ["event.timestamp > timestamp('2026-13-01T00:00:00Z')", "event.data.n > int('x')"] {
        let refused = subscribe(&world, filter).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("subscription.filter"), "{}", refused.message());
    }
    let made = subscribe(&world, "event.data.n > 5").await.unwrap();
    let update = |filter: &str| v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription { id: made.id.clone(), ..subscription(filter) }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["filter".into()] }),
    };
    let wrong = "event.timestamp.getHours('Europe/Berlln') > 5";
    let refused = world.api.update_subscription(admin(update(wrong))).await.unwrap_err();
    assert!(refused.message().contains("time zone"), "{}", refused.message());
    world.api.update_subscription(admin(update("event.data.n > int('5')"))).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_url_with_port_0_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    let wanted = v1::Subscription { url: "https://hooks.example.com:0/".into(), ..subscription("") };
    let request = v1::CreateSubscriptionRequest { subscription: Some(wanted.clone()), ..Default::default() };
    let refused = world.api.create_subscription(admin(request)).await.unwrap_err();
    assert!(refused.message().contains("port 0"), "{}", refused.message());
    let made = subscribe(&world, "").await.unwrap();
    let request = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription { id: made.id, ..wanted }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["url".into()] }),
    };
    let refused = world.api.update_subscription(admin(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    world.end().await;
}

#[tokio::test]
async fn an_event_keeps_its_nanoseconds() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    subscribe(&world, "event.timestamp == timestamp('2026-02-02T10:30:00.000100200Z')").await.unwrap();
    let at = |nanos| NewEvent {
        id: "own".into(),
        timestamp: Some(prost_types::Timestamp { seconds: 1_770_028_200, nanos }),
        ..event("{}")
    };
    let emitted = emit(&world, at(100_200)).await.unwrap();
    assert_eq!((emitted.deliveries, emitted.duplicate), (1, false));
    assert_eq!(stored(&world, "own").await.timestamp.unwrap().nanos, 100_200);
    assert!(emit(&world, at(100_200)).await.unwrap().duplicate);
    let reused = emit(&world, at(100_300)).await.unwrap_err();
    assert_eq!(reused.code(), Code::AlreadyExists, "another time is another content");
    let other = NewEvent { id: String::new(), ..at(100_300) };
    assert_eq!(emit(&world, other).await.unwrap().deliveries, 0);
    world.end().await;
}

#[tokio::test]
async fn repeated_trace_headers_in_metadata_have_one_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    let parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    let other = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-00");
    let (one, two) = (("tracestate", "a=1"), ("tracestate", "1b@c@d=2"));
    let table = [
        (vec![parent, one], parent.1, "a=1"),
        (vec![parent, one, two], parent.1, "a=1,1b@c@d=2"),
        (vec![parent, other, one], "", ""),
        (vec![one], "", ""),
    ];
    for (metadata, trace_parent, trace_state) in table {
        let emitted = emit_carrying(&world, event("{}"), &metadata).await.unwrap();
        let event = stored(&world, &emitted.event_id).await;
        assert_eq!((event.trace_parent.as_str(), event.trace_state.as_str()), (trace_parent, trace_state));
    }
    world.end().await;
}

#[tokio::test]
async fn a_page_token_is_for_the_tenant_that_it_was_made_for() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    for _ in 0..3 {
        emit(&world, event("{}")).await.unwrap();
    }
    let page = |tenant: &str, page_token: &str| v1::ListEventsRequest {
        tenant: tenant.into(),
        page_size: 2,
        page_token: page_token.into(),
        ..Default::default()
    };
    let first = world.api.list_events(admin(page("acme", ""))).await.unwrap().into_inner();
    let token = first.next_page_token;
    let second = world.api.list_events(admin(page("acme", &token))).await.unwrap().into_inner();
    assert_eq!((first.events.len(), second.events.len()), (2, 1));
    let refused = world.api.list_events(admin(page("other", &token))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("page_token"), "{}", refused.message());
    world.end().await;
}

//! Whom an event is owed to: filters and attributes; and the trace that goes with it.

use anyhow::{Context as _, Result};
use postrider_proto::v1;
use postrider_tests::api::event;
use postrider_tests::wait::PATIENCE;
use postrider_tests::world::World;
use tonic::Code;
use tonic_types::StatusExt as _;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn filtered(filter: &str) -> v1::Subscription {
    v1::Subscription { filter: filter.to_owned(), ..v1::Subscription::default() }
}

fn with_region(data: &str, region: &str) -> v1::NewEvent {
    let attributes = [("region".to_owned(), region.to_owned())].into();
    v1::NewEvent { attributes, ..event("order.placed", data) }
}

#[tokio::test]
async fn a_filter_lets_through_what_passes_also_after_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    world.subscribe_with("/large", filtered("event.data.amount > 100")).await?;
    world.subscribe_with("/german", filtered("event.data.country == 'DE' && event.data.amount > 0")).await?;
    world.subscribe_with("/eu", filtered("event.attributes.region == \"eu\"")).await?;
    world.subscribe("/all").await?;
    for round in 1..=2 {
        let one = world.api.emit(with_region(r#"{"amount": 150, "country": "FR"}"#, "eu")).await?;
        let two = world.api.emit(with_region(r#"{"amount": 50, "country": "DE"}"#, "us")).await?;
        assert_eq!((one.deliveries, two.deliveries), (3, 2), "round {round}");
        world.api.all_ended(PATIENCE).await?;
        for path in ["/large", "/german", "/eu"] {
            assert_eq!(world.receiver.posts_to(path).len(), round, "{path}");
        }
        assert_eq!(world.receiver.posts_to("/all").len(), 2 * round);
        if round == 1 {
            let stored = world.cli().json(&["events", "get", &one.event_id]).await?;
            assert_eq!(stored["attributes"]["region"], "eu");
            world.control_plane.kill()?;
            world.control_plane.restart().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_filter_without_an_answer_delivers_and_says_so_until_it_is_changed() -> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe_with("/large", filtered("event.data.amount > 100")).await?;
    let emitted = world.api.emit(event("order.placed", r#"{"amount": "secret"}"#)).await?;
    assert_eq!(emitted.deliveries, 1);
    let shown = world.api.subscription(&route.subscription).await?;
    assert_eq!(shown.filter_error_count, 1);
    assert!(!shown.last_filter_error.is_empty() && !shown.last_filter_error.contains("secret"), "{shown:?}");
    assert!(shown.last_filter_error_time.is_some());
    let text = world.cli().run(&["subscriptions", "get", &route.subscription]).await?;
    assert!(
        text.stdout.contains("event.data.amount > 100") && text.stdout.contains("delivered all the same")
    );

    let change = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            tenant: world.api.tenant(),
            id: route.subscription.clone(),
            ..filtered("has(event.data.amount) && event.data.amount == 'none'")
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["filter".into()] }),
    };
    world.api.subscriptions().update_subscription(change).await?;
    let shown = world.api.subscription(&route.subscription).await?;
    assert_eq!((shown.filter_error_count, shown.last_filter_error.as_str()), (0, ""));
    assert_eq!(world.api.emit(event("order.placed", "{}")).await?.deliveries, 0);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_field_and_place() -> Result<()> {
    let world = World::start().await?;
    let wanted = v1::Subscription {
        tenant: world.api.tenant(),
        url: world.receiver.url("/a"),
        event_types: vec!["*".into()],
        ..filtered("event.data.amount > 100 &&\n event.typ == 'x'")
    };
    let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..Default::default() };
    let refused =
        world.api.subscriptions().create_subscription(request).await.err().context("it was taken")?;
    let field = refused.get_details_bad_request().context("fields")?.field_violations.remove(0);
    assert_eq!((refused.code(), field.field.as_str()), (Code::InvalidArgument, "subscription.filter"));
    assert!(field.description.contains("event has no «typ»"), "{}", field.description);
    assert!(field.description.contains("(line 2, column 7)"), "{}", field.description);

    let table = [
        (v1::NewEvent { trace_parent: "no".into(), ..event("a.b", "{}") }, "event.trace_parent"),
        (v1::NewEvent { trace_state: "a=b".into(), ..event("a.b", "{}") }, "event.trace_parent"),
        (with_region("{}", "\n"), "event.attributes"),
    ];
    for (event, expected) in table {
        let refused = world.api.emit(event).await.err().context("it was taken")?;
        let fields = refused.get_details_bad_request().context("fields")?.field_violations;
        assert_eq!((refused.code(), fields[0].field.as_str()), (Code::InvalidArgument, expected));
    }
    Ok(())
}

#[tokio::test]
async fn a_trace_goes_with_the_event() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    let traced = ["emit", "a.b", "--data", "{}", "--trace-parent", TRACE, "--trace-state", "a=1"];
    world.cli().run(&traced).await?;
    world.api.all_ended(PATIENCE).await?;
    let post = world.receiver.posts_to("/a").remove(0);
    let header =
        |name: &str| post.headers.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    assert_eq!(header("traceparent").as_deref(), Some(TRACE));
    assert_eq!(header("tracestate").as_deref(), Some("a=1"));
    Ok(())
}

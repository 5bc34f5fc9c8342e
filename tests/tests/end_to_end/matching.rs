//! Whom an event is owed to, and in what shape: filters, attributes, explanations, formats, the trace that goes with it.

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
    assert!(field.description.contains("event has no 'typ'"), "{}", field.description);
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

#[tokio::test]
async fn it_is_explained_why_an_event_is_owed_to_whom() -> Result<()> {
    let world = World::start().await?;
    let large = world.subscribe_with("/large", filtered("event.data.amount > 100")).await?;
    let user = v1::Subscription { event_types: vec!["user.*".into()], ..filtered("") };
    let user = world.subscribe_with("/user", user).await?;
    let event = world.api.emit(event("order.placed", r#"{"amount": 150}"#)).await?.event_id;
    world.api.all_ended(PATIENCE).await?;
    let later = world.subscribe("/later").await?;

    let explained = world.cli().json(&["explain", &event]).await?;
    let of = |subscription: &str| {
        explained.as_array().and_then(|list| list.iter().find(|one| one["subscription"] == *subscription))
    };
    let (large_one, user_one) =
        (of(&large.subscription).context("large")?, of(&user.subscription).context("user")?);
    let later_one = of(&later.subscription).context("later")?;
    assert_eq!(explained.as_array().map(Vec::len), Some(3));
    assert_eq!((&large_one["wanted"], &large_one["filter_answer"]), (&true.into(), &"passes".into()));
    assert_eq!(large_one["delivery"]["state"], "delivered");
    assert_eq!((&user_one["wanted"], &user_one["delivery"]), (&false.into(), &serde_json::Value::Null));
    assert!(
        user_one["explanation"].as_str().is_some_and(|text| text.starts_with("No pattern")),
        "{user_one}"
    );
    assert!(
        later_one["explanation"].as_str().is_some_and(|text| text.contains("created after")),
        "{later_one}"
    );

    let small = [
        "explain",
        "--type",
        "order.placed",
        "--data",
        r#"{"amount": 5}"#,
        "--subscription",
        &large.subscription,
    ];
    let supposed = world.cli().json(&small).await?;
    assert_eq!((&supposed[0]["wanted"], &supposed[0]["filter_answer"]), (&false.into(), &"rejects".into()));
    let missing = ["explain", "--type", "order.placed", "--subscription", &large.subscription];
    let text = world.cli().run(&missing).await?;
    assert!(text.code == 0 && text.stdout.contains("has no answer, so the event is delivered"), "{text:?}");
    // Asking changes nothing.
    let shown = world.api.subscription(&large.subscription).await?;
    assert_eq!((shown.filter_error_count, world.receiver.count()), (0, 1));

    let mut tokens = vec![String::new()];
    let mut pages = Vec::new();
    while let Some(page_token) = tokens.pop() {
        let subject = Some(v1::explain_match_request::Subject::Event(event.clone()));
        let tenant = world.api.tenant();
        let request =
            v1::ExplainMatchRequest { tenant, subject, page_size: 1, page_token, ..Default::default() };
        let page = world.api.events().explain_match(request).await?.into_inner();
        tokens.extend(Some(page.next_page_token).filter(|token| !token.is_empty()));
        pages.push(page.explanations.len());
    }
    assert_eq!(pages, [1, 1, 1]);
    let nothing = v1::ExplainMatchRequest { tenant: world.api.tenant(), ..Default::default() };
    let refused = world.api.events().explain_match(nothing).await;
    assert_eq!(refused.err().context("it was answered")?.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test]
async fn each_format_has_its_body_and_headers_and_a_signature_that_verifies() -> Result<()> {
    let world = World::start().await?;
    let table = [
        ("cloudevents", v1::BodyFormat::Cloudevents, "application/cloudevents+json"),
        ("cloudevents_binary", v1::BodyFormat::CloudeventsBinary, "application/json"),
        ("data", v1::BodyFormat::Data, "application/json"),
    ];
    let mut routes = Vec::new();
    for (path, format, _) in table {
        let wanted = v1::Subscription { body_format: format.into(), ..filtered("") };
        routes.push(world.subscribe_with(&format!("/{path}"), wanted).await?);
    }
    let data = r#"{ "b": 1.50, "a": "é" }"#;
    let emitted =
        v1::NewEvent { trace_parent: TRACE.into(), id: "mine".into(), ..event("order.placed", data) };
    world.api.emit(emitted).await?;
    world.api.all_ended(PATIENCE).await?;
    for ((path, _, content_type), route) in table.into_iter().zip(&routes) {
        let post = world.receiver.posts_to(&route.path).remove(0);
        let header =
            |name: &str| post.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!(header("content-type"), content_type, "{path}");
        assert_eq!(header("ce-type"), if path == "cloudevents_binary" { "order.placed" } else { "" });
        assert_eq!(header("ce-traceparent"), if path == "cloudevents_binary" { TRACE } else { "" });
        if path == "cloudevents" {
            let body: serde_json::Value = serde_json::from_slice(&post.body)?;
            let found =
                ["specversion", "id", "source", "type", "traceparent"].map(|name| body[name].as_str());
            let source = format!("/tenants/{}", world.api.tenant());
            assert_eq!(found, [Some("1.0"), Some("mine"), Some(&*source), Some("order.placed"), Some(TRACE)]);
            assert!(String::from_utf8_lossy(&post.body).contains(data));
        } else {
            assert_eq!(post.body, data.as_bytes(), "{path}");
        }
        let signed = ["webhook-id", "webhook-timestamp", "webhook-signature"]
            .map(|name| format!("{name}: {}", header(name)));
        let cli = world.cli().with("POSTRIDER_SECRET", &route.secret);
        let arguments = ["verify", "-H", &signed[0], "-H", &signed[1], "-H", &signed[2], "--file", "-"];
        let verified = cli.run_with_input(&arguments, &post.body).await?;
        assert_eq!(verified.code, 0, "{path}: {verified:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_binary_format_warns_and_keeps_its_headers_to_itself() -> Result<()> {
    let world = World::start().await?;
    let url = world.receiver.url("/a");
    let create = [
        "subscriptions",
        "create",
        "--url",
        &url,
        "--event-types",
        "*",
        "--body-format",
        "cloudevents_binary",
    ];
    let made = world.cli().json(&create).await?;
    assert!(made["warnings"][0].as_str().is_some_and(|text| text.contains("not signed")), "{made}");
    let told = world.cli().run(&create).await?;
    assert!(told.stderr.contains("warning: body_format: ") && told.stderr.contains("not signed"), "{told:?}");
    let refused = world.cli().run(&[&create[..], &["-H", "ce-type: mine"]].concat()).await?;
    assert!(
        refused.code != 0 && refused.stderr.contains("is set by Postrider itself in this body format"),
        "{refused:?}"
    );
    Ok(())
}

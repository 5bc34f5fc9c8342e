//! The catalogue of event types where it restricts: schemas, deprecation, unknown types.

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, Strictness};
use postrider_tests::api::event;
use postrider_tests::world::World;
use tonic::Code;
use tonic_types::StatusExt as _;

fn reasons(answer: &v1::EmitResponse) -> Vec<&str> {
    answer.warnings.iter().map(|warning| warning.reason.as_str()).collect()
}

async fn update(world: &World, wanted: v1::EventType, field: &str) -> Result<v1::EventType, tonic::Status> {
    let request = v1::UpdateEventTypeRequest {
        event_type: Some(v1::EventType { tenant: world.api.tenant(), name: "order.placed".into(), ..wanted }),
        update_mask: Some(prost_types::FieldMask { paths: vec![field.into()] }),
    };
    let answer = world.api.event_types().update_event_type(request).await?;
    Ok(answer.into_inner().event_type.unwrap_or_default())
}

#[tokio::test]
async fn events_are_validated_as_strictly_as_their_type_says_also_after_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    let file = world.folder().join("schema.json");
    std::fs::write(&file, r#"{"type": "object", "required": ["id"]}"#)?;
    let file = file.display().to_string();
    let create =
        ["event-types", "create", "order.placed", "--schema-file", &file, "--example", r#"{"id": 1}"#];
    let made = world.cli().json(&create).await?;
    assert_eq!((&made["schema_version"], &made["schema"]["required"][0]), (&1.into(), &"id".into()));
    let bad = || event("order.placed", r#"{"nr": 1}"#);
    assert_eq!(world.api.emit(bad()).await?.warnings, []);

    let validation =
        |strictness: Strictness| v1::EventType { validation: strictness.into(), ..Default::default() };
    update(&world, validation(Strictness::Warn), "validation").await?;
    assert_eq!(reasons(&world.api.emit(bad()).await?), ["SCHEMA_VIOLATION"]);
    let told = world.cli().run(&["emit", "order.placed", "--data", "{}"]).await?;
    assert!(told.code == 0 && told.stderr.contains("version 1 of the schema"), "{told:?}");
    assert_eq!(world.cli().json(&["event-types", "get", "order.placed"]).await?["warning_count"], 2);

    update(&world, validation(Strictness::Reject), "validation").await?;
    for round in 0..2 {
        let refused = world.api.emit(bad()).await.err().context("it was accepted")?;
        let field = refused.get_details_bad_request().context("fields")?.field_violations.remove(0);
        assert_eq!(
            (refused.code(), field.field.as_str()),
            (Code::InvalidArgument, "event.data"),
            "round {round}"
        );
        assert_eq!(world.api.emit(event("order.placed", r#"{"id": 1}"#)).await?.warnings, []);
        world.control_plane.kill()?;
        world.control_plane.restart().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_schema_has_versions_and_examples_follow_it() -> Result<()> {
    let world = World::start().await?;
    let schema = |text: &str| v1::EventType { schema: text.into(), ..Default::default() };
    world.cli().json(&["event-types", "create", "order.placed", "--example", r#"{"id": 1}"#]).await?;
    let (one, two) = (r#"{"required": ["id"]}"#, r#"{"type": "object"}"#);
    assert_eq!(update(&world, schema(one), "schema").await?.schema_version, 1);
    assert_eq!(update(&world, schema(one), "schema").await?.schema_version, 1);
    let second = update(&world, schema(two), "schema").await?;
    assert_eq!((second.schema_version, second.former_schemas[0].schema.as_str()), (2, one));
    let table = [
        (r#"{"required": ["nr"]}"#, "event_type.example"),
        (r#"{"$ref": "https://example.com/s.json"}"#, "event_type.schema"),
        (r##"{"$ref": "#"}"##, "event_type.schema"),
    ];
    for (text, expected) in table {
        let refused = update(&world, schema(text), "schema").await.err().context("it was taken")?;
        let field = refused.get_details_bad_request().context("fields")?.field_violations.remove(0);
        assert_eq!(field.field, expected, "{text}: {}", field.description);
    }
    Ok(())
}

#[tokio::test]
async fn deprecated_and_unknown_types_warn_or_are_refused() -> Result<()> {
    let world = World::start().await?;
    world.cli().json(&["event-types", "create", "order.placed"]).await?;
    let deprecate = ["--deprecated", "true", "--deprecation-message", "emit order.created"];
    world.cli().json(&[&["event-types", "update", "order.placed"], &deprecate[..]].concat()).await?;
    let answer = world.api.emit(event("order.placed", "{}")).await?;
    assert_eq!(reasons(&answer), ["DEPRECATED_EVENT_TYPE"]);
    assert_eq!(answer.warnings[0].message, "order.placed is deprecated: emit order.created");

    assert_eq!(world.api.emit(event("order.plaecd", "{}")).await?.warnings, []);
    let tenant = world.api.tenant();
    let strict = ["tenants", "update", &tenant, "--unknown-event-types"];
    world.cli().json(&[&strict[..], &["warn"]].concat()).await?;
    assert_eq!(reasons(&world.api.emit(event("order.plaecd", "{}")).await?), ["UNKNOWN_EVENT_TYPE"]);
    world.cli().json(&[&strict[..], &["reject"]].concat()).await?;
    let refused = world.api.emit(event("order.plaecd", "{}")).await.err().context("it was accepted")?;
    assert_eq!(refused.get_details_bad_request().context("fields")?.field_violations[0].field, "event.type");
    Ok(())
}

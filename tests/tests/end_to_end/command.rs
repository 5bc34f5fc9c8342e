//! The `postrider` command against a real control plane: what it prints for people and for programs, and how it ends.

use anyhow::{Context as _, Result};
use postrider_proto::v1::DeliveryState;
use postrider_tests::api::event;
use postrider_tests::process::Process;
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{TENANT, World};
use serde_json::{Value, json};

/// The names of an object's members, in order.
fn members(object: &Value) -> Vec<&str> {
    object.as_object().map(|members| members.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().with_context(|| format!("no {name} in {value}"))
}

#[tokio::test]
async fn an_admin_sets_everything_up_and_an_event_is_followed_to_its_end() -> Result<()> {
    let world = World::start().await?;
    let cli = world.cli();
    let tenant = cli.json(&["tenants", "create", "docurift", "--display-name", "DocuRift"]).await?;
    assert_eq!((&tenant["id"], &tenant["display_name"]), (&json!("docurift"), &json!("DocuRift")));
    let cli = world.control_plane.cli("docurift");
    let example = r#"{"documentId":"doc_1"}"#;
    let described = ["--description", "Done.", "--example", example];
    let created =
        cli.run(&[&["event-types", "create", "document.completed"], &described[..]].concat()).await?;
    assert_eq!(created.code, 0, "{created:?}");
    let url = world.receiver.url("/a");
    let made = cli.json(&["subscriptions", "create", "--url", &url, "--event-types", "document.*"]).await?;
    assert!(text(&made, "secret")?.starts_with("whsec_"), "{made}");

    let followed = cli.run(&["emit", "document.completed", "--data", example, "--follow"]).await?;
    assert_eq!(followed.code, 0, "{followed:?}");
    assert!(followed.stdout.contains("1 delivery") && followed.stdout.contains("delivered"), "{followed:?}");
    let emitted = cli.json(&["emit", "document.completed", "--data", example, "--follow"]).await?;
    assert_eq!(emitted["ended_deliveries"][0]["state"], "delivered", "{emitted}");
    assert_eq!(world.receiver.count(), 2);
    Ok(())
}

#[tokio::test]
async fn what_programs_read_has_the_fields_of_the_api() -> Result<()> {
    let world = World::start().await?;
    let cli = world.cli();
    let route = world.subscribe("/a").await?;
    let (id, delivery) = world.api.emit_to_one(event("a.b", r#"{"n":1.50}"#)).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;

    let shown = cli.json(&["deliveries", "show", &delivery]).await?;
    let fields = "attempt_count create_time end_time event event_type hold_reason id last_attempt \
                  next_attempt_time state subscription tenant";
    assert_eq!(members(&shown["delivery"]).join(" "), fields);
    let fields = "agent detail http_status http_version number outcome request_sent response_body \
                  response_headers start_time timings tls_version";
    assert_eq!(members(&shown["attempts"][0]).join(" "), fields);
    let agent = world.agent_connected().await?.id;
    let expected = json!({ "number": 1, "outcome": "success", "http_status": 204, "agent": agent });
    for (name, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&shown["attempts"][0][name], value, "{name}");
    }
    let seen = json!({ "id": delivery, "event": id, "state": "delivered", "tenant": TENANT,
                       "subscription": route.subscription, "event_type": "a.b", "attempt_count": 1 });
    for (name, value) in seen.as_object().into_iter().flatten() {
        assert_eq!(&shown["delivery"][name], value, "{name}");
    }
    let listed = cli.json(&["deliveries", "list", "--state", "delivered", "--event", &id]).await?;
    assert_eq!(listed[0]["id"], json!(delivery));
    assert_eq!(cli.json(&["deliveries", "list", "--state", "exhausted"]).await?, json!([]));
    let found = cli.json(&["events", "get", &id]).await?;
    assert_eq!((&found["data"], &found["deliveries"]), (&json!({ "n": 1.5 }), &json!([delivery])));
    let agents = cli.json(&["agents", "list"]).await?;
    assert_eq!((&agents[0]["id"], &agents[0]["state"]), (&json!(agent), &json!("connected")));
    let keys = cli.json(&["keys", "list", &route.subscription]).await?;
    assert_eq!((&keys[0]["state"], &keys[0]["secret"]), (&json!("active"), &Value::Null));
    Ok(())
}

#[tokio::test]
async fn a_key_is_revealed_and_revoked_by_its_id() -> Result<()> {
    let world = World::start().await?;
    let (cli, route) = (world.cli(), world.subscribe("/a").await?);
    let rotated = cli.json(&["keys", "rotate", &route.subscription]).await?;
    let keys = cli.json(&["keys", "list", &route.subscription]).await?;
    let (active, retiring) = (text(&keys[0], "id")?, text(&keys[1], "id")?);
    let revealed = cli.json(&["keys", "reveal", &route.subscription, active]).await?;
    assert_eq!(revealed["secret"], rotated["secret"]);
    let former = cli.json(&["keys", "reveal", &route.subscription, retiring]).await?;
    assert_eq!(text(&former, "secret")?, route.secret);
    let revoked = cli.json(&["keys", "revoke", &route.subscription, retiring]).await?;
    assert_eq!(text(&revoked, "state")?, "revoked");
    Ok(())
}

#[tokio::test]
async fn people_see_every_attempt_with_its_timings() -> Result<()> {
    let world = World::start().await?;
    world.receiver.script("/a", [Answer::Status(500), Answer::Status(204)]);
    let wanted = postrider_proto::v1::Subscription {
        retry_policy: postrider_tests::api::retries([std::time::Duration::from_secs(1)]),
        ..Default::default()
    };
    world.subscribe_with("/a", wanted).await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let shown = world.cli().run(&["deliveries", "show", &delivery]).await?;
    for expected in ["Attempt 1", "500 in ", "Attempt 2", "204 in ", "first byte", "HTTP/1.1", "agt-"] {
        assert!(shown.stdout.contains(expected), "{expected} is missing in {}", shown.stdout);
    }
    let listed = world.cli().run(&["deliveries", "list"]).await?;
    let title = listed.stdout.lines().next().unwrap_or_default();
    assert_eq!(
        title.split_whitespace().collect::<Vec<_>>().join(" "),
        "ID EVENT TYPE STATE ATTEMPTS LAST CREATED EVENT"
    );
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_fails_for_good_is_exit_code_five_and_can_be_retried_or_cancelled() -> Result<()> {
    let world = World::start().await?;
    let cli = world.cli();
    world.receiver.script("/a", [Answer::Status(500), Answer::Status(204)]);
    let url = world.receiver.url("/a");
    let once = ["--event-types", "*", "--retry-window", "0"];
    let made = cli.json(&[&["subscriptions", "create", "--url", &url], &once[..]].concat()).await?;
    let failed = cli.run(&["emit", "a.b", "--data", "{}", "--follow", "-o", "json"]).await?;
    assert_eq!(failed.code, 5, "{failed:?}");
    let printed: Value = serde_json::from_str(&failed.stdout)?;
    let ended = &printed["ended_deliveries"][0];
    assert_eq!((&ended["state"], &ended["last_attempt"]["http_status"]), (&json!("exhausted"), &json!(500)));
    let delivery = text(ended, "id")?;
    assert_eq!(cli.run(&["retry", delivery]).await?.code, 0);
    world.api.delivery_in(delivery, DeliveryState::Delivered).await?;

    let subscription = text(&made["subscription"], "id")?;
    assert_eq!(cli.run(&["subscriptions", "pause", subscription]).await?.code, 0);
    let (_, held) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let cancelled = cli.json(&["cancel", &held]).await?;
    assert_eq!(cancelled[0]["state"], "cancelled", "{cancelled}");
    let again = cli.run(&["cancel", &held]).await?;
    assert!(again.code == 4 && again.stderr.contains("DELIVERY_ENDED"), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn exit_codes_say_what_was_wrong() -> Result<()> {
    let mut world = World::start().await?;
    let cli = world.cli();
    let url = "ftp://example.com/";
    for (code, arguments, said) in [
        (2, &["emit"][..], "required"),
        (2, &["emit", "a.b"], "--data"),
        (3, &["events", "get", "nothing"], "nothing"),
        (3, &["deliveries", "show", "dlv_00000000000000000000000000-1"], "dlv_"),
        (4, &["emit", "a.b", "--data", "{"], "event.data"),
        (4, &["tenants", "create", TENANT], "ALREADY_EXISTS"),
        (4, &["subscriptions", "create", "--url", url, "--event-types", "*"], "subscription.url"),
    ] {
        let ended = cli.run(arguments).await?;
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(said) && ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
    world.control_plane.kill()?;
    let ended = cli.run(&["tenants", "list"]).await?;
    assert!(ended.code == 6 && ended.stderr.contains("not reachable"), "{ended:?}");
    Ok(())
}

/// Emits until `tail` shows a delivery, since it does not say when it has begun to listen.
async fn shows_deliveries(world: &World, tail: &Process, seen: usize) -> Result<()> {
    eventually("tail shows a delivery", async || {
        world.api.emit(event("a.b", "{}")).await?;
        let log = tail.log();
        Ok(when(log[seen..].lines().any(|line| line.contains(r#""state":"delivered""#))))
    })
    .await
}

#[tokio::test]
async fn tail_shows_what_happens_and_comes_back_after_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    world.subscribe("/a").await?;
    let log = world.folder().join("tail.log");
    let mut tail = Process::start("tail", world.cli().command(&["tail", "-o", "json"])?, &log)?;
    shows_deliveries(&world, &tail, 0).await?;
    world.control_plane.kill()?;
    let noticed = async || Ok(when(tail.log().contains("connecting again")));
    eventually("tail says that it connects again", noticed).await?;
    let seen = tail.log().len();
    world.control_plane.restart().await?;
    world.agent_connected().await?;
    shows_deliveries(&world, &tail, seen).await?;
    tail.kill()
}

//! A tenant as a file: `postrider export` and `postrider apply`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, SubscriptionState};
use postrider_tests::world::{TENANT, World};
use serde_json::{Value, json};

fn write(world: &World, name: &str, text: &str) -> Result<PathBuf> {
    let path = world.folder().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

async fn apply(world: &World, text: &str, more: &[&str]) -> Result<Value> {
    let path = write(world, "tenant.yaml", text)?;
    let path = path.to_str().context("a path is not UTF-8")?;
    world.cli().json(&[&["apply", "-f", path], more].concat()).await
}

/// What was done: kind, name and change, in order.
fn changes(answer: &Value) -> Vec<String> {
    let word = |change: &Value, name: &str| change[name].as_str().unwrap_or_default().to_owned();
    let line = |change: &Value| {
        format!("{} {} {}", word(change, "kind"), word(change, "name"), word(change, "change"))
    };
    answer["changes"].as_array().into_iter().flatten().map(line).collect()
}

async fn subscriptions(world: &World) -> Result<Vec<v1::Subscription>> {
    let request = v1::ListSubscriptionsRequest { tenant: TENANT.into(), ..Default::default() };
    Ok(world.api.subscriptions().list_subscriptions(request).await?.into_inner().subscriptions)
}

fn file(world: &World) -> String {
    let url = world.receiver.url("/billing");
    format!(
        "postrider: 1
tenant:
  id: {TENANT}
  display_name: Acme
  quota:
    max_subscriptions: 5
event_types:
  - name: invoice.paid
    description: An invoice is paid.
    validation: reject
    schema:
      type: object
      required: [invoiceId]
  - name: invoice.sent
subscriptions:
  - name: billing
    url: {url}
    event_types: [invoice.*]
    filter: event.data.amount > 100
    headers:
      authorization: Bearer s3cret
    retry_policy:
      schedule: [5s, 1m]
  - name: archive
    url: {url}
    event_types: ['*']
    paused: true
"
    )
}

#[tokio::test]
async fn a_file_is_applied_once_and_then_nothing_changes() -> Result<()> {
    let world = World::start().await?;
    let text = file(&world);
    let dry = apply(&world, &text, &["--dry-run"]).await?;
    let expected = [
        "tenant acme changed",
        "event_type invoice.paid created",
        "event_type invoice.sent created",
        "subscription billing created",
        "subscription archive created",
    ];
    assert_eq!(changes(&dry), expected);
    assert!(subscriptions(&world).await?.is_empty(), "a dry run has changed something");
    assert_eq!(changes(&apply(&world, &text, &[]).await?), expected);
    let made = subscriptions(&world).await?;
    assert_eq!(made.iter().map(|made| made.name.as_str()).collect::<Vec<_>>(), ["billing", "archive"]);
    assert_eq!((made[0].state(), made[1].state()), (SubscriptionState::Active, SubscriptionState::Paused));
    let again = apply(&world, &text, &["--prune"]).await?;
    assert!(changes(&again).iter().all(|line| line.ends_with(" unchanged")), "{again}");

    // What is exported is what was applied, without secrets, and changes nothing either.
    let exported = world.cli().run(&["export"]).await?;
    assert!(exported.code == 0 && !exported.stdout.contains("s3cret"), "{exported:?}");
    assert!(exported.stdout.contains("authorization: \"***\""), "{}", exported.stdout);
    let again = apply(&world, &exported.stdout, &["--prune"]).await?;
    assert!(changes(&again).iter().all(|line| line.ends_with(" unchanged")), "{again}\n{}", exported.stdout);
    Ok(())
}

#[tokio::test]
async fn what_differs_is_changed_and_what_is_not_in_the_file_is_pruned_when_asked() -> Result<()> {
    let world = World::start().await?;
    let text = file(&world);
    apply(&world, &text, &[]).await?;
    let by_hand = world.subscribe("/by-hand").await?;
    let changed = text
        .replace("display_name: Acme", "display_name: Acme Inc.")
        .replace("schedule: [5s, 1m]", "schedule: [5s, 2m]")
        .replace("    paused: true\n", "    paused: false\n")
        .replace("  - name: invoice.sent\n", "")
        .replace("amount > 100", "amount > 200");
    let expected = |rest: &str, event_type: &str| {
        vec![
            "tenant acme changed".to_owned(),
            "event_type invoice.paid unchanged".to_owned(),
            "subscription billing changed".to_owned(),
            "subscription archive changed".to_owned(),
            format!("subscription {} {rest}", by_hand.subscription),
            format!("event_type invoice.sent {event_type}"),
        ]
    };
    let dry = apply(&world, &changed, &["--prune", "--dry-run"]).await?;
    assert_eq!(changes(&dry), expected("pruned", "pruned"));
    let fields = dry["changes"][2]["fields"].as_array().context("no fields")?;
    let fields: Vec<_> = fields.iter().map(|field| field["field"].as_str().unwrap_or_default()).collect();
    assert_eq!(fields, ["filter", "retry_policy"]);
    let before = json!("event.data.amount > 100");
    assert_eq!(dry["changes"][2]["fields"][0]["before"], before);
    assert_eq!(subscriptions(&world).await?.len(), 3);
    // Without pruning it stays.
    apply(&world, &changed, &[]).await?;
    assert_eq!(subscriptions(&world).await?.len(), 3);
    apply(&world, &changed, &["--prune"]).await?;
    let left = subscriptions(&world).await?;
    assert_eq!(left.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), ["billing", "archive"]);
    assert_eq!(left[1].state(), SubscriptionState::Active);
    assert_eq!(left[0].filter, "event.data.amount > 200");
    let types = world.cli().json(&["event-types", "list"]).await?;
    assert_eq!(types.as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_subscription_gets_its_name_by_its_id_and_then_goes_by_it() -> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe("/a").await?;
    let exported = world.cli().run(&["export"]).await?;
    assert!(exported.stderr.contains("have no name"), "{exported:?}");
    let by_id = format!("  - id: {}\n", route.subscription);
    let named = exported.stdout.replace(&by_id, &format!("{by_id}    name: first\n"));
    let applied = apply(&world, &named, &["--prune"]).await?;
    assert!(changes(&applied).contains(&format!("subscription {} changed", route.subscription)), "{applied}");
    let by_name = exported.stdout.replace(&by_id, "  - name: first\n");
    let again = apply(&world, &by_name, &["--prune"]).await?;
    assert!(changes(&again).iter().all(|line| line.ends_with(" unchanged")), "{again}");
    // A name is one subscription's.
    let url = world.receiver.url("/b");
    let taken = v1::Subscription { name: "first".into(), url, ..Default::default() };
    let refused = world.api.subscribe(taken, "").await.err().context("a name was given twice")?;
    assert!(format!("{refused:?}").contains("first"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn every_problem_is_reported_and_nothing_is_changed() -> Result<()> {
    let world = World::start().await?;
    let text = file(&world)
        .replace("display_name: Acme", "display_nam: Acme")
        .replace("validation: reject", "validation: maybe")
        .replace("[5s, 1m]", "[5s, soon]");
    let path = write(&world, "wrong.yaml", &text)?;
    let ended = world.cli().run(&["apply", "-f", path.to_str().context("a path is not UTF-8")?]).await?;
    assert_eq!(ended.code, 2, "{ended:?}");
    for expected in ["3 errors", "line 4: tenant has no 'display_nam'", "line 10: ", "line 23: "] {
        assert!(ended.stderr.contains(expected), "{expected} is missing in {}", ended.stderr);
    }
    assert!(subscriptions(&world).await?.is_empty());
    let text = file(&world).replace(&format!("id: {TENANT}"), "id: other");
    let path = write(&world, "other.yaml", &text)?;
    let ended = world.cli().run(&["apply", "-f", path.to_str().context("a path is not UTF-8")?]).await?;
    assert!(ended.code == 2 && ended.stderr.contains("'other'"), "{ended:?}");
    Ok(())
}

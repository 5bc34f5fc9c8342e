//! The programs of docs/receiving.md: the same text in the page and in `examples/receivers`, and they do what it says with
//! real deliveries.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::no_retries;
use postrider_tests::binaries::repository;
use postrider_tests::tools;
use postrider_tests::wait::{eventually, when};

use crate::libraries::{SECRET, Stranger, free_port, send, started, tampered, world_with};

async fn inbox(name: &str, mut command: Command, folder: &Path) -> Result<Stranger> {
    let port = free_port().await?;
    // One secret more than is used, as while a key is changed.
    command.arg(port.to_string()).env("WEBHOOK_SECRETS", format!("whsec_{},{SECRET}", "A".repeat(32)));
    let process = started(name, command, folder, port).await?;
    Ok(Stranger { port, path: "/", refuses_with: 401, process })
}

fn program(path: &str) -> Result<std::path::PathBuf> {
    Ok(repository().join("examples/receivers").join(path).canonicalize()?)
}

async fn python(folder: &Path) -> Result<Stranger> {
    let mut command = Command::new(tools::python()?);
    command.arg(program("python/inbox.py")?).env("PYTHONDONTWRITEBYTECODE", "1");
    inbox("the Python inbox", command, folder).await
}

async fn node(folder: &Path) -> Result<Stranger> {
    let mut command = Command::new(tools::on_path("node")?);
    command.arg(program("node/inbox.mjs")?);
    inbox("the Node inbox", command, folder).await
}

/// An event about a document, that happened at a second.
fn about(document: &str, second: i64) -> v1::NewEvent {
    v1::NewEvent {
        r#type: "document.changed".into(),
        // With one part of a second more than the other, so that times are compared as times.
        timestamp: Some(prost_types::Timestamp {
            seconds: 1_770_028_200 + second,
            nanos: 500_000_000 * (second % 2) as i32,
        }),
        data: format!(r#"{{"documentId":"{document}","price":1.50,"status":"ä {second}"}}"#).into(),
        ..v1::NewEvent::default()
    }
}

async fn does_what_the_guide_says(stranger: impl AsyncFnOnce(&Path) -> Result<Stranger>) -> Result<()> {
    let (world, stranger) = world_with(stranger).await?;
    let wanted = v1::Subscription {
        url: stranger.url(),
        event_types: vec!["document.*".into()],
        retry_policy: no_retries(),
        ..v1::Subscription::default()
    };
    world.api.subscribe(wanted, SECRET).await?;
    let says = async |word: &str, id: &str| {
        let line = format!("{word}: {id}");
        eventually(&line, async || Ok(when(stranger.process.log().contains(&line)))).await
    };
    let (first, delivery) = world.api.emit_to_one(about("doc_1", 1)).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    says("applied", &first).await?;
    // The same event once more, as after a lost answer: its work is not done again.
    let retry = v1::RetryDeliveryRequest { tenant: world.api.tenant(), delivery, ..Default::default() };
    world.api.deliveries().retry_delivery(retry).await?;
    says("repeat", &first).await?;
    // What happened before comes too late, what happened after does not; another document has its own order.
    for (document, second, expected) in
        [("doc_1", 0, "stale"), ("doc_1", 2, "applied"), ("doc_2", 0, "applied")]
    {
        let (id, delivery) = world.api.emit_to_one(about(document, second)).await?;
        world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
        says(expected, &id).await?;
    }

    let url = world.receiver.url("/own");
    let wanted =
        v1::Subscription { url, event_types: vec!["taken.bytes".into()], ..v1::Subscription::default() };
    world.api.subscribe(wanted, SECRET).await?;
    let taken = v1::NewEvent { r#type: "taken.bytes".into(), ..about("doc_3", 1) };
    let (_, delivery) = world.api.emit_to_one(taken).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let post = world.receiver.posts().pop().context("nothing arrived")?;
    for (what, changed) in tampered(&post)? {
        ensure!(send(&stranger, &changed).await? == stranger.refuses_with, "{what}");
    }
    ensure!((200..300).contains(&send(&stranger, &post).await?), "untouched");
    Ok(())
}

#[tokio::test]
async fn the_python_inbox_does_what_the_guide_says() -> Result<()> {
    Box::pin(does_what_the_guide_says(python)).await
}

#[tokio::test]
async fn the_node_inbox_does_what_the_guide_says() -> Result<()> {
    Box::pin(does_what_the_guide_says(node)).await
}

#[test]
fn the_guide_has_the_programs_as_they_are() -> Result<()> {
    let guide = std::fs::read_to_string(repository().join("docs/receiving.md"))?;
    let programs = [
        ("python", "python/inbox.py"),
        ("js", "node/inbox.mjs"),
        ("go", "go/inbox.go"),
        ("java", "java/Inbox.java"),
        ("rust", "rust/src/main.rs"),
    ];
    for (language, path) in programs {
        let text = std::fs::read_to_string(program(path)?)?;
        ensure!(guide.contains(&format!("```{language}\n{text}```\n")), "{path} differs from the guide");
    }
    Ok(())
}

//! The programs of docs/receiving.md: the same text in the page and in `examples/receivers`, and they do what it says with
//! real deliveries.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{Api, no_retries};
use postrider_tests::binaries::repository;
use postrider_tests::cli::finish;
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

async fn go(folder: &Path) -> Result<Stranger> {
    // Compiled beforehand: what `go run` starts would outlive it.
    let binary = folder.join("inbox-go");
    let mut build = Command::new(tools::on_path("go")?);
    build.args(["build", "-o"]).arg(&binary).arg(program("go/inbox.go")?);
    build.env("GOCACHE", folder.join("go-cache")).env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off");
    built(build).await?;
    inbox("the Go inbox", Command::new(binary), folder).await
}

async fn java(folder: &Path) -> Result<Stranger> {
    let mut command = Command::new(tools::on_path("java")?);
    command.arg(program("java/Inbox.java")?);
    inbox("the Java inbox", command, folder).await
}

async fn rust(folder: &Path) -> Result<Stranger> {
    // A copy: its lock file and what is built stay out of the repository.
    let project = folder.join("inbox-rust");
    std::fs::create_dir_all(project.join("src"))?;
    for file in ["Cargo.toml", "src/main.rs"] {
        std::fs::copy(program(&format!("rust/{file}"))?, project.join(file))?;
    }
    let mut build = Command::new(tools::on_path("cargo")?);
    let target = project.join("target");
    build.args(["build", "--quiet"]).current_dir(&project).env("CARGO_TARGET_DIR", &target);
    built(build).await?;
    inbox("the Rust inbox", Command::new(target.join("debug/inbox")), folder).await
}

async fn built(command: Command) -> Result<()> {
    let ended = finish(command, None).await?;
    ensure!(ended.code == 0, "{}\n{}", ended.stdout, ended.stderr);
    Ok(())
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
    let subscribed = world.api.subscribe(wanted, SECRET).await?;
    let says = async |word: &str, id: &str| {
        let line = format!("{word}: {id}");
        eventually(&line, async || Ok(when(stranger.process.log().contains(&line)))).await
    };
    accepts_test_events(&world.api, &subscribed.id, &stranger, &format!("whsec_{}", "B".repeat(32))).await?;
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

/// A test of the subscription and a test of its key are accepted and not processed; a test of
/// another key is refused.
pub(super) async fn accepts_test_events(
    api: &Api,
    subscription: &str,
    stranger: &Stranger,
    unknown: &str,
) -> Result<()> {
    let (tenant, subscription) = (api.tenant(), subscription.to_owned());
    let list = v1::ListSigningKeysRequest { tenant: tenant.clone(), subscription: subscription.clone() };
    let known = api.signing_keys().list_signing_keys(list).await?.into_inner().signing_keys;
    let create = v1::CreateSigningKeyRequest {
        tenant: tenant.clone(),
        subscription: subscription.clone(),
        secret: unknown.to_owned(),
        ..Default::default()
    };
    let unknown = api.signing_keys().create_signing_key(create).await?.into_inner().signing_key;
    let unknown = unknown.context("no key")?;
    let test_key = async |key: &v1::SigningKey| -> Result<v1::TestSigningKeyResponse> {
        let (tenant, subscription, signing_key) = (tenant.clone(), subscription.clone(), key.id.clone());
        let request = v1::TestSigningKeyRequest { tenant, subscription, signing_key, ..Default::default() };
        Ok(api.signing_keys().test_signing_key(request).await?.into_inner())
    };
    let request = v1::TestSubscriptionRequest {
        tenant: tenant.clone(),
        subscription: subscription.clone(),
        ..Default::default()
    };
    let tested = api.subscriptions().test_subscription(request).await?.into_inner();
    ensure!(tested.verdict.contains("accepted the test event"), "{tested:?} {}", stranger.process.log());
    let key_tested = test_key(&known[0]).await?;
    ensure!(key_tested.verdict.contains("it has this key"), "{key_tested:?} {}", stranger.process.log());
    for id in [&tested.event_id, &key_tested.event_id] {
        let line = format!("test: {id}");
        eventually(&line, async || Ok(when(stranger.process.log().contains(&line)))).await?;
    }
    let refused = test_key(&unknown).await?;
    let status = refused.attempt.as_ref().map(|attempt| attempt.http_status);
    ensure!(status == Some(stranger.refuses_with), "{refused:?}");
    let revoke = v1::RevokeSigningKeyRequest { tenant, subscription, signing_key: unknown.id };
    api.signing_keys().revoke_signing_key(revoke).await?;
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

#[tokio::test]
async fn the_go_inbox_does_what_the_guide_says() -> Result<()> {
    Box::pin(does_what_the_guide_says(go)).await
}

#[tokio::test]
async fn the_java_inbox_does_what_the_guide_says() -> Result<()> {
    Box::pin(does_what_the_guide_says(java)).await
}

#[tokio::test]
async fn the_rust_inbox_does_what_the_guide_says() -> Result<()> {
    Box::pin(does_what_the_guide_says(rust)).await
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

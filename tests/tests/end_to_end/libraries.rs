//! Deliveries verified by libraries that nobody here wrote, in the receivers of `examples/` and in a server that
//! people use.
//!
//! Each receiver gets real deliveries from a real agent. Then it gets the very bytes of one of them once more, from
//! this test: untouched it is accepted, with anything changed it is refused. So is a delivery that was signed with a
//! secret which the receiver does not know.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{event, no_retries};
use postrider_tests::binaries::repository;
use postrider_tests::process::Process;
use postrider_tests::receiver::Post;
use postrider_tests::tools;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{AgentSettings, World};
use tokio::net::{TcpListener, TcpStream};

use crate::inboxes::accepts_test_events;

/// The secret that receivers know.
pub(super) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
/// What is delivered: not only ASCII, and not as a JSON library would write it.
pub(super) const DATA: &str = r#"{ "documentId":"doc_ä😀", "price":1.50 }"#;

/// A program that receives at a path of a port of its own.
pub(super) struct Stranger {
    pub(super) port: u16,
    pub(super) path: &'static str,
    /// What it answers when it refuses.
    pub(super) refuses_with: u32,
    pub(super) process: Process,
}

impl Stranger {
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, self.path)
    }
}

/// A port that is free now: these programs do not tell which one they got.
pub(super) async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

pub(super) async fn started(name: &str, command: Command, folder: &Path, port: u16) -> Result<Process> {
    let mut process = Process::start(name, command, &folder.join(format!("{port}.log")))?;
    eventually(&format!("{name} listens"), async || {
        anyhow::ensure!(process.ended()?.is_none(), "{name} has ended: {}", process.log());
        Ok(TcpStream::connect(("127.0.0.1", port)).await.ok())
    })
    .await?;
    Ok(process)
}

/// `examples/python/receiver.py`, with the library from PyPI.
pub(super) async fn python(folder: &Path) -> Result<Stranger> {
    let port = free_port().await?;
    let mut command = Command::new(tools::python()?);
    command.arg(repository().join("examples/python/receiver.py")).arg(port.to_string());
    command.env("WEBHOOK_SECRET", SECRET);
    let process = started("the Python receiver", command, folder, port).await?;
    Ok(Stranger { port, path: "/webhooks", refuses_with: 401, process })
}

/// `examples/node/receiver.mjs`, with the library from npm.
async fn node(folder: &Path) -> Result<Stranger> {
    // Node looks for packages beside the program: a copy, with the tests' packages beside it.
    let program = folder.join("receiver.mjs");
    std::fs::copy(repository().join("examples/node/receiver.mjs"), &program)?;
    std::os::unix::fs::symlink(tools::node_modules()?, folder.join("node_modules"))?;
    let port = free_port().await?;
    let mut command = Command::new(tools::on_path("node")?);
    command.arg(program).arg(port.to_string()).env("WEBHOOK_SECRET", SECRET);
    let process = started("the Node receiver", command, folder, port).await?;
    Ok(Stranger { port, path: "/webhooks", refuses_with: 401, process })
}

/// Debian's `webhook` server. Its own signature rules compare hex digests of the body alone, and Standard Webhooks
/// signs id, timestamp and body, in base64: no rule of it can verify that. So its rule looks at the form of the
/// headers, and the command of its hook, which gets headers and raw body from it, verifies with the Python library;
/// the command's failure is the server's answer 500. What is shown is that the request passes a server that people
/// use, with every byte and header that verifying needs.
async fn debian(folder: &Path) -> Result<Stranger> {
    let port = free_port().await?;
    let hooks = folder.join("hooks.json");
    std::fs::write(&hooks, hook_definition(&tools::python()?)?)?;
    let mut command = Command::new(tools::on_path("webhook")?);
    command.args(["-ip", "127.0.0.1", "-verbose", "-port", &port.to_string(), "-hooks"]).arg(hooks);
    command.env("WEBHOOK_SECRET", SECRET);
    let process = started("Debian's webhook server", command, folder, port).await?;
    Ok(Stranger { port, path: "/hooks/events", refuses_with: 500, process })
}

fn hook_definition(python: &Path) -> Result<String> {
    let verify: PathBuf = repository().join("tests/python/verify.py").canonicalize()?;
    let header = |name: &str| serde_json::json!({ "source": "header", "name": name });
    let signed = serde_json::json!({
        "match": { "type": "regex", "regex": "^v1,[A-Za-z0-9+/]{43}=", "parameter": header("Webhook-Signature") }
    });
    let hook = serde_json::json!([{
        "id": "events",
        "http-methods": ["POST"],
        "trigger-rule": signed,
        "trigger-rule-mismatch-http-response-code": 500,
        "execute-command": python,
        "include-command-output-in-response": true,
        "pass-arguments-to-command": [
            { "source": "string", "name": verify },
            header("Webhook-Id"),
            header("Webhook-Timestamp"),
            header("Webhook-Signature"),
            { "source": "raw-request-body" },
        ],
    }]);
    Ok(hook.to_string())
}

/// Sends a POST that arrived elsewhere to a stranger, and returns the status.
pub(super) async fn send(stranger: &Stranger, post: &Post) -> Result<u32> {
    let address: SocketAddr = ([127, 0, 0, 1], stranger.port).into();
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let mut request = Request::post(stranger.path).body(Full::new(post.body.clone()))?;
    *request.headers_mut() = post.headers.clone();
    let length = post.body.len().to_string();
    request.headers_mut().insert("content-length", length.parse()?);
    let response = sender.send_request(request).await?;
    Ok(response.status().as_u16().into())
}

/// What a stranger must refuse: the same POST, with one thing changed.
pub(super) fn tampered(post: &Post) -> Result<Vec<(&'static str, Post)>> {
    let with = |name: &'static str, value: &str| -> Result<Post> {
        let mut changed = post.clone();
        changed.headers.insert(name, value.parse()?);
        Ok(changed)
    };
    let time: i64 = post.headers["webhook-timestamp"].to_str()?.parse()?;
    let body = String::from_utf8(post.body.to_vec())?.replace("1.50", "1.51");
    Ok(vec![
        ("another body", Post { body: Bytes::from(body), ..post.clone() }),
        ("another id", with("webhook-id", "evt_other")?),
        ("another timestamp", with("webhook-timestamp", &(time + 1).to_string())?),
        ("an old timestamp", with("webhook-timestamp", &(time - 3600).to_string())?),
        ("another signature", with("webhook-signature", &format!("v1,{}=", "A".repeat(43)))?),
    ])
}

/// A world whose agent may call a stranger, and the stranger.
pub(super) async fn world_with(
    stranger: impl AsyncFnOnce(&Path) -> Result<Stranger>,
) -> Result<(World, Stranger)> {
    let mut world = World::without_agent(AgentSettings::default(), &[]).await?;
    let stranger = stranger(world.folder()).await?;
    world.agent.settings.ports.push(stranger.port);
    world.agent.start()?;
    world.agent_connected().await?;
    Ok((world, stranger))
}

async fn verifies_and_refuses(stranger: impl AsyncFnOnce(&Path) -> Result<Stranger>) -> Result<()> {
    let (world, stranger) = world_with(stranger).await?;
    let wanted = |url: &str, event_type: &str| v1::Subscription {
        url: url.to_owned(),
        event_types: vec![event_type.to_owned()],
        retry_policy: no_retries(),
        ..v1::Subscription::default()
    };
    world.api.subscribe(wanted(&stranger.url(), "known.secret"), SECRET).await?;
    let (id, delivery) = world.api.emit_to_one(event("known.secret", DATA)).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert!((200..300).contains(&attempts[0].http_status));
    let log = async || Ok(when(stranger.process.log().contains(&format!("verified: {id}"))));
    eventually("it says that the signature is right", log).await?;

    world.api.subscribe(wanted(&stranger.url(), "other.secret"), "").await?;
    let (other, delivery) = world.api.emit_to_one(event("other.secret", DATA)).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
    assert_eq!(attempts[0].http_status, stranger.refuses_with);
    assert!(stranger.process.log().contains("refused: "), "{}", stranger.process.log());
    assert!(!stranger.process.log().contains(&format!("verified: {other}")));

    // The same secret signs for our own receiver, from which the bytes are taken.
    world.api.subscribe(wanted(&world.receiver.url("/own"), "taken.bytes"), SECRET).await?;
    let (_, delivery) = world.api.emit_to_one(event("taken.bytes", DATA)).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let post = world.receiver.posts().pop().context("nothing arrived")?;
    assert!((200..300).contains(&send(&stranger, &post).await?), "untouched");
    for (what, changed) in tampered(&post)? {
        assert_eq!(send(&stranger, &changed).await?, stranger.refuses_with, "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn the_python_library_verifies_deliveries_and_refuses_forgeries() -> Result<()> {
    Box::pin(verifies_and_refuses(python)).await
}

#[tokio::test]
async fn the_receivers_with_libraries_accept_test_events() -> Result<()> {
    let unknown = format!("whsec_{}", "B".repeat(32));
    for stranger in [Box::pin(world_with(python)).await?, Box::pin(world_with(node)).await?] {
        let (world, stranger) = stranger;
        let wanted = v1::Subscription { url: stranger.url(), ..v1::Subscription::default() };
        let made = world.api.subscribe(wanted, SECRET).await?;
        accepts_test_events(&world.api, &made.id, &stranger, &unknown).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_node_library_verifies_deliveries_and_refuses_forgeries() -> Result<()> {
    Box::pin(verifies_and_refuses(node)).await
}

#[tokio::test]
async fn debians_webhook_server_passes_deliveries_that_verify_and_refuses_forgeries() -> Result<()> {
    Box::pin(verifies_and_refuses(debian)).await
}

#[tokio::test]
async fn a_rotated_key_verifies_beside_the_old_one_until_that_is_revoked() -> Result<()> {
    let (world, old) = world_with(python).await?;
    let wanted =
        v1::Subscription { url: old.url(), retry_policy: no_retries(), ..v1::Subscription::default() };
    let made = world.api.subscribe(wanted, SECRET).await?;
    let rotate = v1::RotateSigningKeyRequest {
        tenant: world.api.tenant(),
        subscription: made.id.clone(),
        ..v1::RotateSigningKeyRequest::default()
    };
    let keys = v1::ListSigningKeysRequest { tenant: world.api.tenant(), subscription: made.id.clone() };
    let keys = world.api.signing_keys().list_signing_keys(keys).await?.into_inner().signing_keys;
    world.api.signing_keys().rotate_signing_key(rotate).await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", DATA)).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let revoke = v1::RevokeSigningKeyRequest {
        tenant: world.api.tenant(),
        subscription: made.id,
        signing_key: keys[0].id.clone(),
    };
    world.api.signing_keys().revoke_signing_key(revoke).await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", DATA)).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
    assert_eq!(attempts[0].http_status, 401);
    Ok(())
}

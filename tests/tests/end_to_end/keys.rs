//! Signing keys from their making to their end: handed over before they are used, tested, activated, retired, revoked;
//! from one scheme to the other; and all of it under load.

mod key_tests;
mod load;
mod rotate_all;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_domain::signing::{PublicKey, Secret};
use postrider_domain::time::Timestamp;
use postrider_proto::v1::{self, DeliveryState, SigningKeyState};
use postrider_tests::api::{Api, duration, event, no_retries};
use postrider_tests::binaries::repository;
use postrider_tests::receiver::Post;
use postrider_tests::tools;
use postrider_tests::wait::PATIENCE;
use postrider_tests::world::World;
use rustix::process::Signal;
use tonic::Code;

use super::libraries::{DATA, SECRET, Stranger, free_port, python, send, started, tampered, world_with};

/// What is made and returned for a subscription of the tenant.
struct Keys<'a> {
    api: &'a Api,
    subscription: String,
}

impl Keys<'_> {
    async fn list(&self) -> Result<Vec<v1::SigningKey>> {
        let (tenant, subscription) = (self.api.tenant(), self.subscription.clone());
        let request = v1::ListSigningKeysRequest { tenant, subscription };
        Ok(self.api.signing_keys().list_signing_keys(request).await?.into_inner().signing_keys)
    }

    async fn get(&self, id: &str) -> Result<v1::SigningKey> {
        self.list().await?.into_iter().find(|key| key.id == id).context("the key is not in the list")
    }

    async fn create(&self, scheme: &str, secret: &str, request_id: &str) -> Result<(String, String)> {
        let request = v1::CreateSigningKeyRequest {
            tenant: self.api.tenant(),
            subscription: self.subscription.clone(),
            scheme: scheme.into(),
            secret: secret.into(),
            request_id: request_id.into(),
        };
        let made = self.api.signing_keys().create_signing_key(request).await?.into_inner();
        let key = made.signing_key.context("no key in the answer")?;
        anyhow::ensure!(key.state() == SigningKeyState::Pending, "{:?}", key.state());
        Ok((key.id, made.secret))
    }

    async fn activate(&self, key: &str, overlap: Duration) -> Result<v1::SigningKey> {
        let request = v1::ActivateSigningKeyRequest {
            tenant: self.api.tenant(),
            subscription: self.subscription.clone(),
            signing_key: key.into(),
            overlap: Some(duration(overlap)),
            request_id: format!("activate {key}"),
        };
        let answer = self.api.signing_keys().activate_signing_key(request).await?.into_inner();
        answer.signing_key.context("no key in the answer")
    }

    async fn rotate(&self, scheme: &str, overlap: Duration) -> Result<(String, String)> {
        let request = v1::RotateSigningKeyRequest {
            tenant: self.api.tenant(),
            subscription: self.subscription.clone(),
            scheme: scheme.into(),
            overlap: Some(duration(overlap)),
            ..v1::RotateSigningKeyRequest::default()
        };
        let made = self.api.signing_keys().rotate_signing_key(request).await?.into_inner();
        Ok((made.signing_key.context("no key in the answer")?.id, made.secret))
    }

    async fn revoke(&self, key: &str) -> Result<(), tonic::Status> {
        let request = v1::RevokeSigningKeyRequest {
            tenant: self.api.tenant(),
            subscription: self.subscription.clone(),
            signing_key: key.into(),
        };
        self.api.signing_keys().revoke_signing_key(request).await.map(drop)
    }

    async fn test_key(&self, key: &str) -> Result<v1::TestSigningKeyResponse, tonic::Status> {
        let request = v1::TestSigningKeyRequest {
            tenant: self.api.tenant(),
            subscription: self.subscription.clone(),
            signing_key: key.into(),
            ..v1::TestSigningKeyRequest::default()
        };
        Ok(self.api.signing_keys().test_signing_key(request).await?.into_inner())
    }

    /// Tests a key, and returns the status that the receiver answered.
    async fn status_of_test(&self, key: &str) -> Result<u32> {
        Ok(self.test_key(key).await?.attempt.context("no attempt")?.http_status)
    }
}

async fn emitted(api: &Api, ends: DeliveryState) -> Result<()> {
    let (_, delivery) = api.emit_to_one(event("a.b", DATA)).await?;
    api.delivery_in(&delivery, ends).await.map(drop)
}

const HOUR: Duration = Duration::from_secs(3600);

/// The receiver is the example in Python, with the library: it accepts what its one secret verifies, and nothing else.
#[tokio::test]
async fn a_key_is_handed_over_tested_activated_and_its_predecessor_revoked_on_evidence() -> Result<()> {
    let (mut world, receiver) = world_with(python).await?;
    let wanted =
        v1::Subscription { url: receiver.url(), retry_policy: no_retries(), ..v1::Subscription::default() };
    let made = world.api.subscribe(wanted, "").await?;
    let keys = Keys { api: &world.api, subscription: made.id.clone() };
    let old = keys.list().await?[0].id.clone();

    let (new, secret) = keys.create("", SECRET, "one").await?;
    assert_eq!(
        keys.create("", SECRET, "one").await?,
        (new.clone(), secret),
        "by its request id it is the same"
    );
    emitted(&world.api, DeliveryState::Exhausted).await?;
    assert_eq!(keys.status_of_test(&old).await?, 401);
    assert_eq!(keys.get(&new).await?.advice, "hand it to the receiver, then test it");
    assert!((200..300).contains(&keys.status_of_test(&new).await?));
    let shown = keys.get(&new).await?;
    assert_eq!(
        (shown.advice.as_str(), shown.state()),
        ("the receiver has it: activate it", SigningKeyState::Pending)
    );
    assert!(shown.last_accept_time.is_some() && shown.last_sign_time.is_some());
    assert!(!keys.get(&old).await?.safe_to_revoke, "the new key does not sign yet");

    assert_eq!(keys.activate(&new, HOUR).await?.state(), SigningKeyState::Active);
    assert_eq!(keys.activate(&new, HOUR).await?.state(), SigningKeyState::Active, "again, by its request id");
    emitted(&world.api, DeliveryState::Delivered).await?;
    let retiring = keys.get(&old).await?;
    assert!(retiring.state() == SigningKeyState::Retiring && retiring.safe_to_revoke, "{retiring:?}");
    assert_eq!(retiring.last_accept_time, None, "it has never been accepted alone");
    let list = world.cli().run(&["keys", "list", &made.id]).await?;
    assert!(list.stdout.contains("safe to revoke"), "{list:?}");
    keys.revoke(&old).await?;
    emitted(&world.api, DeliveryState::Delivered).await?;
    let refused = keys.test_key(&old).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("revoked"), "{refused:#}");

    let before = keys.get(&new).await?.last_accept_time;
    world.control_plane.signal(Signal::TERM)?;
    world.control_plane.exit(PATIENCE).await?;
    world.control_plane.restart().await?;
    world.agent_connected().await?;
    let keys = Keys { api: &world.api, subscription: made.id.clone() };
    assert_eq!(keys.get(&new).await?.last_accept_time, before, "evidence outlives a restart");
    moves_to_another_receiver(&world, &keys, &new).await
}

/// What one receiver accepted says nothing about another.
async fn moves_to_another_receiver(world: &World, keys: &Keys<'_>, key: &str) -> Result<()> {
    let update = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            tenant: world.api.tenant(),
            id: keys.subscription.clone(),
            url: world.receiver.url("/other"),
            ..v1::Subscription::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["url".into()] }),
    };
    world.api.subscriptions().update_subscription(update).await?;
    assert_eq!(keys.get(key).await?.last_accept_time, None);
    keys.test_key(key).await?;
    assert!(keys.get(key).await?.last_accept_time.is_some());
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_receiver_lacks_is_never_said_to_be_known_to_it() -> Result<()> {
    let (world, receiver) = world_with(python).await?;
    let wanted =
        v1::Subscription { url: receiver.url(), retry_policy: no_retries(), ..v1::Subscription::default() };
    let made = world.api.subscribe(wanted, SECRET).await?;
    let keys = Keys { api: &world.api, subscription: made.id };
    let old = keys.list().await?[0].id.clone();
    let (new, _) = keys.rotate("", HOUR).await?;
    // By the old signature in the list: that says nothing about the new key.
    emitted(&world.api, DeliveryState::Delivered).await?;
    assert_eq!(keys.status_of_test(&new).await?, 401);
    assert_eq!(keys.get(&new).await?.last_accept_time, None);
    let shown = keys.get(&old).await?;
    assert!(
        !shown.safe_to_revoke && shown.advice.starts_with("test the active key first"),
        "{}",
        shown.advice
    );
    for _ in 0..2 {
        keys.rotate("", HOUR).await?;
    }
    let refused = keys.rotate("", HOUR).await.unwrap_err();
    assert!(format!("{refused:#}").contains("3 keys are retiring already"), "{refused:#}");
    Ok(())
}

/// The way of docs/operating.md, by commands alone.
#[tokio::test]
async fn commands_create_test_activate_and_revoke_and_set_profiles() -> Result<()> {
    let world = World::start().await?;
    let cli = world.cli();
    let json = async |arguments: &[&str]| -> Result<serde_json::Value> {
        let ended = cli.run(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&ended.stdout).with_context(|| format!("{arguments:?}: {ended:?}"))
    };
    let url = world.receiver.url("/in");
    let timestamped = "timestamped:encoding=base64,signature=X-Acme-Signature";
    let made = json(&[
        "subscriptions",
        "create",
        "--url",
        &url,
        "--event-types",
        "*",
        "--signature-profile",
        "standard_webhooks",
        "--signature-profile",
        timestamped,
    ])
    .await?;
    let id = made["subscription"]["id"].as_str().context("no id")?;
    let old = made["signing_key"]["id"].as_str().context("no key")?;
    assert_eq!(
        made["subscription"]["signature_profiles"],
        serde_json::json!([
            "standard_webhooks",
            "timestamped:encoding=base64,signature=x-acme-signature,\
             timestamp=x-webhook-timestamp,event-id=x-webhook-event-id"
        ])
    );
    let created = json(&["keys", "create", id]).await?;
    let new = created["signing_key"]["id"].as_str().context("no key")?;
    assert_eq!(created["signing_key"]["state"], "pending");
    let test = json(&["keys", "test", id, new]).await?;
    assert_eq!(test["verdict"], "the receiver accepted it: it has this key");
    assert_eq!(test["attempt"]["http_status"], 204);
    let post = world.receiver.posts().pop().context("nothing arrived")?;
    let secret = Secret::parse(created["secret"].as_str().context("no secret")?)?;
    assert!(
        signed_with(&post, |list, id, time| list == secret.sign(id, time, &post.body))?,
        "signed with it alone"
    );
    assert_eq!(header(&post, "x-acme-signature")?.len(), 44);
    assert_eq!(json(&["keys", "activate", id, new, "--overlap", "1h"]).await?["state"], "active");
    let listed = json(&["keys", "list", id]).await?;
    let former =
        listed.as_array().and_then(|keys| keys.iter().find(|key| key["id"] == old)).context("no old key")?;
    assert_eq!((&former["state"], &former["safe_to_revoke"]), (&"retiring".into(), &true.into()));
    assert_eq!(json(&["keys", "revoke", id, old]).await?["state"], "revoked");
    let rotated = json(&["keys", "rotate", id, "--scheme", "v1a", "--overlap", "0"]).await?;
    let public = rotated["signing_key"]["public_key"].as_str().unwrap_or_default();
    assert!(public.starts_with("whpk_"), "{rotated}");
    let one = json(&["subscriptions", "update", id, "--signature-profile", "standard_webhooks"]).await?;
    assert_eq!(one["signature_profiles"], serde_json::json!(["standard_webhooks"]));
    let bad = cli.run(&["subscriptions", "update", id, "--signature-profile", "svix"]).await?;
    assert!(bad.stderr.contains("say standard_webhooks, timestamped, stripe or github"), "{bad:?}");
    Ok(())
}

/// `examples/node/receiver_v1a.mjs`, which knows this public key.
async fn public_receiver(folder: &Path, public: &str) -> Result<Stranger> {
    let port = free_port().await?;
    let mut command = Command::new(tools::on_path("node")?);
    command.arg(repository().join("examples/node/receiver_v1a.mjs")).arg(port.to_string());
    command.env("WEBHOOK_PUBLIC_KEY", public);
    let process = started("the receiver for v1a", command, folder, port).await?;
    Ok(Stranger { port, path: "/webhooks", refuses_with: 401, process })
}

#[tokio::test]
async fn the_example_for_v1a_verifies_deliveries_with_a_public_key_and_refuses_forgeries() -> Result<()> {
    let secret = Secret::from_seed(&[7; 32]);
    let public = secret.public().context("it is of v1a")?.to_string();
    let (world, receiver) = world_with(async |folder| public_receiver(folder, &public).await).await?;
    let wanted =
        |url: String| v1::Subscription { url, retry_policy: no_retries(), ..v1::Subscription::default() };
    // As receivers move to it: beside a key of v1.
    let made = world.api.subscribe(wanted(receiver.url()), "").await?;
    let keys = Keys { api: &world.api, subscription: made.id };
    emitted(&world.api, DeliveryState::Exhausted).await?;
    let (key, _) = keys.create("v1a", &secret.expose_text(), "").await?;
    keys.activate(&key, HOUR).await?;
    emitted(&world.api, DeliveryState::Delivered).await?;
    assert!((200..300).contains(&keys.status_of_test(&key).await?), "a test event");
    assert!(receiver.process.log().contains("test: evt_"), "{}", receiver.process.log());
    let request =
        v1::DeleteSubscriptionRequest { tenant: world.api.tenant(), subscription: keys.subscription };
    world.api.subscriptions().delete_subscription(request).await?;

    world.api.subscribe(wanted(world.receiver.url("/own")), &secret.expose_text()).await?;
    emitted(&world.api, DeliveryState::Delivered).await?;
    let post = world.receiver.posts().pop().context("nothing arrived")?;
    assert!((200..300).contains(&send(&receiver, &post).await?), "untouched");
    for (what, changed) in tampered(&post)? {
        assert_eq!(send(&receiver, &changed).await?, receiver.refuses_with, "{what}");
    }
    Ok(())
}

fn header<'a>(post: &'a Post, name: &str) -> Result<&'a str> {
    let value = post.headers.get(name).with_context(|| format!("no {name}"))?;
    Ok(value.to_str()?)
}

/// Whether a key of either kind verifies the POST.
fn signed_with(
    post: &Post,
    verifies: impl Fn(&str, &postrider_domain::id::EventId, Timestamp) -> bool,
) -> Result<bool> {
    let seconds: i64 = header(post, "webhook-timestamp")?.parse()?;
    let id = header(post, "webhook-id")?.parse()?;
    Ok(verifies(header(post, "webhook-signature")?, &id, Timestamp::from_millis(seconds * 1000)))
}

/// Whether a shared secret verifies the POST.
fn verifies(post: &Post, secret: &str) -> Result<bool> {
    let secret = Secret::parse(secret)?;
    signed_with(post, |list, id, time| secret.verifies(list, id, time, &post.body))
}

#[tokio::test]
async fn a_receiver_moves_from_v1_to_v1a_with_both_signatures_in_one_list() -> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe("/in").await?;
    let keys = Keys { api: &world.api, subscription: route.subscription.clone() };
    let shared = Secret::parse(&route.secret)?;
    let old = keys.list().await?[0].id.clone();
    let (new, secret) = keys.create("v1a", "", "").await?;
    assert!(secret.starts_with("whsk_"));
    let public: PublicKey = keys.get(&new).await?.public_key.parse()?;
    assert_eq!(Secret::parse(&secret)?.public(), Some(public));
    let last = async || -> Result<(bool, bool, String)> {
        emitted(&world.api, DeliveryState::Delivered).await?;
        let post = world.receiver.posts().pop().context("nothing arrived")?;
        let v1 = signed_with(&post, |list, id, time| shared.verifies(list, id, time, &post.body))?;
        let v1a = signed_with(&post, |list, id, time| public.verifies(list, id, time, &post.body))?;
        assert_eq!(post.headers.get_all("webhook-signature").iter().count(), 1);
        Ok((v1, v1a, header(&post, "webhook-signature")?.to_owned()))
    };
    assert!(matches!(last().await?, (true, false, _)));
    keys.activate(&new, HOUR).await?;
    let (v1, v1a, list) = last().await?;
    assert!(v1 && v1a, "{list}");
    let schemes: Vec<_> = list.split(' ').map(|entry| entry.split(',').next().unwrap_or_default()).collect();
    assert_eq!(schemes, ["v1", "v1a"]);
    let states: Vec<_> = keys.list().await?.iter().map(v1::SigningKey::state).collect();
    assert_eq!(states, [SigningKeyState::Active; 2]);
    keys.test_key(&new).await?;
    assert!(keys.get(&old).await?.safe_to_revoke);
    keys.revoke(&old).await?;
    assert!(matches!(last().await?, (false, true, _)));
    assert_eq!(keys.revoke(&new).await.unwrap_err().code(), Code::FailedPrecondition);
    Ok(())
}

//! Signature profiles: deliveries verified, without a line changed, by receivers that were written for other senders:
//! Stripe's own library, GitHub's own, and one for the headers that DocuRift documents.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use postrider_proto::v1::signature_profile::Profile;
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{event, no_retries};
use postrider_tests::binaries::repository;
use postrider_tests::receiver::Post;
use postrider_tests::tools;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::World;

use super::libraries::{DATA, SECRET, Stranger, free_port, send, started, world_with};

/// `tests/python/`, by its file's name.
async fn python(folder: &Path, program: &str) -> Result<Stranger> {
    let port = free_port().await?;
    let mut command = Command::new(tools::python()?);
    command.arg(repository().join("tests/python").join(program)).arg(port.to_string());
    command.env("WEBHOOK_SECRET", SECRET);
    let process = started(program, command, folder, port).await?;
    Ok(Stranger { port, path: "/in", refuses_with: 401, process })
}

/// `tests/node/github_receiver.mjs`.
async fn github(folder: &Path) -> Result<Stranger> {
    // Node looks for packages beside the program, which is where the tests' packages are.
    let program = tools::node_modules()?.with_file_name("github_receiver.mjs");
    let port = free_port().await?;
    let mut command = Command::new(tools::on_path("node")?);
    command.arg(program).arg(port.to_string()).env("WEBHOOK_SECRET", SECRET);
    let process = started("the receiver for GitHub", command, folder, port).await?;
    Ok(Stranger { port, path: "/in", refuses_with: 401, process })
}

fn profile(profile: Profile) -> v1::SignatureProfile {
    v1::SignatureProfile { profile: Some(profile) }
}

fn standard() -> v1::SignatureProfile {
    profile(Profile::StandardWebhooks(v1::StandardWebhooksProfile {}))
}

fn docurift() -> v1::SignatureProfile {
    profile(Profile::Timestamped(v1::TimestampedProfile {
        signature_header: "X-DocuRift-Signature".into(),
        timestamp_header: "X-DocuRift-Timestamp".into(),
        event_id_header: "X-DocuRift-Event-Id".into(),
        ..v1::TimestampedProfile::default()
    }))
}

fn stripe() -> v1::SignatureProfile {
    profile(Profile::Stripe(v1::StripeProfile::default()))
}

fn github_profile() -> v1::SignatureProfile {
    profile(Profile::Github(v1::GitHubProfile::default()))
}

fn wanted(url: &str, event_type: &str, profiles: Vec<v1::SignatureProfile>) -> v1::Subscription {
    v1::Subscription {
        url: url.to_owned(),
        event_types: vec![event_type.to_owned()],
        retry_policy: no_retries(),
        signature_profiles: profiles,
        ..v1::Subscription::default()
    }
}

/// Delivers to the stranger by the profile, alone and beside all others; and what it must not accept.
async fn verifies_unchanged(
    stranger: impl AsyncFnOnce(&Path) -> Result<Stranger>,
    profile: v1::SignatureProfile,
) -> Result<()> {
    let (world, stranger) = world_with(stranger).await?;
    let all = vec![standard(), docurift(), stripe(), github_profile()];
    for (name, profiles) in [("alone.a", vec![profile.clone()]), ("among.others", all)] {
        world.api.subscribe(wanted(&stranger.url(), name, profiles), SECRET).await?;
        let (id, delivery) = world.api.emit_to_one(event(name, DATA)).await?;
        world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
        let log = async || Ok(when(stranger.process.log().contains(&format!("verified: {id}"))));
        eventually("it says that the signature is right", log).await?;
    }
    for (name, profiles, secret) in
        [("other.secret", vec![profile.clone()], ""), ("other.profile", vec![standard()], SECRET)]
    {
        world.api.subscribe(wanted(&stranger.url(), name, profiles), secret).await?;
        let (_, delivery) = world.api.emit_to_one(event(name, DATA)).await?;
        let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
        assert_eq!(attempts[0].http_status, stranger.refuses_with, "{name}");
    }
    refuses_another_body(&world, &stranger, profile).await
}

async fn refuses_another_body(
    world: &World,
    stranger: &Stranger,
    profile: v1::SignatureProfile,
) -> Result<()> {
    world.api.subscribe(wanted(&world.receiver.url("/own"), "taken.bytes", vec![profile]), SECRET).await?;
    let (_, delivery) = world.api.emit_to_one(event("taken.bytes", DATA)).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let post = world.receiver.posts().pop().context("nothing arrived")?;
    assert!((200..300).contains(&send(stranger, &post).await?), "untouched");
    let body = String::from_utf8(post.body.to_vec())?.replace("1.50", "1.51");
    let changed = Post { body: Bytes::from(body), ..post };
    assert_eq!(send(stranger, &changed).await?, stranger.refuses_with);
    Ok(())
}

#[tokio::test]
async fn the_library_of_stripe_verifies_deliveries_unchanged() -> Result<()> {
    Box::pin(verifies_unchanged(async |folder| python(folder, "stripe_receiver.py").await, stripe())).await
}

#[tokio::test]
async fn the_library_of_github_verifies_deliveries_unchanged() -> Result<()> {
    Box::pin(verifies_unchanged(github, github_profile())).await
}

#[tokio::test]
async fn a_receiver_for_what_docurift_documents_verifies_deliveries_unchanged() -> Result<()> {
    Box::pin(verifies_unchanged(async |folder| python(folder, "docurift_receiver.py").await, docurift()))
        .await
}

#[tokio::test]
async fn profiles_that_cannot_be_are_refused_with_the_reason() -> Result<()> {
    let world = World::start().await?;
    let url = world.receiver.url("/in");
    let header = |header: &str| profile(Profile::Stripe(v1::StripeProfile { header: header.into() }));
    let table = [
        (vec![v1::SignatureProfile::default()], "set standard_webhooks, timestamped, stripe or github"),
        (vec![header("Webhook-Signature")], "is set by Postrider itself"),
        (vec![header("no name")], "is not valid"),
        (vec![stripe(), stripe()], "given twice"),
    ];
    for (profiles, expected) in table {
        let refused = world.api.subscribe(wanted(&url, "a.b", profiles), "").await;
        let refused = format!("{:#}", refused.err().context("it was taken")?);
        assert!(refused.contains(expected), "{refused}");
    }
    let made = world.api.subscribe(wanted(&url, "a.b", vec![]), "").await?;
    let shown = world.api.subscription(&made.id).await?;
    assert_eq!(shown.signature_profiles, [standard()]);
    let asymmetric = v1::RotateSigningKeyRequest {
        tenant: world.api.tenant(),
        subscription: made.id.clone(),
        scheme: "v1a".into(),
        ..v1::RotateSigningKeyRequest::default()
    };
    world.api.signing_keys().rotate_signing_key(asymmetric).await?;
    let update = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription { signature_profiles: vec![github_profile()], ..shown }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["signature_profiles".into()] }),
    };
    let refused =
        world.api.subscriptions().update_subscription(update).await.err().context("it was taken")?;
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("revoke its v1a key"), "{}", refused.message());
    Ok(())
}

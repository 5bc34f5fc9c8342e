//! Secrets at rest, with real processes: what is planted is nowhere to be found, and keys are what opens the store.

mod answers;
mod kek;
mod rewrap;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState, Role};
use postrider_tests::api::{Api, event, no_retries, retries};
use postrider_tests::planted::{Planted, files, search};
use postrider_tests::receiver::Answer;
use postrider_tests::wait::PATIENCE;
use postrider_tests::world::{AgentSettings, World, token};
use rustix::process::Signal;

use self::answers::Answers;

const CREATED_WITH: &str = "Bearer planted-header-credential-1";
const UPDATED_TO: &str = "planted-header-credential-2";
const SET_BY_COMMAND: &str = "planted-header-credential-3";
const MALFORMED_SECRET: &str = "whsec_planted-malformed-secret%%%";
const BAD_HEADER: &str = "planted-bad-header\nvalue";
const DATA: &str = r#"{"note":"planted-event-data"}"#;

fn imported(number: u8) -> String {
    let mut secret = *b"planted-signing-secret-number-0!";
    secret[30] += number;
    format!("whsec_{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret))
}

/// A world whose control plane and agent log all that they can at debug level.
async fn talkative() -> Result<World> {
    let agent = AgentSettings { log: "debug".into(), ..AgentSettings::default() };
    World::with(agent, &["log = \"debug\""]).await
}

fn with_header(value: &str) -> v1::Subscription {
    v1::Subscription {
        headers: [("authorization".to_owned(), value.to_owned())].into(),
        retry_policy: retries([Duration::from_secs(1); 2]),
        ..v1::Subscription::default()
    }
}

/// Delivers to an endpoint that first fails and sends back what it was sent, with this header's value in it.
async fn deliver_after_a_failure(world: &World, path: &str, value: &str) -> Result<()> {
    let echo = Answer::Body(500, format!("you sent authorization: {value}"));
    world.receiver.script(path, [echo.clone(), echo, Answer::Status(204)]);
    let (_, delivery) = world.api.emit_to_one(event("a.b", DATA)).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    ensure!(
        attempts.len() == 3 && attempts[0].response_body.ends_with(b"authorization: ***"),
        "{attempts:?}"
    );
    Ok(())
}

/// Signing keys: imported, rotated, revealed; the secrets that were made for us.
async fn rotate(world: &World, subscription: &str, answers: &mut Answers) -> Result<Vec<String>> {
    let api = &world.api;
    let rotate = |secret: &str, request_id: &str| v1::RotateSigningKeyRequest {
        tenant: api.tenant(),
        subscription: subscription.to_owned(),
        secret: secret.to_owned(),
        request_id: request_id.to_owned(),
        ..v1::RotateSigningKeyRequest::default()
    };
    let mut made = Vec::new();
    for (secret, request_id) in [(imported(2), ""), (String::new(), "r-1"), (String::new(), "r-1")] {
        let rotated = api.signing_keys().rotate_signing_key(rotate(&secret, request_id)).await?.into_inner();
        made.push(rotated.secret);
    }
    let reveal = v1::RevealSigningKeyRequest {
        tenant: api.tenant(),
        subscription: subscription.to_owned(),
        ..v1::RevealSigningKeyRequest::default()
    };
    let revealed = api.signing_keys().reveal_signing_key(reveal).await?.into_inner();
    ensure!(Some(&revealed.secret) == made.last(), "the key revealed is not the last one");
    let refused = api.signing_keys().rotate_signing_key(rotate(MALFORMED_SECRET, "")).await;
    answers.add("a rotation with a malformed secret", &refused);
    let short = format!("whsec_{}", &imported(3)[6..26]);
    let refused = api.signing_keys().rotate_signing_key(rotate(&short, "")).await;
    answers.add("a rotation with a short secret", &refused);
    made.push(pending(api, subscription, answers).await?);
    Ok(made)
}

/// A key of v1a that is used for a key test; and a malformed one.
async fn pending(api: &Api, subscription: &str, answers: &mut Answers) -> Result<String> {
    let create = |secret: &str| v1::CreateSigningKeyRequest {
        tenant: api.tenant(),
        subscription: subscription.to_owned(),
        scheme: "v1a".into(),
        secret: secret.to_owned(),
        ..v1::CreateSigningKeyRequest::default()
    };
    let made = api.signing_keys().create_signing_key(create("")).await?.into_inner();
    let refused = api.signing_keys().create_signing_key(create(&made.secret)).await;
    ensure!(refused.is_err(), "a second pending key was taken");
    answers.add("a pending key beside another", &refused);
    let refused = api.signing_keys().create_signing_key(create(&made.secret[..60])).await;
    answers.add("a pending key with a malformed secret", &refused);
    let request = v1::TestSigningKeyRequest {
        tenant: api.tenant(),
        subscription: subscription.to_owned(),
        signing_key: made.signing_key.as_ref().map(|key| key.id.clone()).unwrap_or_default(),
        ..v1::TestSigningKeyRequest::default()
    };
    let tested = api.signing_keys().test_signing_key(request).await;
    ensure!(tested.is_ok(), "{tested:?}");
    answers.add("a key test", &tested);
    let list = v1::ListSigningKeysRequest { tenant: api.tenant(), subscription: subscription.to_owned() };
    answers.add("a list of keys", &api.signing_keys().list_signing_keys(list).await);
    Ok(made.secret)
}

/// Headers: changed by the API and by the command, read and sent back, refused.
async fn change_headers(world: &World, subscription: &str, answers: &mut Answers) -> Result<()> {
    let api = &world.api;
    let update = |mut wanted: v1::Subscription, paths: &[&str]| {
        wanted.id = subscription.to_owned();
        wanted.tenant = api.tenant();
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        v1::UpdateSubscriptionRequest {
            subscription: Some(wanted),
            update_mask: Some(prost_types::FieldMask { paths }),
        }
    };
    let updated =
        api.subscriptions().update_subscription(update(with_header(UPDATED_TO), &["headers"])).await;
    answers.add("an update of headers", &updated);
    // What was read is sent back whole, with one thing changed.
    let mut read = api.subscription(subscription).await?;
    ensure!(read.headers["authorization"] == "***", "{:?}", read.headers);
    read.description = "changed".into();
    let updated = api.subscriptions().update_subscription(update(read, &[])).await;
    answers.add("an update of everything", &updated);
    let bad = api.subscriptions().update_subscription(update(with_header(BAD_HEADER), &["headers"])).await;
    ensure!(bad.is_err(), "a header with a line break was taken");
    answers.add("an update with a bad header", &bad);
    let cli = world.cli();
    for arguments in [
        vec!["subscriptions", "update", subscription, "--description", "by command"],
        vec!["subscriptions", "update", subscription, "--retry-jitter", "0.1"],
    ] {
        answers.add_ended("an update by command", cli.run(&arguments).await?)?;
    }
    Ok(())
}

/// Calls with tokens that are none of ours.
async fn knock(world: &World, answers: &mut Answers) -> Result<Vec<Planted>> {
    let unknown = token();
    let malformed = format!("{}x", &unknown[..unknown.len() - 1]);
    let nonsense = "planted-nonsense-token";
    for wrong in [unknown.as_str(), &malformed, nonsense] {
        let api = Api::new(world.control_plane.channel()?, "acme", wrong)?;
        let refused = api.tenants().list_tenants(v1::ListTenantsRequest::default()).await;
        ensure!(refused.is_err(), "a wrong token was taken");
        answers.add("a call with a wrong token", &refused);
    }
    let planted = [("an unknown token", unknown.as_str()), ("a nonsense token", nonsense)];
    Ok(planted.map(|(name, text)| Planted::text(name, text)).to_vec())
}

#[tokio::test]
async fn planted_secrets_are_in_no_file_log_error_or_answer() -> Result<()> {
    let mut world = talkative().await?;
    let mut answers = Answers::default();
    let wanted = v1::Subscription { url: world.receiver.url("/a"), ..with_header(CREATED_WITH) };
    let made = world.api.subscribe(wanted, &imported(1)).await?;
    deliver_after_a_failure(&world, "/a", CREATED_WITH).await?;
    let generated = rotate(&world, &made.id, &mut answers).await?;
    change_headers(&world, &made.id, &mut answers).await?;
    deliver_after_a_failure(&world, "/a", UPDATED_TO).await?;
    let last = world.receiver.posts().pop().context("nothing was posted")?;
    ensure!(last.headers["authorization"] == UPDATED_TO, "an update lost the value: {:?}", last.headers);
    // One that is given up, and then deleted.
    let wanted = v1::Subscription { retry_policy: no_retries(), ..with_header(CREATED_WITH) };
    let doomed =
        world.subscribe_with("/b", v1::Subscription { event_types: vec!["c.d".into()], ..wanted }).await?;
    world.receiver.script("/b", [Answer::Body(500, CREATED_WITH.into()), Answer::Reset]);
    for _ in 0..2 {
        world.api.emit(event("c.d", DATA)).await?;
    }
    world.api.all_ended(PATIENCE).await?;
    let set = ["subscriptions", "update", &doomed.subscription, "-H", &format!("X-Key: {SET_BY_COMMAND}")];
    answers.add_ended("a header set by command", world.cli().run(&set).await?)?;
    let request = v1::CreateTokenRequest { role: Role::Viewer.into(), ..v1::CreateTokenRequest::default() };
    let viewer = world.api.tokens().create_token(request).await?.into_inner().secret;
    let viewers = Api::new(world.control_plane.channel()?, "acme", &viewer)?;
    answers.ask_everything("a viewer", &viewers).await?;

    let mut planted = knock(&world, &mut answers).await?;
    // Everything again after a restart under another key-encryption key, to which everything is moved.
    world.control_plane.signal(Signal::TERM)?;
    world.control_plane.exit(PATIENCE).await?;
    let former = world.control_plane.keks()[0].clone();
    let current = world.control_plane.new_kek("kek-2")?;
    world.control_plane.set_keks(&[current.clone(), former.clone()]);
    world.control_plane.restart().await?;
    answers.add_ended("a rewrap", world.cli().run(&["secrets", "rewrap"]).await?)?;
    world.agent_connected().await?;
    deliver_after_a_failure(&world, "/a", UPDATED_TO).await?;
    answers.ask_everything("an admin", &world.api).await?;
    answers.run_everything(&world.cli(), &made.id).await?;
    let delete = v1::DeleteSubscriptionRequest {
        tenant: world.api.tenant(),
        subscription: doomed.subscription.clone(),
    };
    world.api.subscriptions().delete_subscription(delete).await?;
    world.control_plane.signal(Signal::TERM)?;
    world.control_plane.exit(PATIENCE).await?;
    world.agent.signal(Signal::TERM)?;
    world.agent.exit(PATIENCE).await?;

    let signing = [&generated[..], &[imported(1), doomed.secret]].concat();
    planted.extend(what_was_planted(&signing, &[former, current])?);
    planted.push(Planted::text(
        "the admin's token",
        &std::fs::read_to_string(world.control_plane.token_file())?,
    ));
    planted.push(Planted::text("the viewer's token", &viewer));
    check_jobs(&world, &generated)?;
    check(&world, &answers, &planted)
}

/// What the agent was given to send has signatures, and no key that makes them.
fn check_jobs(world: &World, signing: &[String]) -> Result<()> {
    let posts = world.receiver.posts();
    let sent: Vec<_> = posts
        .iter()
        .map(|post| (post.id.clone(), format!("{:?} {:?}", post.headers, post.body).into()))
        .collect();
    let planted: Result<Vec<Planted>> =
        signing.iter().map(|secret| Planted::signing_secret("a signing secret", secret)).collect();
    let found = search(&planted?, &sent);
    ensure!(
        found.is_empty() && posts.iter().all(|post| post.headers.contains_key("webhook-signature")),
        "{found:?}"
    );
    Ok(())
}

/// All but the tokens.
fn what_was_planted(signing: &[String], keks: &[PathBuf]) -> Result<Vec<Planted>> {
    let mut planted = Vec::new();
    for (number, secret) in signing.iter().enumerate() {
        planted.push(Planted::signing_secret(&format!("signing secret {number}"), secret)?);
    }
    let texts = [
        ("the header of a new subscription", &CREATED_WITH["Bearer ".len()..]),
        ("the header of an update", UPDATED_TO),
        ("the header of a command", SET_BY_COMMAND),
        ("a malformed secret", &MALFORMED_SECRET["whsec_".len()..]),
        ("a bad header", "planted-bad-header"),
    ];
    planted.extend(texts.map(|(name, text)| Planted::text(name, text)));
    for path in keks {
        let key = hex::decode(std::fs::read_to_string(path)?)?;
        planted.push(Planted::bytes(&format!("the key of {}", path.display()), &key));
    }
    Ok(planted)
}

/// Nothing planted is anywhere, and what is not secret is where it belongs: the search reads what it should.
fn check(world: &World, answers: &Answers, planted: &[Planted]) -> Result<()> {
    let mut places = files(&world.folder().join("data"))?;
    let logs = files(world.folder())?.into_iter().filter(|(name, _)| name.ends_with(".log"));
    places.extend(logs);
    places.extend(answers.places().iter().cloned());
    let found = search(planted, &places);
    ensure!(found.is_empty(), "{}", found.join("\n"));

    let event = [Planted::text("the event's data", "planted-event-data")];
    let found = search(&event, &places).join("\n");
    for place in ["data/store/db", "an event", "`postrider events"] {
        ensure!(found.contains(place), "the event's data is not found in {place}, but in {found}");
    }
    for (name, content) in places.iter().filter(|(name, _)| name.ends_with(".log")) {
        ensure!(content.windows(5).any(|window| window == b"DEBUG"), "{name} is not at debug level");
    }
    Ok(())
}

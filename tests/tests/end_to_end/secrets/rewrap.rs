//! A rewrap of a control plane that delivers, and one that is killed in the middle.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState, RewrapState};
use postrider_tests::api::event;
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::planted::{Planted, files, search};
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::World;
use rustix::process::Signal;
use standardwebhooks::Webhook;

/// Subscriptions that get nothing, so that there is something to move: several steps of it.
const SILENT: usize = 220;

/// A world with secrets under a former key-encryption key; the former and the current one.
async fn world() -> Result<(World, PathBuf, PathBuf)> {
    let mut world = World::start().await?;
    for _ in 0..SILENT {
        let wanted = v1::Subscription { event_types: vec!["never".into()], ..v1::Subscription::default() };
        world.subscribe_with("/never", wanted).await?;
    }
    world.control_plane.signal(Signal::TERM)?;
    world.control_plane.exit(PATIENCE).await?;
    let former = world.control_plane.keks()[0].clone();
    let current = world.control_plane.new_kek("kek-2")?;
    world.control_plane.set_keks(&[current.clone(), former.clone()]);
    world.control_plane.restart().await?;
    world.agent_connected().await?;
    Ok((world, former, current))
}

async fn status(world: &World) -> Result<v1::GetSecretsStatusResponse> {
    Ok(world.api.secrets().get_secrets_status(v1::GetSecretsStatusRequest {}).await?.into_inner())
}

/// Only the current key-encryption key opens the store.
async fn check_keys(world: &mut World, former: PathBuf, current: PathBuf) -> Result<()> {
    world.control_plane.signal(Signal::TERM)?;
    world.control_plane.exit(PATIENCE).await?;
    world.control_plane.set_keks(&[former]);
    let refusal = world.control_plane.refusal().await?;
    ensure!(refusal.contains("is wrapped by the key-encryption key"), "{refusal}");
    world.control_plane.set_keks(&[current]);
    world.control_plane.restart().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_delivered_while_everything_is_moved_and_the_former_key_is_of_no_use_then() -> Result<()> {
    let _turn = turn::take().await;
    let (mut world, former, current) = world().await?;
    let routes = [world.subscribe("/a").await?];
    let before = status(&world).await?;
    ensure!(before.rewrap_advised && before.data_keys.len() == 1, "{before:?}");
    let load = Load { events: 900, per_second: 150 };
    let mut emitter = Emitter::start(world.api.clone(), load);
    emitter.acknowledged(100).await?;
    let ended = world.cli().run(&["secrets", "rewrap"]).await?;
    ensure!(ended.code == 0 && ended.stdout.contains("done"), "{ended:?}");
    ensure!(!emitter.is_done(), "the load was over before the rewrap");
    // Twice changes nothing but the data key.
    let again = world.cli().json(&["secrets", "rewrap"]).await?;
    ensure!(again["state"] == "done" && again["problem"] == "", "{again}");
    let ledger = emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    world.verdict(&ledger, &routes).pass(load.events, 0)?;
    let after = status(&world).await?;
    ensure!(!after.rewrap_advised && after.data_keys.len() == 1, "{after:?}");
    ensure!(after.data_keys[0].kek == after.keks[0].id && after.data_keys[0].id != before.data_keys[0].id);
    check_keys(&mut world, former, current).await?;
    world.agent_connected().await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let post = world.receiver.posts().pop().context("nothing was posted")?;
    Webhook::new(&routes[0].secret)?.verify(&post.body, &post.headers)?;
    Ok(())
}

#[tokio::test]
async fn a_rewrap_that_is_killed_goes_on_by_itself() -> Result<()> {
    let _turn = turn::take().await;
    let (mut world, former, current) = world().await?;
    let route = world.subscribe("/a").await?;
    let rewrap = world.api.secrets().rewrap_secrets(v1::RewrapSecretsRequest {}).await?.into_inner();
    ensure!(rewrap.rewrap.is_some_and(|rewrap| rewrap.state() == RewrapState::Running));
    let begun = eventually("some of it is moved", async || {
        let rewrap = status(&world).await?.rewrap.unwrap_or_default();
        Ok(Some(rewrap).filter(|rewrap| rewrap.done_count > 1))
    });
    let begun = begun.await?;
    world.control_plane.kill()?;
    ensure!(begun.state() == RewrapState::Running, "it was over before it was killed: {begun:?}");
    world.control_plane.restart().await?;
    ensure!(world.control_plane.log().contains("resuming an interrupted rewrap"));
    eventually("it is done", async || {
        let status = status(&world).await?;
        let done = status.rewrap.is_some_and(|rewrap| rewrap.state() == RewrapState::Done);
        Ok(when(done && status.data_keys.len() == 1 && !status.rewrap_advised))
    })
    .await?;
    check_keys(&mut world, former, current).await?;
    let secret = [Planted::signing_secret("a secret", &route.secret)?];
    ensure!(search(&secret, &files(&world.folder().join("data"))?).is_empty());
    tokio::time::timeout(Duration::from_secs(60), world.agent_connected()).await??;
    Ok(())
}

//! Which key-encryption key opens the store, and what is said when it is another one.

use anyhow::{Result, ensure};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::event;
use postrider_tests::planted::{Planted, files, search};
use postrider_tests::wait::PATIENCE;
use postrider_tests::world::World;
use rustix::process::Signal;
use standardwebhooks::Webhook;

/// Stops the control plane as its operator would.
async fn stop(world: &mut World) -> Result<()> {
    world.control_plane.signal(Signal::TERM)?;
    let status = world.control_plane.exit(PATIENCE).await?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_store_opens_with_its_own_key_alone_and_is_dumb_without_it() -> Result<()> {
    let mut world = World::start().await?;
    let headers = [("x-api-key".to_owned(), "planted-credential".to_owned())].into();
    let route = world.subscribe_with("/a", v1::Subscription { headers, ..Default::default() }).await?;
    let status = world.cli().json(&["secrets", "status"]).await?;
    let own = status["data_keys"][0]["kek"].as_str().unwrap_or_default().to_owned();
    ensure!(own.starts_with("kek_") && status["rewrap_advised"] == false, "{status}");
    stop(&mut world).await?;

    // A copy, and another key.
    let planted = [
        Planted::signing_secret("the secret", &route.secret)?,
        Planted::text("the header", "planted-credential"),
    ];
    let store = files(&world.folder().join("data"))?;
    ensure!(search(&planted, &store).is_empty(), "{:?}", search(&planted, &store));
    let own_file = world.control_plane.keks()[0].clone();
    let stranger = world.control_plane.new_kek("stranger")?;
    world.control_plane.set_keks(std::slice::from_ref(&stranger));
    let refusal = world.control_plane.refusal().await?;
    ensure!(refusal.contains(&format!("wrapped by the key-encryption key {own}")), "{refusal}");
    ensure!(refusal.contains(&format!("(file:{})", stranger.display())), "{refusal}");

    // A file that others can read, and none.
    let mut loose = std::fs::metadata(&own_file)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut loose, 0o644);
    std::fs::set_permissions(&own_file, loose.clone())?;
    world.control_plane.set_keks(std::slice::from_ref(&own_file));
    let refusal = world.control_plane.refusal().await?;
    ensure!(refusal.contains(&format!("chmod 600 {}", own_file.display())), "{refusal}");
    world.control_plane.set_keks(&[]);
    let refusal = world.control_plane.refusal().await?;
    ensure!(refusal.contains("postrider secrets generate-kek"), "{refusal}");

    // Its own key beside another: as before.
    std::os::unix::fs::PermissionsExt::set_mode(&mut loose, 0o600);
    std::fs::set_permissions(&own_file, loose)?;
    world.control_plane.set_keks(&[stranger, own_file]);
    world.control_plane.restart().await?;
    world.agent_connected().await?;
    let status = world.cli().json(&["secrets", "status"]).await?;
    ensure!(status["rewrap_advised"] == true, "{status}");
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let post = world.receiver.posts().remove(0);
    Webhook::new(&route.secret)?.verify(&post.body, &post.headers)?;
    ensure!(post.headers["x-api-key"] == "planted-credential", "{:?}", post.headers);
    Ok(())
}

#[tokio::test]
async fn the_command_makes_a_key_that_the_control_plane_takes() -> Result<()> {
    let mut world = World::start().await?;
    stop(&mut world).await?;
    let file = world.folder().join("made");
    let path = file.display().to_string();
    let made = world.cli().run(&["secrets", "generate-kek", &path]).await?;
    ensure!(made.code == 0 && made.stdout.contains("Created kek_"), "{made:?}");
    let kept = std::fs::read(&file)?;
    let again = world.cli().run(&["secrets", "generate-kek", &path]).await?;
    ensure!(again.code != 0 && std::fs::read(&file)? == kept, "a key was overwritten: {again:?}");
    let own = world.control_plane.keks()[0].clone();
    world.control_plane.set_keks(&[file, own]);
    world.control_plane.restart().await
}

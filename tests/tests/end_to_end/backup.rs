//! A copy of a store that is in use, and another life from it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postrider_proto::v1::{self, DeliveryState, Role};
use postrider_tests::api::{duration, event, retries};
use postrider_tests::binaries;
use postrider_tests::cli::{Ended, finish};
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::process::without_settings;
use postrider_tests::receiver::{Answer, Receiver};
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when, within};
use postrider_tests::world::{AgentSettings, Guarded, World};

/// Restores with the program that the file is for, as in a container that has no other.
async fn restore(from: &Path, data_dir: &Path, more: &[&str]) -> Result<Ended> {
    let mut command = Command::new(binaries::path(binaries::CONTROL_PLANE)?);
    without_settings(&mut command);
    command.arg("restore").arg("--from").arg(from).arg("--data-dir").arg(data_dir).args(more);
    finish(command, None).await
}

/// The control plane is gone at once, and is another one from now on: what a backup holds.
async fn begin_another_life(world: &mut World, from: &Path) -> Result<()> {
    world.control_plane.kill()?;
    let data_dir = world.folder().join("restored");
    let restored = restore(from, &data_dir, &[]).await?;
    ensure!(restored.code == 0 && restored.stdout.contains("every row is there"), "{restored:?}");
    world.control_plane.set_data_dir(&data_dir);
    world.control_plane.restart().await?;
    world.agent_connected().await.map(drop)
}

/// The events that a path of the receiver has answered 2xx.
fn received(receiver: &Receiver, path: &str) -> BTreeSet<String> {
    let posts = receiver.posts().into_iter();
    posts.filter(|post| post.path == path && post.answered == 204).map(|post| post.id).collect()
}

/// Takes backups until something was written during one: on a machine with much else to do a small store can be read
/// between two writes. The file, and the events that were acknowledged before it was begun.
async fn back_up_while_written(world: &World, emitter: &Emitter) -> Result<(PathBuf, BTreeSet<String>)> {
    for number in 1.. {
        let before = (emitter.ledger.events().into_iter())
            .filter_map(|(id, event)| event.acknowledged.then_some(id))
            .collect();
        let file = world.folder().join(format!("backup-{number}"));
        let taken = world.cli().json(&["backup", "--to", &file.display().to_string()]).await?;
        ensure!(!emitter.is_done(), "the load was over, and nothing was written during {number} backups");
        if taken["changes"].as_u64() > Some(0) {
            return Ok((file, before));
        }
    }
    bail!("there are more numbers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_all_that_was_acknowledged_before_it_and_delivers_what_it_owes() -> Result<()>
{
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(64).await?;
    let wanted = v1::Subscription {
        retry_policy: retries([Duration::from_secs(1); 50]),
        ..v1::Subscription::default()
    };
    world.subscribe("/fast").await?;
    world.subscribe_with("/down", wanted).await?;
    world.receiver.script("/down", [Answer::Status(503)]);
    let named = v1::NewEvent { idempotency_key: "once".into(), ..event("a.b", r#"{"named":true}"#) };
    let first = world.api.emit(named.clone()).await?;
    let mut emitter = Emitter::start(world.api.clone(), Load { events: 4_000, per_second: 400 });
    emitter.acknowledged(600).await?;
    let (file, before) = back_up_while_written(&world, &emitter).await?;
    ensure!(std::fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "others can read it");
    let after = emitter.ledger.acknowledged_count() + 100;
    emitter.acknowledged(after).await?;

    begin_another_life(&mut world, &file).await?;
    let again = world.api.emit(named).await?;
    ensure!(again.duplicate && again.event_id == first.event_id, "{again:?}");
    world.receiver.script("/down", [Answer::Status(204)]);
    for path in ["/fast", "/down"] {
        let what = format!("all of before the backup has arrived at {path}");
        within(PATIENCE * 3, &what, async || Ok(when(received(&world.receiver, path).is_superset(&before))))
            .await?;
    }
    // What the former life had not answered was sent again to this one.
    emitter.done().await?;
    world.api.all_ended(PATIENCE).await?;
    // What was delivered after the backup was delivered again: at least once, and with the same event's id.
    let admin = world.control_plane.cli("");
    let log = admin.run(&["audit", "verify"]).await?;
    ensure!(log.code == 0, "{log:?}");
    let restores = admin.run(&["audit", "list", "--action", "Restore"]).await?;
    ensure!(restores.stdout.contains("Restore"), "{restores:?}");
    Ok(())
}

/// After a restore numbers of deliveries are given out again. What an agent still does for the former owner of a number must not be
/// taken for the new one's.
#[tokio::test]
async fn what_an_agent_did_for_another_life_is_not_taken_for_this_ones() -> Result<()> {
    let settings = AgentSettings { streams: 1, ..AgentSettings::default() };
    let mut world = World::with(settings, &[]).await?;
    let wanted = v1::Subscription {
        event_types: vec!["a.b".into()],
        retry_policy: retries([Duration::from_secs(300)]),
        timeout: Some(duration(PATIENCE)),
        ..v1::Subscription::default()
    };
    world.subscribe_with("/a", wanted).await?;
    let others = v1::Subscription { event_types: vec!["c.d".into()], ..v1::Subscription::default() };
    world.subscribe_with("/b", others).await?;
    let file = world.folder().join("backup");
    let taken = world.cli().run(&["backup", "--to", &file.display().to_string()]).await?;
    ensure!(taken.code == 0, "{taken:?}");

    world.receiver.script("/a", [Answer::Late(204, Duration::from_secs(6))]);
    let (lost, its_delivery) = world.api.emit_to_one(event("a.b", r#"{"life":1}"#)).await?;
    eventually("it is under way", async || Ok(when(world.receiver.open("/a") == 1))).await?;
    begin_another_life(&mut world, &file).await?;
    world.receiver.script("/a", [Answer::Status(503)]);
    let (kept, delivery) = world.api.emit_to_one(event("a.b", r#"{"life":2}"#)).await?;
    ensure!(delivery == its_delivery, "the numbers are not the same, so this shows nothing");
    eventually("the first life's POST has ended well, the second's has failed", async || {
        let posts = world.receiver.posts();
        let ended =
            |id: &str, status: u16| posts.iter().any(|post| post.id == *id && post.answered == status);
        Ok(when(ended(&lost, 204) && ended(&kept, 503)))
    })
    .await?;
    // By the same stream, so behind the outcome of the first life's.
    let (_, later) = world.api.emit_to_one(event("c.d", "{}")).await?;
    world.api.delivery_in(&later, DeliveryState::Delivered).await?;
    let (row, attempts) = world.api.delivery(&delivery).await?;
    ensure!(row.state() == DeliveryState::Waiting && attempts.len() == 1, "{row:?} {attempts:?}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_backed_up_or_restored_says_why() -> Result<()> {
    let mut world = Guarded::start(&[]).await?;
    let (file, other) = (world.folder().join("backup"), world.folder().join("other"));
    let to = file.display().to_string();
    let cli = world.control_plane.cli("acme");
    let taken = cli.run(&["backup", "--to", &to]).await?;
    ensure!(taken.code == 0 && taken.stdout.contains("it is whole"), "{taken:?}");
    let again = cli.run(&["backup", "--to", &to]).await?;
    ensure!(again.code == 2 && again.stderr.contains("never writes over another"), "{again:?}");
    let operator = world.token(Role::Operator, None).await?;
    let confined = world.token(Role::Admin, Some("acme")).await?;
    for (token, word) in [(operator, "operator"), (confined, "confined")] {
        let cli = world.cli(&token.secret);
        let refused = cli.run(&["backup", "--to", &other.display().to_string()]).await?;
        ensure!(refused.code == 4 && refused.stderr.contains(word), "{refused:?}");
        ensure!(!other.exists() && !other.with_file_name("other.partial").exists(), "something is left");
    }
    let looked = cli.json(&["restore", "--verify-only", "--from", &to]).await?;
    ensure!(looked["keks"].as_array().is_some_and(|keks| keks.len() == 1), "{looked}");

    let whole = std::fs::read(&file)?;
    let new = world.folder().join("new");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for (bytes, word) in
        [(&whole[..whole.len() - 40], "cut off"), (&flipped, "damaged"), (b"[egress]\n", "not a backup")]
    {
        std::fs::write(&other, bytes)?;
        for more in [&[][..], &["--verify-only"]] {
            let refused = restore(&other, &new, more).await?;
            ensure!(refused.code == 1 && refused.stderr.contains(word) && !new.exists(), "{refused:?}");
        }
    }
    let refused = restore(&file, world.control_plane.data_dir(), &[]).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("is not empty"), "{refused:?}");
    let refused = restore(Path::new("/nowhere"), &new, &[]).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("cannot read /nowhere"), "{refused:?}");

    let restored = restore(&file, &new, &[]).await?;
    ensure!(restored.code == 0 && restored.stdout.contains("(intact)"), "{restored:?}");
    let own = world.control_plane.keks().to_vec();
    let kek = looked["keks"][0].as_str().context("a name")?.to_owned();
    let stranger = world.control_plane.new_kek("kek-2")?;
    world.control_plane.set_keks(&[stranger]);
    world.control_plane.kill()?;
    world.control_plane.set_data_dir(&new);
    let refusal = world.control_plane.refusal().await?;
    ensure!(refusal.contains(&format!("wrapped by the key-encryption key {kek}")), "{refusal}");
    world.control_plane.set_keks(&own);
    world.control_plane.restart().await?;
    ensure!(world.admin.tenants().list_tenants(v1::ListTenantsRequest::default()).await.is_ok());
    Ok(())
}

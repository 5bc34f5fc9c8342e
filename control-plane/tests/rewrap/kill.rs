//! Kills a process that rewraps, between its steps, again and again over one store: each start goes on by itself, at
//! every moment everything opens, and in the end everything is moved.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use postrider_control_plane::secrets::rewrap::State;

use crate::world::{Files, World, entry};

const FOLDER: &str = "POSTRIDER_REWRAP_TEST_FOLDER";
/// Five steps.
const COUNT: u8 = 250;
const KILLS: u64 = 4;

/// The process that is killed: this test again, told so by its environment.
#[tokio::test]
async fn rewrapper_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let world = World::open(&Files::at(folder.as_ref()), &[2, 1]).await;
    if world.sealer.kek() != world.keks.current().id().clone() {
        world.rewrapper.begin(entry("RewrapSecrets")).await.unwrap();
    }
    let mut told = None;
    let tell = async {
        loop {
            let progress = world.rewrapper.progress();
            if told != Some(progress.done) {
                told = Some(progress.done);
                let mut out = std::io::stdout().lock();
                writeln!(out, "moved {}", progress.done).unwrap();
                out.flush().unwrap();
            }
            if progress.state == State::Done {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { () = world.rewrapper.run() => {}, () = tell => {} }
    world.store.close().await.unwrap();
    println!("finished");
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::rewrapper_that_is_killed", "--nocapture", "--test-threads", "1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets it move so many values, then kills it; whether it had finished.
fn kill_after(folder: &Path, values: u64) -> bool {
    let mut child = spawn(folder);
    let mut finished = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        finished |= line == "finished";
        let moved = line.strip_prefix("moved ").and_then(|number| number.parse::<u64>().ok());
        if moved.is_some_and(|moved| moved >= values) {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    finished
}

#[tokio::test]
async fn killed_rewraps_go_on_at_the_next_start_and_lose_nothing() {
    let files = Files::new();
    let world = World::open(&files, &[1]).await;
    world.plant(COUNT).await;
    world.store.close().await.unwrap();
    drop(world);
    let mut halves = 0;
    for kill in 1..=KILLS {
        assert!(!kill_after(files.folder(), kill * 100), "it was over before it was killed");
        let world = World::open(&files, &[2, 1]).await;
        world.check(COUNT).await;
        let rows = world.store.subscriptions(None, 1000).await.unwrap();
        let mut current = rows.iter().map(|row| row.sealed().all(|sealed| world.sealer.is_current(sealed)));
        let mixed = current.any(|current| current) && current.any(|current| !current);
        halves += u32::from(mixed);
        assert_eq!(world.store.data_keys().await.unwrap().len(), 2);
        world.store.close().await.unwrap();
    }
    assert!(halves > 0, "no kill came between two steps");
    assert!(kill_after(files.folder(), u64::MAX), "it did not finish");
    let world = World::open(&files, &[2]).await;
    world.check(COUNT).await;
    assert_eq!(world.store.data_keys().await.unwrap().len(), 1);
    drop(world);
    assert!(World::try_open(&files, &[1]).await.is_err());
}

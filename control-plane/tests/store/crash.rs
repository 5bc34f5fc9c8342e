//! Kills a process that writes, at random moments, many times over one folder: every acknowledged accept is there,
//! and every batch is there whole or not at all.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postrider_control_plane::store::{DeliveryQuery, Store};
use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId};
use postrider_domain::time::Timestamp;

use crate::{open_sled, suite};

const ROUNDS: u64 = 25;
const BATCH: u64 = 8;
const FOLDER: &str = "POSTRIDER_CRASH_TEST_FOLDER";
const ROUND: &str = "POSTRIDER_CRASH_TEST_ROUND";

fn lanes() -> [SubscriptionId; 2] {
    [1, 2].map(|number| SubscriptionId::new(Timestamp::default(), number))
}

/// The process that is killed: this test again, told so by its environment.
#[tokio::test]
async fn writer_that_is_killed() {
    let (Ok(folder), Ok(round)) = (std::env::var(FOLDER), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().unwrap();
    let store = open_sled(folder.into());
    for batch in 0.. {
        let first = (round * 1_000_000 + batch) * BATCH;
        let now = Timestamp::from_millis(1_000_000 + i64::try_from(first).unwrap());
        let accepts = (first..first + BATCH).map(|number| suite::accept(number, now, &lanes())).collect();
        let accepted = store.accept(accepts).await.unwrap();
        // One line, in one write, once the batch is on disk.
        let keys: Vec<String> =
            accepted.into_iter().map(|accepted| accepted.unwrap().key.to_string()).collect();
        let mut out = std::io::stdout().lock();
        out.write_all(format!("accepted {}\n", keys.join(" ")).as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

fn spawn_writer(folder: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::writer_that_is_killed", "--nocapture", "--test-threads", "1"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets the writer acknowledge so many batches, then kills it; what it acknowledged until its end.
fn kill_after(folder: &Path, round: u64, batches: u64, moment: Duration) -> Vec<Vec<EventKey>> {
    let mut child = spawn_writer(folder, round);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let read = |line: std::io::Result<String>| -> Option<Vec<EventKey>> {
        let line = line.ok()?;
        // The last line may be cut; a whole one ends with the batch's last key.
        let keys: Vec<EventKey> =
            line.strip_prefix("accepted ")?.split(' ').filter_map(|key| key.parse().ok()).collect();
        (keys.len() as u64 == BATCH).then_some(keys)
    };
    while (acknowledged.len() as u64) < batches {
        acknowledged.extend(read(lines.next().expect("the writer writes until it is killed")));
    }
    // A moment within a batch's work, rather than right after an acknowledgement.
    std::thread::sleep(moment);
    child.kill().unwrap();
    acknowledged.extend(lines.filter_map(read));
    child.wait().unwrap();
    acknowledged
}

#[test]
fn killed_writers_lose_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let random = seed.rotate_left(u32::try_from(round).unwrap()) ^ (seed >> 7).wrapping_mul(round + 1);
        acknowledged.extend(kill_after(&path, round, 1 + random % 5, Duration::from_micros(random % 3_000)));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(check(&path, &acknowledged));
}

async fn check(path: &Path, acknowledged: &[Vec<EventKey>]) {
    assert!(acknowledged.len() as u64 >= ROUNDS);
    let store = open_sled(path.to_owned());
    let tenant = || "acme".parse().unwrap();
    for batch in acknowledged {
        let found = store.events(batch.iter().map(|key| (tenant(), *key)).collect()).await.unwrap();
        for row in found {
            let row = row.expect("an acknowledged event is lost");
            for id in row.deliveries {
                assert!(store.delivery(id).await.unwrap().is_some(), "a delivery of it is lost");
            }
        }
    }
    // Whatever is there is whole: as many deliveries in each lane as events, in multiples of a batch.
    let mut query = DeliveryQuery {
        tenant: tenant(),
        subscription: Some(lanes()[0]),
        event: None,
        states: Vec::new(),
        start: Timestamp::default(),
        end: Timestamp::MAX,
        limit: 1_000,
        after: None,
    };
    let mut count = 0;
    loop {
        let page = store.deliveries(query.clone()).await.unwrap();
        count += page.items.len() as u64;
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(count % BATCH, 0, "half a batch");
    assert!(count >= acknowledged.len() as u64 * BATCH);
    let ends = [store.lane(lanes()[0]).await.unwrap().end, store.lane(lanes()[1]).await.unwrap().end];
    assert_eq!(ends, [count + 1, count + 1]);
    let last = DeliveryId { subscription: lanes()[1], sequence: count };
    assert!(store.delivery(last).await.unwrap().is_some());
}

//! A backup that is taken while everything changes is the store at one moment, to the byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::{Options, SledStore, number, restore};
use super::*;
use crate::store::Store;
use crate::store::backup::{RestoreError, Summary, verify};

const WRITERS: u8 = 3;
/// Rows of each writer before the backup: a scan of many chunks.
const BEFORE: u32 = 6_000;
/// Parts after each of which the store is written to before the next is taken.
const PACED: usize = 150;
/// A kind of rows that nothing else reads.
const KIND: u8 = b'~';

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(path: &Path) -> Arc<SledStore> {
    let options = Options { path: path.to_owned(), cache_bytes: 16 * 1024 * 1024 };
    Arc::new(SledStore::open(&options).unwrap())
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000)
}

fn key(writer: u8, number: u32) -> Vec<u8> {
    [&[KIND, writer, 1][..], &number.to_be_bytes()].concat()
}

/// Where a writer notes in each batch how many it has written.
fn counter(writer: u8) -> Vec<u8> {
    vec![KIND, writer, 0]
}

/// The `step`th batch of a writer: the same whenever it is asked for.
fn batch(seed: u64, writer: u8, step: u64) -> Vec<Write> {
    let mut random = StdRng::seed_from_u64(seed ^ (u64::from(writer) << 56) ^ step);
    let mut rows: Vec<Write> = (0..random.random_range(1..40))
        .map(|_| {
            let value = random.random_bool(0.7).then(|| vec![random.random(); random.random_range(0..200)]);
            (key(writer, random.random_range(0..BEFORE * 3 / 2)), value)
        })
        .collect();
    rows.push((counter(writer), Some(step.to_be_bytes().to_vec())));
    rows
}

/// What a writer's rows are after so many batches.
fn model(seed: u64, writer: u8, steps: u64) -> Rows {
    let mut rows: Rows = (0..BEFORE).map(|number| (key(writer, number), b"before".to_vec())).collect();
    for (key, value) in (1..=steps).flat_map(|step| batch(seed, writer, step)) {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    rows
}

/// Writes until it is told to stop, and says how much is acknowledged.
async fn write(
    store: Arc<SledStore>,
    seed: u64,
    writer: u8,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) {
    let mut step = 0;
    while !stop.load(Ordering::Relaxed) {
        step += 1;
        store.writer.write(batch(seed, writer, step), None).await.unwrap();
        acknowledged.store(step, Ordering::Relaxed);
    }
}

/// Takes a backup into a file, the first parts at some pace.
async fn take(store: &SledStore, file: &Path, pace: impl AsyncFn()) -> Result<(), BackupError> {
    let mut parts = store.backup(now()).await?;
    let (mut whole, mut paced) = (Vec::new(), 0);
    while let Some(part) = parts.recv().await {
        whole.extend_from_slice(&part?);
        paced += 1;
        if paced < PACED {
            pace().await;
        }
    }
    std::fs::write(file, whole).unwrap();
    Ok(())
}

fn rows_of(store: &SledStore, writer: u8) -> Rows {
    let rows = store.engine.tree().unwrap().scan_prefix([KIND, writer]);
    rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_writes_is_the_store_at_one_moment() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("old"));
    for writer in 0..WRITERS {
        let rows = (0..BEFORE).map(|number| (super::tests::key(writer, number), Some(b"before".to_vec())));
        store.writer.write(rows.collect(), None).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<Arc<AtomicU64>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let writing: Vec<_> = (0..WRITERS)
        .zip(&counts)
        .map(|(writer, count)| tokio::spawn(write(store.clone(), seed, writer, stop.clone(), count.clone())))
        .collect();
    let acknowledged = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    while acknowledged().iter().any(|count| *count < 20) {
        tokio::task::yield_now().await;
    }
    let before = acknowledged();
    let file = folder.path().join("backup");
    let written_again = async || {
        let sum = acknowledged().iter().sum::<u64>();
        while acknowledged().iter().sum::<u64>() < sum + 3 {
            tokio::task::yield_now().await;
        }
    };
    take(&store, &file, written_again).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for writing in writing {
        writing.await.unwrap();
    }
    let data_dir = folder.path().join("new");
    let restored = restore(&file, &data_dir, now()).unwrap();
    let summary = verify(&file).unwrap();
    assert!(summary.changes > 2_000 && summary.rows > u64::from(BEFORE), "{summary:?}");
    assert_eq!(restored.summary, summary);
    let new = open(&data_dir.join("store"));
    for (writer, before) in (0..WRITERS).zip(before) {
        let found = rows_of(&new, writer);
        let steps = u64::from_be_bytes(found[&counter(writer)].as_slice().try_into().unwrap());
        assert!(steps > before, "batch {before} was acknowledged before the backup, and {steps} are in it");
        assert!(found == model(seed, writer, steps), "writer {writer} after {steps}");
    }
}

#[tokio::test]
async fn a_restored_store_is_the_same_one_in_another_life() {
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = (open(&folder.path().join("old")), folder.path().join("backup"));
    take(&store, &file, async || {}).await.unwrap();
    let (old_epoch, identity) = (store.epoch(), store.identity.clone());
    assert_eq!(store.fence(), 0);
    for (name, time) in [("a", now()), ("b", now() + Duration::from_secs(1)), ("c", Timestamp::default())] {
        let data_dir = folder.path().join(name);
        restore(&file, &data_dir, time).unwrap();
        let new = open(&data_dir.join("store"));
        assert_eq!(new.identity, identity);
        assert!(new.fence() > old_epoch + 1_000_000 && new.epoch() == new.fence() + 1);
        let log = new.audit_records_after(0, 10).await.unwrap();
        assert_eq!(log.last().map(|record| record.entry.action.as_str()), Some("Restore"));
    }
    // A later restore of the same file is behind a former one, however often that was opened.
    let epoch = |name: &str| {
        number(&open(&folder.path().join(name).join("store")).engine.tree().unwrap(), "epoch").unwrap()
    };
    assert!(epoch("b") > epoch("a") + 1_000_000);
}

#[tokio::test]
async fn nothing_is_put_in_place_unless_it_is_the_whole_backup() {
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = (open(&folder.path().join("old")), folder.path().join("backup"));
    store.writer.write(vec![(key(0, 1), Some(vec![1]))], None).await.unwrap();
    take(&store, &file, async || {}).await.unwrap();
    let data_dir = folder.path().join("new");
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, word) in
        [(&whole[..whole.len() - 1], "cut off"), (&flipped, "damaged"), (b"nothing here", "not a backup")]
    {
        std::fs::write(&file, bytes).unwrap();
        let refused = restore(&file, &data_dir, now()).unwrap_err();
        assert!(refused.to_string().contains(word), "{refused}");
        assert!(!data_dir.exists());
    }
    std::fs::write(&file, &whole).unwrap();
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::write(data_dir.join("x"), "").unwrap();
    assert!(matches!(restore(&file, &data_dir, now()), Err(RestoreError::NotEmpty(_))));
    std::fs::remove_file(data_dir.join("x")).unwrap();
    // What a restore leaves that is killed, and what the root of a volume has, are no store.
    std::fs::create_dir_all(data_dir.join("store.restoring/conf")).unwrap();
    std::fs::create_dir(data_dir.join("lost+found")).unwrap();
    let other = std::fs::File::open(&data_dir).unwrap();
    other.lock().unwrap();
    assert!(matches!(restore(&file, &data_dir, now()), Err(RestoreError::Busy(_))));
    drop(other);
    restore(&file, &data_dir, now()).unwrap();
    assert!(matches!(restore(&file, &data_dir, now()), Err(RestoreError::NotEmpty(_))));
}

#[tokio::test]
async fn a_taker_that_is_too_slow_holds_nobody_up_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("old"));
    let rows = |number: u32| (0..40).map(|at| (key(0, number * 40 + at), Some(vec![7; 50_000]))).collect();
    for number in 0..5 {
        store.writer.write(rows(number), None).await.unwrap();
    }
    let mut parts = store.backup(now()).await.unwrap();
    for number in 0..40 {
        store.writer.write(rows(number), None).await.unwrap();
    }
    let mut last = None;
    while let Some(part) = parts.recv().await {
        last = Some(part.map(|part| part.len()));
    }
    assert!(matches!(last, Some(Err(BackupError::TooSlow { .. }))), "{last:?}");
    // The store is as it was, and another backup can be taken.
    take(&store, &folder.path().join("backup"), async || {}).await.unwrap();
    let Summary { rows, .. } = verify(&folder.path().join("backup")).unwrap();
    assert!(rows > 1_600);
}

#[tokio::test]
async fn a_backup_ends_with_the_store_and_does_not_keep_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("old"));
    let rows = (0..3000).map(|number| (key(0, number), Some(vec![7; 1000]))).collect();
    store.writer.write(rows, None).await.unwrap();
    let mut parts = store.backup(now()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let mut last = None;
    while let Some(part) = parts.recv().await {
        last = Some(part.map(|part| part.len()));
    }
    assert!(matches!(last, Some(Err(BackupError::Closed))), "{last:?}");
    open(&folder.path().join("old"));
}

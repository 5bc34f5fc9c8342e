//! What happens to files between two starts: whatever can be rebuilt never keeps the store from opening, and what was acknowledged is
//! there or its loss is stated.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use postrider_control_plane::store::{SledStore, Store, StoreError};
use postrider_domain::id::{EventKey, SubscriptionId};
use postrider_domain::time::Timestamp;

use crate::{suite, try_open_sled};

const NOW: i64 = 1_770_028_200_000;

fn lanes() -> [SubscriptionId; 2] {
    [1, 2].map(|number| SubscriptionId::new(Timestamp::default(), number))
}

/// A store that was killed, or closed, and what it had acknowledged.
struct Left {
    folder: tempfile::TempDir,
    acknowledged: Vec<EventKey>,
}

impl Left {
    /// A young store: its journal has every commit.
    async fn killed() -> Self {
        Self::new(true, 1).await
    }

    async fn closed() -> Self {
        Self::new(false, 1).await
    }

    /// A store whose journal does not reach back to its beginning.
    async fn old(killed: bool) -> Self {
        Self::new(killed, 4).await
    }

    async fn new(killed: bool, starts: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let living = folder.path().join("living");
        let mut acknowledged = Vec::new();
        let mut open = None;
        for start in 0..starts {
            drop(open.take());
            let store = try_open_sled(living.clone()).unwrap();
            for number in start * 60 / starts..(start + 1) * 60 / starts {
                let mut accept = suite::accept(number, Timestamp::from_millis(NOW), &lanes());
                // Some in one row, some in parts.
                let bytes = usize::try_from(number % 3 * 3_000).unwrap();
                accept.event.data = format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes)).into();
                let accepted = store.accept(vec![accept]).await.unwrap().remove(0).unwrap();
                acknowledged.push(accepted.key);
            }
            open = Some(store);
        }
        // What a killed process leaves is what its files hold at that moment.
        let left = folder.path().join("store");
        if killed {
            copy(&living, &left);
            drop(open);
        } else {
            drop(open);
            std::fs::rename(&living, &left).unwrap();
        }
        Self { folder, acknowledged }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// A copy of it, to be damaged.
    fn copy(&self) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        copy(&self.path(), &path);
        (folder, path)
    }

    async fn all_is_there(&self, store: &SledStore) -> bool {
        let tenant = || "acme".parse().unwrap();
        let events =
            store.events(self.acknowledged.iter().map(|key| (tenant(), *key)).collect()).await.unwrap();
        let mut deliveries = 0;
        for event in events.iter().flatten() {
            for id in &event.deliveries {
                deliveries += usize::from(store.delivery(*id).await.unwrap().is_some());
            }
        }
        events.iter().flatten().count() == self.acknowledged.len()
            && deliveries == 2 * self.acknowledged.len()
    }

    async fn opens_whole(&self, path: &Path, what: &str) {
        match try_open_sled(path.to_owned()) {
            Ok(store) => assert!(self.all_is_there(&store).await, "{what}: something is missing silently"),
            Err(error) => panic!("{what}: {error}"),
        }
    }

    /// Opens whole, or says that it is damaged. Whether it opened.
    async fn opens_whole_or_says_why_not(&self, path: &Path, what: &str) -> bool {
        match try_open_sled(path.to_owned()) {
            Ok(store) => {
                assert!(self.all_is_there(&store).await, "{what}: something is missing silently");
                true
            }
            Err(StoreError::Lost(_) | StoreError::Damaged { .. }) => false,
            Err(error) => panic!("{what}: not said to be damaged: {error}"),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.extend(if path.is_dir() { files(&path) } else { BTreeSet::from([path]) });
    }
    found
}

fn snapshot(folder: &Path) -> PathBuf {
    let is_snapshot = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("snap.");
    files(folder).into_iter().find(is_snapshot).expect("sled has written a snapshot")
}

/// A store that has a snapshot: sled writes one when it is opened after writes.
async fn with_snapshot() -> Left {
    let left = Left::killed().await;
    drop(try_open_sled(left.path()).unwrap());
    assert!(snapshot(&left.path()).exists());
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_keeps_the_store_from_opening() {
    let left = with_snapshot().await;
    let whole = std::fs::read(snapshot(&left.path())).unwrap();
    let half = || whole[..whole.len() / 2].to_vec();
    let zeros = || vec![0; whole.len()];
    let flipped =
        || whole.iter().enumerate().map(|(at, byte)| if at == 9 { byte ^ 1 } else { *byte }).collect();
    for (name, content) in
        [("empty", Vec::new()), ("half", half()), ("zeros", zeros()), ("flipped", flipped())]
    {
        let (_folder, path) = left.copy();
        std::fs::write(snapshot(&path), &content).unwrap();
        left.opens_whole(&path, &format!("the snapshot is {name}")).await;
        for leftover in ["snap.00000000FFFFFFFF.generating", "snap.00000000FFFFFFFF", "snap.x", "snap."] {
            let (_folder, path) = left.copy();
            std::fs::write(path.join(leftover), &content).unwrap();
            left.opens_whole(&path, &format!("{leftover} is {name}")).await;
        }
    }
    // Whole, and of another moment of the log: a copied directory.
    let (_folder, path) = left.copy();
    std::fs::write(path.join("snap.00000000FFFFFFFF"), &whole).unwrap();
    left.opens_whole(&path, "a snapshot that does not fit the log").await;
    let (_folder, path) = left.copy();
    std::fs::remove_file(snapshot(&path)).unwrap();
    std::fs::create_dir(path.join("snap.00000000EEEEEEEE")).unwrap();
    left.opens_whole(&path, "a folder in place of a snapshot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sled_can_write_again_keeps_no_store_from_opening() {
    let left = Left::killed().await;
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("no conf", |path| std::fs::remove_file(path.join("conf")).unwrap()),
        ("empty conf", |path| std::fs::write(path.join("conf"), "").unwrap()),
        ("a conf of zeros", |path| std::fs::write(path.join("conf"), [0; 20]).unwrap()),
        ("a conf of garbage", |path| std::fs::write(path.join("conf"), "garbage, and more of it").unwrap()),
        ("no blobs", |path| std::fs::remove_dir_all(path.join("blobs")).unwrap()),
        ("a strange blob", |path| std::fs::write(path.join("blobs/x"), "x").unwrap()),
        ("a leftover of the data keys", |path| std::fs::write(path.join("data-keys.new"), "x").unwrap()),
    ];
    for (name, damage) in damages {
        let (_folder, path) = left.copy();
        damage(&path);
        left.opens_whole(&path, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_store_is_rebuilt_whatever_happens_to_sleds_files() {
    for left in [Left::killed().await, Left::closed().await] {
        let log = std::fs::read(left.path().join("db")).unwrap();
        let cut = |length: usize| log[..length.min(log.len())].to_vec();
        let mut contents = vec![("empty", Vec::new()), ("a byte", cut(1)), ("half", cut(log.len() / 2))];
        contents.push(("cut by 943 bytes", cut(log.len().saturating_sub(943))));
        contents.push(("garbage", vec![0xa5; log.len().max(1000)]));
        for (name, content) in contents {
            let (_folder, path) = left.copy();
            std::fs::write(path.join("db"), content).unwrap();
            left.opens_whole(&path, &format!("the log is {name}")).await;
            // And it goes on working.
            left.opens_whole(&path, &format!("the log is {name}, once more")).await;
        }
        let (_folder, path) = left.copy();
        std::fs::remove_file(path.join("db")).unwrap();
        left.opens_whole(&path, "no log").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_loses_anything_silently() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    for left in [Left::killed().await, Left::closed().await, Left::old(true).await, Left::old(false).await] {
        let mut opened = 0;
        for round in 0..24_u64 {
            let (_folder, path) = left.copy();
            let files: Vec<PathBuf> = files(&path).into_iter().filter(|file| size(file) > 0).collect();
            let random = seed
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(round.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let file = &files[usize::try_from(random % files.len() as u64).unwrap()];
            let mut content = std::fs::read(file).unwrap();
            let bit = usize::try_from((random >> 8) % (used(file).max(1) * 8)).unwrap();
            content[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(file, content).unwrap();
            let what = format!("round {round}: bit {bit} of {}", file.display());
            opened += u32::from(left.opens_whole_or_says_why_not(&path, &what).await);
        }
        println!("{opened} of 24 opened");
        assert!(opened > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cut_or_missing_file_loses_anything_silently() {
    for left in [Left::killed().await, Left::closed().await, Left::old(true).await, Left::old(false).await] {
        for file in files(&left.path()) {
            let name = file.strip_prefix(left.path()).unwrap().to_owned();
            let length = size(&file);
            let used = used(&file);
            for kept in [0, used / 3, used / 2, used.saturating_sub(943), used, length.saturating_sub(1)] {
                let (_folder, path) = left.copy();
                std::fs::File::options().write(true).open(path.join(&name)).unwrap().set_len(kept).unwrap();
                left.opens_whole_or_says_why_not(&path, &format!("{} cut to {kept}", name.display())).await;
            }
            let (_folder, path) = left.copy();
            std::fs::remove_file(path.join(&name)).unwrap();
            left.opens_whole_or_says_why_not(&path, &format!("no {}", name.display())).await;
        }
    }
}

/// Where the content of a file ends that has zeros behind it.
fn used(file: &Path) -> u64 {
    let content = std::fs::read(file).unwrap();
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_journal_only_a_store_that_was_closed_opens() {
    let closed = Left::closed().await;
    std::fs::remove_dir_all(closed.path().join("journal")).unwrap();
    closed.opens_whole(&closed.path(), "closed").await;
    let killed = Left::killed().await;
    std::fs::remove_dir_all(killed.path().join("journal")).unwrap();
    let error = try_open_sled(killed.path()).err().expect("its newest commits are lost");
    assert!(error.to_string().starts_with("the store is damaged: "), "{error}");
    assert!(error.to_string().contains("restore"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_new_store_takes_the_place_of_one_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data-keys"), "anything").unwrap();
    let error = try_open_sled(folder.path().to_owned()).err().expect("there was a store");
    assert!(matches!(error, StoreError::Lost(_)), "{error}");
    let old = Left::old(false).await;
    std::fs::remove_file(old.path().join("db")).unwrap();
    assert!(matches!(try_open_sled(old.path()), Err(StoreError::Lost(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reads_everything_and_says_what_is_wrong() {
    use postrider_control_plane::store::check;
    let left = Left::killed().await;
    let data_dir = left.folder.path();
    let checked = check(data_dir).unwrap();
    assert_eq!((checked.events, checked.deliveries), (60, 120));
    assert!(checked.commits > 60);
    left.opens_whole(&left.path(), "after a check").await;
    let store = try_open_sled(left.path()).unwrap();
    assert!(matches!(check(data_dir), Err(StoreError::Busy(_))));
    drop(store);
    let missing = check(&data_dir.join("nowhere")).unwrap_err();
    assert!(missing.to_string().contains("there is no store in"), "{missing}");
    let old = Left::old(true).await;
    std::fs::File::options().write(true).open(old.path().join("db")).unwrap().set_len(5_000).unwrap();
    assert!(matches!(check(old.folder.path()), Err(StoreError::Lost(_))));
}

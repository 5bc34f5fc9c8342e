//! The journal against what happens to files: killed writers, power cuts, flipped bits, cut and missing files.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::store::digest::kind;

const DISK: u64 = 64 * 64 * 1024;

struct World {
    folder: tempfile::TempDir,
    digest: Digest,
    journal: Journal,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FOLDER);
        let history = History::read(&path).unwrap();
        assert!(history.is_empty());
        let journal = Journal::begin(&path, &history, 0, &Digest::default(), capacity(DISK)).unwrap();
        Self { folder, digest: Digest::default(), journal }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FOLDER)
    }

    fn commit(&mut self, number: u64) -> Vec<Row> {
        self.commit_rows(rows(number))
    }

    fn commit_rows(&mut self, rows: Vec<Row>) -> Vec<Row> {
        let mut after = self.digest.clone();
        rows.iter().for_each(|(key, value)| after.change(key, None, value.as_deref()));
        let record = self.journal.prepare(&after.totals(rows.iter().map(|(key, _)| kind(key))), &rows);
        if !self.journal.has_room(&record) {
            self.journal.checkpoint(&self.digest, Some(&record)).unwrap();
        }
        self.journal.write(&record, &self.digest).unwrap();
        self.digest = after;
        rows
    }

    fn commits(&mut self, count: u64) {
        for number in 1..=count {
            self.commit(number);
        }
    }

    /// So many that three segments are needed; how many that is.
    fn fill_segments(&mut self) -> u64 {
        for number in 1.. {
            self.commit_rows(vec![(format!("D{number}").into_bytes(), Some(vec![1; 40_000]))]);
            if self.journal.serial == 3 {
                return number;
            }
        }
        unreachable!("a segment has an end")
    }

    fn history(&self) -> History {
        History::read(&self.path()).unwrap()
    }

    /// The segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        segment::list(&self.path()).unwrap().into_iter().map(|(_, path)| path).collect()
    }
}

fn rows(number: u64) -> Vec<Row> {
    let key = format!("D{number}").into_bytes();
    vec![(key, Some(vec![b'v'; 10 + usize::try_from(number % 50).unwrap()])), (b"Wgone".to_vec(), None)]
}

fn positions(history: &History, after: u64) -> Vec<u64> {
    history.commits_after(after).map(|commit| commit.unwrap().0).collect()
}

/// The bytes of a file that records are in, and where they end.
fn content(path: &Path) -> (Vec<u8>, usize) {
    let bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (bytes, end)
}

#[test]
fn what_was_committed_is_found_with_its_digest() {
    let mut world = World::new();
    world.commits(20);
    let history = world.history();
    assert_eq!(positions(&history, 0), (1..=20).collect::<Vec<_>>());
    assert_eq!(history.commits_after(6).next().unwrap().unwrap(), (7, rows(7)));
    assert_eq!((history.acknowledged, history.last(), history.cut_off), (20, Some(20), false));
    assert_eq!(history.follows(0), Ok(()));
    assert_eq!(history.digest_at(20).unwrap().unwrap(), world.digest);
    assert!(history.problems.is_empty(), "{:?}", history.problems);
    assert!(history.reaches_back_to_the_beginning());
}

#[test]
fn a_checkpoint_keeps_one_older_segment() {
    let mut world = World::new();
    let last = world.fill_segments();
    assert_eq!(world.segments().len(), 2);
    let history = world.history();
    let first = positions(&history, 0)[0];
    assert!(first > 1);
    assert!(!history.reaches_back_to_the_beginning());
    assert_eq!(history.follows(first - 1), Ok(()));
    assert_eq!(history.follows(first - 2), Err(first - 1), "what an engine lacks that has less is lost");
    assert_eq!(history.digest_at(last).unwrap().unwrap(), world.digest);
    world.journal.remove_older();
    assert_eq!(world.segments().len(), 1);
}

#[test]
fn a_start_goes_on_where_the_journal_ended() {
    let mut world = World::new();
    world.commits(5);
    let (path, history, digest) = (world.path(), world.history(), world.digest.clone());
    world.journal = Journal::begin(&path, &history, 5, &digest, capacity(DISK)).unwrap();
    world.commit(6);
    let history = world.history();
    assert_eq!(positions(&history, 0), [1, 2, 3, 4, 5, 6]);
    assert!(history.reaches_back_to_the_beginning());
    assert_eq!(history.digest_at(6).unwrap().unwrap(), world.digest);
}

#[test]
fn a_commit_that_failed_is_replaced_by_the_next_one() {
    let mut world = World::new();
    world.commits(3);
    // It is on disk, but nobody knows: the sync failed.
    let failed = world.journal.prepare(&[], &[(b"Dfailed".to_vec(), None)]);
    world.journal.segment.append(&failed.record, 4).unwrap();
    world.journal.suspect = true;
    let next = world.commit(4);
    let history = world.history();
    assert_eq!(positions(&history, 0), [1, 2, 3, 4]);
    assert_eq!(history.commits_after(3).next().unwrap().unwrap(), (4, next));
    assert_eq!(history.follows(0), Ok(()));
}

#[test]
fn a_record_that_was_not_completed_is_no_damage() {
    let mut world = World::new();
    world.commits(5);
    let record = world.journal.prepare(&[], &rows(6)).record;
    let path = world.segments().pop().unwrap();
    let (bytes, end) = content(&path);
    // It begins where the mark of the fifth stands.
    let begin = end - record::MARK;
    for length in 1..record.len() {
        let mut torn = bytes.clone();
        torn[begin..begin + length].copy_from_slice(&record[..length]);
        std::fs::write(&path, torn).unwrap();
        let history = world.history();
        assert_eq!((history.last(), history.cut_off), (Some(5), false), "{length} bytes");
        assert_eq!(history.follows(0), Ok(()), "{length} bytes");
        assert!(history.problems.is_empty(), "{length} bytes: {:?}", history.problems);
    }
}

#[test]
fn a_flipped_bit_is_noticed_wherever_a_commit_was_acknowledged() {
    let mut world = World::new();
    world.commits(8);
    let path = world.segments().pop().unwrap();
    let (bytes, end) = content(&path);
    for at in (segment::BLOCK..end - record::MARK).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, flipped).unwrap();
        let history = world.history();
        assert!(history.follows(0).is_err(), "byte {at}");
        assert!(!history.problems.is_empty());
        assert_eq!(history.acknowledged, 8);
        // What is behind the damage is there for an engine that has the damaged commit.
        assert_eq!(history.follows(8), Ok(()));
    }
    // In the mark or the header it does no harm.
    for at in [0, 9, 20, end - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        let history = world.history();
        assert_eq!(positions(&history, 0), (1..=8).collect::<Vec<_>>(), "byte {at}");
        assert_eq!(history.follows(0), Ok(()), "byte {at}");
    }
}

#[test]
fn a_segment_that_was_cut_off_is_noticed() {
    let mut world = World::new();
    world.commits(8);
    let path = world.segments().pop().unwrap();
    let (bytes, end) = content(&path);
    for length in (segment::BLOCK..end).step_by(5) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let history = world.history();
        assert!(history.cut_off || history.follows(0).is_err(), "{length} bytes");
    }
    // Behind the mark there is nothing to lose.
    std::fs::write(&path, &bytes[..end]).unwrap();
    let history = world.history();
    assert_eq!((history.cut_off, history.last()), (false, Some(8)));
}

#[test]
fn a_missing_segment_is_noticed() {
    let mut world = World::new();
    world.fill_segments();
    let newest = world.segments().pop().unwrap();
    let first = Header::decode(&std::fs::read(&newest).unwrap()).unwrap().first;
    std::fs::remove_file(newest).unwrap();
    let history = world.history();
    assert!(history.cut_off);
    assert_eq!(history.last(), Some(first - 1));
    assert!(history.problems[0].contains("is missing or empty"), "{:?}", history.problems);
}

#[test]
fn a_segment_that_was_never_completed_is_removed_by_the_next_start() {
    let mut world = World::new();
    world.commits(3);
    let unfinished = segment::path(&world.path(), 9);
    std::fs::write(&unfinished, [0; 100]).unwrap();
    let history = world.history();
    assert_eq!((history.follows(0), history.cut_off), (Ok(()), false));
    let path = world.path();
    Journal::begin(&path, &history, 3, &world.digest, capacity(DISK)).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(world.segments().len(), 2);
    assert_eq!(positions(&world.history(), 0), [1, 2, 3]);
}

#[test]
fn a_commit_larger_than_a_segment_has_its_own() {
    let mut world = World::new();
    world.commits(2);
    let large = vec![(b"Elarge".to_vec(), Some(vec![7; 1024 * 1024]))];
    let record = world.journal.prepare(&[], &large);
    assert!(!world.journal.has_room(&record));
    world.journal.checkpoint(&world.digest, Some(&record)).unwrap();
    assert!(world.journal.has_room(&record));
    world.journal.write(&record, &world.digest).unwrap();
    assert_eq!(world.history().commits_after(2).next().unwrap().unwrap(), (3, large));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn bytes_of_any_origin_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0_usize..5000) {
        let mut world = World::new();
        world.commits(3);
        let path = world.segments().pop().unwrap();
        let (mut content, _) = content(&path);
        let end = (at + bytes.len()).min(content.len());
        content[at..end].copy_from_slice(&bytes[..end - at]);
        std::fs::write(&path, content).unwrap();
        let history = world.history();
        let _any = (history.follows(0), history.digest_at(3).unwrap(), positions(&history, 0));
    }
}

//! Whoever alters the store's files is found out: by the check of the audit log, or when the store is opened.

use std::path::Path;

use postrider_control_plane::store::{Options, SledStore};
use postrider_proto::v1;
use postrider_proto::v1::audit_service_server::AuditService as _;
use tonic::Code;

use crate::world::{World, admin, open};

/// The letter of the log's records, as the layout of the store has it, and of the rows of a tenant's list.
const RECORD: u8 = b'U';
const OF_TENANT: u8 = b'X';
const HEAD: &[u8] = b"Maudit-head";

fn row(sequence: u64) -> Vec<u8> {
    [&[RECORD][..], &sequence.to_be_bytes()].concat()
}

/// A store with some records, in a folder; how many, and the last one's hash.
async fn recorded(folder: &Path) -> (u64, String) {
    let world = World::start(folder).await;
    world.tenant("acme").await;
    world.tenant("umbra").await;
    for _ in 0..4 {
        world.subscribe("acme").await;
    }
    let checked = verify(&world, None).await.unwrap();
    assert!(checked.intact, "{checked:?}");
    let head = (checked.head_sequence, checked.head_hash);
    assert_eq!(head.0, 11);
    world.end().await;
    head
}

async fn verify(world: &World, known: Option<&(u64, String)>) -> Result<v1::VerifyAuditLogResponse, Code> {
    let request = known.map(|(sequence, hash)| v1::VerifyAuditLogRequest {
        known_sequence: *sequence,
        known_hash: hash.clone(),
    });
    let answer = world.api.verify_audit_log(admin(request.unwrap_or_default())).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.code())
}

/// The store's files, as soon as sled's own threads have let go of them: a moment after the store that had them is dropped.
fn raw(folder: &Path) -> sled::Db {
    let opened = (0..1000).find_map(|_| {
        let opened = sled::open(folder).ok();
        if opened.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        opened
    });
    opened.expect("the files can be opened")
}

/// Whoever tampers on purpose also removes what would find accidental damage: then the store looks like one of before there was
/// a journal.
fn cover_up(db: &sled::Db, folder: &Path) {
    db.remove("Mcommit").unwrap();
    db.flush().unwrap();
    std::fs::remove_dir_all(folder.join("journal")).unwrap();
}

/// What is said of a log that was tampered with behind Postrider's back.
async fn tampered(tamper: fn(&sled::Db), with_known: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let head = recorded(folder.path()).await;
    let db = raw(folder.path());
    tamper(&db);
    cover_up(&db, folder.path());
    drop(db);
    let options = Options { path: folder.path().to_owned(), cache_bytes: 16 << 20 };
    match SledStore::open(&options) {
        Ok(store) => drop(store),
        Err(error) => return error.to_string(),
    }
    let world = World::start(folder.path()).await;
    let checked = verify(&world, with_known.then_some(&head)).await.unwrap();
    world.end().await;
    assert_eq!(checked.intact, checked.problem.is_empty());
    checked.problem
}

#[tokio::test]
async fn every_kind_of_tampering_is_named_with_its_place() {
    assert_eq!(tampered(|_| {}, true).await, "");
    let removed = tampered(|db| drop(db.remove(row(5)).unwrap()), false).await;
    assert!(removed.contains("record 5 is missing"), "{removed}");

    let altered = tampered(
        |db| {
            let value = db.get(row(5)).unwrap().unwrap().to_vec();
            let at = value.windows(9).position(|bytes| bytes == b"tok_admin").unwrap();
            let mut other = value.clone();
            other[at + 4] = b'b';
            db.insert(row(5), other).unwrap();
        },
        false,
    );
    let altered = altered.await;
    assert!(altered.contains("record 5 is not what was written"), "{altered}");

    let garbled = tampered(|db| drop(db.insert(row(7), b"garbage").unwrap()), false).await;
    assert!(garbled.contains("record 7 cannot be read"), "{garbled}");

    let swapped = tampered(
        |db| {
            let (third, fourth) = (db.get(row(3)).unwrap().unwrap(), db.get(row(4)).unwrap().unwrap());
            db.insert(row(3), fourth).unwrap();
            db.insert(row(4), third).unwrap();
        },
        false,
    );
    let swapped = swapped.await;
    assert!(swapped.contains("record 3 "), "{swapped}");

    let unlisted = tampered(
        |db| {
            let first = db.scan_prefix([&[OF_TENANT][..], b"umbra\0"].concat()).keys().next();
            db.remove(first.unwrap().unwrap()).unwrap();
        },
        false,
    );
    let unlisted = unlisted.await;
    assert!(
        unlisted.contains("record 5 cannot be read: the list of its tenant's records lacks it"),
        "{unlisted}"
    );
}

#[tokio::test]
async fn a_log_that_was_cut_off_is_refused_or_shown_by_an_earlier_head() {
    let cut = tampered(|db| drop(db.remove(row(11)).unwrap()), false).await;
    assert!(cut.contains("it ends with record 10, and should with 11"), "{cut}");
    let headless = tampered(|db| drop(db.remove(HEAD).unwrap()), false).await;
    assert!(headless.contains("it ends with record 11, and should with 0"), "{headless}");
    // Whoever can write the files can make the end fit; only a head that is kept elsewhere shows that.
    fn fitting(db: &sled::Db) {
        let value = db.get(row(10)).unwrap().unwrap();
        let hash = value.windows(34).rev().find(|field| field[..2] == [0x4a, 0x20]).unwrap();
        let head = [&10_u64.to_be_bytes()[..], &hash[2..]].concat();
        db.remove(row(11)).unwrap();
        db.insert(HEAD, head).unwrap();
    }
    assert_eq!(tampered(fitting, false).await, "");
    let shown = tampered(fitting, true).await;
    assert!(shown.contains("the log ends with record 10, and 11 was seen before"), "{shown}");
}

#[tokio::test]
async fn a_record_that_was_replaced_by_another_is_shown_by_an_earlier_head() {
    let folder = tempfile::tempdir().unwrap();
    let (last, _) = recorded(folder.path()).await;
    let world = World::start(folder.path()).await;
    let known = (last - 3, "ab".repeat(32));
    let checked = verify(&world, Some(&known)).await.unwrap();
    assert!(checked.problem.contains("record 8 is not the one that was seen before"), "{checked:?}");
    assert_eq!(verify(&world, Some(&(3, "xyz".into()))).await, Err(Code::InvalidArgument));
    world.end().await;
    drop(open(folder.path()));
}

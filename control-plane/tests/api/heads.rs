//! Whoever cuts the end off the audit log, or forges records in the store's files, is found out.

use std::path::Path;
use std::sync::Arc;

use postrider_control_plane::audit_head::{Exporter, HeadError, compare};
use postrider_control_plane::metrics::Metrics;
use postrider_control_plane::store::{SledStore, Store};
use postrider_domain::audit::{Head, Record};
use postrider_proto::v1;
use postrider_proto::v1::audit_service_server::AuditService as _;

use crate::world::{World, admin, sealer};

/// Copies a store as an attacker would, to put it back later.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

async fn export(world: &World, path: &Path) -> Option<Head> {
    let store: Arc<dyn Store> = world.store.clone();
    let metrics = Arc::new(Metrics::new());
    let exporter =
        Exporter { store, key: sealer().audit_key(), path: Some(path.to_owned()), metrics: metrics.clone() };
    let head = exporter.export(None).await;
    assert_eq!(exporter.export(head).await, head, "nothing has changed");
    let shown = metrics.show(None).await;
    let line = format!("postrider_audit_head_sequence {}", head.unwrap().sequence);
    assert!(shown.lines().any(|found| found == line), "{line}");
    head
}

async fn records(store: &SledStore) -> Vec<Record> {
    store.audit_records_after(0, 1000).await.unwrap()
}

async fn verify(world: &World) -> v1::VerifyAuditLogResponse {
    let request = v1::VerifyAuditLogRequest::default();
    world.api.verify_audit_log(admin(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_log_whose_end_was_cut_off_does_not_pass_the_exported_head() {
    let folder = tempfile::tempdir().unwrap();
    let (store, older, head) =
        (folder.path().join("store"), folder.path().join("older"), folder.path().join("head"));
    let world = World::start(&store).await;
    world.tenant("acme").await;
    world.end().await;
    copy(&store, &older);
    let mut world = World::start(&store).await;
    world.tenant("umbra").await;
    let last = export(&world, &head).await.unwrap();
    world.api.audit_head_file = Some(head.clone());
    assert!(verify(&world).await.intact);
    world.end().await;

    // The older files are put back.
    std::fs::remove_dir_all(&store).unwrap();
    copy(&older, &store);
    let mut world = World::start(&store).await;
    let key = sealer().audit_key();
    let error = compare(&*world.store, &key, &head).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, HeadError::Truncated { .. }), "{said}");
    assert!(said.contains(&format!("and had record {}", last.sequence)) && said.contains("move"), "{said}");
    assert!(verify(&world).await.intact, "the chain alone does not show it");
    world.api.audit_head_file = Some(head.clone());
    let answer = verify(&world).await;
    assert!(!answer.intact && answer.problem.contains("was seen before"), "{answer:?}");
    // The log has grown beyond the head again, with other records.
    for tenant in ["a", "b", "c"] {
        world.tenant(tenant).await;
    }
    let said = compare(&*world.store, &key, &head).await.unwrap_err().to_string();
    assert!(said.contains("is not the one that it had"), "{said}");
    assert!(!verify(&world).await.intact);
    std::fs::write(&head, std::fs::read_to_string(&head).unwrap().replacen(':', "0:", 1)).unwrap();
    let said = compare(&*world.store, &key, &head).await.unwrap_err().to_string();
    assert!(said.contains("was altered"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn every_record_has_a_code_that_the_sealed_key_makes() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    assert!(verify(&world).await.intact);
    world.end().await;
    let store = crate::world::open(folder.path());
    let key = sealer().audit_key();
    for record in records(&store).await {
        let head = Head { sequence: record.sequence, hash: record.hash };
        assert!(record.code.is_some_and(|code| key.is_code(&head, &code)), "{record:?}");
    }
    store.close().await.unwrap();
}

/// Somebody who can write the store but has no key appends a record, with a chain that is right.
#[tokio::test]
async fn a_record_that_was_forged_without_the_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    world.end().await;
    let store = crate::world::open(folder.path());
    let entry = postrider_domain::audit::Entry::by_postrider("CreateToken", "tok_forged", Default::default());
    store.put_audit_entry(entry).await.unwrap();
    let forged = records(&store).await.pop().unwrap();
    assert_eq!(forged.code, None);
    store.close().await.unwrap();
    drop(store);
    let world = World::start(folder.path()).await;
    world.tenant("umbra").await;
    let answer = verify(&world).await;
    let expected =
        format!("record {} was not written by Postrider: it has no authentication code", forged.sequence);
    assert!(!answer.intact && answer.problem == expected, "{answer:?}");
    world.end().await;
}

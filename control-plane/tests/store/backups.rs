//! Backups by the store's own methods: what is accepted, settled and sealed while one is taken is there afterwards, and fits together.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use postrider_control_plane::store::backup::verify;
use postrider_control_plane::store::{
    DataKeyRow, Settle, Settlement, SledStore, Store, SubscriptionRow, restore,
};
use postrider_domain::delivery::State;
use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::{Context, DataKey, KeyBytes};

use crate::open_sled;
use crate::suite::{accept, at, entry, lane, subscription, tenant};

/// Takes a backup, after each of whose first parts the store is written to.
async fn take(store: &SledStore, file: &Path, written: &AtomicU64) {
    let mut parts = store.backup(at(0)).await.unwrap();
    let (mut whole, mut count) = (Vec::new(), 0);
    while let Some(part) = parts.recv().await {
        whole.extend(part.unwrap());
        count += 1;
        let sum = written.load(Ordering::Relaxed);
        while count < 20 && written.load(Ordering::Relaxed) < sum + 2 {
            tokio::task::yield_now().await;
        }
    }
    std::fs::write(file, whole).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_and_settled_meanwhile_fits_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open_sled(folder.path().join("old")));
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let keyed = |number: u64| {
        let mut accept = accept(number, at(number), &[lane(1), lane(2)]);
        accept.idempotency = Some(u128::from(number).to_be_bytes());
        accept
    };
    let emitting = tokio::spawn({
        let (store, stop, written) = (store.clone(), stop.clone(), written.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Relaxed) + 1;
                let accepted = store.accept(vec![keyed(number)]).await.unwrap().remove(0).unwrap();
                let id = accepted.deliveries[0];
                let mut delivery = store.delivery(id).await.unwrap().unwrap().delivery;
                delivery.state = State::Cancelled(at(number));
                let settle = Settle { id, was_due: None, delivery, attempt: None };
                let settlement =
                    Settlement { deliveries: vec![settle], position: number, ..Settlement::default() };
                store.settle(settlement).await.unwrap();
                written.store(number, Ordering::Relaxed);
            }
        }
    });
    while written.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    let before = written.load(Ordering::Relaxed);
    take(&store, &folder.path().join("backup"), &written).await;
    stop.store(true, Ordering::Relaxed);
    emitting.await.unwrap();
    let data_dir = folder.path().join("new");
    restore(&folder.path().join("backup"), &data_dir, at(0)).unwrap();
    let new = open_sled(data_dir.join("store"));
    let position = new.last_position().await.unwrap();
    assert!(position >= before, "{position} {before}");
    // One writer: what was settled at a position had all before it accepted and settled.
    for number in 1..=position {
        let again = new.accept(vec![keyed(number)]).await.unwrap().remove(0).unwrap();
        assert!(again.duplicate, "{number} is lost, or its idempotency key");
        let [settled, open] = again.deliveries[..] else { panic!("{again:?}") };
        let state = new.delivery(settled).await.unwrap().unwrap().delivery.state;
        assert_eq!(state, State::Cancelled(at(number)));
        assert_eq!(new.delivery(open).await.unwrap().unwrap().delivery.state, State::Pending);
    }
    // Numbers go on where they were: at most one event more was accepted and not settled.
    let end = new.lane(lane(1)).await.unwrap().end;
    assert!((position + 1..=position + 2).contains(&end), "{end} {position}");
    assert!(new.stored_bytes(vec![tenant()]).await.unwrap()[0] > 0);
}

fn data_key(number: u64) -> (DataKey, DataKeyRow) {
    let (id, kek) = (DataKeyId::new(at(number), 1), "kek_1".parse().unwrap());
    let bytes = [u8::try_from(number % 251).unwrap(); 32];
    let key = DataKey::new(id, "kek_1".parse().unwrap(), KeyBytes::new(bytes));
    let canary = key.seal(&Context::DigestKey, [7; 24], b"canary");
    (key, DataKeyRow { id, kek, wrapped: vec![7; 60], canary })
}

/// The data keys are a file beside the rows that are sealed with them, and both change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_has_the_data_key_of_whatever_is_sealed_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open_sled(folder.path().join("old")));
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let sealed = |key: &DataKey, row: SubscriptionRow| SubscriptionRow {
        headers: Some(key.seal(&Context::DigestKey, [7; 24], b"headers")),
        keys: Vec::new(),
        ..row
    };
    let rewrapping = tokio::spawn({
        let (store, stop, written) = (store.clone(), stop.clone(), written.clone());
        async move {
            let mut former: Option<DataKeyId> = None;
            while !stop.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Relaxed) + 1;
                let (key, row) = data_key(number);
                store.put_data_key(&row, entry("CreateDataKey")).await.unwrap();
                for number in 0..3 {
                    let row = sealed(&key, subscription(lane(number)));
                    store.reseal_subscriptions(vec![row]).await.unwrap();
                }
                if let Some(former) = former.replace(row.id) {
                    store.remove_data_keys(vec![former], entry("RewrapSecretsDone")).await.unwrap();
                }
                written.store(number, Ordering::Relaxed);
            }
        }
    });
    while written.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    for round in 0..8 {
        let (file, data_dir) =
            (folder.path().join(format!("{round}")), folder.path().join(format!("new-{round}")));
        take(&store, &file, &written).await;
        assert_eq!(verify(&file).unwrap().keks, ["kek_1"]);
        restore(&file, &data_dir, at(0)).unwrap();
        let new = open_sled(data_dir.join("store"));
        let keys: Vec<DataKeyId> = new.data_keys().await.unwrap().iter().map(|row| row.id).collect();
        assert!((1..=2).contains(&keys.len()), "{keys:?}");
        for row in new.subscriptions(None, 10).await.unwrap() {
            let used = row.headers.unwrap().data_key();
            assert!(keys.contains(&used), "{used} is not among {keys:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    rewrapping.await.unwrap();
}

//! The promises about what is secret: it goes in sealed, comes out as it was, and goes without a trace where that is said.

use std::os::unix::fs::PermissionsExt as _;

use postrider_control_plane::store::{
    DataKeyRow, KeyUsesRow, SigningKeyRow, Store as _, StoreError, SubscriptionRow,
};
use postrider_domain::headers::CustomHeaders;
use postrider_domain::id::{DataKeyId, KeyId};
use postrider_domain::sealed::{Context, DataKey, KeyBytes, Sealed};
use postrider_domain::signing::{KeyUse, Profile, Profiles, Scheme};

use crate::Backend;
use crate::suite::{at, entry, lane, subscription};

/// Something that is sealed.
fn sealed(number: u8) -> Sealed {
    let key = DataKey::new(DataKeyId::new(at(0), 1), "kek_1".parse().unwrap(), KeyBytes::new([number; 32]));
    key.seal(&Context::DigestKey, [number; 24], &[number; 40])
}

fn data_key(number: u8, kek: &str) -> DataKeyRow {
    DataKeyRow {
        id: DataKeyId::new(at(u64::from(number)), 1),
        kek: kek.parse().unwrap(),
        wrapped: vec![number; 60],
        canary: sealed(number),
    }
}

pub(crate) async fn subscriptions_keep_what_is_sealed(backend: &dyn Backend) {
    let store = backend.open();
    let mut row = SubscriptionRow { headers: Some(sealed(1)), ..subscription(lane(1)) };
    store.put_subscription(&row, None, entry("change")).await.unwrap();
    store.put_subscription(&subscription(lane(2)), None, entry("change")).await.unwrap();
    let next = SigningKeyRow {
        id: KeyId::new(at(1), 2),
        scheme: Scheme::V1a,
        secret: Some(sealed(2)),
        pending: true,
        ..row.keys[0].clone()
    };
    let github = Profile::GitHub { header: "x-hub-signature-256".into() };
    row.subscription.profiles = Profiles::new(vec![github]).unwrap();
    row.keys[0].retire = Some(at(60));
    row.keys.insert(0, next);
    row.keys.push(SigningKeyRow { id: KeyId::new(at(1), 3), secret: None, ..row.keys[1].clone() });
    store.put_subscription(&row, None, entry("change")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    assert_eq!(store.subscriptions(None, 10).await.unwrap(), [row, subscription(lane(2))]);
    assert_eq!(store.subscriptions(Some(lane(1)), 10).await.unwrap().len(), 1);
}

pub(crate) async fn uses_of_keys_are_kept_beside_their_subscription(backend: &dyn Backend) {
    let store = backend.open();
    let row = |number, keys| KeyUsesRow { subscription: lane(number), keys };
    let used = |signed, accepted| KeyUse { signed, accepted };
    let key = |number: u128| KeyId::new(at(0), number);
    let first = row(1, vec![(key(1), used(Some(at(5)), None))]);
    let second = row(2, vec![(key(1), used(Some(at(5)), Some(at(6)))), (key(2), used(None, Some(at(7))))]);
    store.put_key_uses(&[first.clone(), second.clone()]).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    assert_eq!(store.key_uses().await.unwrap(), [first, second.clone()]);
    store.put_key_uses(&[row(1, vec![])]).await.unwrap();
    assert_eq!(store.key_uses().await.unwrap(), [second], "what says nothing has no row");
    assert_eq!(store.audit_span().await.unwrap().end.sequence, 0, "a use is no change");
}

pub(crate) async fn headers_that_somebody_forgot_to_seal_are_not_written(backend: &dyn Backend) {
    let store = backend.open();
    let mut row = subscription(lane(1));
    let header = ("authorization".to_owned(), "Bearer planted-credential".to_owned());
    row.subscription.headers = CustomHeaders::new([header]).unwrap();
    store.put_subscription(&row, None, entry("change")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert!(backend.holds(b"hooks.example.com"), "the search does not find what is there");
    assert!(!backend.holds(b"planted-credential"));
}

pub(crate) async fn many_subscriptions_are_resealed_at_once_without_an_audit_record(backend: &dyn Backend) {
    let store = backend.open();
    for number in 0..5 {
        store.put_subscription(&subscription(lane(number)), None, entry("change")).await.unwrap();
    }
    let head = store.audit_span().await.unwrap();
    let resealed: Vec<SubscriptionRow> = (0..5)
        .map(|number| SubscriptionRow { headers: Some(sealed(9)), ..subscription(lane(number)) })
        .collect();
    store.reseal_subscriptions(resealed[..3].to_vec()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    let rows = store.subscriptions(None, 10).await.unwrap();
    assert_eq!(rows[..3], resealed[..3]);
    assert_eq!(rows[3..], [subscription(lane(3)), subscription(lane(4))]);
    assert_eq!(store.audit_span().await.unwrap(), head);
}

pub(crate) async fn data_keys_are_kept_in_order_and_removed_without_a_trace(backend: &dyn Backend) {
    let store = backend.open();
    assert_eq!(store.data_keys().await.unwrap(), []);
    let keys = [data_key(1, "kek_1"), data_key(2, "vault:transit/postrider"), data_key(3, "kek_3")];
    for key in [&keys[1], &keys[0], &keys[2]] {
        store.put_data_key(key, entry("CreateDataKey")).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    assert!(backend.holds(&keys[0].wrapped));
    let store = backend.open();
    assert_eq!(store.data_keys().await.unwrap(), keys);
    store.remove_data_keys(vec![keys[0].id, keys[2].id], entry("RewrapSecretsDone")).await.unwrap();
    assert_eq!(store.data_keys().await.unwrap(), keys[1..2]);
    store.close().await.unwrap();
    drop(store);
    for (key, there) in keys.iter().zip([false, true, false]) {
        assert_eq!(backend.holds(&key.wrapped), there, "{}", key.id);
        assert_eq!(backend.holds(key.canary.as_bytes()), there, "{}", key.id);
    }
    let store = backend.open();
    let actions: Vec<String> = store
        .audit_records_after(0, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|record| record.entry.action)
        .collect();
    assert_eq!(actions, ["CreateDataKey", "CreateDataKey", "CreateDataKey", "RewrapSecretsDone"]);
}

pub(crate) async fn a_data_key_that_something_needs_is_not_removed(backend: &dyn Backend) {
    let store = backend.open();
    let row = SubscriptionRow { headers: Some(sealed(1)), ..subscription(lane(1)) };
    store.put_subscription(&row, None, entry("change")).await.unwrap();
    let needed = DataKeyRow { id: sealed(1).data_key(), ..data_key(1, "kek_1") };
    for key in [&needed, &data_key(2, "kek_1")] {
        store.put_data_key(key, entry("CreateDataKey")).await.unwrap();
    }
    let keys = store.data_keys().await.unwrap();
    let ids: Vec<DataKeyId> = keys.iter().map(|key| key.id).collect();
    let head = store.audit_span().await.unwrap();
    let error = store.remove_data_keys(ids.clone(), entry("RemoveDataKeys")).await.unwrap_err();
    assert!(matches!(&error, StoreError::InUse(id, _) if *id == needed.id), "{error}");
    assert_eq!(store.data_keys().await.unwrap(), keys);
    assert_eq!(store.audit_span().await.unwrap(), head);
    store.reseal_subscriptions(vec![subscription(lane(1))]).await.unwrap();
    store.remove_data_keys(ids, entry("RemoveDataKeys")).await.unwrap();
    assert_eq!(store.data_keys().await.unwrap(), []);
}

/// Not a promise of every store: this one keeps the data keys beside its tree.
#[tokio::test]
async fn a_store_whose_file_of_data_keys_is_gone_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let open = || crate::try_open_sled(folder.path().to_owned());
    let store = open().unwrap();
    let key = data_key(1, "kek_1");
    store.put_data_key(&key, entry("CreateDataKey")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let file = folder.path().join("data-keys");
    let kept = std::fs::read(&file).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // What a crash leaves that came before the new file took the old one's place.
    std::fs::write(folder.path().join("data-keys.new"), b"half").unwrap();
    drop(open().unwrap());
    assert!(!folder.path().join("data-keys.new").exists());
    let flipped =
        |at: usize| kept.iter().enumerate().map(|(n, byte)| byte ^ u8::from(n == at)).collect::<Vec<u8>>();
    let flips = (0..kept.len()).step_by(13).map(|at| Some(flipped(at)));
    for content in [None, Some(Vec::new()), Some(kept[..kept.len() - 1].to_vec())].into_iter().chain(flips) {
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let error = open().err().unwrap().to_string();
        assert!(error.contains("data-keys") && error.contains("restore the latest backup"), "{error}");
    }
    std::fs::write(&file, kept).unwrap();
    drop(open().unwrap());
}

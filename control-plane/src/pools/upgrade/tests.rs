use std::sync::Arc;

use postrider_domain::id::{DataKeyId, SubscriptionId};
use postrider_domain::sealed::{DataKey, KEY_BYTES, KeyBytes};
use postrider_proto::{subscription, v1};

use super::*;
use crate::pools::Pools;
use crate::secrets::Sealer;
use crate::store::{Options, SledStore, SubscriptionRow, age};

const LAYOUT_BEFORE: u64 = 3;

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000 + second * 1000)
}

/// A store in a folder, as a program before this one left it.
struct Old(tempfile::TempDir);

impl Old {
    fn open(&self) -> Arc<dyn Store> {
        let options = Options { path: self.0.path().join("store"), cache_bytes: 8 << 20 };
        Arc::new(SledStore::open(&options).expect("the store opens"))
    }

    /// Makes a store with these pools and these subscriptions: whose, in which pool, whether a fallback may deliver,
    /// whether it was deleted.
    async fn with(pools: &[(&str, &str)], subscriptions: &[(&str, &str, bool, bool)]) -> Self {
        let old = Self(tempfile::tempdir().expect("a folder"));
        let store = old.open();
        let entry = |action: &str| Entry::by_postrider(action, "x", at(0));
        for tenant in ["acme", "globex", "leaving"] {
            let mut row = v1::Tenant { id: tenant.into(), ..Default::default() };
            if tenant == "leaving" {
                row.set_state(v1::TenantState::Deleting);
            }
            store.put_tenant(row, entry("CreateTenant")).await.expect("written");
        }
        for (name, fallback) in pools {
            // As the layout before wrote it: there is no list.
            let settings = Settings { fallback: fallback.parse().ok(), ..Settings::default() };
            let name: PoolName = name.parse().expect("a name");
            let row = PoolRow { name, settings, created: at(0), updated: at(0) };
            store.put_pool(&row, entry("CreatePool")).await.expect("written");
        }
        for (number, (tenant, pool, allow_fallback, deleted)) in (1..).zip(subscriptions) {
            let wire = v1::Subscription {
                id: SubscriptionId::new(at(number), 1).to_string(),
                tenant: (*tenant).into(),
                url: "https://example.com/".into(),
                event_types: vec!["*".into()],
                pool: (*pool).into(),
                allow_fallback_pool: *allow_fallback,
                state: v1::SubscriptionState::Active.into(),
                create_time: Some(postrider_proto::time::write(at(number))),
                update_time: Some(postrider_proto::time::write(at(number))),
                ..Default::default()
            };
            let row = SubscriptionRow {
                subscription: subscription::read(&wire).expect("a subscription"),
                keys: Vec::new(),
                headers: None,
                deleted: deleted.then(|| at(number)),
            };
            store.put_subscription(&row, None, entry("CreateSubscription")).await.expect("written");
        }
        store.close().await.expect("closed");
        drop(store);
        age(&old.0.path().join("store"), LAYOUT_BEFORE);
        old
    }
}

async fn load(store: &Arc<dyn Store>) -> Pools {
    let key = DataKey::new(
        DataKeyId::new(Timestamp::default(), 1),
        "kek_test".parse().expect("an id"),
        KeyBytes::new([1; KEY_BYTES]),
    );
    let sealer = Sealer::new(key, KeyBytes::new([2; KEY_BYTES]));
    let registry = Registry::load(&**store, &sealer).await.expect("the registry loads");
    Pools::load(store.clone(), &registry, at(100)).await.expect("the pools load")
}

fn lists(pools: &Pools) -> Vec<(String, Vec<String>)> {
    pools.list().iter().map(|row| (row.name.to_string(), row.settings.tenants.write())).collect()
}

fn listed(name: &str, tenants: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), tenants.iter().map(ToString::to_string).collect())
}

/// The grants on record.
async fn grants_on_record(store: &Arc<dyn Store>) -> Vec<(String, String)> {
    let records = store.audit_records_after(0, 1000).await.expect("records");
    let ours = records.into_iter().filter(|record| record.entry.detail.starts_with("upgrade: "));
    ours.map(|record| (record.entry.target, record.entry.detail)).collect()
}

#[tokio::test]
async fn each_pool_gets_the_tenants_that_use_it_and_nobody_else() {
    let pools = [("edge", "spare"), ("spare", ""), ("idle", ""), ("lonely", "spare")];
    let subscriptions = [
        ("acme", "edge", true, false),
        ("globex", "edge", false, false),
        ("acme", "named-only", false, false),
        ("acme", "default", false, false),
        ("globex", "idle", false, true),
        ("leaving", "idle", false, false),
        ("globex", "default", true, false),
    ];
    let old = Old::with(&pools, &subscriptions).await;
    let store = old.open();
    assert!(!store.pools_have_tenants().await.unwrap());
    let pools = load(&store).await;
    let expected = [
        listed("edge", &["acme", "globex"]),
        listed("idle", &[]),
        listed("lonely", &[]),
        listed("named-only", &["acme"]),
        listed("spare", &["acme"]),
    ];
    assert_eq!(lists(&pools), expected);
    assert!(store.pools_have_tenants().await.unwrap());
    let default = PoolName::default_pool();
    assert!(pools.allow(&default, &"globex".parse().unwrap()) && pools.get(&default).is_none());
    let on_record = grants_on_record(&store).await;
    let of: Vec<&str> = on_record.iter().map(|(pool, _)| pool.as_str()).collect();
    assert_eq!(of, ["edge", "edge", "named-only", "spare"], "a record each");
    assert!(on_record[0].1.contains("the tenant acme may use the pool"), "{on_record:?}");
    // What people decide afterwards stays, also after another start.
    let edge = PoolRow { settings: Settings::default(), ..pools.get(&"edge".parse().unwrap()).unwrap() };
    pools.put(edge, Entry::by_postrider("UpdatePool", "edge", at(101))).await.unwrap();
    store.close().await.unwrap();
    drop((pools, store));
    let store = old.open();
    assert_eq!(lists(&load(&store).await)[0], listed("edge", &[]));
    assert_eq!(grants_on_record(&store).await.len(), 4);
}

#[tokio::test]
async fn an_upgrade_that_was_cut_off_goes_on_where_it_was() {
    let old = Old::with(
        &[("default", "edge")],
        &[("acme", "edge", false, false), ("globex", "edge", false, false)],
    );
    let old = old.await;
    let store = old.open();
    let half = PoolRow {
        name: "edge".parse().unwrap(),
        settings: Settings {
            tenants: Tenants::Only(["acme".parse().unwrap()].into()),
            ..Settings::default()
        },
        created: at(50),
        updated: at(50),
    };
    store.put_pool(&half, Entry::by_postrider("UpdatePool", "edge", at(50))).await.unwrap();
    let pools = load(&store).await;
    assert_eq!(lists(&pools), [listed("default", &["*"]), listed("edge", &["acme", "globex"])]);
    let on_record = grants_on_record(&store).await;
    assert_eq!(on_record.len(), 2, "one for the pool default, one for globex: {on_record:?}");
}

#[tokio::test]
async fn a_new_store_needs_no_upgrade() {
    let folder = Old(tempfile::tempdir().unwrap());
    let store = folder.open();
    assert!(store.pools_have_tenants().await.unwrap());
    assert_eq!(lists(&load(&store).await), []);
}

//! What a store promises of pools.

use std::time::Duration;

use postrider_control_plane::store::PoolRow;
use postrider_domain::audit::Entry;
use postrider_domain::pool::{Settings, Tenants};
use postrider_domain::time::Timestamp;

use crate::Backend;

pub(crate) async fn pools_are_kept_until_they_are_removed(backend: &dyn Backend) {
    let at = |second: i64| Timestamp::from_millis(1_770_028_200_000 + second * 1000);
    let pool = |name: &str, description: &str, updated| PoolRow {
        name: name.parse().unwrap(),
        settings: Settings {
            description: description.into(),
            fallback: Some("spare".parse().unwrap()),
            fallback_after: Duration::from_secs(5),
            tenants: Tenants::Only(["acme".parse().unwrap()].into()),
        },
        created: at(0),
        updated,
    };
    let entry = |action: &str| Entry::by_postrider(action, "pool", at(0));
    let store = backend.open();
    store.put_pool(&pool("b", "first", at(0)), entry("CreatePool")).await.unwrap();
    store.put_pool(&pool("a", "", at(0)), entry("CreatePool")).await.unwrap();
    store.put_pool(&pool("b", "second", at(1)), entry("UpdatePool")).await.unwrap();
    store.put_pool(&pool("c", "", at(0)), entry("CreatePool")).await.unwrap();
    store.delete_pool(&"c".parse().unwrap(), entry("DeletePool")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    assert_eq!(store.pools().await.unwrap(), [pool("a", "", at(0)), pool("b", "second", at(1))]);
    assert_eq!(store.audit_span().await.unwrap().end.sequence, 5);
}

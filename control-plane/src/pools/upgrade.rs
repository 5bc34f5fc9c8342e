//! The upgrade of stores of before pools had lists of tenants, at the first start.
//!
//! Until then every tenant could name every pool. So that no delivery stops, each pool gets exactly the tenants whose
//! subscriptions use it: those that name it, and those that allow the fallback of a pool that they name. The pool
//! `default` goes on to allow every tenant. The store counts as upgraded when all lists are written: a start that was cut
//! off goes on where it was.

use std::collections::{BTreeMap, BTreeSet};

use postrider_domain::audit::Entry;
use postrider_domain::id::{PoolName, TenantId};
use postrider_domain::pool::{Settings, Tenants};
use postrider_domain::subscription::Subscription;
use postrider_domain::time::Timestamp;
use tracing::warn;

use crate::registry::Registry;
use crate::store::{PoolRow, Store, StoreError};

/// Upgrades the store if it needs that.
pub(super) async fn run(store: &dyn Store, registry: &Registry, now: Timestamp) -> Result<(), StoreError> {
    if store.pools_have_tenants().await? {
        return Ok(());
    }
    let rows: BTreeMap<PoolName, PoolRow> =
        store.pools().await?.into_iter().map(|row| (row.name.clone(), row)).collect();
    if let Some(row) = rows.get(&PoolName::default_pool()) {
        let detail = "upgrade: every tenant may use the pool, as before".to_owned();
        let audit = Entry { detail, ..Entry::by_postrider("UpdatePool", &row.name, now) };
        let settings = Settings { tenants: Tenants::Every, ..row.settings.clone() };
        store.put_pool(&PoolRow { settings, ..row.clone() }, audit).await?;
    }
    let subscriptions = registry.all();
    let grants = grants(subscriptions.iter().map(|row| &row.subscription), &rows);
    let count: usize = grants.values().map(BTreeSet::len).sum();
    for (name, tenants) in grants {
        write(store, &name, tenants, rows.get(&name), now).await?;
    }
    store.set_pools_have_tenants().await?;
    if count > 0 {
        warn!(
            grants = count,
            "upgrade: each pool now lists the tenants that may use it; the tenants whose subscriptions use a pool were added; review the lists with `postrider pools list` and change them with `postrider pools update`"
        );
    }
    Ok(())
}

/// Writes a pool's list, one tenant and one audit record after the other.
async fn write(
    store: &dyn Store,
    name: &PoolName,
    granted: BTreeSet<TenantId>,
    row: Option<&PoolRow>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let new =
        || PoolRow { name: name.clone(), settings: Settings::uncreated(name), created: now, updated: now };
    let mut row = row.cloned().unwrap_or_else(new);
    for tenant in granted {
        // One that is listed was written before the upgrade was cut off.
        let Tenants::Only(listed) = &mut row.settings.tenants else { continue };
        if !listed.insert(tenant.clone()) {
            continue;
        }
        row.updated = now;
        let detail =
            format!("upgrade: the tenant {tenant} may use the pool, as its subscriptions do already");
        let audit = Entry { detail, ..Entry::by_postrider("UpdatePool", name, now) };
        store.put_pool(&row, audit).await?;
    }
    Ok(())
}

/// Who uses which pool, but for the pool `default`.
fn grants<'a>(
    subscriptions: impl Iterator<Item = &'a Subscription>,
    pools: &BTreeMap<PoolName, PoolRow>,
) -> BTreeMap<PoolName, BTreeSet<TenantId>> {
    let mut grants: BTreeMap<PoolName, BTreeSet<TenantId>> = BTreeMap::new();
    for subscription in subscriptions {
        let own = &subscription.pool;
        let fallback = pools.get(own).and_then(|row| row.settings.fallback.as_ref());
        let fallback = fallback.filter(|_| subscription.allow_fallback);
        for pool in std::iter::once(own).chain(fallback) {
            if *pool != PoolName::default_pool() {
                grants.entry(pool.clone()).or_default().insert(subscription.tenant.clone());
            }
        }
    }
    grants
}

#[cfg(test)]
mod tests;

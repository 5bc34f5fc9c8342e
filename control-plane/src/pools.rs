//! Pools that were created, in memory. The store is written first, then this; changes are serialised by
//! [`crate::registry::Registry::change`], as those of subscriptions are, since one may name the other.

mod upgrade;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrider_domain::audit::Entry;
use postrider_domain::id::{PoolName, TenantId};
use postrider_domain::pool::{Settings, Tenants};
use postrider_domain::time::Timestamp;

use crate::registry::Registry;
use crate::schedule::{Fallback, PoolTerms};
use crate::store::{PoolRow, Store, StoreError};

/// Every pool that was created.
pub struct Pools {
    store: Arc<dyn Store>,
    rows: Mutex<BTreeMap<PoolName, PoolRow>>,
}

impl Pools {
    /// What the store has. Pools of a store of before they had tenants get those that use them now.
    ///
    /// # Errors
    /// When the store cannot be read, or an old one not be written.
    pub async fn load(
        store: Arc<dyn Store>,
        registry: &Registry,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        upgrade::run(&*store, registry, now).await?;
        let rows = store.pools().await?.into_iter().map(|row| (row.name.clone(), row)).collect();
        Ok(Self { store, rows: Mutex::new(rows) })
    }

    /// One pool, if it was created.
    #[must_use]
    pub fn get(&self, name: &PoolName) -> Option<PoolRow> {
        self.lock().get(name).cloned()
    }

    /// The settings of a pool: those of one that was never created, if it was not.
    #[must_use]
    pub fn settings(&self, name: &PoolName) -> Settings {
        self.get(name).map_or_else(|| Settings::uncreated(name), |row| row.settings)
    }

    /// Whether a tenant may use a pool. An unknown pool and one that does not allow the tenant take the same steps.
    #[must_use]
    pub fn allow(&self, name: &PoolName, tenant: &TenantId) -> bool {
        let uncreated = Tenants::of_uncreated(name);
        self.lock().get(name).map_or(&uncreated, |row| &row.settings.tenants).allow(tenant)
    }

    /// Every pool that was created, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PoolRow> {
        self.lock().values().cloned().collect()
    }

    /// Who falls back on whom.
    #[must_use]
    pub fn fallbacks(&self) -> BTreeMap<PoolName, PoolName> {
        let of = |row: &PoolRow| Some((row.name.clone(), row.settings.fallback.clone()?));
        self.lock().values().filter_map(of).collect()
    }

    /// Writes a pool.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put(&self, row: PoolRow, audit: Entry) -> Result<(), StoreError> {
        self.store.put_pool(&row, audit).await?;
        self.lock().insert(row.name.clone(), row);
        Ok(())
    }

    /// Removes a pool.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn remove(&self, name: &PoolName, audit: Entry) -> Result<(), StoreError> {
        self.store.delete_pool(name, audit).await?;
        self.lock().remove(name);
        Ok(())
    }

    // A panic elsewhere while the lock was held leaves nothing half done: every change is one call.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PoolName, PoolRow>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolRow {
    /// The settings that the schedule needs.
    #[must_use]
    pub fn terms(&self) -> PoolTerms {
        let Settings { fallback, fallback_after, tenants, .. } = &self.settings;
        let fallback = fallback.clone().map(|pool| Fallback { pool, after: *fallback_after });
        PoolTerms { tenants: tenants.clone(), fallback }
    }
}

//! Pools that were created, in memory. The store is written first, then this; changes are serialised by
//! [`crate::registry::Registry::change`], as those of subscriptions are, since one may name the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrider_domain::audit::Entry;
use postrider_domain::id::PoolName;

use crate::schedule::Fallback;
use crate::store::{PoolRow, Store, StoreError};

/// Every pool that was created.
pub struct Pools {
    store: Arc<dyn Store>,
    rows: Mutex<BTreeMap<PoolName, PoolRow>>,
}

impl Pools {
    /// What the store has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let rows = store.pools().await?.into_iter().map(|row| (row.name.clone(), row)).collect();
        Ok(Self { store, rows: Mutex::new(rows) })
    }

    /// One pool, if it was created.
    #[must_use]
    pub fn get(&self, name: &PoolName) -> Option<PoolRow> {
        self.lock().get(name).cloned()
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
    /// What the schedule is told of it.
    #[must_use]
    pub fn fallback(&self) -> Option<Fallback> {
        let pool = self.settings.fallback.clone()?;
        Some(Fallback { pool, after: self.settings.fallback_after })
    }
}

//! Tenants and subscriptions in memory: who wants an event, and how a delivery is made and signed.
//!
//! The store is written first, then this. Changes are serialised by [`Registry::change`]; readers never wait for one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use postrider_domain::event::EventTypeName;
use postrider_domain::id::{SubscriptionId, TenantId};
use postrider_domain::pattern::Index;
use tokio::sync::{Mutex, MutexGuard};

use crate::secrets::{KeyedSubscription, Sealer, SecretsError, open_subscription};
use crate::store::Store;

/// How many rows are read at once at the start.
const PAGE: usize = 1000;

/// Tenants and subscriptions in memory.
pub struct Registry {
    known: RwLock<Known>,
    /// Held while a subscription or tenant is read, decided about and written.
    changes: Mutex<()>,
}

#[derive(Default)]
struct Known {
    tenants: HashMap<TenantId, Tenant>,
    subscriptions: HashMap<SubscriptionId, Arc<KeyedSubscription>>,
}

#[derive(Default)]
struct Tenant {
    index: Index<SubscriptionId>,
    subscriptions: BTreeMap<SubscriptionId, Arc<KeyedSubscription>>,
}

impl Registry {
    /// What the store has.
    ///
    /// # Errors
    /// When the store cannot be read, or a secret in it does not open.
    pub async fn load(store: &dyn Store, sealer: &Sealer) -> Result<Self, SecretsError> {
        let registry = Self { known: RwLock::default(), changes: Mutex::new(()) };
        let mut after = None;
        loop {
            let page = store.tenants(after.take(), PAGE).await?;
            after = page.last().and_then(|tenant| tenant.id.parse().ok());
            page.iter().filter_map(|tenant| tenant.id.parse().ok()).for_each(|id| registry.add_tenant(id));
            if after.is_none() {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = store.subscriptions(after.take(), PAGE).await?;
            after = page.last().map(|row| row.subscription.id);
            for row in page.into_iter().filter(|row| row.deleted.is_none()) {
                registry.put(open_subscription(sealer, row)?);
            }
            if after.is_none() {
                return Ok(registry);
            }
        }
    }

    /// Begins a change; nobody else changes anything until the guard is dropped.
    pub async fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Whether there is such a tenant.
    #[must_use]
    pub fn has_tenant(&self, tenant: &TenantId) -> bool {
        self.read().tenants.contains_key(tenant)
    }

    /// A tenant was created.
    pub fn add_tenant(&self, tenant: TenantId) {
        self.write().tenants.entry(tenant).or_default();
    }

    /// A tenant was deleted.
    pub fn remove_tenant(&self, tenant: &TenantId) {
        self.write().tenants.remove(tenant);
    }

    /// Who wants an event of this type; `None` when there is no such tenant.
    #[must_use]
    pub fn subscribers(&self, tenant: &TenantId, event_type: &EventTypeName) -> Option<Vec<SubscriptionId>> {
        self.read().tenants.get(tenant).map(|tenant| tenant.index.find(event_type))
    }

    /// A subscription that is not deleted, whosever it is.
    #[must_use]
    pub fn get(&self, id: SubscriptionId) -> Option<Arc<KeyedSubscription>> {
        self.read().subscriptions.get(&id).cloned()
    }

    /// A tenant's subscription that is not deleted. It is looked for among the tenant's alone, so that another's takes no
    /// longer to be missed than one that never was.
    #[must_use]
    pub fn get_of(&self, tenant: &TenantId, id: SubscriptionId) -> Option<Arc<KeyedSubscription>> {
        self.read().tenants.get(tenant)?.subscriptions.get(&id).cloned()
    }

    /// A tenant's subscriptions by age, after this one.
    #[must_use]
    pub fn list(
        &self,
        tenant: &TenantId,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Vec<Arc<KeyedSubscription>> {
        let known = self.read();
        let Some(of_tenant) = known.tenants.get(tenant) else { return Vec::new() };
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rows = of_tenant.subscriptions.range((start, std::ops::Bound::Unbounded)).take(limit);
        rows.map(|(_, row)| row.clone()).collect()
    }

    /// Every subscription.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<KeyedSubscription>> {
        self.read().subscriptions.values().cloned().collect()
    }

    /// A subscription was created or changed; as it is known now.
    pub fn put(&self, row: KeyedSubscription) -> Arc<KeyedSubscription> {
        let row = Arc::new(row);
        let subscription = &row.subscription;
        let mut known = self.write();
        known.forget_patterns(subscription.id);
        let tenant = known.tenants.entry(subscription.tenant.clone()).or_default();
        tenant.index.insert(&subscription.patterns, subscription.id);
        tenant.subscriptions.insert(subscription.id, row.clone());
        known.subscriptions.insert(subscription.id, row.clone());
        row
    }

    /// A subscription was deleted.
    pub fn remove(&self, id: SubscriptionId) {
        let mut known = self.write();
        known.forget_patterns(id);
        if let Some(row) = known.subscriptions.remove(&id)
            && let Some(tenant) = known.tenants.get_mut(&row.subscription.tenant)
        {
            tenant.subscriptions.remove(&id);
        }
    }

    // A panic elsewhere while the lock was held leaves nothing half done: every change is one call.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn forget_patterns(&mut self, id: SubscriptionId) {
        let Some(row) = self.subscriptions.get(&id) else { return };
        if let Some(tenant) = self.tenants.get_mut(&row.subscription.tenant) {
            tenant.index.remove(&row.subscription.patterns, id);
        }
    }
}

//! Tenants and subscriptions in memory: who wants an event, and how a delivery is made and signed.
//!
//! The store is written first, then this. Changes are serialised by [`Registry::change`]; readers never wait for one.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ahash::{HashMap, HashSet};
use postrider_domain::event::EventTypeName;
use postrider_domain::filter::{Cost, Facts, Filter};
use postrider_domain::id::{SubscriptionId, TenantId};
use postrider_domain::pattern::Index;
use postrider_domain::quota::{OwnQuota, Quota};
use postrider_domain::subscription::State;
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;
use postrider_proto::{event_type, tenant, v1};
use tokio::sync::{Mutex, MutexGuard};

use crate::secrets::{KeyedSubscription, Sealer, SecretsError, open_subscription};
use crate::store::{Store, StoreError, SubscriptionRow};

mod catalogue;
mod unanswered;

pub use catalogue::{Catalogues, Counted, Look};
pub use unanswered::Failures;
use unanswered::Unanswered;

/// How many rows are read at once at the start.
const PAGE: usize = 1000;

/// Tenants and subscriptions in memory.
pub struct Registry {
    known: RwLock<Known>,
    /// Held while a subscription or tenant is read, decided about and written.
    changes: Mutex<()>,
    unanswered: Unanswered,
    /// What tenants may use that have no quota of their own.
    default_quota: Quota,
    /// What events are judged by, before anything else.
    pub catalogues: Catalogues,
}

/// Whether a tenant can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantStatus {
    /// Yes.
    Active,
    /// It is being deleted.
    Deleting,
    /// There is none.
    Unknown,
}

#[derive(Default)]
struct Known {
    tenants: HashMap<TenantId, Tenant>,
    /// Those that are being deleted: nothing else is known of them any more.
    deleting: HashSet<TenantId>,
    subscriptions: HashMap<SubscriptionId, Arc<KeyedSubscription>>,
    /// How many of those are active, paused, disabled.
    states: [usize; 3],
}

#[derive(Default)]
struct Tenant {
    index: Index<SubscriptionId>,
    filters: HashMap<SubscriptionId, Filter>,
    /// What all of them cost together.
    filter_cost: Cost,
    subscriptions: BTreeMap<SubscriptionId, Arc<KeyedSubscription>>,
    quota: OwnQuota,
}

impl Registry {
    /// What the store has, where tenants have the standard quota.
    ///
    /// # Errors
    /// When the store cannot be read, or a secret in it does not open.
    pub async fn load(store: &dyn Store, sealer: &Sealer) -> Result<Self, SecretsError> {
        Self::load_with(store, sealer, Quota::STANDARD).await
    }

    /// What the store has, where tenants may use so much that have no quota of their own.
    ///
    /// # Errors
    /// When the store cannot be read, or a secret in it does not open.
    pub async fn load_with(
        store: &dyn Store,
        sealer: &Sealer,
        default_quota: Quota,
    ) -> Result<Self, SecretsError> {
        let registry = Self {
            default_quota,
            known: RwLock::default(),
            changes: Mutex::new(()),
            unanswered: Unanswered::default(),
            catalogues: Catalogues::default(),
        };
        let mut after = None;
        loop {
            let page = store.tenants(after.take(), PAGE).await?;
            after = page.next;
            for tenant in page.items {
                let Ok(id) = tenant.id.parse::<TenantId>() else { continue };
                if tenant.state() == v1::TenantState::Deleting {
                    registry.begin_deletion(&id);
                    continue;
                }
                registry.load_catalogue(store, &id, &tenant).await?;
                let quota = tenant::read_quota(tenant.quota.as_ref()).unwrap_or_default();
                registry.add_tenant(id.clone());
                registry.set_quota(&id, quota);
            }
            if after.is_none() {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = store.subscriptions(after.take(), PAGE).await?;
            after = page.last().map(|row| row.subscription.id);
            let is_known = |row: &SubscriptionRow| {
                row.deleted.is_none()
                    && registry.tenant_status(&row.subscription.tenant) != TenantStatus::Deleting
            };
            for row in page.into_iter().filter(is_known) {
                registry.put(open_subscription(sealer, row)?);
            }
            if after.is_none() {
                return Ok(registry);
            }
        }
    }

    async fn load_catalogue(
        &self,
        store: &dyn Store,
        id: &TenantId,
        tenant: &v1::Tenant,
    ) -> Result<(), StoreError> {
        let unreadable = |violation: Violation| StoreError::Damaged {
            place: format!("the catalogue of {id}"),
            problem: violation.to_string(),
        };
        let unknown = event_type::read_strictness("unknown_event_types", tenant.unknown_event_types);
        self.catalogues.set_unknown(id, unknown.map_err(unreadable)?);
        let mut after = None;
        loop {
            let page = store.event_types(id, after.take(), PAGE).await?;
            for wire in page.items {
                let Ok(name) = wire.name.parse::<EventTypeName>() else { continue };
                let _number = self.catalogues.put(id, name, event_type::read(&wire).map_err(unreadable)?);
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
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

    /// Whether a tenant can be used.
    #[must_use]
    pub fn tenant_status(&self, tenant: &TenantId) -> TenantStatus {
        let known = self.read();
        if known.tenants.contains_key(tenant) {
            TenantStatus::Active
        } else if known.deleting.contains(tenant) {
            TenantStatus::Deleting
        } else {
            TenantStatus::Unknown
        }
    }

    /// A tenant is being deleted: it and its subscriptions are not known any more. Returns those.
    pub fn begin_deletion(&self, tenant: &TenantId) -> Vec<SubscriptionId> {
        let subscriptions: Vec<_> =
            self.list(tenant, None, usize::MAX).iter().map(|row| row.subscription.id).collect();
        subscriptions.iter().for_each(|id| self.remove(*id));
        let mut known = self.write();
        known.tenants.remove(tenant);
        known.deleting.insert(tenant.clone());
        self.catalogues.forget(tenant);
        subscriptions
    }

    /// A tenant is deleted.
    pub fn end_deletion(&self, tenant: &TenantId) {
        self.write().deleting.remove(tenant);
    }

    /// What a tenant may use. What is not said for the tenant of operational events is not limited.
    #[must_use]
    pub fn quota(&self, tenant: &TenantId) -> Quota {
        let own = self.read().tenants.get(tenant).map(|tenant| tenant.quota).unwrap_or_default();
        if tenant.is_postrider() { own.over(&Quota::default()) } else { own.over(&self.default_quota) }
    }

    /// What is said of what a tenant that is there may use from now on.
    pub fn set_quota(&self, tenant: &TenantId, quota: OwnQuota) {
        if let Some(tenant) = self.write().tenants.get_mut(tenant) {
            tenant.quota = quota;
        }
    }

    /// How many subscriptions a tenant has.
    #[must_use]
    pub fn count(&self, tenant: &TenantId) -> usize {
        self.read().tenants.get(tenant).map_or(0, |tenant| tenant.subscriptions.len())
    }

    /// The tenants that have a quota of their own, and what they may use.
    #[must_use]
    pub fn own_quotas(&self) -> Vec<(TenantId, Quota)> {
        let known = self.read();
        let own = known.tenants.iter().filter(|(_, tenant)| tenant.quota != OwnQuota::default());
        let ids: Vec<TenantId> = own.map(|(id, _)| id.clone()).collect();
        drop(known);
        ids.into_iter().map(|id| (id.clone(), self.quota(&id))).collect()
    }

    /// Who wants an event; `None` when there is no such tenant. A filter that gives no answer lets the event pass, and is
    /// counted.
    #[must_use]
    pub fn subscribers(
        &self,
        tenant: &TenantId,
        facts: &Facts<'_>,
        now: Timestamp,
    ) -> Option<Vec<SubscriptionId>> {
        // Data is read, and filters are evaluated, when nobody waits for the lock.
        if self.filter_cost(tenant, 0) > 0 {
            facts.prepare();
        }
        let candidates: Vec<(SubscriptionId, Option<Filter>)> = {
            let known = self.read();
            let tenant = known.tenants.get(tenant)?;
            let found = tenant.index.find(facts).into_iter();
            if tenant.filters.is_empty() {
                return Some(found.collect());
            }
            found.map(|id| (id, tenant.filters.get(&id).cloned())).collect()
        };
        let wants = |(id, filter): (SubscriptionId, Option<Filter>)| match filter
            .map(|filter| filter.passes(facts))
        {
            None | Some(Ok(true)) => Some(id),
            Some(Ok(false)) => None,
            Some(Err(unanswered)) => {
                self.unanswered.note(id, unanswered, now);
                Some(id)
            }
        };
        Some(candidates.into_iter().filter_map(wants).collect())
    }

    /// What the tenant's filters cost an event of so many bytes at most, in units of about a nanosecond; 0 when there are
    /// none.
    #[must_use]
    pub fn filter_cost(&self, tenant: &TenantId, size: usize) -> u64 {
        let known = self.read();
        let tenant = known.tenants.get(tenant).filter(|tenant| !tenant.filters.is_empty());
        tenant.map_or(0, |tenant| tenant.filter_cost.of(size).saturating_add(Facts::reading(size)))
    }

    /// For how many events the subscription's filter gave no answer, and why and when the last time.
    #[must_use]
    pub fn unanswered(&self, id: SubscriptionId) -> Option<Failures> {
        self.unanswered.of(id)
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

    /// How many subscriptions there are in each state.
    #[must_use]
    pub fn count_by_state(&self) -> [(&'static str, usize); 3] {
        let [active, paused, disabled] = self.read().states;
        [("active", active), ("paused", paused), ("disabled", disabled)]
    }

    /// A subscription was created or changed; as it is known now.
    pub fn put(&self, row: KeyedSubscription) -> Arc<KeyedSubscription> {
        let row = Arc::new(row);
        let subscription = &row.subscription;
        let mut known = self.write();
        let before = known.subscriptions.get(&subscription.id);
        if before.is_some_and(|before| before.subscription.filter != subscription.filter) {
            self.unanswered.forget(subscription.id);
        }
        known.forget_patterns(subscription.id);
        let tenant = known.tenants.entry(subscription.tenant.clone()).or_default();
        let filter = subscription.filter.as_ref();
        if !subscription.drops() {
            tenant.index.insert(&subscription.patterns, filter.and_then(Filter::anchor), subscription.id);
            if let Some(filter) = filter {
                tenant.filter_cost += filter.cost();
                tenant.filters.insert(subscription.id, filter.clone());
            }
        }
        tenant.subscriptions.insert(subscription.id, row.clone());
        let before = known.subscriptions.insert(subscription.id, row.clone());
        known.states[of_state(&row)] += 1;
        before.into_iter().for_each(|before| known.states[of_state(&before)] -= 1);
        row
    }

    /// A subscription was deleted.
    pub fn remove(&self, id: SubscriptionId) {
        let mut known = self.write();
        self.unanswered.forget(id);
        known.forget_patterns(id);
        let Some(row) = known.subscriptions.remove(&id) else { return };
        known.states[of_state(&row)] -= 1;
        if let Some(tenant) = known.tenants.get_mut(&row.subscription.tenant) {
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

/// Where subscriptions in this one's state are counted.
fn of_state(row: &KeyedSubscription) -> usize {
    match row.subscription.state {
        State::Active => 0,
        State::Paused => 1,
        State::Disabled { .. } => 2,
    }
}

impl Known {
    fn forget_patterns(&mut self, id: SubscriptionId) {
        let Some(row) = self.subscriptions.get(&id) else { return };
        if let Some(tenant) = self.tenants.get_mut(&row.subscription.tenant) {
            let anchor = row.subscription.filter.as_ref().and_then(Filter::anchor);
            tenant.index.remove(&row.subscription.patterns, anchor, id);
            if let Some(filter) = tenant.filters.remove(&id) {
                tenant.filter_cost -= filter.cost();
            }
        }
    }
}

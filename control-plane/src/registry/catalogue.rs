//! The catalogues of event types in memory, as events are judged by them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ahash::HashMap;
use postrider_domain::catalogue::{Entry, Strictness};
use postrider_domain::event::EventTypeName;
use postrider_domain::id::TenantId;

/// Of every tenant. Those that have none are as those whose catalogue is empty.
#[derive(Default)]
pub struct Catalogues {
    all: RwLock<HashMap<TenantId, Catalogue>>,
    /// The number of the type that was changed last.
    last: AtomicU64,
}

#[derive(Default)]
struct Catalogue {
    unknown: Strictness,
    types: HashMap<EventTypeName, Arc<Counted>>,
}

/// A type, and how its events fare.
#[derive(Debug)]
pub struct Counted {
    entry: Entry,
    /// It gets another whenever it is changed: its compiled schema goes by it.
    number: u64,
    /// Events of the type that were accepted with a warning.
    warned: AtomicU64,
}

/// What a tenant's catalogue says of a type.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// What follows from a type that is not in it.
    pub unknown: Strictness,
    /// The type, if it is in it.
    pub counted: Option<Arc<Counted>>,
}

impl Counted {
    /// What events of the type are judged by.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The number that it got when it was last changed.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// An event of the type was accepted with a warning.
    pub fn warned(&self) {
        self.warned.fetch_add(1, Ordering::Relaxed);
    }
}

impl Catalogues {
    /// What is said of a type.
    #[must_use]
    pub fn look(&self, tenant: &TenantId, name: &EventTypeName) -> Look {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let Some(catalogue) = all.get(tenant) else { return Look::default() };
        Look { unknown: catalogue.unknown, counted: catalogue.types.get(name).cloned() }
    }

    /// How many types a tenant has.
    #[must_use]
    pub fn count(&self, tenant: &TenantId) -> usize {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(tenant).map_or(0, |catalogue| catalogue.types.len())
    }

    /// How many events of the type were accepted with a warning since it was last changed or the control plane started.
    #[must_use]
    pub fn warned(&self, tenant: &TenantId, name: &EventTypeName) -> u64 {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let counted = all.get(tenant).and_then(|catalogue| catalogue.types.get(name));
        counted.map_or(0, |counted| counted.warned.load(Ordering::Relaxed))
    }

    /// A type was created or changed. Its number now, and the one that it had.
    pub fn put(&self, tenant: &TenantId, name: EventTypeName, entry: Entry) -> (u64, Option<u64>) {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let counted = Arc::new(Counted { entry, number, warned: AtomicU64::new(0) });
        let before = self.of(tenant, |catalogue| catalogue.types.insert(name, counted));
        (number, before.map(|before| before.number))
    }

    /// A type was deleted. The number that it had.
    pub fn remove(&self, tenant: &TenantId, name: &EventTypeName) -> Option<u64> {
        self.of(tenant, |catalogue| catalogue.types.remove(name)).map(|before| before.number)
    }

    /// What follows from a type that is not in the tenant's catalogue.
    pub fn set_unknown(&self, tenant: &TenantId, unknown: Strictness) {
        self.of(tenant, |catalogue| catalogue.unknown = unknown);
    }

    /// A tenant was deleted.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    fn of<T>(&self, tenant: &TenantId, change: impl FnOnce(&mut Catalogue) -> T) -> T {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(tenant.clone()).or_default())
    }
}

//! The catalogues of event types in memory, as events are judged by them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use postrider_domain::catalogue::{self, Entry, Strictness, Warning};
use postrider_domain::event::EventTypeName;
use postrider_domain::id::TenantId;
use postrider_domain::violation::Violation;

/// Of every tenant. Those that have none are as those whose catalogue is empty.
#[derive(Default)]
pub struct Catalogues(RwLock<HashMap<TenantId, Catalogue>>);

#[derive(Default)]
struct Catalogue {
    unknown: Strictness,
    types: HashMap<EventTypeName, Arc<Counted>>,
}

struct Counted {
    entry: Entry,
    /// Events of the type that were accepted with a warning.
    warned: AtomicU64,
}

impl Catalogues {
    /// Judges an event.
    ///
    /// # Errors
    /// Why it is refused: a violation of `type` or `data`.
    pub fn judge(
        &self,
        tenant: &TenantId,
        name: &EventTypeName,
        data: &[u8],
    ) -> Result<Vec<Warning>, Violation> {
        // Data is validated when nobody waits for the lock.
        let (unknown, counted) = {
            let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let Some(catalogue) = all.get(tenant) else { return Ok(Vec::new()) };
            (catalogue.unknown, catalogue.types.get(name).cloned())
        };
        let warnings = catalogue::judge(name, counted.as_ref().map(|counted| &counted.entry), unknown, data)?;
        if let Some(counted) = counted.filter(|_| !warnings.is_empty()) {
            counted.warned.fetch_add(1, Ordering::Relaxed);
        }
        Ok(warnings)
    }

    /// How many events of the type were accepted with a warning since it was last changed or the control plane started.
    #[must_use]
    pub fn warned(&self, tenant: &TenantId, name: &EventTypeName) -> u64 {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let counted = all.get(tenant).and_then(|catalogue| catalogue.types.get(name));
        counted.map_or(0, |counted| counted.warned.load(Ordering::Relaxed))
    }

    /// A type was created or changed.
    pub fn put(&self, tenant: &TenantId, name: EventTypeName, entry: Entry) {
        let counted = Arc::new(Counted { entry, warned: AtomicU64::new(0) });
        self.of(tenant, |catalogue| drop(catalogue.types.insert(name, counted)));
    }

    /// A type was deleted.
    pub fn remove(&self, tenant: &TenantId, name: &EventTypeName) {
        self.of(tenant, |catalogue| drop(catalogue.types.remove(name)));
    }

    /// What follows from a type that is not in the tenant's catalogue.
    pub fn set_unknown(&self, tenant: &TenantId, unknown: Strictness) {
        self.of(tenant, |catalogue| catalogue.unknown = unknown);
    }

    /// A tenant was deleted.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    fn of(&self, tenant: &TenantId, change: impl FnOnce(&mut Catalogue)) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(tenant.clone()).or_default());
    }
}

//! How many test events of each tenant may be under way at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::HashMap;
use postrider_domain::id::TenantId;

/// The slots that are taken, by tenant.
pub(super) struct Slots {
    each: usize,
    taken: Mutex<HashMap<TenantId, usize>>,
}

/// A slot, until it is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    tenant: TenantId,
}

impl Slots {
    /// Each tenant has so many.
    pub(super) fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, taken: Mutex::default() })
    }

    /// A slot of this tenant; nothing when all of them are taken.
    pub(super) fn take(self: &Arc<Self>, tenant: &TenantId) -> Option<Slot> {
        let mut taken = self.taken();
        let count = taken.entry(tenant.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Slot { slots: self.clone(), tenant: tenant.clone() })
    }

    // A panic elsewhere while the lock was held leaves nothing half done.
    fn taken(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        if let Some(count) = taken.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

//! How signing keys were used: noted in memory as POSTs are signed and answered, written about once a minute.
//!
//! A crash loses the last minute: then a key seems to be less used, and less known to its receiver, than it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::{HashMap, HashSet};
use postrider_domain::id::{KeyId, SubscriptionId};
use postrider_domain::signing::KeyUse;
use postrider_domain::time::Timestamp;
use tracing::warn;

use crate::registry::Registry;
use crate::store::{KeyUsesRow, Store, StoreError};

/// How often uses are written.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// How every key was used.
pub struct KeyUses {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    of: HashMap<SubscriptionId, Uses>,
    /// Whose uses are not written yet.
    changed: HashSet<SubscriptionId>,
}

#[derive(Default)]
struct Uses {
    keys: HashMap<KeyId, KeyUse>,
    /// Since when the receiver is the present one: what was signed before says nothing about it.
    since: Timestamp,
}

impl KeyUses {
    /// What the store has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>, registry: Arc<Registry>) -> Result<Self, StoreError> {
        let mut known = Known::default();
        for KeyUsesRow { subscription, keys } in store.key_uses().await? {
            if registry.get(subscription).is_none() {
                // Its row is of no use any more.
                known.changed.insert(subscription);
            }
            let uses = Uses { keys: keys.into_iter().collect(), since: Timestamp::default() };
            known.of.insert(subscription, uses);
        }
        Ok(Self { store, registry, known: Mutex::new(known) })
    }

    /// How a key was used.
    #[must_use]
    pub fn get(&self, subscription: SubscriptionId, key: KeyId) -> KeyUse {
        let known = self.known();
        known.of.get(&subscription).and_then(|uses| uses.keys.get(&key)).copied().unwrap_or_default()
    }

    /// These keys have signed POSTs.
    pub fn signed<'a>(&self, posts: impl Iterator<Item = (SubscriptionId, &'a [KeyId])>, now: Timestamp) {
        let mut known = self.known();
        for (subscription, keys) in posts {
            let uses = known.of.entry(subscription).or_default();
            keys.iter().for_each(|key| uses.keys.entry(*key).or_default().signed = Some(now));
            known.changed.insert(subscription);
        }
    }

    /// The receiver has accepted a POST that this key alone had signed, at `signed`.
    pub fn accepted(&self, subscription: SubscriptionId, key: KeyId, signed: Timestamp, now: Timestamp) {
        let mut known = self.known();
        let uses = known.of.entry(subscription).or_default();
        if signed >= uses.since {
            uses.keys.entry(key).or_default().accepted = Some(now);
            known.changed.insert(subscription);
        }
    }

    /// The subscription has another receiver: what the former one accepted says nothing about it.
    pub fn moved(&self, subscription: SubscriptionId, now: Timestamp) {
        let mut known = self.known();
        let uses = known.of.entry(subscription).or_default();
        uses.since = now;
        uses.keys.values_mut().for_each(|used| used.accepted = None);
        known.changed.insert(subscription);
    }

    /// Writes what has changed, every now and then, until it is cancelled.
    pub async fn tend(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            self.write().await;
        }
    }

    /// Writes what has changed.
    pub async fn write(&self) {
        let rows = self.changed();
        if rows.is_empty() {
            return;
        }
        if let Err(error) = self.store.put_key_uses(&rows).await {
            warn!(%error, "failed to store the use of signing keys; retrying");
            self.known().changed.extend(rows.iter().map(|row| row.subscription));
        }
    }

    /// What is to be written: of every key that the subscription still has.
    fn changed(&self) -> Vec<KeyUsesRow> {
        let mut known = self.known();
        let changed: Vec<_> = std::mem::take(&mut known.changed).into_iter().collect();
        let row = |subscription: SubscriptionId| {
            let Some(keyed) = self.registry.get(subscription) else {
                known.of.remove(&subscription);
                return KeyUsesRow { subscription, keys: Vec::new() };
            };
            let keys = known.of.entry(subscription).or_default();
            keys.keys.retain(|id, _| keyed.keys.get(Some(*id)).is_some());
            KeyUsesRow { subscription, keys: keys.keys.iter().map(|(id, used)| (*id, *used)).collect() }
        };
        changed.into_iter().map(row).collect()
    }

    // A panic elsewhere while the lock was held leaves nothing half done.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

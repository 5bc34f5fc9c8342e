//! What a group of commands comes to: one batch, with what has to be known of it until it is written.

use std::collections::hash_map::Entry;

use ahash::{HashMap, HashSet};
use postrider_domain::audit;
use postrider_domain::id::{DeliveryId, EventKey, TenantId};
use tokio::sync::oneshot;

use super::{codec, key, read};
/// A row to write, or, without a value, to remove.
pub(super) use crate::store::journal::Row as Write;
use crate::store::{Accepted, Conflict, Settle, Settlement, StoreError};

/// What became of each event of an accept.
pub(super) type Results = Vec<Result<Accepted, Conflict>>;

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a group of commands comes to.
#[derive(Default)]
pub(super) struct Group {
    /// The rows to write; of several writes to one row the last counts.
    pub(super) rows: Vec<Write>,
    places: HashMap<Vec<u8>, usize>,
    pub(super) urgent: bool,
    /// The greatest position that something is settled at; 0 for none.
    pub(super) position: u64,
    /// Where the audit log ended before this group.
    pub(super) audit_before: audit::Head,
    /// Client ids and idempotency keys that this group introduces: not in the tree yet.
    pub(super) names: HashMap<Vec<u8>, (EventKey, [u8; 16])>,
    /// Deliveries of the events that this group accepts.
    pub(super) deliveries: HashMap<EventKey, Vec<DeliveryId>>,
    pub(super) accepts: Vec<(Results, Answer<Results>)>,
    pub(super) others: Vec<Answer<()>>,
    /// The tenants that this group begins to delete.
    pub(super) closed: Vec<TenantId>,
    /// The rows that this group removes: a late settlement must not write them again.
    pub(super) removed: HashSet<Vec<u8>>,
}

impl Group {
    /// An empty group, when the audit log ends here.
    pub(super) fn after(audit_before: audit::Head) -> Self {
        Self { audit_before, ..Self::default() }
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match self.places.entry(key) {
            Entry::Occupied(place) => self.rows[*place.get()].1 = value,
            Entry::Vacant(place) => {
                self.rows.push((place.key().clone(), value));
                place.insert(self.rows.len() - 1);
            }
        }
    }

    pub(super) fn name(&self, name: Option<Vec<u8>>) -> Option<(EventKey, [u8; 16])> {
        self.names.get(&name?).copied()
    }
}

pub(super) fn settle(settlement: &Settlement, group: &mut Group) {
    for settle in &settlement.deliveries {
        settle_one(settle, settlement.position, group);
    }
    if !settlement.deliveries.is_empty() {
        group.position = group.position.max(settlement.position);
    }
    for (lane, low_water) in &settlement.low_water {
        group.put(key::lane(*lane), Some(codec::lane(*low_water)));
    }
    for (lane, trouble) in &settlement.troubles {
        group.put(key::trouble(*lane), trouble.as_ref().map(codec::trouble));
    }
}

/// The attempt that delivers is kept in the delivery's own row, others have theirs: most deliveries succeed at
/// once and cost one row.
fn settle_one(settle: &Settle, position: u64, group: &mut Group) {
    let delivered = matches!(settle.delivery.state, postrider_domain::delivery::State::Delivered(_));
    let delivering = settle.attempt.as_ref().filter(|_| delivered);
    if let Some(attempt) = settle.attempt.as_ref().filter(|_| !delivered) {
        group.put(key::attempt(settle.id, attempt.number), Some(codec::attempt(attempt, position)));
        if let Some(forgotten) = attempt.number.checked_sub(read::MAX_ATTEMPTS) {
            group.put(key::attempt(settle.id, forgotten), None);
        }
    }
    if let Some(due) = settle.was_due {
        group.put(key::due(settle.id, due), None);
    }
    if let Some(due) = settle.delivery.state.due() {
        group.put(key::due(settle.id, due), Some(Vec::new()));
    }
    group.put(key::delivery(settle.id), Some(codec::delivery(&settle.delivery, delivering, position)));
}

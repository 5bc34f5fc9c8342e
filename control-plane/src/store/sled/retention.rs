//! Retention: finds what is too old, a bounded number of rows a step.
//!
//! Three sweeps go over each tenant's events in order of age. How far a sweep has come is kept in the tree, so that
//! a restart goes on there. The last sweep removes what it visits; what it may not remove yet (a delivery has
//! not ended) it visits again on its next round.

use ahash::{HashMap, HashSet};
use postrider_domain::delivery::State;
use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId, TenantId};
use postrider_domain::time::Timestamp;
use postrider_proto::store::EventRecord;
use prost::Message as _;
use sled::Tree;

use super::writer::Write;
use super::{body, codec, failure, key, read, usage};
use crate::store::{Retention, StoreError};

/// Events that one sweep of one tenant looks at in a step.
const STEP: usize = 256;
/// Request ids of all tenants that a step looks at.
const REQUESTS: usize = 4096;
/// Subscriptions of all tenants that a step looks at.
const SUBSCRIPTIONS: usize = 1000;

/// What one step writes.
#[derive(Default)]
pub(super) struct Step {
    pub(super) writes: Vec<Write>,
    /// Whether another step would find more.
    pub(super) more: bool,
    /// What is freed of what tenants' stored events count for.
    pub(super) freed: Vec<(TenantId, u64)>,
    /// The events whose data this step erases: it may remove them too.
    erased: HashSet<EventKey>,
}

#[derive(Clone, Copy, PartialEq)]
enum Sweep {
    Idempotency,
    DeliveredData,
    Events,
}

impl Sweep {
    const ALL: [Self; 3] = [Self::Idempotency, Self::DeliveredData, Self::Events];

    fn name(self) -> &'static str {
        match self {
            Self::Idempotency => "idempotency",
            Self::DeliveredData => "data",
            Self::Events => "events",
        }
    }

    fn until(self, retention: &Retention) -> Timestamp {
        match self {
            Self::Idempotency => retention.idempotency,
            Self::DeliveredData => retention.delivered_data,
            Self::Events => retention.events,
        }
    }
}

pub(super) fn next_step(tree: &Tree, retention: &Retention) -> Result<Step, StoreError> {
    let mut step = Step::default();
    let mut tenant = read::next_tenant_with_events(tree, None)?;
    while let Some(name) = tenant {
        for sweep in Sweep::ALL {
            step.sweep(tree, sweep, &name, sweep.until(retention))?;
        }
        if step.writes.len() >= STEP {
            step.more = true;
            return Ok(step);
        }
        tenant = read::next_tenant_with_events(tree, Some(&name))?;
    }
    step.expire_requests(tree, retention.now)?;
    step.remove_subscriptions(tree, retention.events)?;
    Ok(step)
}

/// Removes events of a tenant, the oldest first, whatever they are owed as: about `rows` rows. Returns the last one's key.
pub(super) fn remove_events(
    tree: &Tree,
    tenant: &TenantId,
    rows: usize,
) -> Result<(Step, Option<EventKey>), StoreError> {
    let (mut step, mut last) = (Step::default(), None);
    for (event, record) in read::events_until(tree, tenant, None, Timestamp::MAX, STEP)?.0 {
        if step.writes.len() >= rows {
            break;
        }
        let states = read::states(tree, &targets(&record))?;
        step.remove_with_history(tree, tenant, event, &record, &states)?;
        last = Some(event);
    }
    Ok((step, last))
}

/// The keys of how far sweeps of a tenant have come.
pub(super) fn sweeps(tenant: &TenantId) -> [Vec<u8>; 3] {
    Sweep::ALL.map(|sweep| key::sweep(sweep.name(), tenant.as_str()))
}

impl Step {
    fn remove(&mut self, key: Vec<u8>) {
        self.writes.push((key, None));
    }

    fn sweep(
        &mut self,
        tree: &Tree,
        sweep: Sweep,
        tenant: &TenantId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let cursor_key = key::sweep(sweep.name(), tenant.as_str());
        let cursor = tree.get(&cursor_key).map_err(failure)?;
        let after = cursor.as_ref().and_then(|bytes| key::event_key(bytes));
        let (found, more) = read::events_until(tree, tenant, after, until, STEP)?;
        for (event, record) in &found {
            match sweep {
                Sweep::Idempotency => self.forget_idempotency(tree, *event, record)?,
                Sweep::DeliveredData => self.erase_data(tree, tenant, *event, record)?,
                Sweep::Events => self.remove_event(tree, tenant, *event, record)?,
            }
        }
        match found.last() {
            Some((event, _)) => {
                self.more |= more;
                self.writes.push((cursor_key, Some(event.to_bytes().to_vec())));
            }
            // The next round begins with the oldest again.
            None if sweep == Sweep::Events && cursor.is_some() => self.remove(cursor_key),
            None => {}
        }
        Ok(())
    }

    fn forget_idempotency(
        &mut self,
        tree: &Tree,
        event: EventKey,
        record: &EventRecord,
    ) -> Result<(), StoreError> {
        if record.idempotency.is_empty() {
            return Ok(());
        }
        let name = key::idempotency(&record.idempotency);
        // The key may have been used again since: then it is not this event's any more.
        if read::name(tree, &name)?.is_some_and(|(owner, _)| owner == event) {
            self.remove(name);
        }
        Ok(())
    }

    fn erase_data(
        &mut self,
        tree: &Tree,
        tenant: &TenantId,
        event: EventKey,
        record: &EventRecord,
    ) -> Result<(), StoreError> {
        let ids = targets(record);
        let states = read::states(tree, &ids)?;
        if body::stored(record) > 0 && states.values().all(|state| matches!(state, State::Delivered(_))) {
            let erased = EventRecord {
                data: bytes::Bytes::new(),
                data_parts: 0,
                attributes: std::collections::HashMap::new(),
                ..record.clone()
            };
            self.writes.push((key::event(tenant, event), Some(erased.encode_to_vec())));
            body::keys(tenant, event, record).for_each(|key| self.remove(key));
            self.freed.push((tenant.clone(), usage::content(record)));
            self.erased.insert(event);
        }
        Ok(())
    }

    fn remove_event(
        &mut self,
        tree: &Tree,
        tenant: &TenantId,
        event: EventKey,
        record: &EventRecord,
    ) -> Result<(), StoreError> {
        let ids = targets(record);
        let states = read::states(tree, &ids)?;
        for id in &ids {
            let owed = states.get(id).is_some_and(|state| !state.has_ended());
            if owed && !is_deleted(tree, id.subscription)? {
                return Ok(());
            }
        }
        self.remove_with_history(tree, tenant, event, record, &states)
    }

    /// Removes an event with all that it is owed as.
    fn remove_with_history(
        &mut self,
        tree: &Tree,
        tenant: &TenantId,
        event: EventKey,
        record: &EventRecord,
        states: &HashMap<DeliveryId, State>,
    ) -> Result<(), StoreError> {
        for id in targets(record) {
            self.remove_delivery(tree, id, states.get(&id).copied())?;
        }
        self.forget_idempotency(tree, event, record)?;
        if let Ok(client_id) = record.client_id.parse() {
            self.remove(key::client_id(tenant, &client_id));
        }
        self.remove(key::event(tenant, event));
        body::keys(tenant, event, record).for_each(|key| self.remove(key));
        let content = if self.erased.contains(&event) { 0 } else { usage::content(record) };
        self.freed.push((tenant.clone(), usage::frame(record) + content));
        Ok(())
    }

    fn remove_delivery(
        &mut self,
        tree: &Tree,
        id: DeliveryId,
        state: Option<State>,
    ) -> Result<(), StoreError> {
        for attempt in read::keys(tree, &key::attempts(id))? {
            self.remove(attempt);
        }
        if let Some(due) = state.and_then(State::due) {
            self.remove(key::due(id, due));
        }
        self.remove(key::delivery(id));
        Ok(())
    }

    /// Request ids that have expired go. A round looks at some of them only, and the next round
    /// goes on there: an id that stays longer does no harm.
    fn expire_requests(&mut self, tree: &Tree, now: Timestamp) -> Result<(), StoreError> {
        let before = self.writes.len();
        for (key, value) in self.next_of_round(tree, "requests", &key::requests(), REQUESTS)? {
            if codec::read_request(&key, &value)?.expires <= now {
                self.remove(key.to_vec());
            }
        }
        // Where many have expired, more have: it goes on at once, so that they go no slower than
        // they came.
        self.more |= 4 * (self.writes.len() - before) >= REQUESTS;
        Ok(())
    }

    /// So many rows behind those that the round before has looked at; from the beginning after the
    /// last ones.
    fn next_of_round(
        &mut self,
        tree: &Tree,
        kind: &str,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<(sled::IVec, sled::IVec)>, StoreError> {
        let place = key::round(kind);
        let after = tree.get(&place).map_err(failure)?;
        let after_key = after.as_ref().map(|key| key.to_vec());
        let rows = read::forward(tree, prefix, after_key).take(limit).collect::<Result<Vec<_>, _>>()?;
        match rows.last().filter(|_| rows.len() == limit) {
            Some((last, _)) => self.writes.push((place, Some(last.to_vec()))),
            None if after.is_some() => self.remove(place),
            None => {}
        }
        Ok(rows)
    }

    /// A deleted subscription's row goes when nothing is left that names it. A round looks at some
    /// of them only.
    fn remove_subscriptions(&mut self, tree: &Tree, until: Timestamp) -> Result<(), StoreError> {
        for (key, value) in self.next_of_round(tree, "subscriptions", &key::subscriptions(), SUBSCRIPTIONS)? {
            let row = codec::read_subscription(&key, &value)?;
            let id = row.subscription.id;
            if row.deleted.is_some_and(|deleted| deleted < until)
                && tree.scan_prefix(key::deliveries(id)).next().is_none()
            {
                self.remove(key::lane(id));
                self.remove(key::trouble(id));
                self.remove(key.to_vec());
            }
        }
        Ok(())
    }
}

fn is_deleted(tree: &Tree, subscription: SubscriptionId) -> Result<bool, StoreError> {
    let key = key::subscription(subscription);
    let Some(value) = tree.get(&key).map_err(failure)? else { return Ok(true) };
    Ok(codec::read_subscription(&key, &value)?.deleted.is_some())
}

fn targets(record: &EventRecord) -> Vec<DeliveryId> {
    let id = |target: &postrider_proto::store::Target| {
        let subscription = SubscriptionId::from_bytes(target.subscription.as_ref().try_into().ok()?);
        Some(DeliveryId { subscription, sequence: target.sequence })
    };
    record.targets.iter().filter_map(id).collect()
}

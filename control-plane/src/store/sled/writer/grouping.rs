//! What commands come to in a group: everything that can fail is read before anything is written to the group.

use postrider_domain::audit;
use postrider_domain::event::IDEMPOTENCY_WINDOW;
use postrider_domain::id::{DeliveryId, EventId, EventKey, SubscriptionId};

use super::super::group::Group;
use super::super::{body, codec, failure, key, read};
use super::{Change, Thread};
use crate::store::{Accept, Accepted, Conflict, Settlement, StoreError};

impl Thread {
    /// Reads what records need, before anything is written to the group: a failed read must leave no half batch behind.
    fn prepare<'a>(&mut self, entries: impl IntoIterator<Item = &'a audit::Entry>) -> Result<(), StoreError> {
        let db = self.commits.db()?;
        entries.into_iter().try_for_each(|entry| self.audit.prepare(db, entry))
    }

    /// Chains a record to the log, in the same batch as what it tells of.
    pub(super) fn audit(&mut self, entry: audit::Entry, group: &mut Group) {
        for (key, value) in self.audit.append(entry) {
            group.put(key, value);
        }
    }

    pub(super) fn change(&mut self, change: Change, group: &mut Group) -> Result<(), StoreError> {
        if let Some(tenant) = change.tenant.filter(|tenant| self.closed.contains(tenant)) {
            return Err(StoreError::Deleting(tenant));
        }
        self.prepare(&change.audit)?;
        for (tenant, _) in &change.freed {
            self.usage.load(self.commits.db()?, tenant)?;
        }
        group.urgent = true;
        group.closed.extend(change.closes.filter(|tenant| self.closed.insert(tenant.clone())));
        if let Some(tenant) = &change.opens {
            self.closed.remove(tenant);
            self.usage.forget(tenant);
        }
        for (tenant, freed) in &change.freed {
            self.usage.free(tenant, *freed);
        }
        for (key, value) in change.rows {
            if value.is_none() && !self.closed.is_empty() {
                group.removed.insert(key.clone());
            }
            group.put(key, value);
        }
        change.audit.into_iter().for_each(|entry| self.audit(entry, group));
        Ok(())
    }

    /// Leaves out what is of no use any more: the tenant was deleted while attempts are under way.
    pub(super) fn prepare_settlement(
        &mut self,
        settlement: &mut Settlement,
        group: &Group,
    ) -> Result<(), StoreError> {
        self.prepare(&settlement.audit)?;
        if self.closed.is_empty() {
            return Ok(());
        }
        let db = self.commits.db()?;
        let is_there = |key: Vec<u8>| -> Result<bool, StoreError> {
            Ok(!group.removed.contains(&key) && db.contains_key(key).map_err(failure)?)
        };
        let mut kept = Vec::with_capacity(settlement.deliveries.len());
        for settle in settlement.deliveries.drain(..) {
            if is_there(key::delivery(settle.id))? {
                kept.push(settle);
            }
        }
        settlement.deliveries = kept;
        let mut kept = Vec::with_capacity(settlement.low_water.len());
        for (lane, low_water) in settlement.low_water.drain(..) {
            if is_there(key::subscription(lane))? {
                kept.push((lane, low_water));
            }
        }
        settlement.low_water = kept;
        Ok(())
    }

    pub(super) fn accept(
        &mut self,
        batch: Vec<Accept>,
        group: &mut Group,
    ) -> Result<Vec<Result<Accepted, Conflict>>, StoreError> {
        group.urgent = true;
        // Looked up before anything is written to the group: a failed read must leave no half batch behind.
        let mut known = Vec::with_capacity(batch.len());
        for accept in &batch {
            for lane in &accept.subscriptions {
                self.load_end(*lane)?;
            }
            self.usage.load(self.commits.db()?, &accept.event.tenant)?;
            let by_key = self.stored_name(name_of_key(accept))?;
            let in_time =
                |(first, _): &(EventKey, _)| first.created() + IDEMPOTENCY_WINDOW > accept.event.accepted;
            known.push((by_key.filter(in_time), self.stored_name(name_of_id(accept))?));
        }
        let mut results = Vec::with_capacity(batch.len());
        for (accept, (by_key, by_id)) in batch.into_iter().zip(known) {
            let by_key = by_key.or_else(|| group.name(name_of_key(&accept)));
            let by_id = by_id.or_else(|| group.name(name_of_id(&accept)));
            if self.closed.contains(&accept.event.tenant) {
                results.push(Err(Conflict::TenantDeleting));
                continue;
            }
            results.push(match (by_key, by_id) {
                (Some((_, content)), _) if content != accept.content => Err(Conflict::IdempotencyKey),
                (Some((first, _)), _) => Ok(self.duplicate(&accept, first, group)?),
                (None, Some((_, content))) if content != accept.content => Err(Conflict::EventId),
                (None, Some((first, _))) => Ok(self.duplicate(&accept, first, group)?),
                (None, None) => match self.usage.charge(&accept) {
                    Ok(()) => Ok(self.insert(accept, group)),
                    Err(conflict) => Err(conflict),
                },
            });
        }
        Ok(results)
    }

    fn insert(&mut self, accept: Accept, group: &mut Group) -> Accepted {
        let event = &accept.event;
        let mut deliveries = Vec::with_capacity(accept.subscriptions.len());
        let pending = codec::pending(event);
        for subscription in &accept.subscriptions {
            let end = self.ends.entry(*subscription).or_insert(1);
            let id = DeliveryId { subscription: *subscription, sequence: *end };
            *end += 1;
            group.put(key::delivery(id), Some(pending.clone()));
            deliveries.push(id);
        }
        let (data, parts, rows) = body::split(&event.tenant, event.key, &event.data);
        rows.into_iter().for_each(|(key, part)| group.put(key, part));
        let row = codec::event(&accept, &deliveries, data, parts);
        group.put(key::event(&event.tenant, event.key), Some(row));
        for name in [name_of_key(&accept), name_of_id(&accept)].into_iter().flatten() {
            group.put(name.clone(), Some(codec::name(event.key, accept.content)));
            group.names.insert(name, (event.key, accept.content));
        }
        group.deliveries.insert(event.key, deliveries.clone());
        Accepted { key: event.key, id: event.id.clone(), duplicate: false, deliveries }
    }

    fn duplicate(&self, accept: &Accept, first: EventKey, group: &Group) -> Result<Accepted, StoreError> {
        let deliveries = match group.deliveries.get(&first) {
            Some(deliveries) => Some((deliveries.clone(), None)),
            None => read::event(self.commits.db()?, &accept.event.tenant, first)?
                .map(|row| (row.deliveries, Some(row.event.id))),
        };
        let (deliveries, id) = deliveries.unwrap_or_default();
        let own = if accept.client_chosen { accept.event.id.clone() } else { EventId::from(first) };
        Ok(Accepted { key: first, id: id.unwrap_or(own), duplicate: true, deliveries })
    }

    fn stored_name(&self, name: Option<Vec<u8>>) -> Result<Option<(EventKey, [u8; 16])>, StoreError> {
        name.map_or(Ok(None), |name| read::name(self.commits.db()?, &name))
    }

    fn load_end(&mut self, lane: SubscriptionId) -> Result<(), StoreError> {
        if !self.ends.contains_key(&lane) {
            self.ends.insert(lane, read::lane(self.commits.db()?, lane)?.end);
        }
        Ok(())
    }
}

fn name_of_key(accept: &Accept) -> Option<Vec<u8>> {
    accept.idempotency.as_ref().map(|digest| key::idempotency(digest))
}

fn name_of_id(accept: &Accept) -> Option<Vec<u8>> {
    accept.client_chosen.then(|| key::client_id(&accept.event.tenant, &accept.event.id))
}

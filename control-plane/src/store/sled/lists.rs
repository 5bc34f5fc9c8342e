//! Pages of lists. A page ends where it has as many things as are wanted, where its answer is
//! large, or where many or large rows were read for it. So what a page takes is bounded, whatever
//! is stored.
//!
//! Of events only what is beside their data is read. An event is read once for all its deliveries
//! that follow on a page.

use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId, TenantId};
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use prost::Message;

use super::read::{backward, delivery_row, forward, successor};
use super::reading::Reading;
use super::{codec, failure, key};
use crate::store::{
    DeliveryPlace, DeliveryQuery, DeliveryRow, EventHead, EventQuery, EventRow, Page, StoreError,
};

/// Rows that one page looks at.
pub(super) const MAX_ROWS: usize = 4_000;
/// Bytes of rows that one page looks at.
const MAX_READ: usize = 4 * 1024 * 1024;
/// Bytes of a page's answer, about.
const MAX_ANSWER: usize = 1024 * 1024;
/// What a thing on a page takes beside the rows that it is made of.
const FRAME: usize = 200;
/// What a delivery's id takes in the answer.
const DELIVERY_ID: usize = 52;

/// A page that is filled.
pub(super) struct Filling<T> {
    items: Vec<T>,
    limit: usize,
    rows: usize,
    answer: usize,
}

impl<T> Filling<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { items: Vec::new(), limit, rows: MAX_ROWS, answer: 0 }
    }

    /// The same, that looks at this many rows.
    pub(super) fn of_rows(limit: usize, rows: usize) -> Self {
        Self { rows, ..Self::new(limit) }
    }

    /// Whether nothing more is looked for.
    pub(super) fn is_full(&self, reading: &Reading) -> bool {
        self.items.len() >= self.limit
            || self.answer >= MAX_ANSWER
            || reading.rows() >= self.rows
            || reading.bytes() >= MAX_READ
    }

    /// Adds a thing that takes so many bytes in the answer.
    pub(super) fn push(&mut self, item: T, bytes: usize) {
        self.answer += bytes + FRAME;
        self.items.push(item);
    }

    /// The page, with where it goes on.
    pub(super) fn page<K>(self, next: Option<K>) -> Page<T, K> {
        Page { items: self.items, next }
    }
}

/// Messages below a prefix, after a key, with the names by which they are asked for.
pub(super) fn messages<M: Message + Default, K>(
    reading: &Reading,
    prefix: &[u8],
    after: Option<Vec<u8>>,
    limit: usize,
    name: impl Fn(&M) -> Option<K>,
) -> Result<Page<M, K>, StoreError> {
    let (mut found, mut next) = (Filling::new(limit), None);
    for row in forward(reading, prefix, after) {
        if next.is_some() && found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (key, value) = row?;
        reading.look(value.len())?;
        let message: M = codec::decode(&key, &value)?;
        let bad = || super::damaged(&codec::place(&key), "its name is not one");
        next = Some(name(&message).ok_or_else(bad)?);
        found.push(message, value.len());
    }
    Ok(found.page(None))
}

fn weight(row: &EventRow) -> usize {
    let attributes = row.event.attributes.iter().map(|(name, value)| name.len() + value.len() + 8);
    attributes.sum::<usize>() + row.deliveries.len() * DELIVERY_ID
}

pub(super) fn events(reading: &Reading, query: &EventQuery) -> Result<Page<EventRow, EventKey>, StoreError> {
    let before = query.after.unwrap_or_else(|| EventKey::first_at(query.end));
    let (mut found, mut next) = (Filling::new(query.limit), None);
    for row in backward(reading, &key::events(&query.tenant), key::event(&query.tenant, before)) {
        if found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (key, value) = row?;
        reading.look(value.len())?;
        let row = codec::read_event_without_data(&key, &query.tenant, &value)?;
        if row.event.accepted < query.start {
            break;
        }
        next = Some(row.event.key);
        if query.event_type.as_ref().is_none_or(|wanted| *wanted == row.event.event_type) {
            let weight = weight(&row);
            found.push(row, weight);
        }
    }
    Ok(found.page(None))
}

/// The events of a tenant from this one on, accepted before `end`, oldest first.
pub(super) fn events_from(
    reading: &Reading,
    tenant: &TenantId,
    from: EventKey,
    end: Timestamp,
    limit: usize,
) -> Result<Page<EventRow, EventKey>, StoreError> {
    let (range, mut found) = (event_keys(tenant, from, end), Filling::new(limit));
    if range.is_empty() {
        return Ok(found.page(None));
    }
    for row in reading.range(range) {
        let (key, value) = row.map_err(failure)?;
        let row = codec::read_event_without_data(&key, tenant, &value)?;
        if found.is_full(reading) {
            return Ok(found.page(Some(row.event.key)));
        }
        reading.look(value.len())?;
        let weight = weight(&row);
        found.push(row, weight);
    }
    Ok(found.page(None))
}

/// The keys of the rows of a tenant's events from this one on, accepted before `end`.
pub(super) fn event_keys(tenant: &TenantId, from: EventKey, end: Timestamp) -> std::ops::Range<Vec<u8>> {
    key::event(tenant, from)..key::event(tenant, EventKey::first_at(end))
}

pub(super) fn event_heads(
    reading: &Reading,
    tenant: &TenantId,
    keys: &[EventKey],
) -> Result<Vec<Option<EventHead>>, StoreError> {
    let head = |event: &EventKey| {
        let key = key::event(tenant, *event);
        let Some(value) = reading.get(&key).map_err(failure)? else { return Ok(None) };
        reading.look(value.len())?;
        codec::read_event_head(&key, *event, &value).map(Some)
    };
    keys.iter().map(head).collect()
}

pub(super) fn deliveries(
    reading: &Reading,
    query: &DeliveryQuery,
) -> Result<Page<DeliveryRow, DeliveryPlace>, StoreError> {
    match (query.event, query.subscription) {
        (Some(event), _) => of_event(reading, query, event),
        (None, Some(subscription)) => of_subscription(reading, query, subscription),
        (None, None) => of_tenant(reading, query),
    }
}

/// Adds a delivery, if it is there and wanted.
fn add(
    reading: &Reading,
    query: &DeliveryQuery,
    id: DeliveryId,
    found: &mut Filling<DeliveryRow>,
) -> Result<(), StoreError> {
    let key = key::delivery(id);
    let Some(value) = reading.get(&key).map_err(failure)? else { return reading.look(0) };
    reading.look(value.len())?;
    let (delivery, _) = codec::read_delivery(&key, &value)?;
    if query.wants(delivery.state) {
        add_row(reading, id, (&key, &value), found)?;
    }
    Ok(())
}

/// Adds a delivery of which the row was read.
fn add_row(
    reading: &Reading,
    id: DeliveryId,
    (key, value): (&[u8], &[u8]),
    found: &mut Filling<DeliveryRow>,
) -> Result<(), StoreError> {
    let row = delivery_row(reading, id, key, value)?;
    let bytes = row.last.as_ref().map_or(0, weight_of_attempt);
    reading.look(bytes)?;
    found.push(row, bytes);
    Ok(())
}

/// What an attempt takes in an answer.
pub(super) fn weight_of_attempt(attempt: &Attempt) -> usize {
    let response = attempt.outcome.response.as_ref().map_or(0, |response| {
        let headers = response.headers.iter().map(|(name, value)| name.len() + value.len() + 8);
        response.body.len() + headers.sum::<usize>()
    });
    response + attempt.outcome.detail.len() + FRAME
}

/// A place behind an event that has no deliveries.
fn behind(event: EventKey) -> DeliveryPlace {
    DeliveryPlace { event, id: DeliveryId { subscription: SubscriptionId::from_bytes([0; 16]), sequence: 1 } }
}

fn of_event(
    reading: &Reading,
    query: &DeliveryQuery,
    event: EventKey,
) -> Result<Page<DeliveryRow, DeliveryPlace>, StoreError> {
    let (mut found, mut next) = (Filling::new(query.limit), None);
    let key = key::event(&query.tenant, event);
    let Some(value) = reading.get(&key).map_err(failure)? else { return Ok(found.page(None)) };
    reading.look(value.len())?;
    let row = codec::read_event_without_data(&key, &query.tenant, &value)?;
    let wanted = |id: &&DeliveryId| query.subscription.is_none_or(|wanted| wanted == id.subscription);
    for id in unseen(event, &row.deliveries, query.after).iter().filter(wanted) {
        if next.is_some() && found.is_full(reading) {
            return Ok(found.page(next));
        }
        next = Some(DeliveryPlace { event, id: *id });
        add(reading, query, *id, &mut found)?;
    }
    Ok(found.page(None))
}

fn of_subscription(
    reading: &Reading,
    query: &DeliveryQuery,
    subscription: SubscriptionId,
) -> Result<Page<DeliveryRow, DeliveryPlace>, StoreError> {
    let prefix = key::deliveries(subscription);
    // Of the place only the number counts: with another lane's id the range would reach into the
    // lanes between.
    let before = query
        .after
        .map_or_else(|| successor(&prefix), |place| key::delivery(DeliveryId { subscription, ..place.id }));
    let (mut found, mut next) = (Filling::new(query.limit), None);
    for row in backward(reading, &prefix, before) {
        if found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (key, value) = row?;
        reading.look(value.len())?;
        let (delivery, _) = codec::read_delivery(&key, &value)?;
        let id = DeliveryId { subscription, sequence: delivery.sequence };
        let created = delivery.event.created();
        if created < query.start {
            break;
        }
        next = Some(DeliveryPlace { event: delivery.event, id });
        if created < query.end && query.wants(delivery.state) {
            add_row(reading, id, (&key, &value), &mut found)?;
        }
    }
    Ok(found.page(None))
}

/// By event, newest first; the deliveries of one event in their order.
fn of_tenant(
    reading: &Reading,
    query: &DeliveryQuery,
) -> Result<Page<DeliveryRow, DeliveryPlace>, StoreError> {
    let prefix = key::events(&query.tenant);
    let mut before = key::event(&query.tenant, EventKey::first_at(query.end));
    if let Some(place) = query.after {
        // The page before ended within this event's deliveries: begin with that event.
        before = before.min(successor(&key::event(&query.tenant, place.event)));
    }
    let (mut found, mut next) = (Filling::new(query.limit), None);
    for row in backward(reading, &prefix, before) {
        // Before the event is read, which may be large.
        if next.is_some() && found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (key, value) = row?;
        reading.look(value.len())?;
        let row = codec::read_event_without_data(&key, &query.tenant, &value)?;
        if row.event.accepted < query.start {
            break;
        }
        if row.deliveries.is_empty() {
            next = Some(behind(row.event.key));
        }
        for id in unseen(row.event.key, &row.deliveries, query.after) {
            if next.is_some() && found.is_full(reading) {
                return Ok(found.page(next));
            }
            next = Some(DeliveryPlace { event: row.event.key, id: *id });
            add(reading, query, *id, &mut found)?;
        }
    }
    Ok(found.page(None))
}

/// An event's deliveries without those that came before this place.
fn unseen(event: EventKey, deliveries: &[DeliveryId], after: Option<DeliveryPlace>) -> &[DeliveryId] {
    let last = after.filter(|place| place.event == event);
    let seen = last.and_then(|place| deliveries.iter().position(|id| *id == place.id));
    &deliveries[seen.map_or(0, |seen| seen + 1)..]
}

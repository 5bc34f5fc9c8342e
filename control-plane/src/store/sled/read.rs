//! Reads: each looks at a bounded number of rows.

use std::ops::Bound;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{DataKeyId, DeliveryId, EventId, EventKey, SubscriptionId, TenantId};
use postrider_domain::lane::LowWater;
use postrider_domain::outcome::Attempt;
use postrider_domain::sealed::Sealed;
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use prost::Message;
use sled::Tree;

use super::{body, codec, damaged, failure, key};
use crate::store::{
    AgentRow, DeliveryRow, DueRows, EventRow, FreshRows, LaneRow, RequestRow, StoreError, SubscriptionRow,
};

/// Attempts of a delivery that are remembered.
pub(super) const MAX_ATTEMPTS: u32 = 100;
/// Rows of a lane that one read looks at.
const MAX_SCAN: usize = 10_000;
/// Bytes of events' rows that a sweep reads at once.
const MAX_SWEPT: usize = 4 * 1024 * 1024;

type Row = (sled::IVec, sled::IVec);

fn get(tree: &Tree, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
    tree.get(key).map_err(failure)
}

pub(super) fn message<M: Message + Default>(tree: &Tree, key: &[u8]) -> Result<Option<M>, StoreError> {
    get(tree, key)?.map(|value| codec::decode(key, &value)).transpose()
}

pub(super) fn keys(tree: &Tree, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    forward(tree, prefix, None).map(|row| row.map(|(key, _)| key.to_vec())).collect()
}

/// The rows below a prefix, in order, after a key of one.
pub(super) fn forward(
    tree: &Tree,
    prefix: &[u8],
    after: Option<Vec<u8>>,
) -> impl Iterator<Item = Result<Row, StoreError>> + use<> {
    let start = after.map_or_else(|| Bound::Included(prefix.to_vec()), Bound::Excluded);
    let end = Bound::Excluded(successor(prefix));
    tree.range((start, end)).map(|row| row.map_err(failure))
}

/// The rows below a prefix and before a key, in reverse order.
pub(super) fn backward(
    tree: &Tree,
    prefix: &[u8],
    before: Vec<u8>,
) -> impl Iterator<Item = Result<Row, StoreError>> + use<> {
    tree.range(prefix.to_vec()..before).rev().map(|row| row.map_err(failure))
}

/// The first key that is behind every key with this prefix.
pub(super) fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return next;
        }
    }
    vec![u8::MAX; prefix.len() + 1]
}

/// Fails when something is sealed with one of these data keys. It looks at every row that could, whatever its kind, so that a secret
/// that somebody forgets to seal anew is not lost.
pub(super) fn refuse_use(tree: &Tree, ids: &[DataKeyId]) -> Result<(), StoreError> {
    let kinds = (0..=u8::MAX).filter(|kind| !key::WITHOUT_SECRETS.contains(kind));
    for row in kinds.flat_map(|kind| forward(tree, &[kind], None)) {
        let (key, value) = row?;
        let holds = |id: &&DataKeyId| {
            let beginning = Sealed::beginning(**id);
            value.windows(beginning.len()).any(|window| window == beginning)
        };
        if let Some(id) = ids.iter().find(holds) {
            return Err(StoreError::InUse(*id, codec::place(&key)));
        }
    }
    Ok(())
}

pub(super) fn fresh(
    tree: &Tree,
    lane: SubscriptionId,
    from: u64,
    limit: usize,
) -> Result<FreshRows, StoreError> {
    by_number(tree, lane, from, limit, |state| state == State::Pending)
}

pub(super) fn open(
    tree: &Tree,
    lane: SubscriptionId,
    from: u64,
    limit: usize,
) -> Result<FreshRows, StoreError> {
    by_number(tree, lane, from, limit, |state| !state.has_ended())
}

fn by_number(
    tree: &Tree,
    lane: SubscriptionId,
    from: u64,
    limit: usize,
    wanted: impl Fn(State) -> bool,
) -> Result<FreshRows, StoreError> {
    let start = key::delivery(DeliveryId { subscription: lane, sequence: from });
    let (mut rows, mut next) = (Vec::new(), from);
    for row in tree.range(start..successor(&key::deliveries(lane))).take(MAX_SCAN) {
        let (key, value) = row.map_err(failure)?;
        let (delivery, _) = codec::read_delivery(&key, &value)?;
        next = delivery.sequence + 1;
        if wanted(delivery.state) {
            rows.push(delivery);
        }
        if rows.len() == limit {
            break;
        }
    }
    Ok(FreshRows { rows, next })
}

pub(super) fn due(tree: &Tree, lane: SubscriptionId, limit: usize) -> Result<DueRows, StoreError> {
    let mut rows = Vec::new();
    for row in tree.scan_prefix(key::dues(lane)).take(limit + 1) {
        let (key, _) = row.map_err(failure)?;
        if rows.len() == limit {
            return Ok(DueRows { rows, complete: false });
        }
        let bad = || damaged(&codec::place(&key), "its key has no number");
        let sequence = key::sequence(&key).ok_or_else(bad)?;
        let delivery = stored(tree, DeliveryId { subscription: lane, sequence })?.ok_or_else(bad)?;
        rows.push(delivery);
    }
    Ok(DueRows { rows, complete: true })
}

fn stored(tree: &Tree, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
    let key = key::delivery(id);
    let Some(value) = get(tree, &key)? else { return Ok(None) };
    codec::read_delivery(&key, &value).map(|(delivery, _)| Some(delivery))
}

pub(super) fn lane(tree: &Tree, lane: SubscriptionId) -> Result<LaneRow, StoreError> {
    let record: Option<records::LaneRecord> = message(tree, &key::lane(lane))?;
    let low_water = record.map_or(LowWater::default(), |record| LowWater {
        number: record.low_water,
        covers_waiting: record.covers_waiting,
    });
    let last = tree.scan_prefix(key::deliveries(lane)).next_back().transpose().map_err(failure)?;
    let last = last.and_then(|(key, _)| key::sequence(&key)).unwrap_or(0);
    let waiting = tree.scan_prefix(key::dues(lane)).next().transpose().map_err(failure)?.is_some();
    let trouble: Option<records::TroubleRecord> = message(tree, &key::trouble(lane))?;
    let trouble = trouble.as_ref().map(postrider_proto::health::read_trouble);
    Ok(LaneRow { low_water, end: low_water.number.max(last + 1), waiting, trouble })
}

pub(super) fn delivery(tree: &Tree, id: DeliveryId) -> Result<Option<DeliveryRow>, StoreError> {
    let key = key::delivery(id);
    get(tree, &key)?.map(|value| delivery_row(tree, id, &key, &value)).transpose()
}

pub(super) fn delivery_of(
    tree: &Tree,
    tenant: &TenantId,
    id: DeliveryId,
) -> Result<Option<DeliveryRow>, StoreError> {
    let key = key::delivery(id);
    let found = get(tree, &key)?;
    let event = found.as_ref().map(|value| codec::read_delivery(&key, value)).transpose()?;
    // Looked for even when there is no delivery: what is another's must not take more reads than what never was.
    let event =
        event.map_or_else(|| EventKey::first_at(Timestamp::default()), |(delivery, _)| delivery.event);
    let own = tree.contains_key(key::event(tenant, event)).map_err(failure)?;
    found.filter(|_| own).map(|value| delivery_row(tree, id, &key, &value)).transpose()
}

pub(super) fn delivery_row(
    tree: &Tree,
    id: DeliveryId,
    key: &[u8],
    value: &[u8],
) -> Result<DeliveryRow, StoreError> {
    let (delivery, delivering) = codec::read_delivery(key, value)?;
    let last = match delivering {
        None if delivery.attempts > 0 => {
            let last = tree.scan_prefix(key::attempts(id)).next_back().transpose().map_err(failure)?;
            last.map(|(key, value)| codec::read_attempt(&key, &value)).transpose()?
        }
        delivering => delivering,
    };
    Ok(DeliveryRow { id, delivery, last })
}

pub(super) fn attempts(tree: &Tree, id: DeliveryId) -> Result<Vec<Attempt>, StoreError> {
    let rows = tree.scan_prefix(key::attempts(id)).map(|row| {
        let (key, value) = row.map_err(failure)?;
        codec::read_attempt(&key, &value)
    });
    let mut attempts = rows.collect::<Result<Vec<_>, StoreError>>()?;
    let key = key::delivery(id);
    if let Some(value) = get(tree, &key)? {
        attempts.extend(codec::read_delivery(&key, &value)?.1);
    }
    Ok(attempts)
}

pub(super) fn event(tree: &Tree, tenant: &TenantId, event: EventKey) -> Result<Option<EventRow>, StoreError> {
    let key = key::event(tenant, event);
    let Some(record) = message(tree, &key)? else { return Ok(None) };
    event_row(tree, tenant, &key, record)
}

/// An event with its data; `None` when it is gone meanwhile.
fn event_row(
    tree: &Tree,
    tenant: &TenantId,
    key: &[u8],
    record: records::EventRecord,
) -> Result<Option<EventRow>, StoreError> {
    let event =
        key::event_key(key).ok_or_else(|| damaged(&codec::place(key), "its key is not an event's"))?;
    let record = body::with_data(tree, tenant, event, record)?;
    record.map(|record| codec::read_event(key, tenant, record)).transpose()
}

pub(super) fn name(tree: &Tree, key: &[u8]) -> Result<Option<(EventKey, [u8; 16])>, StoreError> {
    get(tree, key)?.map(|value| codec::read_name(key, &value)).transpose()
}

pub(super) fn event_key(
    tree: &Tree,
    tenant: &TenantId,
    id: &EventId,
) -> Result<Option<EventKey>, StoreError> {
    Ok(name(tree, &key::client_id(tenant, id))?.map(|(event, _)| event))
}

pub(super) fn subscriptions(
    tree: &Tree,
    after: Option<SubscriptionId>,
    limit: usize,
) -> Result<Vec<SubscriptionRow>, StoreError> {
    let rows = forward(tree, &key::subscriptions(), after.map(key::subscription)).take(limit);
    rows.map(|row| row.and_then(|(key, value)| codec::read_subscription(&key, &value))).collect()
}

pub(super) fn request(tree: &Tree, key: &[u8]) -> Result<Option<RequestRow>, StoreError> {
    get(tree, key)?.map(|value| codec::read_request(key, &value)).transpose()
}

pub(super) fn agents(tree: &Tree) -> Result<Vec<AgentRow>, StoreError> {
    let rows = forward(tree, &key::agents(), None);
    rows.map(|row| row.and_then(|(key, value)| codec::read_agent(&key, &value))).collect()
}

/// The event's records from a place on, for a sweep: at most `limit` or so many bytes, none
/// accepted at or after `until`; and whether there may be more.
pub(super) fn events_until(
    tree: &Tree,
    tenant: &TenantId,
    after: Option<EventKey>,
    until: Timestamp,
    limit: usize,
) -> Result<(Vec<(EventKey, records::EventRecord)>, bool), StoreError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in forward(tree, &key::events(tenant), after.map(|after| key::event(tenant, after))) {
        if found.len() >= limit || bytes >= MAX_SWEPT {
            return Ok((found, true));
        }
        let (key, value) = row?;
        let event =
            key::event_key(&key).ok_or_else(|| damaged(&codec::place(&key), "its key is not an event's"))?;
        if event.created() >= until {
            break;
        }
        bytes += value.len();
        found.push((event, codec::decode(&key, &value)?));
    }
    Ok((found, false))
}

/// The first tenant after this one that has events, whether or not it still exists.
pub(super) fn next_tenant_with_events(
    tree: &Tree,
    after: Option<&TenantId>,
) -> Result<Option<TenantId>, StoreError> {
    let after = after.map(|tenant| successor(&key::events(tenant)));
    let Some(row) = forward(tree, &key::all_events(), after).next() else { return Ok(None) };
    let (key, _) = row?;
    let name = key[1..].split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok());
    let bad = || damaged(&codec::place(&key), "its key names no tenant");
    name.and_then(|name| name.parse().ok()).map(Some).ok_or_else(bad)
}

/// The state of each of these deliveries; those that are gone are left out.
pub(super) fn states(tree: &Tree, ids: &[DeliveryId]) -> Result<HashMap<DeliveryId, State>, StoreError> {
    let mut found = HashMap::new();
    for id in ids {
        if let Some(delivery) = stored(tree, *id)? {
            found.insert(*id, delivery.state);
        }
    }
    Ok(found)
}

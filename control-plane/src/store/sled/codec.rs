//! Rows as bytes: protobuf records, so that fields can be added without rewriting what is there.

use bytes::Bytes;
use postrider_domain::delivery::Delivery;
use postrider_domain::event::{Attributes, Event};
use postrider_domain::id::{DeliveryId, EventKey, KeyId, SubscriptionId, TenantId};
use postrider_domain::lane::LowWater;
use postrider_domain::lane::health::Trouble;
use postrider_domain::order::OrderingKey;
use postrider_domain::outcome::Attempt;
use postrider_domain::sealed::Sealed;
use postrider_domain::signing::Scheme;
use postrider_domain::time::{EventTime, Timestamp};
use postrider_domain::trace::TraceContext;
use postrider_proto::store as records;
use prost::Message as _;

use super::{damaged, key};
use crate::store::{
    Accept, AgentRow, EventHead, EventRow, RequestRow, SigningKeyRow, StoreError, SubscriptionRow,
};

/// Bytes that must be a record, with the place named for the error.
pub(super) fn decode<M: prost::Message + Default>(key: &[u8], value: &[u8]) -> Result<M, StoreError> {
    M::decode(value).map_err(|error| damaged(&place(key), &error.to_string()))
}

/// A row's name for people: the letter of its kind, and its key in hexadecimal.
pub(super) fn place(key: &[u8]) -> String {
    let hex: String = key.iter().skip(1).map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hex}", key.first().map_or('?', |kind| char::from(*kind)))
}

pub(super) fn exact<const N: usize>(key: &[u8], bytes: &[u8]) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| damaged(&place(key), "an id or digest has the wrong length"))
}

pub(super) fn bytes(slice: &[u8]) -> Bytes {
    Bytes::copy_from_slice(slice)
}

pub(super) fn pending(event: &Event) -> Vec<u8> {
    let ordering = event.ordering_key.as_ref().map(OrderingKey::hash);
    delivery(&Delivery::new(0, event.key).ordered_by(ordering), None, 0)
}

pub(super) fn delivery(delivery: &Delivery, delivering: Option<&Attempt>, position: u64) -> Vec<u8> {
    let record = postrider_proto::delivery::write_record(delivery, delivering);
    records::DeliveryRecord { position, ..record }.encode_to_vec()
}

pub(super) fn read_delivery(key: &[u8], value: &[u8]) -> Result<(Delivery, Option<Attempt>), StoreError> {
    let mut record: records::DeliveryRecord = decode(key, value)?;
    let attempt = record.delivering_attempt.take().and_then(postrider_proto::attempt::read);
    let sequence = key::sequence(key).ok_or_else(|| damaged(&place(key), "its key has no number"))?;
    let delivery = postrider_proto::delivery::read_record(sequence, &record)
        .ok_or_else(|| damaged(&place(key), "it is not a delivery"))?;
    Ok((delivery, attempt))
}

pub(super) fn attempt(attempt: &Attempt, position: u64) -> Vec<u8> {
    let mut row = postrider_proto::attempt::write(attempt).encode_to_vec();
    // Fields of both messages in one row: each reads its own.
    row.extend(records::AttemptPositionRecord { position }.encode_to_vec());
    row
}

pub(super) fn read_attempt_position(key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    let record: records::AttemptPositionRecord = decode(key, value)?;
    Ok(record.position)
}

pub(super) fn read_attempt(key: &[u8], value: &[u8]) -> Result<Attempt, StoreError> {
    postrider_proto::attempt::read(decode(key, value)?)
        .ok_or_else(|| damaged(&place(key), "it is not an attempt"))
}

/// An event's row; its data, and in how many rows of their own it is otherwise, come from [`super::body`].
pub(super) fn event(accept: &Accept, deliveries: &[DeliveryId], data: Bytes, data_parts: u32) -> Vec<u8> {
    let event = &accept.event;
    let target = |id: &DeliveryId| records::Target {
        subscription: bytes(&id.subscription.to_bytes()),
        sequence: id.sequence,
    };
    records::EventRecord {
        client_id: if accept.client_chosen { event.id.to_string() } else { String::new() },
        r#type: event.event_type.to_string(),
        timestamp_ms: event.timestamp.cut().as_millis(),
        timestamp_nanos: event.timestamp.rest(),
        data,
        data_size: u32::try_from(event.data.len()).unwrap_or(u32::MAX),
        data_parts,
        targets: deliveries.iter().map(target).collect(),
        idempotency: accept.idempotency.map(|digest| bytes(&digest)).unwrap_or_default(),
        attributes: event
            .attributes
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ordering_key: event.ordering_key.as_ref().map(|key| key.as_str().to_owned()).unwrap_or_default(),
        trace_parent: event.trace.as_ref().map(|trace| trace.parent().to_owned()).unwrap_or_default(),
        trace_state: event.trace.as_ref().map(|trace| trace.state().to_owned()).unwrap_or_default(),
    }
    .encode_to_vec()
}

/// An event without its data, which may be in the row all the same when it is small.
pub(super) fn read_event_without_data(
    key: &[u8],
    tenant: &TenantId,
    value: &[u8],
) -> Result<EventRow, StoreError> {
    let record: records::EventRecord = decode(key, value)?;
    let mut row = read_event(key, tenant, record)?;
    row.event.data = Bytes::new();
    Ok(row)
}

/// What deliveries tell of an event. What it is owed as is not read.
pub(super) fn read_event_head(key: &[u8], event: EventKey, value: &[u8]) -> Result<EventHead, StoreError> {
    let bad = || damaged(&place(key), "it is not an event");
    let record: records::EventHeadRecord = decode(key, value)?;
    let own = !record.client_id.is_empty();
    Ok(EventHead {
        id: if own { record.client_id.parse().map_err(|_| bad())? } else { event.into() },
        event_type: record.r#type.parse().map_err(|_| bad())?,
        erased: record.data.is_empty() && record.data_parts == 0 && record.data_size > 0,
    })
}

pub(super) fn read_event(
    key: &[u8],
    tenant: &TenantId,
    record: records::EventRecord,
) -> Result<EventRow, StoreError> {
    let bad = || damaged(&place(key), "it is not an event");
    let event_key = key::event_key(key).ok_or_else(bad)?;
    let erased = record.data.is_empty() && record.data_parts == 0 && record.data_size > 0;
    let id = if record.client_id.is_empty() {
        event_key.into()
    } else {
        record.client_id.parse().map_err(|_| bad())?
    };
    let mut deliveries = Vec::with_capacity(record.targets.len());
    for target in &record.targets {
        let subscription = SubscriptionId::from_bytes(exact(key, &target.subscription)?);
        deliveries.push(DeliveryId { subscription, sequence: target.sequence });
    }
    let event = Event {
        key: event_key,
        id,
        tenant: tenant.clone(),
        event_type: record.r#type.parse().map_err(|_| bad())?,
        timestamp: EventTime::new(Timestamp::from_millis(record.timestamp_ms), record.timestamp_nanos),
        accepted: event_key.created(),
        data: record.data,
        attributes: Attributes::new(record.attributes).map_err(|_| bad())?,
        ordering_key: OrderingKey::new(&record.ordering_key).map_err(|_| bad())?,
        trace: TraceContext::new(&record.trace_parent, &record.trace_state).map_err(|_| bad())?,
    };
    Ok(EventRow { event, data_size: record.data_size, erased, deliveries })
}

/// What an idempotency key or a client-chosen id points to. Its age is its event's: the key tells it.
pub(super) fn name(event: EventKey, content: [u8; 16]) -> Vec<u8> {
    records::IdempotencyRecord { event: bytes(&event.to_bytes()), digest: bytes(&content) }.encode_to_vec()
}

pub(super) fn read_name(key: &[u8], value: &[u8]) -> Result<(EventKey, [u8; 16]), StoreError> {
    let record: records::IdempotencyRecord = decode(key, value)?;
    Ok((EventKey::from_bytes(exact(key, &record.event)?), exact(key, &record.digest)?))
}

pub(super) fn lane(low_water: LowWater) -> Vec<u8> {
    let LowWater { number, covers_waiting } = low_water;
    records::LaneRecord { low_water: number, covers_waiting }.encode_to_vec()
}

pub(super) fn trouble(trouble: &Trouble) -> Vec<u8> {
    postrider_proto::health::write_trouble(trouble).encode_to_vec()
}

pub(super) fn subscription(row: &SubscriptionRow) -> Vec<u8> {
    let sealed = |sealed: Option<&Sealed>| sealed.map(|sealed| bytes(sealed.as_bytes())).unwrap_or_default();
    let key = |key: &SigningKeyRow| records::SigningKeyRecord {
        id: bytes(&key.id.to_bytes()),
        create_time_ms: key.created.as_millis(),
        retire_time_ms: key.retire.map_or(0, Timestamp::as_millis),
        sealed_secret: sealed(key.secret.as_ref()),
        scheme: key.scheme.to_string(),
        pending: key.pending,
    };
    let mut subscription = postrider_proto::subscription::write(&row.subscription);
    // There are none: they are sealed. Whoever forgets that must not have them written open.
    subscription.headers.clear();
    records::SubscriptionRecord {
        subscription: Some(subscription),
        keys: row.keys.iter().map(key).collect(),
        delete_time_ms: row.deleted.map_or(0, Timestamp::as_millis),
        sealed_headers: sealed(row.headers.as_ref()),
    }
    .encode_to_vec()
}

pub(super) fn read_subscription(key: &[u8], value: &[u8]) -> Result<SubscriptionRow, StoreError> {
    let record: records::SubscriptionRecord = decode(key, value)?;
    let wire = record.subscription.unwrap_or_default();
    let subscription = postrider_proto::subscription::read(&wire).map_err(|violations| {
        damaged(&place(key), &violations.first().map(ToString::to_string).unwrap_or_default())
    })?;
    let keys: Result<Vec<SigningKeyRow>, StoreError> =
        record.keys.iter().map(|record| read_signing_key(key, record)).collect();
    let deleted = (record.delete_time_ms != 0).then(|| Timestamp::from_millis(record.delete_time_ms));
    let headers = read_sealed(key, &record.sealed_headers)?;
    Ok(SubscriptionRow { subscription, headers, keys: keys?, deleted })
}

fn read_signing_key(key: &[u8], record: &records::SigningKeyRecord) -> Result<SigningKeyRow, StoreError> {
    let scheme = match record.scheme.as_str() {
        "" => Scheme::V1,
        scheme => scheme.parse().map_err(|_| damaged(&place(key), "a signing key's scheme is not one"))?,
    };
    Ok(SigningKeyRow {
        id: KeyId::from_bytes(exact(key, &record.id)?),
        scheme,
        secret: read_sealed(key, &record.sealed_secret)?,
        pending: record.pending,
        created: Timestamp::from_millis(record.create_time_ms),
        retire: (record.retire_time_ms != 0).then(|| Timestamp::from_millis(record.retire_time_ms)),
    })
}

fn read_sealed(key: &[u8], sealed: &[u8]) -> Result<Option<Sealed>, StoreError> {
    if sealed.is_empty() {
        return Ok(None);
    }
    let sealed = Sealed::from_bytes(sealed.to_vec());
    sealed.map(Some).map_err(|error| damaged(&place(key), &error.to_string()))
}

pub(super) fn request(row: &RequestRow) -> Vec<u8> {
    records::RequestRecord {
        result: row.result.clone(),
        digest: bytes(&row.digest),
        expire_time_ms: row.expires.as_millis(),
    }
    .encode_to_vec()
}

pub(super) fn read_request(key: &[u8], value: &[u8]) -> Result<RequestRow, StoreError> {
    let record: records::RequestRecord = decode(key, value)?;
    Ok(RequestRow {
        digest: exact(key, &record.digest)?,
        expires: Timestamp::from_millis(record.expire_time_ms),
        result: record.result,
    })
}

pub(super) fn agent(row: &AgentRow) -> Vec<u8> {
    records::AgentRecord {
        pool: row.pool.clone(),
        version: row.version.clone(),
        instance: row.instance.clone(),
        connect_time_ms: row.connected_at.as_millis(),
        last_seen_time_ms: row.last_seen.as_millis(),
        streams: row.streams,
        egress_policy_hash: row.egress_policy_hash.clone(),
        max_in_flight: row.max_in_flight,
        drain_time_ms: row.drained.map_or(0, Timestamp::as_millis),
    }
    .encode_to_vec()
}

pub(super) fn read_agent(key: &[u8], value: &[u8]) -> Result<AgentRow, StoreError> {
    let record: records::AgentRecord = decode(key, value)?;
    let id = std::str::from_utf8(&key[1..]).ok().and_then(|id| id.parse().ok());
    Ok(AgentRow {
        id: id.ok_or_else(|| damaged(&place(key), "its key is not an agent's"))?,
        pool: record.pool,
        version: record.version,
        instance: record.instance,
        connected_at: Timestamp::from_millis(record.connect_time_ms),
        last_seen: Timestamp::from_millis(record.last_seen_time_ms),
        streams: record.streams,
        egress_policy_hash: record.egress_policy_hash,
        max_in_flight: record.max_in_flight,
        drained: (record.drain_time_ms != 0).then(|| Timestamp::from_millis(record.drain_time_ms)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signing_key_written_before_there_were_schemes_is_an_active_one_of_v1() {
        let record = records::SigningKeyRecord {
            id: bytes(&[1; 16]),
            create_time_ms: 5,
            ..records::SigningKeyRecord::default()
        };
        let row = read_signing_key(b"S", &record).unwrap();
        assert_eq!((row.scheme, row.pending, row.retire), (Scheme::V1, false, None));
        let strange = records::SigningKeyRecord { scheme: "v9".into(), ..record };
        assert!(read_signing_key(b"S", &strange).is_err());
    }
}

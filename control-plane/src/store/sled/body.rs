//! The data of large events, in rows of their own that fit a page.
//!
//! sled rewrites a page, which holds up to 16 rows, each time some of its rows have changed, and puts one that is larger than
//! 128 KiB into a file of its own. So rows are kept small: data that is longer than a limit is split into parts.

use bytes::{Bytes, BytesMut};
use postrider_domain::id::{EventKey, TenantId};
use postrider_proto::store::EventRecord;
use sled::Tree;

use super::writer::Write;
use super::{codec, damaged, failure, key, read};
use crate::store::StoreError;

/// The longest data that stays in the event's own row, in bytes.
const INLINE: usize = 2048;
/// The bytes of a part.
const PART: usize = 4096;
/// How often an event is read again when its data is erased while it is read.
const TRIES: usize = 3;

/// What goes into the event's row, the number of parts, and their rows.
pub(super) fn split(tenant: &TenantId, event: EventKey, data: &Bytes) -> (Bytes, u32, Vec<Write>) {
    if data.len() <= INLINE {
        return (data.clone(), 0, Vec::new());
    }
    let parts = (0_u32..).zip(data.chunks(PART));
    let rows: Vec<Write> =
        parts.map(|(number, part)| (key::body(tenant, event, number), Some(part.to_vec()))).collect();
    let count = u32::try_from(rows.len()).expect("an event has at most 1 MiB of data");
    (Bytes::new(), count, rows)
}

/// Bytes of data that are stored of an event; none when it is erased.
pub(super) fn stored(record: &EventRecord) -> usize {
    if record.data_parts == 0 {
        record.data.len()
    } else {
        usize::try_from(record.data_size).unwrap_or(usize::MAX)
    }
}

/// The keys of the rows of an event's parts.
pub(super) fn keys(
    tenant: &TenantId,
    event: EventKey,
    record: &EventRecord,
) -> impl Iterator<Item = Vec<u8>> {
    (0..record.data_parts).map(move |number| key::body(tenant, event, number))
}

/// Reads the parts of an event's data. `None` when the event is gone meanwhile.
pub(super) fn with_data(
    tree: &Tree,
    tenant: &TenantId,
    event: EventKey,
    mut record: EventRecord,
) -> Result<Option<EventRecord>, StoreError> {
    for _ in 0..TRIES {
        if record.data_parts == 0 {
            return Ok(Some(record));
        }
        if let Some(data) = join(tree, tenant, event, &record)? {
            record.data = data;
            return Ok(Some(record));
        }
        // Erased or removed between the two reads: the event's row says which.
        match read::message(tree, &key::event(tenant, event))? {
            Some(now) => record = now,
            None => return Ok(None),
        }
    }
    Err(damaged(&codec::place(&key::event(tenant, event)), "a part of its data is missing"))
}

fn join(
    tree: &Tree,
    tenant: &TenantId,
    event: EventKey,
    record: &EventRecord,
) -> Result<Option<Bytes>, StoreError> {
    let mut data = BytesMut::with_capacity(stored(record));
    for key in keys(tenant, event, record) {
        match tree.get(key).map_err(failure)? {
            Some(part) => data.extend_from_slice(&part),
            None => return Ok(None),
        }
    }
    Ok((data.len() == stored(record)).then(|| data.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_split_into_parts_that_come_to_the_same() {
        let (tenant, event) = ("acme".parse().unwrap(), EventKey::from_bytes([7; 16]));
        for (length, parts) in
            [(0, 0), (1, 0), (INLINE, 0), (INLINE + 1, 1), (PART, 1), (PART + 1, 2), (1 << 20, 256)]
        {
            let data: Bytes =
                (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>().into();
            let (inline, count, rows) = split(&tenant, event, &data);
            assert_eq!((usize::try_from(count).unwrap(), rows.len()), (parts, parts), "{length} bytes");
            let joined: Vec<u8> = rows.iter().flat_map(|(_, part)| part.clone().unwrap()).collect();
            assert_eq!([&inline[..], &joined].concat(), data, "{length} bytes");
            assert!(rows.iter().all(|(_, part)| part.as_ref().unwrap().len() <= PART));
            let record = EventRecord {
                data: inline,
                data_size: u32::try_from(length).unwrap(),
                data_parts: count,
                ..EventRecord::default()
            };
            assert_eq!(stored(&record), length);
            assert!(rows.iter().map(|(key, _)| key.clone()).eq(keys(&tenant, event, &record)));
        }
    }
}

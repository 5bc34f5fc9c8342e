//! The audit log: a row a record, and one that says where the log ends.

use postrider_domain::audit::{Entry, Head, Record};
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use prost::Message as _;
use sled::Tree;

use super::codec::{bytes, decode, exact, place};
use super::writer::Write;
use super::{damaged, failure, key};
use crate::store::{AuditQuery, Page, StoreError};

/// Rows that one filtered page looks at.
const MAX_SCAN: usize = 10_000;

/// The rows of a record that is appended.
pub(super) fn append(record: &Record, head: Head) -> [Write; 2] {
    [(key::audit_record(record.sequence), Some(encode(record))), (key::audit_head(), Some(encode_head(head)))]
}

pub(super) fn head(tree: &Tree) -> Result<Head, StoreError> {
    let key = key::audit_head();
    let stored = tree.get(&key).map_err(failure)?;
    stored.map_or(Ok(Head::default()), |value| decode_head(&key, &value))
}

pub(super) fn page(tree: &Tree, query: &AuditQuery) -> Result<Page<Record, u64>, StoreError> {
    let end = key::audit_record(query.before.unwrap_or(u64::MAX));
    let (mut items, mut next) = (Vec::new(), None);
    for (looked, row) in tree.range(key::audit_records()..end).rev().enumerate() {
        if items.len() == query.limit || looked == MAX_SCAN {
            return Ok(Page { items, next });
        }
        let (key, value) = row.map_err(failure)?;
        let record = decode_record(&key, &value)?;
        if record.entry.time < query.start {
            break;
        }
        next = Some(record.sequence);
        if query.wants(&record.entry) {
            items.push(record);
        }
    }
    Ok(Page { items, next: None })
}

pub(super) fn after(tree: &Tree, sequence: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
    let range = key::audit_record(sequence.saturating_add(1))..=key::audit_record(u64::MAX);
    let rows = tree.range(range).take(limit);
    rows.map(|row| row.map_err(failure).and_then(|(key, value)| decode_record(&key, &value))).collect()
}

fn encode(record: &Record) -> Vec<u8> {
    let entry = &record.entry;
    records::AuditRecord {
        time_ms: entry.time.as_millis(),
        actor: entry.actor.clone(),
        address: entry.address.clone(),
        action: entry.action.clone(),
        target: entry.target.clone(),
        tenant: entry.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        request_id: entry.request_id.clone(),
        detail: entry.detail.clone(),
        hash: bytes(&record.hash),
    }
    .encode_to_vec()
}

fn decode_record(key: &[u8], value: &[u8]) -> Result<Record, StoreError> {
    let record: records::AuditRecord = decode(key, value)?;
    let sequence = key::sequence(key).ok_or_else(|| damaged(&place(key), "its key has no number"))?;
    let tenant = (!record.tenant.is_empty()).then(|| record.tenant.parse()).transpose();
    let entry = Entry {
        time: Timestamp::from_millis(record.time_ms),
        actor: record.actor,
        address: record.address,
        action: record.action,
        target: record.target,
        tenant: tenant.map_err(|_| damaged(&place(key), "its tenant is not one"))?,
        request_id: record.request_id,
        detail: record.detail,
    };
    Ok(Record { sequence, entry, hash: exact(key, &record.hash)? })
}

/// The number, then the hash.
fn encode_head(head: Head) -> Vec<u8> {
    [head.sequence.to_be_bytes().as_slice(), &head.hash].concat()
}

fn decode_head(key: &[u8], value: &[u8]) -> Result<Head, StoreError> {
    let (sequence, hash) = value.split_at_checked(8).unwrap_or_default();
    Ok(Head { sequence: u64::from_be_bytes(exact(key, sequence)?), hash: exact(key, hash)? })
}

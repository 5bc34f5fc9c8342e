//! The audit log: a row a record, rows that say where the log begins and ends, and a row a tenant's record, so that a
//! tenant's list is as long as the tenant's records are, whatever others do.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::audit::{self, AuditKey, Code, Entry, Head, Record};
use postrider_domain::id::TenantId;
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use prost::Message as _;
use sled::Tree;

use super::codec::{bytes, decode, exact, place};
use super::lists::Filling;
use super::reading::Reading;
use super::writer::Write;
use super::{damaged, failure, key};
use crate::store::{AuditQuery, AuditRow, AuditSpan, Page, StoreError};

/// How far the wall clock may have been set back between two records, so that the later one seems the older.
const CLOCK_SLACK: Duration = Duration::from_secs(86_400);
/// Records that are removed in one step.
const CUT: usize = 1000;
/// How much older than it may be the oldest record gets before any is removed: each removal is a record itself.
const CUT_SLACK: Duration = Duration::from_secs(86_400);

/// Where the next records go.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// The end of the log, with what is about to be written.
    head: Head,
    /// The last number of each tenant that was written to since the start.
    of_tenants: HashMap<TenantId, u64>,
    /// What authenticates records, as soon as it is open.
    key: Arc<OnceLock<AuditKey>>,
}

impl Ends {
    /// As the tree has them. What would overwrite records that are there is refused.
    pub(super) fn load(tree: &Tree) -> Result<Self, StoreError> {
        let head = span(tree)?.end;
        let last = tree.scan_prefix(key::audit_records()).next_back().transpose().map_err(failure)?;
        let last = last.map(|(key, value)| read(&key, &value)).transpose()?;
        let last = last.map_or_else(Head::default, |last| head_of(&last.record));
        if last == head {
            return Ok(Self { head, ..Self::default() });
        }
        let problem = format!("it ends with record {}, and should with {}", last.sequence, head.sequence);
        Err(damaged("the end of the audit log", &problem))
    }

    /// Forgets what was about to be written.
    pub(super) fn reset(&mut self, head: Head) {
        *self = Self { head, of_tenants: HashMap::new(), key: self.key.clone() };
    }

    /// Where the key is put that authenticates what is appended from then on.
    pub(super) fn key(&self) -> Arc<OnceLock<AuditKey>> {
        self.key.clone()
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Reads what [`Ends::append`] needs, so that it cannot fail.
    pub(super) fn prepare(&mut self, tree: &Tree, entry: &Entry) -> Result<(), StoreError> {
        let Some(tenant) = entry.tenant.as_ref().filter(|tenant| !self.of_tenants.contains_key(tenant))
        else {
            return Ok(());
        };
        let last = tree.scan_prefix(key::audit_of(tenant)).next_back().transpose().map_err(failure)?;
        let last = last.and_then(|(key, _)| key::sequence(&key)).unwrap_or(0);
        self.of_tenants.insert(tenant.clone(), last);
        Ok(())
    }

    /// The rows of a record that is appended.
    pub(super) fn append(&mut self, entry: Entry) -> Vec<Write> {
        let (mut record, head) = self.head.append(entry);
        record.code = self.key.get().map(|key| key.code(&head));
        self.head = head;
        let mut number = 0;
        let mut rows = vec![(key::audit_head(), Some(encode_head(head)))];
        if let Some(tenant) = &record.entry.tenant {
            let last = self.of_tenants.entry(tenant.clone()).or_default();
            *last += 1;
            number = *last;
            let place = record.sequence.to_be_bytes().to_vec();
            rows.push((key::audit_record_of(tenant, number), Some(place)));
        }
        rows.push((key::audit_record(record.sequence), Some(encode(&record, number))));
        rows
    }
}

pub(super) fn span(tree: &Tree) -> Result<AuditSpan, StoreError> {
    let head = |key: Vec<u8>| {
        let stored = tree.get(&key).map_err(failure)?;
        stored.map_or(Ok(Head::default()), |value| decode_head(&key, &value))
    };
    let since = tree.get(key::audit_since()).map_err(failure)?;
    let since = since.map(|value| decode_head(&key::audit_since(), &value)).transpose()?;
    Ok(AuditSpan {
        start: head(key::audit_start())?,
        end: head(key::audit_head())?,
        since: since.map(|since| (since.sequence, since.hash)),
    })
}

/// The row that says since which record there are codes, with the code of that number.
pub(super) fn write_since(sequence: u64, code: Code) -> Write {
    (key::audit_since(), Some(encode_head(Head { sequence, hash: code })))
}

pub(super) fn page(reading: &Reading, query: &AuditQuery) -> Result<Page<AuditRow, u64>, StoreError> {
    let before = query.before.unwrap_or(u64::MAX);
    let range = match &query.tenant {
        Some(tenant) => key::audit_of(tenant)..key::audit_record_of(tenant, before),
        None => key::audit_records()..key::audit_record(before),
    };
    let (mut found, mut next) = (Filling::new(query.limit), None);
    for row in reading.range(range).rev() {
        if found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (key, value) = row.map_err(failure)?;
        let number = key::sequence(&key).ok_or_else(|| damaged(&place(&key), "its key has no number"))?;
        let record = match &query.tenant {
            Some(_) => record_at(reading, &key, &value)?,
            None => read(&key, &value)?.record,
        };
        let bytes = weight(&record.entry);
        reading.look(bytes)?;
        if record.entry.time + CLOCK_SLACK < query.start {
            break;
        }
        next = Some(number);
        if query.wants(&record.entry) {
            found.push(AuditRow { number, record }, bytes);
        }
    }
    Ok(found.page(None))
}

/// What an entry takes in an answer.
fn weight(entry: &Entry) -> usize {
    let Entry { actor, address, action, target, request_id, detail, .. } = entry;
    [actor, address, action, target, request_id, detail].iter().map(|text| text.len()).sum()
}

/// The record that a tenant's row points to.
fn record_at(tree: &Tree, key: &[u8], value: &[u8]) -> Result<Record, StoreError> {
    let row = key::audit_record(u64::from_be_bytes(exact(key, value)?));
    let record = tree.get(&row).map_err(failure)?;
    let record = record.ok_or_else(|| damaged(&place(key), "it points to no record"))?;
    Ok(read(&row, &record)?.record)
}

pub(super) fn after(tree: &Tree, sequence: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
    Ok(stored_after(tree, sequence, limit)?.into_iter().map(|stored| stored.record).collect())
}

fn stored_after(tree: &Tree, sequence: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
    let range = key::audit_record(sequence.saturating_add(1))..=key::audit_record(u64::MAX);
    let read_row = |row: sled::Result<(sled::IVec, sled::IVec)>| {
        let (key, value) = row.map_err(failure)?;
        let stored = read(&key, &value)?;
        stored.check_listed(tree, &key)?;
        Ok(stored)
    };
    tree.range(range).take(limit).map(read_row).collect()
}

/// What removes the oldest records of before this time, and what the log is told of it.
pub(super) fn cut(
    tree: &Tree,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<(Vec<Write>, Entry)>, StoreError> {
    let AuditSpan { start, .. } = span(tree)?;
    let mut old = stored_after(tree, start.sequence, CUT)?;
    let time = |stored: &Stored| stored.record.entry.time;
    if old.first().is_none_or(|first| time(first) + CUT_SLACK >= until) {
        return Ok(None);
    }
    let kept = old.iter().position(|stored| time(stored) >= until).unwrap_or(old.len());
    old.truncate(kept);
    let Some(last) = old.last().map(|last| head_of(&last.record)) else { return Ok(None) };
    let mut writes: Vec<Write> = vec![(key::audit_start(), Some(encode_head(last)))];
    for stored in &old {
        writes.push((key::audit_record(stored.record.sequence), None));
        writes.extend(stored.listed().map(|row| (row, None)));
    }
    Ok(Some((writes, audit::cut_entry(&last, now))))
}

fn head_of(record: &Record) -> Head {
    Head { sequence: record.sequence, hash: record.hash }
}

/// A record, and its number among its tenant's.
struct Stored {
    record: Record,
    number: u64,
}

impl Stored {
    /// The row of its tenant's list that points to it.
    fn listed(&self) -> Option<Vec<u8>> {
        self.record.entry.tenant.as_ref().map(|tenant| key::audit_record_of(tenant, self.number))
    }

    fn check_listed(&self, tree: &Tree, key: &[u8]) -> Result<(), StoreError> {
        let Some(row) = self.listed() else { return Ok(()) };
        let listed = tree.get(row).map_err(failure)?;
        if listed.is_some_and(|place| *place == self.record.sequence.to_be_bytes()) {
            return Ok(());
        }
        Err(damaged(&place(key), "the list of its tenant's records lacks it"))
    }
}

fn encode(record: &Record, number_of_tenant: u64) -> Vec<u8> {
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
        number_of_tenant,
        code: record.code.map(|code| bytes(&code)).unwrap_or_default(),
    }
    .encode_to_vec()
}

fn read(key: &[u8], value: &[u8]) -> Result<Stored, StoreError> {
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
    let number = record.number_of_tenant;
    let code = (!record.code.is_empty()).then(|| exact(key, &record.code)).transpose()?;
    Ok(Stored { record: Record { sequence, entry, hash: exact(key, &record.hash)?, code }, number })
}

/// The number, then the hash.
fn encode_head(head: Head) -> Vec<u8> {
    [head.sequence.to_be_bytes().as_slice(), &head.hash].concat()
}

fn decode_head(key: &[u8], value: &[u8]) -> Result<Head, StoreError> {
    let (sequence, hash) = value.split_at_checked(8).unwrap_or_default();
    Ok(Head { sequence: u64::from_be_bytes(exact(key, sequence)?), hash: exact(key, hash)? })
}

//! What tenants' stored events count for: a row a tenant, written in the same batch as what changes it, so that it is exact
//! whenever the store is opened. Only the writer's thread changes it.

use ahash::{HashMap, HashSet};
use postrider_domain::id::TenantId;
use postrider_domain::quota;
use postrider_proto::store::{EventRecord, UsageRecord};
use prost::Message as _;
use sled::Tree;

use super::commits::Commits;
use super::writer::Write;
use super::{body, failure, key, read};
use crate::store::{Accept, Conflict, StoreError};

/// Tenants whose usage is kept in memory before it is forgotten: it is read again when it is needed.
const KNOWN: usize = 100_000;
/// Events that are counted in one batch.
const COUNT: usize = 1000;

/// What an event's content counts for, as long as it is not erased.
pub(super) fn content(record: &EventRecord) -> u64 {
    let attributes = record.attributes.iter().map(|(name, value)| name.len() + value.len());
    quota::content(body::stored(record), attributes)
}

/// What the rest of it counts for.
pub(super) fn frame(record: &EventRecord) -> u64 {
    quota::frame(record.targets.len())
}

pub(super) fn stored(tree: &Tree, tenant: &TenantId) -> Result<u64, StoreError> {
    let record: Option<UsageRecord> = read::message(tree, &key::usage(tenant))?;
    Ok(record.map_or(0, |record| record.stored_bytes))
}

fn write(tenant: &TenantId, stored_bytes: u64) -> Write {
    (key::usage(tenant), (stored_bytes > 0).then(|| UsageRecord { stored_bytes }.encode_to_vec()))
}

/// Counts what a store holds that was written before usage was kept. A crash within makes it count from the beginning.
pub(super) fn count(commits: &mut Commits) -> Result<(), StoreError> {
    let tree = commits.db()?;
    if tree.contains_key(key::usage_counted()).map_err(failure)? {
        return Ok(());
    }
    let mut counted: Vec<Write> = Vec::new();
    let mut tenant = read::next_tenant_with_events(tree, None)?;
    while let Some(name) = tenant {
        let (mut after, mut sum) = (None, 0);
        loop {
            let (found, more) =
                read::events_until(tree, &name, after, postrider_domain::time::Timestamp::MAX, COUNT)?;
            sum += found.iter().map(|(_, record)| content(record) + frame(record)).sum::<u64>();
            after = found.last().map(|(event, _)| *event);
            if !more {
                break;
            }
        }
        tracing::info!(tenant = %name, bytes = sum, "counted what the tenant stores");
        counted.push(write(&name, sum));
        tenant = read::next_tenant_with_events(tree, Some(&name))?;
    }
    counted.push((key::usage_counted(), Some(Vec::new())));
    commits.commit(&counted)
}

/// What tenants' stored events count for, with what is about to be written.
#[derive(Default)]
pub(super) struct Usage {
    known: HashMap<TenantId, u64>,
    changed: HashSet<TenantId>,
}

impl Usage {
    /// Reads what [`Usage::charge`] and [`Usage::free`] need, so that they cannot fail.
    pub(super) fn load(&mut self, tree: &Tree, tenant: &TenantId) -> Result<(), StoreError> {
        if !self.known.contains_key(tenant) {
            self.known.insert(tenant.clone(), stored(tree, tenant)?);
        }
        Ok(())
    }

    /// Counts an event that is to be inserted, if the tenant may have it.
    pub(super) fn charge(&mut self, accept: &Accept) -> Result<(), Conflict> {
        let event = &accept.event;
        let attributes = event.attributes.iter().map(|(name, value)| name.len() + value.len());
        let more = quota::content(event.data.len(), attributes) + quota::frame(accept.subscriptions.len());
        let stored = self.known.get(&event.tenant).copied().unwrap_or_default();
        if !quota::admits(accept.max_stored, stored, more) {
            let max = accept.max_stored.map_or(u64::MAX, std::num::NonZeroU64::get);
            return Err(Conflict::StorageUsed { stored, max });
        }
        self.known.insert(event.tenant.clone(), stored + more);
        self.changed.insert(event.tenant.clone());
        Ok(())
    }

    pub(super) fn free(&mut self, tenant: &TenantId, bytes: u64) {
        let stored = self.known.entry(tenant.clone()).or_default();
        *stored = stored.saturating_sub(bytes);
        self.changed.insert(tenant.clone());
    }

    /// Forgets what a tenant stored: it is read again.
    pub(super) fn forget(&mut self, tenant: &TenantId) {
        self.known.remove(tenant);
        self.changed.remove(tenant);
    }

    /// The rows that say so.
    pub(super) fn changed(&mut self) -> Vec<Write> {
        let known = &self.known;
        let row = |tenant: TenantId| write(&tenant, known.get(&tenant).copied().unwrap_or_default());
        let rows = self.changed.drain().map(row).collect();
        if self.known.len() > KNOWN {
            self.known.clear();
        }
        rows
    }
}

//! Operations: a row each, and a row each among those of its tenant, by which a tenant's operations
//! are found without a look at others'.

use postrider_domain::id::{OperationId, TenantId};
use postrider_proto::operation::read_state;
use postrider_proto::store as records;
use postrider_proto::v1::operation::Work;
use prost::Message as _;
use sled::Tree;

use super::codec::{decode, place};
use super::commits::Commits;
use super::lists::Filling;
use super::read::{backward, forward, successor};
use super::reading::Reading;
use super::writer::Write;
use super::{damaged, failure, key};
use crate::store::{OperationRow, Page, StoreError};

/// Operations that are removed in one step, or get their rows among those of their tenants in one
/// write.
const STEP: usize = 500;

pub(super) fn write(row: &OperationRow) -> [Write; 2] {
    let record =
        records::OperationRecord { operation: Some(row.operation.clone()), cursor: row.cursor.clone() };
    [
        (key::operation(row.id), Some(record.encode_to_vec())),
        (key::operation_of(&row.operation.tenant, row.id), Some(Vec::new())),
    ]
}

pub(super) fn remove(tenant: &str, id: OperationId) -> [Write; 2] {
    [(key::operation(id), None), (key::operation_of(tenant, id), None)]
}

pub(super) fn one(tree: &Tree, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
    let key = key::operation(id);
    tree.get(&key).map_err(failure)?.map(|value| read(&key, &value)).transpose()
}

/// Those of all tenants, by age.
pub(super) fn all(
    reading: &Reading,
    after: Option<OperationId>,
    limit: usize,
) -> Result<Page<OperationRow, OperationId>, StoreError> {
    let (mut found, mut next) = (Filling::new(limit), None);
    for row in forward(reading, &key::operations(), after.map(key::operation)) {
        if found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (key, value) = row?;
        reading.look(value.len())?;
        let row = read(&key, &value)?;
        next = Some(row.id);
        found.push(row, value.len());
    }
    Ok(found.page(None))
}

/// A tenant's, newest first.
pub(super) fn of_tenant(
    reading: &Reading,
    tenant: &TenantId,
    before: Option<OperationId>,
    limit: usize,
) -> Result<Page<OperationRow, OperationId>, StoreError> {
    let prefix = key::operations_of(tenant.as_str());
    let before = before.map_or_else(|| successor(&prefix), |id| key::operation_of(tenant.as_str(), id));
    let (mut found, mut next) = (Filling::new(limit), None);
    for row in backward(reading, &prefix, before) {
        if found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (listed, _) = row?;
        let id = listed_id(&listed)?;
        next = Some(id);
        // It may have been removed meanwhile.
        let Some(value) = reading.get(key::operation(id)).map_err(failure)? else { continue };
        reading.look(value.len())?;
        found.push(read(&key::operation(id), &value)?, value.len());
    }
    Ok(found.page(None))
}

/// What removes the oldest that have ended of those behind the newest `keep`, and how many they
/// are.
pub(super) fn trim(
    reading: &Reading,
    tenant: &TenantId,
    keep: usize,
) -> Result<(usize, Vec<Write>), StoreError> {
    let prefix = key::operations_of(tenant.as_str());
    let (mut writes, mut count) = (Vec::new(), 0);
    for row in backward(reading, &prefix, successor(&prefix)).skip(keep) {
        if count == STEP {
            break;
        }
        let id = listed_id(&row?.0)?;
        reading.look(0)?;
        let ended = one(reading, id)?.is_none_or(|row| read_state(row.operation.state()).has_ended());
        if ended {
            count += 1;
            writes.extend(remove(tenant.as_str(), id));
        }
    }
    Ok((count, writes))
}

/// What removes a tenant's operations, about so many rows; not those that have deleted tenants of
/// its name, or do.
pub(super) fn of_deleted(tree: &Tree, tenant: &TenantId, rows: usize) -> Result<Vec<Write>, StoreError> {
    let mut writes = Vec::new();
    for row in forward(tree, &key::operations_of(tenant.as_str()), None) {
        if writes.len() >= rows {
            break;
        }
        let id = listed_id(&row?.0)?;
        let deletes = |row: &OperationRow| matches!(row.operation.work, Some(Work::TenantDeletion(_)));
        if !one(tree, id)?.as_ref().is_some_and(deletes) {
            writes.extend(remove(tenant.as_str(), id));
        }
    }
    Ok(writes)
}

/// Gives every operation its row among those of its tenant, in a store that was written before
/// there were such rows. A crash within makes it begin again.
pub(super) fn list_former(commits: &mut Commits) -> Result<(), StoreError> {
    let tree = commits.db()?;
    if tree.contains_key(key::operations_listed()).map_err(failure)? {
        return Ok(());
    }
    let mut after = None;
    loop {
        let tree = commits.db()?;
        let mut writes: Vec<Write> = Vec::new();
        for row in forward(tree, &key::operations(), after.map(key::operation)).take(STEP) {
            let (key, value) = row?;
            let row = read(&key, &value)?;
            after = Some(row.id);
            writes.push((key::operation_of(&row.operation.tenant, row.id), Some(Vec::new())));
        }
        if writes.is_empty() {
            return commits.commit(&[(key::operations_listed(), Some(Vec::new()))]);
        }
        commits.commit(&writes)?;
    }
}

fn listed_id(key: &[u8]) -> Result<OperationId, StoreError> {
    key::operation_id(key).ok_or_else(|| damaged(&place(key), "its key names no operation"))
}

fn read(key: &[u8], value: &[u8]) -> Result<OperationRow, StoreError> {
    let record: records::OperationRecord = decode(key, value)?;
    Ok(OperationRow {
        id: listed_id(key)?,
        operation: record.operation.ok_or_else(|| damaged(&place(key), "it holds no operation"))?,
        cursor: record.cursor,
    })
}

#[cfg(test)]
mod tests {
    use postrider_domain::time::Timestamp;
    use postrider_proto::v1;

    use super::super::engine::Opening;
    use super::*;
    use crate::store::{Options, SledStore, Store as _};

    /// Takes away what a store lacks that was written before operations had rows among those of
    /// their tenants.
    fn age(path: std::path::PathBuf) {
        let opening = Opening { path, cache_bytes: 8 << 20, compared_up_to: u64::MAX };
        let mut commits = Commits::open(opening).expect("the store opens");
        let listed = commits.db().expect("it is open").scan_prefix(b"o").keys();
        let listed = listed.map(|key| (key.expect("it can be read").to_vec(), None));
        let mut rows: Vec<Write> = listed.collect();
        assert_eq!(rows.len(), 2 * STEP);
        rows.push((key::operations_listed(), None));
        commits.commit(&rows).expect("the store can be written");
        commits.close().expect("the store closes");
    }

    #[tokio::test]
    async fn operations_of_an_older_store_are_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { path: folder.path().join("store"), cache_bytes: 8 << 20 };
        let store = SledStore::open(&options).expect("a store");
        let rows: Vec<OperationRow> = (0..2 * STEP as u128)
            .map(|number| {
                let id = OperationId::new(Timestamp::default(), number);
                let tenant = if number % 2 == 0 { "acme" } else { "other" };
                let operation = v1::Operation { tenant: tenant.into(), ..v1::Operation::default() };
                OperationRow { id, operation, cursor: String::new() }
            })
            .collect();
        let writes = rows.iter().map(|row| store.put_operation(row, None));
        futures::future::join_all(writes).await.into_iter().for_each(|written| written.expect("written"));
        store.close().await.expect("it closes");
        drop(store);
        age(options.path.clone());
        let store = SledStore::open(&options).expect("the store opens");
        for tenant in ["acme", "other"] {
            let page = store.operations_of(&tenant.parse().expect("a name"), None, 2 * STEP).await;
            let found = page.expect("it can be read").items;
            let own: Vec<_> = rows.iter().rev().filter(|row| row.operation.tenant == tenant).collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), own);
        }
        store.close().await.expect("it closes");
    }
}

//! Operations: a row each.

use postrider_domain::id::OperationId;
use postrider_proto::store as records;
use prost::Message as _;
use sled::Tree;

use super::codec::{decode, exact, place};
use super::writer::Write;
use super::{damaged, failure, key};
use crate::store::{OperationRow, StoreError};

pub(super) fn write(row: &OperationRow) -> Write {
    let record =
        records::OperationRecord { operation: Some(row.operation.clone()), cursor: row.cursor.clone() };
    (key::operation(row.id), Some(record.encode_to_vec()))
}

pub(super) fn all(tree: &Tree) -> Result<Vec<OperationRow>, StoreError> {
    let rows = tree.scan_prefix(key::operations());
    rows.map(|row| row.map_err(failure).and_then(|(key, value)| read(&key, &value))).collect()
}

fn read(key: &[u8], value: &[u8]) -> Result<OperationRow, StoreError> {
    let record: records::OperationRecord = decode(key, value)?;
    Ok(OperationRow {
        id: OperationId::from_bytes(exact(key, &key[1..])?),
        operation: record.operation.ok_or_else(|| damaged(&place(key), "it holds no operation"))?,
        cursor: record.cursor,
    })
}

//! Pools that were created: a row each, as the API shows them.

use postrider_domain::time::Timestamp;
use postrider_proto::{pool, time, v1};
use prost::Message as _;
use sled::Tree;

use super::codec::{decode, place};
use super::writer::Write;
use super::{damaged, failure, key};
use crate::store::{PoolRow, StoreError};

pub(super) fn write(row: &PoolRow) -> Write {
    let record = v1::Pool {
        create_time: Some(time::write(row.created)),
        update_time: Some(time::write(row.updated)),
        ..pool::write(&row.name, &row.settings)
    };
    (key::pool(&row.name), Some(record.encode_to_vec()))
}

pub(super) fn all(tree: &Tree) -> Result<Vec<PoolRow>, StoreError> {
    let rows = tree.scan_prefix(key::pools());
    rows.map(|row| row.map_err(failure).and_then(|(key, value)| read(&key, &value))).collect()
}

fn read(key: &[u8], value: &[u8]) -> Result<PoolRow, StoreError> {
    let record: v1::Pool = decode(key, value)?;
    let bad = |problem: String| damaged(&place(key), &problem);
    let settings = pool::read(&record)
        .map_err(|violations| bad(violations.first().map(ToString::to_string).unwrap_or_default()))?;
    let time = |wire: Option<&prost_types::Timestamp>| -> Result<Timestamp, StoreError> {
        let wire = wire.ok_or_else(|| bad("it has no time".to_owned()))?;
        time::read("time", wire).map_err(|violation| bad(violation.to_string()))
    };
    Ok(PoolRow {
        name: record.name.parse().map_err(|_| bad("its name is not one".to_owned()))?,
        settings,
        created: time(record.create_time.as_ref())?,
        updated: time(record.update_time.as_ref())?,
    })
}

//! How signing keys were used: a row for each subscription, beside its own.

use postrider_domain::id::{KeyId, SubscriptionId};
use postrider_domain::signing::KeyUse;
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use prost::Message as _;
use sled::Tree;

use super::codec::{bytes, decode, exact};
use super::writer::Write;
use super::{failure, key};
use crate::store::{KeyUsesRow, StoreError};

/// The row; when it says nothing, its removal.
pub(super) fn write(row: &KeyUsesRow) -> Write {
    let record = |(id, used): &(KeyId, KeyUse)| records::KeyUseRecord {
        id: bytes(&id.to_bytes()),
        last_sign_time_ms: used.signed.map_or(0, Timestamp::as_millis),
        last_accept_time_ms: used.accepted.map_or(0, Timestamp::as_millis),
    };
    let record = records::KeyUsesRecord { keys: row.keys.iter().map(record).collect() };
    (key::key_uses(row.subscription), (!record.keys.is_empty()).then(|| record.encode_to_vec()))
}

pub(super) fn all(tree: &Tree) -> Result<Vec<KeyUsesRow>, StoreError> {
    let mut rows = Vec::new();
    for row in tree.scan_prefix(key::all_key_uses()) {
        let (key, value) = row.map_err(failure)?;
        let subscription = SubscriptionId::from_bytes(exact(&key, &key[1..])?);
        let record: records::KeyUsesRecord = decode(&key, &value)?;
        let keys: Result<Vec<_>, StoreError> = record.keys.iter().map(|record| read(&key, record)).collect();
        rows.push(KeyUsesRow { subscription, keys: keys? });
    }
    Ok(rows)
}

fn read(key: &[u8], record: &records::KeyUseRecord) -> Result<(KeyId, KeyUse), StoreError> {
    let time = |millis: i64| (millis != 0).then(|| Timestamp::from_millis(millis));
    let used = KeyUse { signed: time(record.last_sign_time_ms), accepted: time(record.last_accept_time_ms) };
    Ok((KeyId::from_bytes(exact(key, &record.id)?), used))
}

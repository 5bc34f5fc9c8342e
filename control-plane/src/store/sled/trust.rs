//! What agents enroll by, who they are, and who vouches for them: a row each.

use postrider_domain::id::TokenId;
use postrider_domain::join::Pin;
use postrider_domain::sealed::Sealed;
use postrider_domain::time::Timestamp;
use postrider_domain::token::TokenDigest;
use postrider_proto::store as records;
use prost::Message as _;
use sled::Tree;

use super::codec::{bytes, decode, exact, place};
use super::writer::Write;
use super::{damaged, failure, key};
use crate::store::{AuthorityRow, IdentityRow, JoinTokenRow, StoreError};

pub(super) fn write_join_token(row: &JoinTokenRow) -> Write {
    let record = records::JoinTokenRecord {
        digest: bytes(&row.digest.to_bytes()),
        display_name: row.display_name.clone(),
        pool: row.pool.to_string(),
        max_uses: row.max_uses,
        uses: row.uses,
        expire_time_ms: row.expires.as_millis(),
    };
    (key::join_token(row.id), Some(record.encode_to_vec()))
}

pub(super) fn join_tokens(tree: &Tree) -> Result<Vec<JoinTokenRow>, StoreError> {
    all(tree, &key::join_tokens(), |key, value| {
        let record: records::JoinTokenRecord = decode(key, value)?;
        Ok(JoinTokenRow {
            id: TokenId::from_bytes(exact(key, &key[1..])?),
            digest: TokenDigest::from_bytes(exact(key, &record.digest)?),
            display_name: record.display_name,
            pool: record.pool.parse().map_err(|_| damaged(&place(key), "its pool is not one"))?,
            max_uses: record.max_uses,
            uses: record.uses,
            expires: Timestamp::from_millis(record.expire_time_ms),
        })
    })
}

pub(super) fn write_identity(row: &IdentityRow) -> Write {
    let record = records::IdentityRecord {
        pool: row.pool.to_string(),
        display_name: row.display_name.clone(),
        join_token: bytes(&row.join_token.to_bytes()),
        first_key: bytes(&row.first_key.to_bytes()),
        key: bytes(&row.key.to_bytes()),
        authority: bytes(&row.authority.to_bytes()),
        enroll_time_ms: row.enrolled.as_millis(),
        certificate_expire_time_ms: row.certificate_expires.as_millis(),
        revoke_time_ms: row.revoked.map_or(0, Timestamp::as_millis),
        duplicate_time_ms: row.duplicate.map_or(0, Timestamp::as_millis),
        former_key: row.former_key.map(|key| bytes(&key.to_bytes())).unwrap_or_default(),
        generation: row.generation,
        first_use_time_ms: row.first_use.map_or(0, Timestamp::as_millis),
    };
    (key::identity(&row.agent), Some(record.encode_to_vec()))
}

pub(super) fn identities(tree: &Tree) -> Result<Vec<IdentityRow>, StoreError> {
    all(tree, &key::identities(), |key, value| {
        let record: records::IdentityRecord = decode(key, value)?;
        let agent = std::str::from_utf8(&key[1..]).ok().and_then(|id| id.parse().ok());
        let pin = |field: &[u8]| exact(key, field).map(Pin::from_bytes);
        Ok(IdentityRow {
            agent: agent.ok_or_else(|| damaged(&place(key), "its key is not an agent's"))?,
            pool: record.pool.parse().map_err(|_| damaged(&place(key), "its pool is not one"))?,
            display_name: record.display_name,
            join_token: TokenId::from_bytes(exact(key, &record.join_token)?),
            first_key: pin(&record.first_key)?,
            key: pin(&record.key)?,
            authority: pin(&record.authority)?,
            enrolled: Timestamp::from_millis(record.enroll_time_ms),
            certificate_expires: Timestamp::from_millis(record.certificate_expire_time_ms),
            revoked: time(record.revoke_time_ms),
            duplicate: time(record.duplicate_time_ms),
            former_key: (!record.former_key.is_empty()).then(|| pin(&record.former_key)).transpose()?,
            generation: record.generation,
            first_use: time(record.first_use_time_ms),
        })
    })
}

pub(super) fn write_authority(row: &AuthorityRow) -> Write {
    let record = records::AuthorityRecord {
        certificate: bytes(&row.certificate),
        sealed_key: bytes(row.sealed_key.as_bytes()),
        create_time_ms: row.created.as_millis(),
        retire_time_ms: row.retire.map_or(0, Timestamp::as_millis),
    };
    (key::authority(row.pin), Some(record.encode_to_vec()))
}

pub(super) fn authorities(tree: &Tree) -> Result<Vec<AuthorityRow>, StoreError> {
    all(tree, &key::authorities(), |key, value| {
        let record: records::AuthorityRecord = decode(key, value)?;
        Ok(AuthorityRow {
            pin: Pin::from_bytes(exact(key, &key[1..])?),
            certificate: record.certificate.to_vec(),
            sealed_key: Sealed::from_bytes(record.sealed_key.to_vec())
                .map_err(|error| damaged(&place(key), &error.to_string()))?,
            created: Timestamp::from_millis(record.create_time_ms),
            retire: time(record.retire_time_ms),
        })
    })
}

/// Every row below a prefix, by key.
fn all<T>(
    tree: &Tree,
    prefix: &[u8],
    read: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let rows = tree.scan_prefix(prefix);
    rows.map(|row| row.map_err(failure).and_then(|(key, value)| read(&key, &value))).collect()
}

/// Zero stands for never.
fn time(millis: i64) -> Option<Timestamp> {
    (millis != 0).then(|| Timestamp::from_millis(millis))
}

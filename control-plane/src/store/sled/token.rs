//! Tokens of the API: a row each, and beside it a row that says when it was last used.

use postrider_domain::access::Scope;
use postrider_domain::id::TokenId;
use postrider_domain::time::Timestamp;
use postrider_domain::token::TokenDigest;
use postrider_proto::store as records;
use prost::Message as _;
use sled::Tree;

use super::codec::{bytes, decode, exact, place};
use super::writer::Write;
use super::{damaged, failure, key};
use crate::store::{StoreError, TokenRow};

pub(super) fn write(row: &TokenRow) -> Write {
    let record = records::TokenRecord {
        digest: bytes(&row.digest.to_bytes()),
        display_name: row.display_name.clone(),
        role: row.role.as_str().to_owned(),
        tenant: match &row.scope {
            Scope::Tenant(tenant) => tenant.to_string(),
            Scope::Everything | Scope::Nothing => String::new(),
        },
        expire_time_ms: row.expires.map_or(0, Timestamp::as_millis),
        ancestors: row.ancestors.iter().map(|ancestor| bytes(&ancestor.to_bytes())).collect(),
    };
    (key::token(row.id), Some(record.encode_to_vec()))
}

pub(super) fn write_use(id: TokenId, last_used: Timestamp) -> Write {
    let record = records::TokenUseRecord { last_use_time_ms: last_used.as_millis() };
    (key::token_use(id), Some(record.encode_to_vec()))
}

pub(super) fn all(tree: &Tree) -> Result<Vec<TokenRow>, StoreError> {
    let mut tokens = Vec::new();
    for row in tree.scan_prefix(key::tokens()) {
        let (key, value) = row.map_err(failure)?;
        let id = TokenId::from_bytes(exact(&key, &key[1..])?);
        let used = tree.get(key::token_use(id)).map_err(failure)?;
        tokens.push(read(&key, &value, used.as_deref())?);
    }
    Ok(tokens)
}

/// Every token that ever was the first admin's.
pub(super) fn bootstrapped(tree: &Tree) -> Result<Vec<TokenId>, StoreError> {
    let ids = tree.scan_prefix(key::bootstrap_tokens()).keys();
    ids.map(|key| key.map_err(failure).and_then(|key| Ok(TokenId::from_bytes(exact(&key, &key[1..])?))))
        .collect()
}

fn read(key: &[u8], value: &[u8], used: Option<&[u8]>) -> Result<TokenRow, StoreError> {
    let record: records::TokenRecord = decode(key, value)?;
    let used: records::TokenUseRecord = decode(key, used.unwrap_or_default())?;
    let bad = |_| damaged(&place(key), "its tenant is not one");
    let ancestor = |id: &bytes::Bytes| exact(key, id).map(TokenId::from_bytes);
    let time = |millis: i64| (millis != 0).then(|| Timestamp::from_millis(millis));
    Ok(TokenRow {
        id: TokenId::from_bytes(exact(key, &key[1..])?),
        digest: TokenDigest::from_bytes(exact(key, &record.digest)?),
        display_name: record.display_name,
        role: record.role.parse().map_err(|_| damaged(&place(key), "its role is not one"))?,
        scope: match record.tenant.as_str() {
            "" => Scope::Everything,
            tenant => Scope::Tenant(tenant.parse().map_err(bad)?),
        },
        expires: time(record.expire_time_ms),
        last_used: time(used.last_use_time_ms),
        ancestors: record.ancestors.iter().map(ancestor).collect::<Result<_, _>>()?,
    })
}

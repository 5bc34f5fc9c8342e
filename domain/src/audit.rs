//! The audit log's records, and the chain of hashes that shows when one was removed or altered.

mod check;

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use self::check::{CUT, Check, RESTORE, cut_entry};
use crate::id::TenantId;
use crate::time::Timestamp;

/// What an entry says: who did what, to what, when and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// Who: a token's id, an agent, or `postrider` itself.
    pub actor: String,
    /// The network address that the call came from; empty for what Postrider does by itself.
    pub address: String,
    /// What: the name of the call, such as `RotateSigningKey`.
    pub action: String,
    /// To what: the id of what was changed or revealed.
    pub target: String,
    /// Whose it is; `None` for what belongs to no tenant.
    pub tenant: Option<TenantId>,
    /// The caller's id for the request; empty without one.
    pub request_id: String,
    /// More, for people. Never a secret.
    pub detail: String,
}

impl Entry {
    /// What Postrider does by itself.
    #[must_use]
    pub fn by_postrider(action: &str, target: impl ToString, time: Timestamp) -> Self {
        Self {
            time,
            actor: "postrider".to_owned(),
            address: String::new(),
            action: action.to_owned(),
            target: target.to_string(),
            tenant: None,
            request_id: String::new(),
            detail: String::new(),
        }
    }
}

/// An entry in its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// What it says.
    pub entry: Entry,
    /// The hash over the record before it and itself.
    pub hash: Hash,
    /// The authentication code of the head that it makes; `None` when it was written without the key.
    pub code: Option<Code>,
}

/// SHA-256.
pub type Hash = [u8; 32];

/// HMAC-SHA-256.
pub type Code = [u8; 32];

/// What authenticates the log's heads. It is sealed in the store, so somebody who can write the store has it not.
#[derive(Clone)]
pub struct AuditKey(Zeroizing<[u8; 32]>);

impl AuditKey {
    /// From its bytes.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The authentication code of a head.
    #[must_use]
    pub fn code(&self, head: &Head) -> Code {
        self.mac(head).finalize().into_bytes().into()
    }

    /// Whether this is the head's code.
    #[must_use]
    pub fn is_code(&self, head: &Head, code: &Code) -> bool {
        self.mac(head).verify_slice(code).is_ok()
    }

    fn mac(&self, head: &Head) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of any length");
        mac.chain_update(b"postrider audit head 1")
            .chain_update(head.sequence.to_be_bytes())
            .chain_update(head.hash)
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey")
    }
}

/// Where the log ends. The first record follows the default: number 0, all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The last record's number.
    pub sequence: u64,
    /// The last record's hash.
    pub hash: Hash,
}

impl Head {
    /// The record that this entry becomes, and the head after it.
    #[must_use]
    pub fn append(self, entry: Entry) -> (Record, Self) {
        let sequence = self.sequence + 1;
        let hash = hash(&self.hash, sequence, &entry);
        (Record { sequence, entry, hash, code: None }, Self { sequence, hash })
    }

    /// The head after this record, if it is what must follow.
    #[must_use]
    pub fn follow(self, record: &Record) -> Option<Self> {
        let expected = hash(&self.hash, self.sequence + 1, &record.entry);
        let follows = record.sequence == self.sequence + 1 && record.hash == expected;
        follows.then_some(Self { sequence: record.sequence, hash: record.hash })
    }
}

/// Every field goes in with its length, so that no two entries read the same.
fn hash(previous: &Hash, sequence: u64, entry: &Entry) -> Hash {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(sequence.to_be_bytes());
    hash.update(entry.time.as_millis().to_be_bytes());
    let tenant = entry.tenant.as_ref().map(TenantId::as_str).unwrap_or_default();
    let texts = [
        &entry.actor,
        &entry.address,
        &entry.action,
        &entry.target,
        tenant,
        &entry.request_id,
        &entry.detail,
    ];
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn entry(number: i64) -> Entry {
        Entry {
            time: Timestamp::from_millis(number),
            actor: "tok_1".into(),
            address: "127.0.0.1".into(),
            action: "RotateSigningKey".into(),
            target: format!("sub_{number}"),
            tenant: "acme".parse().ok(),
            request_id: String::new(),
            detail: String::new(),
        }
    }

    pub(super) fn log(length: i64) -> Vec<Record> {
        let mut head = Head::default();
        (0..length)
            .map(|number| {
                let (record, next) = head.append(entry(number));
                head = next;
                record
            })
            .collect()
    }

    #[test]
    fn text_cannot_move_from_one_field_to_the_next() {
        let (mut left, mut right) = (entry(1), entry(1));
        (left.action, left.target) = ("ab".into(), "c".into());
        (right.action, right.target) = ("a".into(), "bc".into());
        assert_ne!(Head::default().append(left).1, Head::default().append(right).1);
    }
}

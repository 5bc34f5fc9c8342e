//! Secrets at rest: what is secret leaves this module sealed, and comes back to it to be opened.
//!
//! The store sees sealed values only. They are sealed with a *data key*, which lies beside them wrapped by a
//! key-encryption key ([`kek`]) from outside: so a KEK's owner is asked at the start ([`data_keys`]) and at a rewrap, not
//! for each value.

pub mod data_keys;
pub mod kek;
pub mod rewrap;
mod sealer;
mod subscription;

use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::{Context, KekId, OpenError};

pub use self::kek::{Kek, KekError, Keks, VaultSettings};
pub use self::sealer::Sealer;
pub use self::subscription::{KeyedSubscription, open_subscription, reseal, seal_subscription};
use crate::store::StoreError;

/// Why secrets cannot be sealed or opened. It never tells of a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// None of the settings' keys wraps a data key of the store.
    #[error(
        "the store's data key {data_key} is wrapped by the key-encryption key {wanted}, but the setting kek gives {given}; add {wanted}: without it the secrets cannot be decrypted"
    )]
    KekMissing {
        /// Which data key.
        data_key: DataKeyId,
        /// What wraps it.
        wanted: KekId,
        /// What was given.
        given: String,
    },
    /// A key-encryption key did not do its work.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// A data key was unwrapped, and is not what it was.
    #[error(
        "the data key {data_key}, as {kek} unwraps it, does not open what it has sealed: another key has that name, or the \
         store was altered; give the right one in the setting kek, or restore the store from a backup"
    )]
    Canary {
        /// Which data key.
        data_key: DataKeyId,
        /// What unwrapped it.
        kek: String,
    },
    /// A sealed value does not open.
    #[error("{context} does not open: {problem}; restore the store from a backup")]
    Shut {
        /// Which value.
        context: Box<Context>,
        /// Why not.
        problem: OpenError,
    },
    /// A sealed value opened to what is none.
    #[error("{context} is not what it should be: {problem}; restore the store from a backup")]
    Senseless {
        /// Which value.
        context: Box<Context>,
        /// Why not.
        problem: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

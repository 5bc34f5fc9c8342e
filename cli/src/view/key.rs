//! Signing keys, shown. A secret is shown only where it was asked for.

use postrider_proto::v1;
use serde::Serialize;

use super::{time, word};
use crate::output::View;

/// Mirrors `postrider.v1.SigningKey`.
#[derive(Debug, Serialize)]
pub(crate) struct SigningKey {
    id: String,
    subscription: String,
    scheme: String,
    state: String,
    create_time: Option<String>,
    retire_time: Option<String>,
}

impl From<v1::SigningKey> for SigningKey {
    fn from(key: v1::SigningKey) -> Self {
        Self {
            state: word::<v1::SigningKeyState>(key.state),
            create_time: time(key.create_time.as_ref()),
            retire_time: time(key.retire_time.as_ref()),
            id: key.id,
            subscription: key.subscription,
            scheme: key.scheme,
        }
    }
}

impl View for SigningKey {
    const COLUMNS: &'static [&'static str] = &["ID", "SCHEME", "STATE", "CREATED", "SIGNS UNTIL"];

    fn row(&self) -> Vec<String> {
        let until = self.retire_time.clone().unwrap_or_default();
        let created = self.create_time.clone().unwrap_or_default();
        vec![self.id.clone(), self.scheme.clone(), self.state.clone(), created, until]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Signing key", self.id.clone()),
            ("Subscription", self.subscription.clone()),
            ("Scheme", self.scheme.clone()),
            ("State", self.state.clone()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Signs until", self.retire_time.clone().unwrap_or_default()),
        ]
    }
}

/// A key with its secret, as rotate and reveal return it. It has no `Debug`.
#[derive(Serialize)]
pub(crate) struct WithSecret {
    signing_key: SigningKey,
    secret: String,
}

impl WithSecret {
    /// Joins both.
    pub(crate) fn new(key: v1::SigningKey, secret: String) -> Self {
        Self { signing_key: key.into(), secret }
    }
}

impl View for WithSecret {
    const COLUMNS: &'static [&'static str] = &["ID", "SECRET"];

    fn row(&self) -> Vec<String> {
        vec![self.signing_key.id.clone(), self.secret.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs = self.signing_key.details();
        pairs.push(("Secret", self.secret.clone()));
        pairs
    }
}

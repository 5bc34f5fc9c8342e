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
    public_key: String,
    last_sign_time: Option<String>,
    last_accept_time: Option<String>,
    safe_to_revoke: bool,
    advice: String,
}

impl From<v1::SigningKey> for SigningKey {
    fn from(key: v1::SigningKey) -> Self {
        Self {
            state: word::<v1::SigningKeyState>(key.state),
            create_time: time(key.create_time.as_ref()),
            retire_time: time(key.retire_time.as_ref()),
            last_sign_time: time(key.last_sign_time.as_ref()),
            last_accept_time: time(key.last_accept_time.as_ref()),
            safe_to_revoke: key.safe_to_revoke,
            public_key: key.public_key,
            advice: key.advice,
            id: key.id,
            subscription: key.subscription,
            scheme: key.scheme,
        }
    }
}

impl View for SigningKey {
    const COLUMNS: &'static [&'static str] =
        &["ID", "SCHEME", "STATE", "CREATED", "SIGNS UNTIL", "LAST SIGNED", "ACCEPTED BY RECEIVER", "ADVICE"];

    fn row(&self) -> Vec<String> {
        let until = self.retire_time.clone().unwrap_or_default();
        let created = self.create_time.clone().unwrap_or_default();
        let signed = self.last_sign_time.clone().unwrap_or_default();
        let accepted = self.last_accept_time.clone().unwrap_or_default();
        let (id, scheme, state) = (self.id.clone(), self.scheme.clone(), self.state.clone());
        vec![id, scheme, state, created, until, signed, accepted, self.advice.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Signing key", self.id.clone()),
            ("Subscription", self.subscription.clone()),
            ("Scheme", self.scheme.clone()),
            ("State", self.state.clone()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Signs until", self.retire_time.clone().unwrap_or_default()),
            ("Public key", self.public_key.clone()),
            ("Last signed", self.last_sign_time.clone().unwrap_or_default()),
            ("Accepted by receiver", self.last_accept_time.clone().unwrap_or_default()),
            ("Advice", self.advice.clone()),
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

//! Tokens of the API, shown. The token itself is shown once, when it is made.

use postrider_proto::v1;
use serde::Serialize;

use super::{time, time_for_table, word};
use crate::output::View;

/// Mirrors `postrider.v1.Token`.
#[derive(Debug, Serialize)]
pub(crate) struct Token {
    id: String,
    display_name: String,
    role: String,
    tenant: String,
    create_time: Option<String>,
    expire_time: Option<String>,
    last_use_time: Option<String>,
    parent: String,
    #[serde(skip)]
    last_used: String,
}

impl From<v1::Token> for Token {
    fn from(token: v1::Token) -> Self {
        Self {
            role: word::<v1::Role>(token.role),
            create_time: time(token.create_time.as_ref()),
            expire_time: time(token.expire_time.as_ref()),
            last_use_time: time(token.last_use_time.as_ref()),
            last_used: time_for_table(token.last_use_time.as_ref()),
            id: token.id,
            display_name: token.display_name,
            tenant: token.tenant,
            parent: token.parent,
        }
    }
}

impl View for Token {
    const COLUMNS: &'static [&'static str] =
        &["ID", "ROLE", "TENANT", "LAST USED", "EXPIRES", "MADE BY", "NAME"];

    fn row(&self) -> Vec<String> {
        let expires = self.expire_time.clone().unwrap_or_else(|| "never".to_owned());
        let (tenant, parent, name) = (self.tenant.clone(), self.parent.clone(), self.display_name.clone());
        vec![self.id.clone(), self.role.clone(), tenant, self.last_used.clone(), expires, parent, name]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Token", self.id.clone()),
            ("Name", self.display_name.clone()),
            ("Role", self.role.clone()),
            ("Tenant", self.tenant.clone()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Expires", self.expire_time.clone().unwrap_or_else(|| "never".to_owned())),
            ("Made by", self.parent.clone()),
            ("Last used", self.last_use_time.clone().unwrap_or_default()),
        ]
    }
}

/// A new token with its secret. It has no `Debug`.
#[derive(Serialize)]
pub(crate) struct NewToken {
    token: Token,
    secret: String,
}

impl NewToken {
    /// Joins both.
    pub(crate) fn new(token: v1::Token, secret: String) -> Self {
        Self { token: token.into(), secret }
    }
}

impl View for NewToken {
    const COLUMNS: &'static [&'static str] = &["ID", "SECRET"];

    fn row(&self) -> Vec<String> {
        vec![self.token.id.clone(), self.secret.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs = self.token.details();
        pairs.push(("Secret", self.secret.clone()));
        pairs
    }
}

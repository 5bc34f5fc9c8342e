//! Join tokens, shown. The token itself is shown once, when it is created.

use postrider_proto::v1;
use serde::Serialize;

use super::time;
use crate::output::View;

/// Mirrors `postrider.v1.JoinToken`.
#[derive(Debug, Serialize)]
pub(crate) struct JoinToken {
    id: String,
    display_name: String,
    pool: String,
    max_uses: u32,
    uses: u32,
    create_time: Option<String>,
    expire_time: Option<String>,
}

impl From<v1::JoinToken> for JoinToken {
    fn from(token: v1::JoinToken) -> Self {
        Self {
            create_time: time(token.create_time.as_ref()),
            expire_time: time(token.expire_time.as_ref()),
            id: token.id,
            display_name: token.display_name,
            pool: token.pool,
            max_uses: token.max_uses,
            uses: token.uses,
        }
    }
}

impl JoinToken {
    /// What a new one is good for.
    pub(crate) fn promise(&self) -> String {
        let agents =
            if self.max_uses == 1 { "one agent".to_owned() } else { format!("{} agents", self.max_uses) };
        let until = self.expire_time.as_deref().unwrap_or_default();
        format!(
            "For {agents} of the pool {}, until {until}. Give it to the agent as its setting `join`; it is shown this once:",
            self.pool
        )
    }

    fn use_of(&self) -> String {
        format!("{}/{}", self.uses, self.max_uses)
    }
}

impl View for JoinToken {
    const COLUMNS: &'static [&'static str] = &["ID", "POOL", "USED", "EXPIRES", "NAME"];

    fn row(&self) -> Vec<String> {
        let expires = self.expire_time.clone().unwrap_or_default();
        vec![self.id.clone(), self.pool.clone(), self.use_of(), expires, self.display_name.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Join token", self.id.clone()),
            ("Name", self.display_name.clone()),
            ("Pool", self.pool.clone()),
            ("Used", self.use_of()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Expires", self.expire_time.clone().unwrap_or_default()),
        ]
    }
}

/// A new join token with the line to print. It has no `Debug`.
#[derive(Serialize)]
pub(crate) struct NewJoinToken {
    join_token: JoinToken,
    join: String,
    warnings: Vec<String>,
}

impl NewJoinToken {
    /// Joins both.
    pub(crate) fn new(join_token: JoinToken, join: String, warnings: Vec<String>) -> Self {
        Self { join_token, join, warnings }
    }
}

impl View for NewJoinToken {
    const COLUMNS: &'static [&'static str] = &["ID", "JOIN"];

    fn row(&self) -> Vec<String> {
        vec![self.join_token.id.clone(), self.join.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs = self.join_token.details();
        pairs.push(("Join", self.join.clone()));
        pairs
    }
}

//! The first admin's token.
//!
//! It is printed once, by the start that makes it, and never again: what a process prints is often kept where many read
//! it. When later no admin's token is valid any more, only a file helps, which takes access to the machine; a token that
//! a file has given before is not taken twice, for it may have been revoked with a reason.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use postrider_domain::access::{Role, Scope};
use postrider_domain::audit::Entry;
use postrider_domain::id::TokenId;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_telemetry::blocking;
use tracing::{error, warn};
use zeroize::Zeroizing;

use super::{Tokens, is_expired};
use crate::secret_file;
use crate::store::TokenRow;

impl Tokens {
    /// Makes sure that somebody can administer, when no valid token of an unconfined admin is there: the one in this file
    /// becomes one; without a file, and only at the very first start, a new one is made and returned, to be shown.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token, or the store cannot be written.
    pub async fn bootstrap(
        &self,
        file: Option<&Path>,
        now: Timestamp,
    ) -> anyhow::Result<Option<Zeroizing<String>>> {
        if let Some(file) = file {
            self.bootstrap_file.get_or_init(|| file.to_owned());
        }
        if self.has_admin(now) {
            if let Some(file) = self.leftover_bootstrap_file(now).await {
                warn!(file = %file.display(), "{LEFTOVER}");
            }
            return Ok(None);
        }
        let before = self.store.bootstrap_tokens().await?;
        let Some(file) = file else {
            if before.is_empty() {
                return self.print_first(now).await.map(Some);
            }
            warn!(
                "{NOBODY}: set bootstrap_token_file to a file with a new token (`postrider tokens generate`)"
            );
            return Ok(None);
        };
        let token = read_token(file)?;
        if before.contains(&token.id()) {
            // Deliveries go on: they need no admin.
            error!(token = %token.id(), "{NOBODY}, and the token in bootstrap_token_file was revoked: put a new one there");
            return Ok(None);
        }
        self.add_first(&token, now, "the first admin's, from bootstrap_token_file").await?;
        Ok(None)
    }

    /// The file of `bootstrap_token_file`, when it exists although an unconfined admin token is
    /// valid. It is no longer read then, but anyone who reads it has the token in it.
    pub async fn leftover_bootstrap_file(&self, now: Timestamp) -> Option<PathBuf> {
        let file = self.bootstrap_file.get().filter(|_| self.has_admin(now))?.clone();
        let checked = file.clone();
        let exists = blocking::run(move || checked.exists()).await.unwrap_or_default();
        exists.then_some(file)
    }

    fn has_admin(&self, now: Timestamp) -> bool {
        let administers = |row: &TokenRow| {
            row.role == Role::Admin && row.scope == Scope::Everything && !is_expired(row, now)
        };
        self.list().iter().any(|row| administers(row))
    }

    async fn print_first(&self, now: Timestamp) -> anyhow::Result<Zeroizing<String>> {
        let id = TokenId::new(now, rand::random());
        let token = Token::new(Kind::Api, id, rand::random::<[u8; SECRET_BYTES]>());
        self.add_first(&token, now, "the first admin's, printed").await?;
        Ok(token.expose_text())
    }

    async fn add_first(&self, token: &Token, now: Timestamp, detail: &str) -> anyhow::Result<()> {
        let row = TokenRow {
            id: token.id(),
            digest: token.digest(),
            display_name: "bootstrap".to_owned(),
            role: Role::Admin,
            scope: Scope::Everything,
            expires: None,
            last_used: None,
            ancestors: Vec::new(),
        };
        let audit = Entry { detail: detail.to_owned(), ..Entry::by_postrider("CreateToken", row.id, now) };
        self.store.put_bootstrap_token(&row, audit).await?;
        self.insert(row);
        Ok(())
    }
}

const LEFTOVER: &str = "the bootstrap token file is no longer needed: an admin token is valid. \
                        Create another admin token, revoke the one in the file, delete the file, \
                        and unset bootstrap_token_file";
const NOBODY: &str = "no admin's token is valid, so nobody can administer";

/// What is in the file.
///
/// # Errors
/// When it cannot be read, or holds no token.
pub(crate) fn read_token(file: &Path) -> anyhow::Result<Token> {
    let text = secret_file::read(file).context("bootstrap_token_file")?;
    Token::parse(Kind::Api, text.trim()).map_err(|error| {
        anyhow::anyhow!(
            "bootstrap_token_file {}: what it holds {error}; make one with `postrider tokens generate`",
            file.display()
        )
    })
}

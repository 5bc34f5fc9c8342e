//! Tokens of the API in memory: who a call is from. The store is written first, then this.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::Context as _;
use postrider_domain::access::{Role, Scope};
use postrider_domain::audit;
use postrider_domain::id::TokenId;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::store::{Store, StoreError, TokenRow};

/// How often last uses are written.
const NOTE_USES_EVERY: Duration = Duration::from_secs(60);
/// How often calls that stream are asked whether their token has expired.
const EXPIRE_EVERY: Duration = Duration::from_secs(2);

/// Every token that is not revoked.
pub struct Tokens {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<TokenId, Known>>,
}

struct Known {
    row: Arc<TokenRow>,
    /// Cancelled when the token ceases to be valid.
    ended: CancellationToken,
    /// Whether its last use is not written yet.
    used: bool,
}

/// A token that was recognised.
#[derive(Clone)]
pub struct Recognised {
    /// The token.
    pub row: Arc<TokenRow>,
    /// Cancelled when it ceases to be valid.
    pub ended: CancellationToken,
}

impl Tokens {
    /// What the store has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let rows = store.tokens().await?;
        let tokens = Self { store, known: RwLock::default() };
        rows.into_iter().for_each(|row| tokens.insert(row));
        Ok(tokens)
    }

    /// The token that this text is, if it is valid at `now`. Unknown, revoked and expired ones are alike.
    #[must_use]
    pub fn recognise(&self, token: &Token, now: Timestamp) -> Option<Recognised> {
        let digest = token.digest();
        let valid = |known: &Known| known.row.digest == digest && !is_expired(&known.row, now);
        let (fresh, recognised) = {
            let known = self.read();
            let found = known.get(&token.id()).filter(|known| valid(known))?;
            let recognised = Recognised { row: found.row.clone(), ended: found.ended.clone() };
            (found.used && found.row.last_used.is_some_and(|last| last + NOTE_USES_EVERY > now), recognised)
        };
        if !fresh {
            self.note_use(token.id(), now);
        }
        Some(recognised)
    }

    /// Adds a token.
    ///
    /// # Errors
    /// When the store cannot be written; then there is no such token.
    pub async fn add(&self, row: TokenRow, audit: audit::Entry) -> Result<(), StoreError> {
        self.store.put_token(&row, audit).await?;
        self.insert(row);
        Ok(())
    }

    /// Removes a token and ends the calls that stream with it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn revoke(&self, id: TokenId, audit: audit::Entry) -> Result<(), StoreError> {
        self.store.delete_token(id, audit).await?;
        if let Some(known) = self.write().remove(&id) {
            known.ended.cancel();
        }
        Ok(())
    }

    /// All tokens, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<TokenRow>> {
        let mut rows: Vec<_> = self.read().values().map(|known| known.row.clone()).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// One token.
    #[must_use]
    pub fn get(&self, id: TokenId) -> Option<Arc<TokenRow>> {
        self.read().get(&id).map(|known| known.row.clone())
    }

    /// Makes sure that somebody can administer: when no valid token of an unconfined admin is there, the one in this
    /// file becomes one, or, without a file, a new one is made and returned, to be shown once.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token, or the store cannot be written.
    pub async fn bootstrap(
        &self,
        file: Option<&Path>,
        now: Timestamp,
    ) -> anyhow::Result<Option<Zeroizing<String>>> {
        let administers = |row: &Arc<TokenRow>| {
            row.role == Role::Admin && row.scope == Scope::Everything && !is_expired(row, now)
        };
        if self.list().iter().any(administers) {
            return Ok(None);
        }
        let token = match file {
            Some(file) => read_token(file)?,
            None => {
                Token::new(Kind::Api, TokenId::new(now, rand::random()), rand::random::<[u8; SECRET_BYTES]>())
            }
        };
        let row = TokenRow {
            id: token.id(),
            digest: token.digest(),
            display_name: "bootstrap".to_owned(),
            role: Role::Admin,
            scope: Scope::Everything,
            expires: None,
            last_used: None,
        };
        let audit = audit::Entry {
            time: now,
            actor: "postrider".to_owned(),
            address: String::new(),
            action: "CreateToken".to_owned(),
            target: row.id.to_string(),
            tenant: None,
            request_id: String::new(),
            detail: "the first admin's".to_owned(),
        };
        self.add(row, audit).await?;
        Ok(file.is_none().then(|| token.expose_text()))
    }

    /// Ends streams whose token has expired, and writes last uses, until it is cancelled.
    pub async fn tend(self: Arc<Self>, clock: Clock) {
        let mut noted = clock.now();
        loop {
            tokio::time::sleep(EXPIRE_EVERY).await;
            self.end_expired(clock.wall());
            if clock.now().since(noted) >= NOTE_USES_EVERY {
                noted = clock.now();
                self.write_uses().await;
            }
        }
    }

    /// Writes the last uses that are not written yet.
    pub async fn write_uses(&self) {
        let take = |known: &mut Known| {
            std::mem::take(&mut known.used).then_some((known.row.id, known.row.last_used?))
        };
        let uses: Vec<_> = self.write().values_mut().filter_map(take).collect();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.store.put_token_uses(uses).await {
            warn!(%error, "when tokens were last used was not written");
        }
    }

    fn end_expired(&self, now: Timestamp) {
        self.read()
            .values()
            .filter(|known| is_expired(&known.row, now))
            .for_each(|known| known.ended.cancel());
    }

    fn note_use(&self, id: TokenId, now: Timestamp) {
        if let Some(known) = self.write().get_mut(&id) {
            known.row = Arc::new(TokenRow { last_used: Some(now), ..(*known.row).clone() });
            known.used = true;
        }
    }

    fn insert(&self, row: TokenRow) {
        let known = Known { row: Arc::new(row), ended: CancellationToken::new(), used: false };
        self.write().insert(known.row.id, known);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<TokenId, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<TokenId, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_expired(row: &TokenRow, now: Timestamp) -> bool {
    row.expires.is_some_and(|expires| expires <= now)
}

fn read_token(file: &Path) -> anyhow::Result<Token> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.with_context(|| format!("bootstrap_token_file {} cannot be read", file.display()))?;
    Token::parse(Kind::Api, text.trim()).map_err(|error| {
        anyhow::anyhow!(
            "bootstrap_token_file {}: what it holds {error}; make one with `postrider tokens generate`",
            file.display()
        )
    })
}

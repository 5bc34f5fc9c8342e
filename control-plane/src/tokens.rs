//! Tokens of the API in memory: who a call is from. The store is written first, then this.

mod bootstrap;

pub(crate) use self::bootstrap::read_token as read_bootstrap_token;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use postrider_domain::access::Scope;
use postrider_domain::audit;
use postrider_domain::id::{TenantId, TokenId};
use postrider_domain::time::Timestamp;
use postrider_domain::token::Token;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::Clock;
use crate::store::{Store, StoreError, TokenRow};

/// How often last uses are written.
const NOTE_USES_EVERY: Duration = Duration::from_secs(60);
/// How often calls that stream are asked whether their token has expired.
const EXPIRE_EVERY: Duration = Duration::from_secs(2);
/// How long an expired token is still listed.
const KEEP_EXPIRED: Duration = Duration::from_secs(30 * 86_400);
/// Changes that one token may have under way at once; others wait.
const CHANGES: usize = 64;

/// Every token that is not revoked.
pub struct Tokens {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<TokenId, Known>>,
}

struct Known {
    row: Arc<TokenRow>,
    /// Its id, as the audit log is told.
    actor: Arc<str>,
    standing: Arc<Standing>,
    /// Whether its last use is not written yet.
    used: bool,
}

/// How a token stands: shared by all calls that are made with it.
#[derive(Debug)]
pub struct Standing {
    /// Cancelled when the token ceases to be valid: what streams ends then.
    pub ended: CancellationToken,
    /// Room for changes under way.
    pub changes: Arc<Semaphore>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { ended: CancellationToken::new(), changes: Arc::new(Semaphore::new(CHANGES)) }
    }
}

/// A token that was recognised.
#[derive(Clone)]
pub struct Recognised {
    /// The token.
    pub row: Arc<TokenRow>,
    /// Its id, as the audit log is told.
    pub actor: Arc<str>,
    /// How it stands. As long as somebody keeps this, the token counts as in use.
    pub standing: Arc<Standing>,
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
            let (row, actor) = (found.row.clone(), found.actor.clone());
            let recognised = Recognised { row, actor, standing: found.standing.clone() };
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
        self.forget(&[id]);
        Ok(())
    }

    /// Tokens are not in the store any more: ends the calls that stream with them.
    pub fn forget(&self, ids: &[TokenId]) {
        let mut known = self.write();
        ids.iter().filter_map(|id| known.remove(id)).for_each(|known| known.standing.ended.cancel());
    }

    /// The tokens that are confined to a tenant, by id.
    #[must_use]
    pub fn of_tenant(&self, tenant: &TenantId) -> Vec<TokenId> {
        let mut rows = self.list();
        rows.retain(|row| matches!(&row.scope, Scope::Tenant(own) if own == tenant));
        rows.iter().map(|row| row.id).collect()
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

    /// Ends streams whose token has expired, writes last uses, and forgets what has expired long ago, until it is
    /// cancelled.
    pub async fn tend(self: Arc<Self>, clock: Clock) {
        let mut noted = clock.now();
        loop {
            tokio::time::sleep(EXPIRE_EVERY).await;
            self.end_expired(clock.wall());
            if clock.now().since(noted) >= NOTE_USES_EVERY {
                noted = clock.now();
                self.note_streams(clock.wall());
                self.write_uses().await;
                self.forget_expired(clock.wall()).await;
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
        if let Err(error) = self.store.put_token_uses(uses.clone()).await {
            warn!(%error, "when tokens were last used was not written; trying again");
            let mut known = self.write();
            for (id, _) in uses {
                known.entry(id).and_modify(|known| known.used = true);
            }
        }
    }

    /// A stream counts as a use for as long as it lasts.
    fn note_streams(&self, now: Timestamp) {
        for known in self.write().values_mut().filter(|known| Arc::strong_count(&known.standing) > 1) {
            known.note_use(now);
        }
    }

    async fn forget_expired(&self, now: Timestamp) {
        let old = |row: &Arc<TokenRow>| row.expires.is_some_and(|expires| expires + KEEP_EXPIRED <= now);
        for row in self.list().into_iter().filter(old) {
            let audit = audit::Entry {
                tenant: row.scope.tenant().cloned(),
                detail: "it had expired".to_owned(),
                ..audit::Entry::by_postrider("RevokeToken", row.id, now)
            };
            if let Err(error) = self.revoke(row.id, audit).await {
                warn!(%error, token = %row.id, "an expired token is not forgotten now; trying again");
                return;
            }
        }
    }

    fn end_expired(&self, now: Timestamp) {
        self.read()
            .values()
            .filter(|known| is_expired(&known.row, now))
            .for_each(|known| known.standing.ended.cancel());
    }

    fn note_use(&self, id: TokenId, now: Timestamp) {
        if let Some(known) = self.write().get_mut(&id) {
            known.note_use(now);
        }
    }

    fn insert(&self, row: TokenRow) {
        let id = row.id;
        let actor = id.to_string().into();
        let known = Known { row: Arc::new(row), actor, standing: Arc::default(), used: false };
        self.write().insert(id, known);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<TokenId, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<TokenId, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn note_use(&mut self, now: Timestamp) {
        self.row = Arc::new(TokenRow { last_used: Some(now), ..(*self.row).clone() });
        self.used = true;
    }
}

fn is_expired(row: &TokenRow, now: Timestamp) -> bool {
    row.expires.is_some_and(|expires| expires <= now)
}

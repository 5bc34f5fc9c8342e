//! Tokens of the API in memory: who a call is from. The store is written first, then this.

mod bootstrap;

pub(crate) use self::bootstrap::read_token as read_bootstrap_token;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
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
    known: RwLock<BTreeMap<TokenId, Known>>,
    /// The setting `bootstrap_token_file`, from the bootstrap on.
    bootstrap_file: OnceLock<PathBuf>,
}

struct Known {
    row: Arc<TokenRow>,
    /// Its id, as the audit log shows it.
    actor: Arc<str>,
    token_status: Arc<TokenStatus>,
    /// Whether its last use is not written yet.
    used: bool,
}

/// The status of a token, shared by all calls that are made with it.
#[derive(Debug)]
pub struct TokenStatus {
    /// Cancelled when the token ceases to be valid: what streams ends then.
    pub ended: CancellationToken,
    /// Room for changes under way.
    pub changes: Arc<Semaphore>,
}

impl Default for TokenStatus {
    fn default() -> Self {
        Self { ended: CancellationToken::new(), changes: Arc::new(Semaphore::new(CHANGES)) }
    }
}

/// A token that was recognised.
#[derive(Clone)]
pub struct Recognised {
    /// The token.
    pub row: Arc<TokenRow>,
    /// Its id, as the audit log shows it.
    pub actor: Arc<str>,
    /// Its status. As long as somebody keeps this, the token counts as in use.
    pub token_status: Arc<TokenStatus>,
}

impl Tokens {
    /// What the store has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let rows = store.tokens().await?;
        let tokens = Self { store, known: RwLock::default(), bootstrap_file: OnceLock::new() };
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
            let recognised = Recognised { row, actor, token_status: found.token_status.clone() };
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
        ids.iter().filter_map(|id| known.remove(id)).for_each(|known| known.token_status.ended.cancel());
    }

    /// The tokens that are confined to a tenant, by id.
    #[must_use]
    pub fn of_tenant(&self, tenant: &TenantId) -> Vec<TokenId> {
        let mut rows = self.list();
        rows.retain(|row| matches!(&row.scope, Scope::Tenant(own) if own == tenant));
        rows.iter().map(|row| row.id).collect()
    }

    /// The tokens that descend from one, the youngest first; also after that one is gone.
    #[must_use]
    pub fn descendants(&self, id: TokenId) -> Vec<Arc<TokenRow>> {
        let mut rows = self.list();
        rows.retain(|row| row.ancestors.contains(&id));
        rows.reverse();
        rows
    }

    /// All tokens, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<TokenRow>> {
        self.read().values().map(|known| known.row.clone()).collect()
    }

    /// So many of the tokens that are wanted, by id, after this one.
    #[must_use]
    pub fn page(
        &self,
        after: Option<TokenId>,
        limit: usize,
        wanted: impl Fn(&TokenRow) -> bool,
    ) -> Vec<Arc<TokenRow>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.read();
        let rows = known.range((start, Bound::Unbounded)).map(|(_, known)| &known.row);
        rows.filter(|row| wanted(row)).take(limit).cloned().collect()
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
                if let Some(now) = clock.removal_time() {
                    self.forget_expired(now).await;
                }
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
            warn!(%error, "failed to store the last use of tokens; retrying");
            let mut known = self.write();
            for (id, _) in uses {
                known.entry(id).and_modify(|known| known.used = true);
            }
        }
    }

    /// A stream counts as a use for as long as it lasts.
    fn note_streams(&self, now: Timestamp) {
        for known in self.write().values_mut().filter(|known| Arc::strong_count(&known.token_status) > 1) {
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
                warn!(%error, token = %row.id, "failed to remove an expired token; retrying");
                return;
            }
        }
    }

    /// Ends the calls of tokens that have expired. A token that a wrong clock had expired becomes valid again.
    fn end_expired(&self, now: Timestamp) {
        let mut revived = Vec::new();
        for known in self.read().values() {
            match is_expired(&known.row, now) {
                true => known.token_status.ended.cancel(),
                false if known.token_status.ended.is_cancelled() => revived.push(known.row.id),
                false => {}
            }
        }
        if revived.is_empty() {
            return;
        }
        let mut known = self.write();
        for id in revived {
            known.entry(id).and_modify(|known| known.token_status = Arc::default());
        }
    }

    fn note_use(&self, id: TokenId, now: Timestamp) {
        if let Some(known) = self.write().get_mut(&id) {
            known.note_use(now);
        }
    }

    fn insert(&self, row: TokenRow) {
        let id = row.id;
        let actor = id.to_string().into();
        let known = Known { row: Arc::new(row), actor, token_status: Arc::default(), used: false };
        self.write().insert(id, known);
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<TokenId, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<TokenId, Known>> {
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

#[cfg(test)]
mod tests {
    use postrider_domain::access::Role;
    use postrider_domain::token::{Kind, SECRET_BYTES, Token};

    use super::*;
    use crate::store::{Options, SledStore};

    #[tokio::test]
    async fn a_token_that_seemed_to_have_expired_stands_anew_when_the_clock_is_right_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { path: folder.path().join("store"), cache_bytes: 8 << 20 };
        let store = Arc::new(SledStore::open(&options).expect("a store"));
        let tokens = Tokens::load(store).await.expect("there are none");
        let (now, day) = (Timestamp::from_millis(1_770_028_200_000), Duration::from_secs(86_400));
        let token = Token::new(Kind::Api, TokenId::new(now, 1), [1; SECRET_BYTES]);
        tokens.insert(TokenRow {
            id: token.id(),
            digest: token.digest(),
            display_name: String::new(),
            role: Role::Admin,
            scope: Scope::Everything,
            expires: Some(now + day),
            last_used: None,
            ancestors: Vec::new(),
        });
        let before = tokens.recognise(&token, now).expect("it is valid");
        let ahead = now + 32 * day;
        tokens.end_expired(ahead);
        assert!(before.token_status.ended.is_cancelled() && tokens.recognise(&token, ahead).is_none());
        tokens.end_expired(now);
        let after = tokens.recognise(&token, now).expect("it is valid again");
        assert!(!after.token_status.ended.is_cancelled());
    }
}

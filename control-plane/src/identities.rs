//! Who may become an agent, and who is one: join tokens and identities in memory. The store is written first, then this.
//!
//! Changes are serialised, so that a token with one use left makes one agent, whoever asks at once.

mod alarms;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::{AgentId, TokenId};
use postrider_domain::identity::AgentIdentity;
use postrider_domain::identity::keys::{ShownKey, Verdict};
use postrider_domain::join::Pin;
use postrider_domain::time::Timestamp;
use postrider_domain::token::Token;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::alarms::Alarms;
use crate::store::{IdentityRow, JoinTokenRow, Store, StoreError};

/// How long a join token that has expired stays in lists, and an identity after its last certificate has ended.
const REMEMBERED: Duration = Duration::from_secs(86_400);
/// The action of the records of copied identities.
const DUPLICATE: &str = "DuplicateAgent";

/// Every join token that is not revoked, and every agent that has enrolled.
pub struct Identities {
    store: Arc<dyn Store>,
    known: RwLock<Known>,
    changes: Mutex<()>,
    alarms: Alarms,
}

#[derive(Default)]
struct Known {
    join_tokens: BTreeMap<TokenId, JoinTokenRow>,
    identities: BTreeMap<AgentId, Held>,
}

struct Held {
    row: IdentityRow,
    /// Cancelled when the agent's streams must end: it is revoked, or its authority is trusted no more.
    ended: CancellationToken,
}

/// Why nobody was enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError<E> {
    /// The token is unknown, revoked, expired or used up.
    #[error("the join token cannot be used")]
    Unusable,
    /// The agent may not use the key that it has shown.
    #[error(transparent)]
    Refused(Refusal),
    /// No certificate could be made.
    #[error(transparent)]
    Issue(E),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an agent may not use the key that it has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The agent is unknown or revoked.
    #[error("the agent is revoked")]
    Revoked,
    /// A newer key was first used moments ago.
    #[error("a newer key of the agent has just come into use")]
    JustReplaced,
    /// The key was replaced: two processes use the identity. This was recorded.
    #[error("the key was replaced by a newer one")]
    Replaced,
}

/// Who wants to become an agent.
pub struct Candidate {
    /// Its join token.
    pub token: Token,
    /// The fingerprint of its key.
    pub key: Pin,
    /// For people.
    pub display_name: String,
    /// Where it calls from.
    pub address: String,
}

/// What a certificate was issued as: the answer for the agent, the authority, and when it ends.
pub type Issued<T> = (T, Pin, Timestamp);

impl Identities {
    /// What the store has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let join_tokens = store.join_tokens().await?.into_iter().map(|row| (row.id, row)).collect();
        let held = |row: IdentityRow| (row.agent.clone(), Held { row, ended: CancellationToken::new() });
        let identities = store.identities().await?.into_iter().map(held).collect();
        let known = RwLock::new(Known { join_tokens, identities });
        Ok(Self { store, known, changes: Mutex::new(()), alarms: Alarms::default() })
    }

    /// Whether an agent with this name may connect.
    #[must_use]
    pub fn admits(&self, identity: &AgentIdentity) -> bool {
        let known = self.read();
        let held = known.identities.get(&identity.agent);
        held.is_some_and(|held| held.row.revoked.is_none() && held.row.pool == identity.pool)
    }

    /// What ends the agent's streams.
    #[must_use]
    pub fn ended(&self, agent: &AgentId) -> Option<CancellationToken> {
        self.read().identities.get(agent).map(|held| held.ended.clone())
    }

    /// One identity.
    #[must_use]
    pub fn get(&self, agent: &AgentId) -> Option<IdentityRow> {
        self.read().identities.get(agent).map(|held| held.row.clone())
    }

    /// Every identity, by agent.
    #[must_use]
    pub fn list(&self) -> Vec<IdentityRow> {
        self.read().identities.values().map(|held| held.row.clone()).collect()
    }

    /// So many identities, by agent, after this one.
    #[must_use]
    pub fn page(&self, after: Option<&AgentId>, limit: usize) -> Vec<IdentityRow> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.read();
        let held = known.identities.range::<AgentId, _>((start, Bound::Unbounded)).take(limit);
        held.map(|(_, held)| held.row.clone()).collect()
    }

    /// Makes an agent of a candidate, with a certificate from `issue`. Asked again with the same token and key, it is
    /// the same agent, and nothing is used up.
    ///
    /// # Errors
    /// [`EnrollError`].
    pub async fn enroll<T, E>(
        &self,
        candidate: Candidate,
        now: Timestamp,
        issue: impl FnOnce(&IdentityRow) -> Result<Issued<T>, E>,
    ) -> Result<T, EnrollError<E>> {
        let _change = self.changes.lock().await;
        let token = self.recognise(&candidate.token).ok_or(EnrollError::Unusable)?;
        let again = self.enrolled_by(token.id, candidate.key);
        let (identity, used) = match again {
            Some(identity) if identity.revoked.is_some() => return Err(EnrollError::Unusable),
            Some(identity) if identity.key != candidate.key => {
                self.note_replaced_key(
                    &identity,
                    "to enroll again with its join token",
                    &candidate.address,
                    now,
                )
                .await;
                return Err(EnrollError::Refused(Refusal::Replaced));
            }
            Some(identity) => (identity, None),
            None if token.expires <= now || token.uses >= token.max_uses => {
                return Err(EnrollError::Unusable);
            }
            None => {
                let used = JoinTokenRow { uses: token.uses + 1, ..token.clone() };
                (new_identity(&token, &candidate, now), Some(used))
            }
        };
        let (answer, authority, certificate_expires) = issue(&identity).map_err(EnrollError::Issue)?;
        let identity = IdentityRow { authority, certificate_expires, ..identity };
        let entry = Entry {
            address: candidate.address,
            detail: format!("pool {}, by {}", identity.pool, token.id),
            ..own_entry("EnrollAgent", &identity.agent, now)
        };
        let entry = Entry { actor: identity.agent.to_string(), ..entry };
        self.store.put_identity(&identity, used.as_ref(), Some(entry)).await?;
        let mut known = self.write();
        if let Some(used) = used {
            known.join_tokens.insert(used.id, used);
        }
        known.put(identity);
        Ok(answer)
    }

    /// Gives an agent that has shown one of its keys a certificate for another one.
    ///
    /// # Errors
    /// [`EnrollError::Refused`], [`EnrollError::Issue`], [`EnrollError::Store`].
    pub async fn renew<T, E>(
        &self,
        agent: &AgentId,
        (shown, wanted): (ShownKey, Pin),
        address: String,
        now: Timestamp,
        issue: impl FnOnce(&IdentityRow) -> Result<Issued<T>, E>,
    ) -> Result<T, EnrollError<E>> {
        let _change = self.changes.lock().await;
        let identity = self.get(agent).filter(|identity| identity.revoked.is_none());
        let identity = identity.ok_or(EnrollError::Refused(Refusal::Revoked))?;
        let keys = identity.keys();
        match keys.judge_renewal(shown, wanted, now) {
            Verdict::Newest { .. } | Verdict::Former | Verdict::Later => {}
            Verdict::JustReplaced => return Err(EnrollError::Refused(Refusal::JustReplaced)),
            Verdict::Replaced => {
                self.note_replaced_key(&identity, "to renew its certificate", &address, now).await;
                return Err(EnrollError::Refused(Refusal::Replaced));
            }
        }
        let identity = identity.with_keys(keys.renewed(shown, wanted));
        let (answer, authority, certificate_expires) = issue(&identity).map_err(EnrollError::Issue)?;
        let identity = IdentityRow { authority, certificate_expires, ..identity };
        let entry = Entry { actor: agent.to_string(), address, ..own_entry("RenewAgent", agent, now) };
        self.store.put_identity(&identity, None, Some(entry)).await?;
        self.write().put(identity);
        Ok(answer)
    }

    /// Whether an agent may open a session with the key that it has shown. The first use of a key is stored: from then
    /// on the key before is refused, also after a restart.
    ///
    /// # Errors
    /// Why it may not.
    pub async fn use_key(
        &self,
        agent: &AgentId,
        shown: ShownKey,
        address: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let known = |identity: &IdentityRow| identity.revoked.is_none();
        let identity = self.get(agent).filter(known).ok_or(Refusal::Revoked)?;
        if matches!(identity.keys().judge(shown, now), Verdict::Newest { first: false } | Verdict::Former) {
            return Ok(());
        }
        let _change = self.changes.lock().await;
        let identity = self.get(agent).filter(known).ok_or(Refusal::Revoked)?;
        let (keys, verdict) = (identity.keys(), identity.keys().judge(shown, now));
        match verdict {
            Verdict::Newest { .. } | Verdict::Former | Verdict::Later => {}
            Verdict::JustReplaced => return Err(Refusal::JustReplaced),
            Verdict::Replaced => {
                self.note_replaced_key(&identity, "to open a session", address, now).await;
                return Err(Refusal::Replaced);
            }
        }
        if let Some(keys) = keys.used(shown, verdict, now) {
            let identity = identity.with_keys(keys);
            match self.store.put_identity(&identity, None, None).await {
                Ok(()) => self.write().put(identity),
                // The key is good; the next session tries to store its use again.
                Err(error) => warn!(%agent, %error, "failed to store the first use of an agent's key"),
            }
        }
        Ok(())
    }

    /// Revokes an agent and ends its streams; as it is now, or `None` when there is none. Its join token is used up from
    /// then on: whoever has the agent may have that too, and would come back by it as another agent.
    ///
    /// # Errors
    /// When the store cannot be written; then it is not revoked.
    pub async fn revoke(&self, agent: &AgentId, audit: Entry) -> Result<Option<IdentityRow>, StoreError> {
        let _change = self.changes.lock().await;
        let Some(identity) = self.get(agent) else { return Ok(None) };
        if identity.revoked.is_some() {
            return Ok(Some(identity));
        }
        let identity = IdentityRow { revoked: Some(audit.time), ..identity };
        let token = self.read().join_tokens.get(&identity.join_token).cloned();
        let used_up = token.map(|token| JoinTokenRow { max_uses: token.uses, ..token });
        self.store.put_identity(&identity, used_up.as_ref(), Some(audit)).await?;
        let mut known = self.write();
        known.join_tokens.extend(used_up.map(|token| (token.id, token)));
        known.put(identity.clone());
        if let Some(held) = known.identities.get(agent) {
            held.ended.cancel();
        }
        Ok(Some(identity))
    }

    /// Records that two processes were seen with one identity: somebody has copied it. A record that cannot be written
    /// stops nothing.
    pub async fn note_duplicate(&self, agent: &AgentId, now: Timestamp) {
        let _change = self.changes.lock().await;
        let Some(identity) = self.get(agent) else { return };
        let entry = Entry {
            detail: "two processes use this identity; the one that connected first was cut off".to_owned(),
            ..own_entry(DUPLICATE, agent, now)
        };
        self.put_duplicate(&identity, "process", entry).await;
    }

    /// Records that somebody has shown a key of the agent that a newer one has replaced. The caller holds `changes`.
    async fn note_replaced_key(&self, identity: &IdentityRow, purpose: &str, address: &str, now: Timestamp) {
        let entry = Entry {
            address: address.to_owned(),
            detail: format!(
                "two processes use this identity: one of them tried {purpose} with a key that a newer one has replaced, \
                 and was refused"
            ),
            ..own_entry(DUPLICATE, &identity.agent, now)
        };
        self.put_duplicate(identity, "key", entry).await;
    }

    async fn put_duplicate(&self, identity: &IdentityRow, reason: &'static str, entry: Entry) {
        let (agent, now) = (&identity.agent, entry.time);
        let Some(entry) = self.alarms.note(agent, reason, entry) else { return };
        let identity = IdentityRow { duplicate: Some(now), ..identity.clone() };
        match self.store.put_identity(&identity, None, Some(entry)).await {
            Ok(()) => self.write().put(identity),
            Err(error) => warn!(%agent, %error, "failed to record that two processes use one identity"),
        }
    }

    /// Records that an agent did what an honest one does not, at most once a minute for each agent and reason. A record
    /// that cannot be written stops nothing.
    pub async fn note_rejection(&self, agent: &AgentId, reason: &'static str, entry: Entry) {
        let Some(entry) = self.alarms.note(agent, reason, entry) else { return };
        self.put_alarm(entry).await;
    }

    /// Writes the records that were held back for a minute.
    pub async fn write_held_back(&self, now: Timestamp) {
        for entry in self.alarms.due(now) {
            self.put_alarm(entry).await;
        }
    }

    async fn put_alarm(&self, entry: Entry) {
        if let Err(error) = self.store.put_audit_entry(entry).await {
            warn!(%error, "failed to write the audit record of a rejected agent");
        }
    }

    /// Adds a join token.
    ///
    /// # Errors
    /// When the store cannot be written; then there is no such token.
    pub async fn add_join_token(&self, row: JoinTokenRow, audit: Entry) -> Result<(), StoreError> {
        let _change = self.changes.lock().await;
        self.store.put_join_token(&row, audit).await?;
        self.write().join_tokens.insert(row.id, row);
        Ok(())
    }

    /// Removes a join token; whether there was one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn revoke_join_token(&self, id: TokenId, audit: Entry) -> Result<bool, StoreError> {
        let _change = self.changes.lock().await;
        if !self.read().join_tokens.contains_key(&id) {
            return Ok(false);
        }
        self.store.delete_join_token(id, Some(audit)).await?;
        self.write().join_tokens.remove(&id);
        Ok(true)
    }

    /// Every join token, by id.
    #[must_use]
    pub fn join_tokens(&self) -> Vec<JoinTokenRow> {
        self.read().join_tokens.values().cloned().collect()
    }

    /// So many join tokens, by id, after this one.
    #[must_use]
    pub fn page_of_join_tokens(&self, after: Option<TokenId>, limit: usize) -> Vec<JoinTokenRow> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.read();
        known.join_tokens.range((start, Bound::Unbounded)).take(limit).map(|(_, row)| row.clone()).collect()
    }

    /// Ends the streams of agents whose certificate is from none of these authorities.
    pub fn keep_streams_of(&self, authorities: &[Pin]) {
        let known = self.read();
        let gone = known.identities.values().filter(|held| !authorities.contains(&held.row.authority));
        gone.for_each(|held| held.ended.cancel());
    }

    /// Forgets join tokens that expired long ago and identities that nobody can use any more.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_old(&self, now: Timestamp) -> Result<(), StoreError> {
        let _change = self.changes.lock().await;
        let before = now - REMEMBERED;
        for token in self.join_tokens().iter().filter(|token| token.expires < before) {
            self.store.delete_join_token(token.id, None).await?;
            self.write().join_tokens.remove(&token.id);
        }
        for identity in self.list().iter().filter(|identity| identity.certificate_expires < before) {
            self.store.delete_identity(&identity.agent).await?;
            self.write().identities.remove(&identity.agent);
        }
        Ok(())
    }

    fn recognise(&self, token: &Token) -> Option<JoinTokenRow> {
        let digest = token.digest();
        self.read().join_tokens.get(&token.id()).filter(|row| row.digest == digest).cloned()
    }

    fn enrolled_by(&self, token: TokenId, key: Pin) -> Option<IdentityRow> {
        let known = self.read();
        let mut rows = known.identities.values().map(|held| &held.row);
        rows.find(|row| row.join_token == token && row.first_key == key).cloned()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// An identity was written. One whose streams had to end starts anew with its next certificate.
    fn put(&mut self, row: IdentityRow) {
        let agent = row.agent.clone();
        match self.identities.get_mut(&agent) {
            Some(held) => {
                if held.ended.is_cancelled() && row.revoked.is_none() {
                    held.ended = CancellationToken::new();
                }
                held.row = row;
            }
            None => drop(self.identities.insert(agent, Held { row, ended: CancellationToken::new() })),
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identities")
    }
}

fn new_identity(token: &JoinTokenRow, candidate: &Candidate, now: Timestamp) -> IdentityRow {
    IdentityRow {
        agent: AgentId::new(now, rand::random()),
        pool: token.pool.clone(),
        display_name: candidate.display_name.clone(),
        join_token: token.id,
        first_key: candidate.key,
        key: candidate.key,
        authority: Pin::from_bytes([0; 32]),
        enrolled: now,
        certificate_expires: now,
        revoked: None,
        duplicate: None,
        former_key: None,
        generation: 1,
        first_use: None,
    }
}

/// What the audit log is told of what Postrider does by itself.
#[must_use]
pub fn own_entry(action: &str, target: impl ToString, now: Timestamp) -> Entry {
    Entry {
        time: now,
        actor: "postrider".to_owned(),
        address: String::new(),
        action: action.to_owned(),
        target: target.to_string(),
        tenant: None,
        request_id: String::new(),
        detail: String::new(),
    }
}

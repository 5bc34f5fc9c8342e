//! Who may become an agent: what join tokens are good for, and for how long.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::identities::{Candidate, EnrollError, Identities, Issued, Refusal, own_entry};
use postrider_control_plane::store::{IdentityRow, JoinTokenRow, Options, SledStore, Store};
use postrider_domain::id::{AgentId, TokenId};
use postrider_domain::identity::AgentIdentity;
use postrider_domain::identity::keys::ShownKey;
use postrider_domain::join::Pin;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};

type Answer = Result<AgentId, EnrollError<Infallible>>;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
}

fn token(number: u128) -> Token {
    Token::new(Kind::Join, TokenId::new(at(0), number), [5; SECRET_BYTES])
}

fn candidate(token: Token, key: &[u8]) -> Candidate {
    Candidate { token, key: Pin::of(key), display_name: "node".into(), address: "127.0.0.1".into() }
}

/// A certificate for an hour from `now`.
fn issue(now: Timestamp) -> impl FnOnce(&IdentityRow) -> Result<Issued<AgentId>, Infallible> {
    move |row| Ok((row.agent.clone(), Pin::of(b"authority"), now + Duration::from_secs(3600)))
}

fn shown(key: &[u8], generation: u64) -> ShownKey {
    ShownKey { key: Pin::of(key), generation }
}

struct World {
    store: Arc<dyn Store>,
    identities: Identities,
    _folder: tempfile::TempDir,
}

impl World {
    /// With one join token, valid until 900 s.
    async fn with_uses(max_uses: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { path: folder.path().join("store"), cache_bytes: 8 << 20 };
        let store: Arc<dyn Store> = Arc::new(SledStore::open(&options).unwrap());
        let identities = Identities::load(store.clone()).await.unwrap();
        let row = JoinTokenRow {
            id: token(1).id(),
            digest: token(1).digest(),
            display_name: String::new(),
            pool: "acme".parse().unwrap(),
            max_uses,
            uses: 0,
            expires: at(900),
        };
        identities.add_join_token(row, own_entry("CreateJoinToken", "", at(0))).await.unwrap();
        Self { store, identities, _folder: folder }
    }

    async fn enroll(&self, key: &[u8], seconds: u64) -> Answer {
        self.identities.enroll(candidate(token(1), key), at(seconds), issue(at(seconds))).await
    }

    async fn renew(
        &self,
        agent: &AgentId,
        (key, generation): (&[u8], u64),
        wanted: &[u8],
        seconds: u64,
    ) -> Answer {
        let (keys, now) = ((shown(key, generation), Pin::of(wanted)), at(seconds));
        self.identities.renew(agent, keys, "192.0.2.1".into(), now, issue(now)).await
    }

    /// Opens a session with this key of the agent.
    async fn connect(
        &self,
        agent: &AgentId,
        (key, generation): (&[u8], u64),
        seconds: u64,
    ) -> Result<(), Refusal> {
        self.identities.use_key(agent, shown(key, generation), "192.0.2.1", at(seconds)).await
    }

    /// The same store after a restart of the control plane.
    async fn restarted(self) -> Self {
        Self { identities: Identities::load(self.store.clone()).await.unwrap(), ..self }
    }

    async fn alarms(&self) -> usize {
        self.actions().await.iter().filter(|action| *action == "DuplicateAgent").count()
    }

    async fn actions(&self) -> Vec<String> {
        let records = self.store.audit_records_after(0, 100).await.unwrap();
        records.into_iter().map(|record| record.entry.action).collect()
    }
}

fn named(agent: &AgentId, pool: &str) -> AgentIdentity {
    AgentIdentity {
        trust_domain: "postrider".parse().unwrap(),
        pool: pool.parse().unwrap(),
        agent: agent.clone(),
    }
}

#[tokio::test]
async fn a_token_makes_as_many_agents_as_it_has_uses_and_a_lost_reply_costs_none() {
    let world = World::with_uses(2).await;
    let first = world.enroll(b"one", 1).await.unwrap();
    assert_eq!(world.enroll(b"one", 2).await.unwrap(), first, "the same key is the same agent");
    let second = world.enroll(b"two", 3).await.unwrap();
    assert_ne!(first, second);
    assert!(matches!(world.enroll(b"three", 4).await, Err(EnrollError::Unusable)));
    assert_eq!(world.enroll(b"two", 5).await.unwrap(), second);
    assert_eq!(world.identities.join_tokens()[0].uses, 2);
    let reloaded = Identities::load(world.store.clone()).await.unwrap();
    assert_eq!(reloaded.list(), world.identities.list());
    assert_eq!(reloaded.join_tokens(), world.identities.join_tokens());
    assert_eq!(
        world.actions().await,
        ["CreateJoinToken", "EnrollAgent", "EnrollAgent", "EnrollAgent", "EnrollAgent"]
    );
}

#[tokio::test]
async fn of_many_who_use_one_token_at_once_one_becomes_an_agent() {
    let world = Arc::new(World::with_uses(1).await);
    let mut asking = tokio::task::JoinSet::new();
    for number in 0_u32..20 {
        let world = world.clone();
        asking.spawn(async move { world.enroll(&number.to_be_bytes(), 1).await.is_ok() });
    }
    let enrolled = asking.join_all().await.into_iter().filter(|enrolled| *enrolled).count();
    assert_eq!((enrolled, world.identities.list().len()), (1, 1));
}

#[tokio::test]
async fn an_unusable_token_makes_nobody() {
    let world = World::with_uses(5).await;
    assert!(matches!(world.enroll(b"late", 900).await, Err(EnrollError::Unusable)), "expired");
    let unknown = candidate(token(2), b"x");
    let unknown = world.identities.enroll(unknown, at(1), issue(at(1))).await;
    assert!(matches!(unknown, Err(EnrollError::Unusable)), "unknown");
    let forged = Token::new(Kind::Join, token(1).id(), [6; SECRET_BYTES]);
    let forged = world.identities.enroll(candidate(forged, b"x"), at(1), issue(at(1))).await;
    assert!(matches!(forged, Err(EnrollError::Unusable)), "another secret");
    let entry = || own_entry("RevokeJoinToken", "", at(1));
    assert!(world.identities.revoke_join_token(token(1).id(), entry()).await.unwrap());
    assert!(!world.identities.revoke_join_token(token(1).id(), entry()).await.unwrap());
    assert!(matches!(world.enroll(b"x", 2).await, Err(EnrollError::Unusable)), "revoked");
    assert!(world.identities.list().is_empty());
}

#[tokio::test]
async fn a_revoked_agent_is_admitted_no_more_and_cannot_come_back_by_its_token() {
    let world = World::with_uses(2).await;
    let agent = world.enroll(b"one", 1).await.unwrap();
    assert!(world.identities.admits(&named(&agent, "acme")));
    assert!(!world.identities.admits(&named(&agent, "other")), "another pool");
    let ended = world.identities.ended(&agent).unwrap();
    let entry = || own_entry("RevokeAgent", &agent, at(2));
    world.identities.revoke(&agent, entry()).await.unwrap().unwrap();
    assert!(ended.is_cancelled() && !world.identities.admits(&named(&agent, "acme")));
    world.identities.revoke(&agent, entry()).await.unwrap().unwrap();
    assert!(matches!(world.enroll(b"one", 3).await, Err(EnrollError::Unusable)));
    assert!(
        matches!(world.enroll(b"another key", 3).await, Err(EnrollError::Unusable)),
        "the token is used up"
    );
    let refused = world.renew(&agent, (b"one", 1), b"new", 3).await;
    assert!(matches!(refused, Err(EnrollError::Refused(Refusal::Revoked))));
    let used = world.identities.use_key(&agent, shown(b"one", 1), "127.0.0.1", at(3)).await;
    assert_eq!(used, Err(Refusal::Revoked));
    assert_eq!(world.actions().await, ["CreateJoinToken", "EnrollAgent", "RevokeAgent"], "once");
    let nobody = AgentId::new(at(9), 9);
    assert!(world.identities.revoke(&nobody, entry()).await.unwrap().is_none());
}

#[tokio::test]
async fn streams_end_when_their_authority_is_trusted_no_more_and_start_anew_with_a_new_certificate() {
    let world = World::with_uses(2).await;
    let agent = world.enroll(b"one", 1).await.unwrap();
    let ended = world.identities.ended(&agent).unwrap();
    world.identities.keep_streams_of(&[Pin::of(b"authority"), Pin::of(b"newer")]);
    assert!(!ended.is_cancelled());
    world.identities.keep_streams_of(&[Pin::of(b"newer")]);
    assert!(ended.is_cancelled());
    world.enroll(b"one", 2).await.unwrap();
    assert!(!world.identities.ended(&agent).unwrap().is_cancelled());
}

#[tokio::test]
async fn what_nobody_can_use_any_more_is_forgotten() {
    let world = World::with_uses(1).await;
    let agent = world.enroll(b"one", 1).await.unwrap();
    world.identities.note_duplicate(&agent, at(5)).await;
    assert_eq!(world.identities.get(&agent).unwrap().duplicate, Some(at(5)));
    world.identities.forget_old(at(86_400)).await.unwrap();
    assert_eq!((world.identities.list().len(), world.identities.join_tokens().len()), (1, 1));
    world.identities.forget_old(at(900 + 86_401)).await.unwrap();
    assert_eq!((world.identities.list().len(), world.identities.join_tokens().len()), (1, 0));
    world.identities.forget_old(at(3601 + 86_401)).await.unwrap();
    assert!(world.identities.list().is_empty() && world.store.identities().await.unwrap().is_empty());
}

/// A copy of an identity from before the last renewal, whatever its owner tries with it.
#[tokio::test]
async fn a_copied_identity_is_refused_and_noticed_once_the_agent_has_renewed() {
    let world = World::with_uses(1).await;
    let agent = world.enroll(b"1", 1).await.unwrap();
    world.connect(&agent, (b"1", 1), 2).await.unwrap();
    world.renew(&agent, (b"1", 1), b"2", 10).await.unwrap();
    world.connect(&agent, (b"2", 2), 11).await.unwrap();
    // A connection that began before the renewal is no thief.
    assert_eq!(world.connect(&agent, (b"1", 1), 12).await, Err(Refusal::JustReplaced));
    let early = world.renew(&agent, (b"1", 1), b"thief", 12).await;
    assert!(matches!(early, Err(EnrollError::Refused(Refusal::JustReplaced))));
    assert_eq!(world.alarms().await, 0);

    let world = world.restarted().await;
    let renewed = world.renew(&agent, (b"1", 1), b"thief", 100).await;
    assert!(matches!(renewed, Err(EnrollError::Refused(Refusal::Replaced))));
    assert_eq!(world.alarms().await, 1);
    assert_eq!(world.identities.get(&agent).unwrap().duplicate, Some(at(100)));
    assert_eq!(world.connect(&agent, (b"1", 1), 200).await, Err(Refusal::Replaced));
    assert_eq!(world.alarms().await, 2, "a minute later there is another record");
    let enrolled = world.enroll(b"1", 300).await;
    assert!(
        matches!(enrolled, Err(EnrollError::Refused(Refusal::Replaced))),
        "the used-up token with its key"
    );
    assert_eq!(world.alarms().await, 3);
    // The agent itself goes on.
    world.renew(&agent, (b"2", 2), b"3", 310).await.unwrap();
    world.connect(&agent, (b"3", 3), 311).await.unwrap();
    assert_eq!(world.connect(&agent, (b"1", 1), 400).await, Err(Refusal::Replaced), "two keys old");
    assert_eq!(world.identities.get(&agent).unwrap().duplicate, Some(at(400)));
}

#[tokio::test]
async fn a_copy_that_renews_first_is_noticed_when_the_agent_comes_back() {
    let world = World::with_uses(1).await;
    let agent = world.enroll(b"1", 1).await.unwrap();
    world.connect(&agent, (b"1", 1), 2).await.unwrap();
    world.renew(&agent, (b"1", 1), b"thief", 10).await.unwrap();
    world.connect(&agent, (b"thief", 2), 11).await.unwrap();
    assert_eq!(world.connect(&agent, (b"1", 1), 100).await, Err(Refusal::Replaced));
    assert_eq!(world.alarms().await, 1);
}

#[tokio::test]
async fn a_lost_answer_to_a_renewal_costs_nothing_whoever_restarts() {
    let world = World::with_uses(1).await;
    let agent = world.enroll(b"1", 1).await.unwrap();
    world.connect(&agent, (b"1", 1), 2).await.unwrap();
    world.renew(&agent, (b"1", 1), b"2", 10).await.unwrap();
    let world = world.restarted().await;
    world.connect(&agent, (b"1", 1), 3000).await.unwrap();
    // The same key again, or another one when that was lost too.
    world.renew(&agent, (b"1", 1), b"2", 3001).await.unwrap();
    world.renew(&agent, (b"1", 1), b"2b", 3002).await.unwrap();
    world.connect(&agent, (b"2b", 3), 3003).await.unwrap();
    assert_eq!(world.alarms().await, 0);
    // The agent could not keep the last certificate; it has the key, and signs the request with it.
    world.renew(&agent, (b"1", 1), b"2b", 9000).await.unwrap();
    assert_eq!(world.alarms().await, 0);
    assert_eq!(world.connect(&agent, (b"2", 2), 9001).await, Err(Refusal::Replaced));
}

#[tokio::test]
async fn after_a_restore_the_agent_stays_in_and_the_copy_in_the_backup_does_not() {
    let world = World::with_uses(1).await;
    let agent = world.enroll(b"1", 1).await.unwrap();
    world.connect(&agent, (b"1", 1), 2).await.unwrap();
    // The agent has renewed twice since the backup was made.
    world.connect(&agent, (b"3", 3), 100).await.unwrap();
    let world = world.restarted().await;
    world.renew(&agent, (b"3", 3), b"4", 101).await.unwrap();
    world.connect(&agent, (b"4", 4), 102).await.unwrap();
    assert_eq!(world.alarms().await, 0);
    assert_eq!(world.connect(&agent, (b"1", 1), 200).await, Err(Refusal::Replaced));
    assert_eq!(world.alarms().await, 1);
}

#[tokio::test]
async fn a_thousand_attempts_are_a_record_a_minute() {
    let world = World::with_uses(1).await;
    let agent = world.enroll(b"1", 1).await.unwrap();
    world.renew(&agent, (b"1", 1), b"2", 10).await.unwrap();
    world.connect(&agent, (b"2", 2), 11).await.unwrap();
    for _ in 0..1000 {
        assert_eq!(world.connect(&agent, (b"1", 1), 100).await, Err(Refusal::Replaced));
    }
    assert_eq!(world.alarms().await, 1);
    world.identities.write_held_back(at(160)).await;
    assert_eq!(world.alarms().await, 2);
    let last = world.store.audit_records_after(0, 100).await.unwrap().pop().unwrap().entry;
    assert!(last.detail.ends_with("(999 times since the last record)"), "{}", last.detail);
    for _ in 0..1000 {
        let entry = own_entry("RejectAgent", &agent, at(200));
        world.identities.note_rejection(&agent, "identity mismatch", entry).await;
    }
    assert_eq!(world.actions().await.iter().filter(|action| *action == "RejectAgent").count(), 1);
}

//! Who may become an agent: what join tokens are good for, and for how long.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a mistake is told")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::identities::{Candidate, EnrolError, Identities, Issued, own_entry};
use postrider_control_plane::store::{IdentityRow, JoinTokenRow, Options, SledStore, Store};
use postrider_domain::id::{AgentId, TokenId};
use postrider_domain::identity::AgentIdentity;
use postrider_domain::join::Pin;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};

type Answer = Result<AgentId, EnrolError<Infallible>>;

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

    async fn enrol(&self, key: &[u8], seconds: u64) -> Answer {
        self.identities.enrol(candidate(token(1), key), at(seconds), issue(at(seconds))).await
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
    let first = world.enrol(b"one", 1).await.unwrap();
    assert_eq!(world.enrol(b"one", 2).await.unwrap(), first, "the same key is the same agent");
    let second = world.enrol(b"two", 3).await.unwrap();
    assert_ne!(first, second);
    assert!(matches!(world.enrol(b"three", 4).await, Err(EnrolError::Unusable)));
    assert_eq!(world.enrol(b"two", 5).await.unwrap(), second);
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
        asking.spawn(async move { world.enrol(&number.to_be_bytes(), 1).await.is_ok() });
    }
    let enrolled = asking.join_all().await.into_iter().filter(|enrolled| *enrolled).count();
    assert_eq!((enrolled, world.identities.list().len()), (1, 1));
}

#[tokio::test]
async fn an_unusable_token_makes_nobody() {
    let world = World::with_uses(5).await;
    assert!(matches!(world.enrol(b"late", 900).await, Err(EnrolError::Unusable)), "expired");
    let unknown = candidate(token(2), b"x");
    let unknown = world.identities.enrol(unknown, at(1), issue(at(1))).await;
    assert!(matches!(unknown, Err(EnrolError::Unusable)), "unknown");
    let forged = Token::new(Kind::Join, token(1).id(), [6; SECRET_BYTES]);
    let forged = world.identities.enrol(candidate(forged, b"x"), at(1), issue(at(1))).await;
    assert!(matches!(forged, Err(EnrolError::Unusable)), "another secret");
    let entry = || own_entry("RevokeJoinToken", "", at(1));
    assert!(world.identities.revoke_join_token(token(1).id(), entry()).await.unwrap());
    assert!(!world.identities.revoke_join_token(token(1).id(), entry()).await.unwrap());
    assert!(matches!(world.enrol(b"x", 2).await, Err(EnrolError::Unusable)), "revoked");
    assert!(world.identities.list().is_empty());
}

#[tokio::test]
async fn a_revoked_agent_is_admitted_no_more_and_cannot_come_back_by_its_token() {
    let world = World::with_uses(2).await;
    let agent = world.enrol(b"one", 1).await.unwrap();
    assert!(world.identities.admits(&named(&agent, "acme")));
    assert!(!world.identities.admits(&named(&agent, "other")), "another pool");
    let ended = world.identities.ended(&agent).unwrap();
    let entry = || own_entry("RevokeAgent", &agent, at(2));
    world.identities.revoke(&agent, entry()).await.unwrap().unwrap();
    assert!(ended.is_cancelled() && !world.identities.admits(&named(&agent, "acme")));
    world.identities.revoke(&agent, entry()).await.unwrap().unwrap();
    assert!(matches!(world.enrol(b"one", 3).await, Err(EnrolError::Unusable)));
    assert!(
        matches!(world.enrol(b"another key", 3).await, Err(EnrolError::Unusable)),
        "the token is used up"
    );
    let renewed = world.identities.renew(&agent, Pin::of(b"new"), String::new(), at(3), issue(at(3))).await;
    assert!(renewed.unwrap().is_none());
    assert_eq!(world.actions().await, ["CreateJoinToken", "EnrollAgent", "RevokeAgent"], "once");
    let nobody = AgentId::new(at(9), 9);
    assert!(world.identities.revoke(&nobody, entry()).await.unwrap().is_none());
}

#[tokio::test]
async fn streams_end_when_their_authority_is_trusted_no_more_and_start_anew_with_a_new_certificate() {
    let world = World::with_uses(2).await;
    let agent = world.enrol(b"one", 1).await.unwrap();
    let ended = world.identities.ended(&agent).unwrap();
    world.identities.keep_streams_of(&[Pin::of(b"authority"), Pin::of(b"newer")]);
    assert!(!ended.is_cancelled());
    world.identities.keep_streams_of(&[Pin::of(b"newer")]);
    assert!(ended.is_cancelled());
    world.enrol(b"one", 2).await.unwrap();
    assert!(!world.identities.ended(&agent).unwrap().is_cancelled());
}

#[tokio::test]
async fn what_nobody_can_use_any_more_is_forgotten() {
    let world = World::with_uses(1).await;
    let agent = world.enrol(b"one", 1).await.unwrap();
    world.identities.note_duplicate(&agent, at(5)).await;
    assert_eq!(world.identities.get(&agent).unwrap().duplicate, Some(at(5)));
    world.identities.forget_old(at(86_400)).await.unwrap();
    assert_eq!((world.identities.list().len(), world.identities.join_tokens().len()), (1, 1));
    world.identities.forget_old(at(900 + 86_401)).await.unwrap();
    assert_eq!((world.identities.list().len(), world.identities.join_tokens().len()), (1, 0));
    world.identities.forget_old(at(3601 + 86_401)).await.unwrap();
    assert!(world.identities.list().is_empty() && world.store.identities().await.unwrap().is_empty());
}

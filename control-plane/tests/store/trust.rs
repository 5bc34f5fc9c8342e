//! Promises about join tokens, identities and authorities.

use std::collections::HashSet;

use postrider_control_plane::store::{AuthorityRow, IdentityRow, JoinTokenRow};
use postrider_domain::id::{AgentId, TokenId};
use postrider_domain::join::Pin;
use postrider_domain::sealed::Sealed;
use postrider_domain::token::TokenDigest;

use crate::Backend;
use crate::suite::{at, entry};

fn join_token(number: u128) -> JoinTokenRow {
    JoinTokenRow {
        id: TokenId::new(at(0), number),
        digest: TokenDigest::from_bytes([4; 32]),
        display_name: "acme's cluster".into(),
        pool: "acme-onprem".parse().unwrap(),
        max_uses: 2,
        uses: 0,
        expires: at(900),
    }
}

fn identity(number: u128) -> IdentityRow {
    IdentityRow {
        agent: AgentId::new(at(1), number),
        pool: "acme-onprem".parse().unwrap(),
        display_name: "node-1".into(),
        join_token: TokenId::new(at(0), 1),
        first_key: Pin::of(b"first"),
        key: Pin::of(b"second"),
        authority: Pin::of(b"authority"),
        enrolled: at(1),
        certificate_expires: at(86_400),
        revoked: None,
        duplicate: None,
        former_key: Some(Pin::of(b"first")),
        generation: 2,
        first_use: Some(at(7)),
    }
}

pub(crate) async fn an_identity_and_the_use_of_its_join_token_are_one_write(backend: &dyn Backend) {
    let store = backend.open();
    let (token, other) = (join_token(1), join_token(2));
    for row in [&token, &other] {
        store.put_join_token(row, entry("CreateJoinToken")).await.unwrap();
    }
    let used = JoinTokenRow { uses: 1, ..token };
    let agent = identity(1);
    store.put_identity(&agent, Some(&used), Some(entry("EnrollAgent"))).await.unwrap();
    let revoked = IdentityRow { revoked: Some(at(9)), duplicate: Some(at(8)), ..identity(2) };
    store.put_identity(&revoked, None, Some(entry("RevokeAgent"))).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    assert_eq!(store.join_tokens().await.unwrap(), [used.clone(), other.clone()]);
    assert_eq!(store.identities().await.unwrap(), [agent.clone(), revoked.clone()]);
    store.delete_join_token(used.id, Some(entry("RevokeJoinToken"))).await.unwrap();
    store.delete_join_token(other.id, None).await.unwrap();
    store.delete_identity(&agent.agent).await.unwrap();
    assert_eq!(store.join_tokens().await.unwrap(), []);
    assert_eq!(store.identities().await.unwrap(), [revoked]);
    assert_eq!(store.audit_span().await.unwrap().end.sequence, 5, "what is only too old leaves no record");
}

pub(crate) async fn authorities_change_together(backend: &dyn Backend) {
    let store = backend.open();
    let authority = |name: &[u8]| AuthorityRow {
        pin: Pin::of(name),
        certificate: name.to_vec(),
        sealed_key: Sealed::from_bytes(vec![1; 90]).unwrap(),
        created: at(1),
        retire: None,
    };
    let first = authority(b"first");
    store.put_authorities(std::slice::from_ref(&first), entry("CreateAuthority")).await.unwrap();
    let (second, retiring) = (authority(b"second"), AuthorityRow { retire: Some(at(99)), ..first });
    store.put_authorities(&[second.clone(), retiring.clone()], entry("RotateAuthority")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    let found = store.authorities().await.unwrap();
    assert!(found.len() == 2 && found.contains(&second) && found.contains(&retiring));
    store.delete_authority(retiring.pin, entry("RetireAuthority")).await.unwrap();
    let left: HashSet<Pin> = store.authorities().await.unwrap().iter().map(|row| row.pin).collect();
    assert_eq!(left, HashSet::from([second.pin]));
}

//! Tokens that make tokens: what an attacker with a token that ends soon tries to keep access by.

use std::collections::HashSet;

use postrider_control_plane::api::Caller;
use postrider_control_plane::store::Store as _;
use postrider_proto::v1::agent_service_server::AgentService as _;
use postrider_proto::v1::token_service_server::TokenService as _;
use postrider_proto::v1::{self, Role};
use tonic::{Code, Request, Status};

use crate::world::{World, admin, by};

const HOUR: i64 = 3600;

/// A request that is made with this token.
fn with<T>(token: &str, message: T) -> Request<T> {
    by(Caller { actor: token.into(), ..Caller::postrider() }, message)
}

fn wanted(lifetime: Option<i64>) -> v1::CreateTokenRequest {
    let lifetime = lifetime.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
    v1::CreateTokenRequest { role: Role::Admin.into(), lifetime, ..Default::default() }
}

impl World {
    async fn token(&self, maker: Option<&str>, lifetime: Option<i64>) -> Result<v1::Token, Status> {
        let request = wanted(lifetime);
        let request = maker.map_or_else(|| admin(request.clone()), |maker| with(maker, request.clone()));
        Ok(self.api.create_token(request).await?.into_inner().token.unwrap())
    }

    async fn revoke(&self, token: &str, with_children: bool) -> Result<v1::RevokeTokenResponse, Status> {
        let request = v1::RevokeTokenRequest { token: token.into(), with_children };
        Ok(self.api.revoke_token(admin(request)).await?.into_inner())
    }

    /// The tokens that there are; of those made in one millisecond any may be the first.
    async fn known(&self) -> HashSet<String> {
        let listed =
            self.api.list_tokens(admin(v1::ListTokensRequest::default())).await.unwrap().into_inner();
        listed.tokens.into_iter().map(|token| token.id).collect()
    }
}

#[tokio::test]
async fn what_a_token_makes_does_not_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let root = world.token(None, None).await.unwrap();
    assert_eq!(root.parent, "");
    let parent = world.token(Some(&root.id), Some(HOUR)).await.unwrap();
    assert_eq!(parent.parent, root.id);
    for lifetime in [None, Some(HOUR + 1), Some(24 * HOUR)] {
        let refused = world.token(Some(&parent.id), lifetime).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{lifetime:?}: {refused:?}");
        assert!(refused.message().contains("must end before the token that makes it"), "{refused:?}");
    }
    let child = world.token(Some(&parent.id), Some(HOUR / 2)).await.unwrap();
    assert_eq!(child.parent, parent.id);
    assert!(world.token(Some(&child.id), Some(HOUR * 3 / 4)).await.is_err(), "nor the next one");
    let lifetime = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let join = |seconds| v1::CreateJoinTokenRequest { lifetime: lifetime(seconds), ..Default::default() };
    let refused = world.api.create_join_token(with(&child.id, join(24 * HOUR))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "join tokens neither: {refused:?}");
    world.api.create_join_token(with(&child.id, join(60))).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_parent_is_revoked_with_all_that_descends_from_it_or_says_what_stays() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let root = world.token(None, None).await.unwrap().id;
    let parent = world.token(Some(&root), None).await.unwrap().id;
    let child = world.token(Some(&parent), None).await.unwrap().id;
    let grandchild = world.token(Some(&child), None).await.unwrap().id;
    let other = world.token(Some(&root), None).await.unwrap().id;

    let answer = world.revoke(&child, false).await.unwrap();
    assert_eq!(answer.remaining_children, std::slice::from_ref(&grandchild), "it says what stays");
    assert!(answer.revoked_children.is_empty());
    let known = [root.clone(), parent.clone(), grandchild.clone(), other.clone()];
    assert_eq!(world.known().await, HashSet::from(known));
    // A token that was revoked in between hides nothing.
    let answer = world.revoke(&parent, true).await.unwrap();
    assert_eq!(answer.revoked_children, std::slice::from_ref(&grandchild));
    assert_eq!(world.known().await, HashSet::from([root.clone(), other.clone()]));
    let last = world.store.audit_records_after(0, 1000).await.unwrap();
    let revoked: Vec<_> = last.iter().filter(|record| record.entry.action == "RevokeToken").collect();
    assert!(
        revoked[1].entry.target == grandchild && revoked[1].entry.detail.contains(&parent),
        "{revoked:?}"
    );
    for with_children in [false, true] {
        assert_eq!(world.revoke(&parent, with_children).await.unwrap_err().code(), Code::NotFound);
    }
    world.end().await;
}

#[tokio::test]
async fn children_are_found_after_their_parent_is_gone_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let parent = world.token(None, None).await.unwrap().id;
    let child = world.token(Some(&parent), None).await.unwrap().id;
    assert_eq!(world.revoke(&parent, false).await.unwrap().remaining_children, std::slice::from_ref(&child));
    // A call that was let in before the revocation makes nothing after it.
    let late = world.token(Some(&parent), None).await.unwrap_err();
    assert_eq!(late.code(), Code::Unauthenticated, "{late:?}");
    world.end().await;

    let world = World::start(folder.path()).await;
    assert_eq!(world.revoke(&parent, false).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(world.revoke(&parent, true).await.unwrap().revoked_children, [child]);
    assert!(world.known().await.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_line_of_parents_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let mut last = world.token(None, None).await.unwrap().id;
    for _ in 0..16 {
        last = world.token(Some(&last), None).await.unwrap().id;
    }
    assert_eq!(world.token(Some(&last), None).await.unwrap_err().code(), Code::FailedPrecondition);
    world.end().await;
}

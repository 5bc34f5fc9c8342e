//! A rewrap that the store holds up.

use postrider_control_plane::secrets::rewrap::{Progress, State};
use postrider_proto::v1::secret_service_server::SecretService as _;
use postrider_proto::v1::{self, RewrapState};

use crate::world::{World, admin};

/// Looks until the rewrap is as wanted.
async fn until(world: &World, wanted: impl Fn(&Progress) -> bool) {
    while !wanted(&world.api.rewrapper.progress()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_the_store_holds_up_goes_on_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    world.store.fail(&["reseal_subscriptions"]);
    let rewrap = world.api.rewrap_secrets(admin(v1::RewrapSecretsRequest {})).await.unwrap().into_inner();
    assert_eq!(rewrap.rewrap.unwrap().state(), RewrapState::Running);
    until(&world, |progress| !progress.problem.is_empty()).await;
    assert_eq!(world.api.rewrapper.progress().state, State::Running);
    world.store.fail(&["remove_data_keys"]);
    until(&world, |progress| progress.done == progress.values).await;
    world.store.fail(&[]);
    until(&world, |progress| progress.state == State::Done).await;
    let status = world.api.get_secrets_status(admin(v1::GetSecretsStatusRequest {})).await.unwrap();
    let status = status.into_inner();
    let rewrap = status.rewrap.unwrap();
    assert_eq!((rewrap.state(), rewrap.problem.as_str()), (RewrapState::Done, ""));
    // A signing key, and the authority's key.
    assert_eq!((rewrap.value_count, rewrap.done_count), (2, 2));
    assert!(!status.rewrap_advised && status.data_keys.len() == 1);
    assert_eq!(status.data_keys[0].kek, status.keks[0].id);
    world.end().await;
}

#[tokio::test]
async fn a_rewrap_that_cannot_be_written_has_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.store.fail(&["put_data_key"]);
    let refused = world.api.rewrap_secrets(admin(v1::RewrapSecretsRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert_eq!(world.api.rewrapper.progress(), Progress::default());
    world.end().await;
}

//! Secrets that people write into the paths and queries of URLs: whoever may only look does not see them.

use postrider_control_plane::api::Caller;
use postrider_domain::access::Role;
use postrider_proto::v1;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use prost::Message as _;
use prost_types::FieldMask;
use tonic::{Code, Request};

use crate::world::{World, admin, by};

const SECRET: &str = "s3cr3t";

fn with<T>(role: Role, message: T) -> Request<T> {
    by(Caller { actor: "tok_reader".into(), role, ..Caller::postrider() }, message)
}

async fn subscribed(world: &World, url: &str) -> v1::Subscription {
    let subscription = v1::Subscription {
        tenant: "acme".into(),
        url: url.into(),
        event_types: vec!["*".into()],
        ..Default::default()
    };
    let request = v1::CreateSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
    world.api.create_subscription(admin(request)).await.unwrap().into_inner().subscription.unwrap()
}

#[tokio::test]
async fn a_viewer_sees_where_deliveries_go_and_no_path_or_query() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    for (url, shown) in [
        ("https://hooks.example.com/services/T0/s3cr3t", "https://hooks.example.com/…"),
        ("https://hooks.example.com:8443/?token=s3cr3t", "https://hooks.example.com:8443/…"),
        ("https://hooks.example.com/", "https://hooks.example.com/"),
    ] {
        let id = subscribed(&world, url).await.id;
        let get = || v1::GetSubscriptionRequest {
            tenant: "acme".into(),
            subscription: id.clone(),
            ..Default::default()
        };
        let seen = world.api.get_subscription(with(Role::Viewer, get())).await.unwrap().into_inner();
        assert_eq!(seen.subscription.unwrap().url, shown);
        for role in [Role::Operator, Role::Admin] {
            let seen = world.api.get_subscription(with(role, get())).await.unwrap().into_inner();
            assert_eq!(seen.subscription.unwrap().url, url);
        }
    }
    let list = || v1::ListSubscriptionsRequest { tenant: "acme".into(), ..Default::default() };
    let seen = world.api.list_subscriptions(with(Role::Viewer, list())).await.unwrap().into_inner();
    let bytes = seen.encode_to_vec();
    assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{seen:?}");
    let seen = world.api.list_subscriptions(with(Role::Operator, list())).await.unwrap().into_inner();
    assert!(String::from_utf8_lossy(&seen.encode_to_vec()).contains(SECRET));
    world.end().await;
}

#[tokio::test]
async fn what_a_viewer_was_shown_does_not_become_the_url() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    let url = "https://hooks.example.com/s3cr3t";
    let mut subscription = subscribed(&world, url).await;
    subscription.url = "https://hooks.example.com/…".into();
    let id = subscription.id.clone();
    for paths in [vec!["url".to_owned()], Vec::new()] {
        let request = v1::UpdateSubscriptionRequest {
            subscription: Some(subscription.clone()),
            update_mask: Some(FieldMask { paths }),
            ..Default::default()
        };
        let refused = world.api.update_subscription(admin(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("hidden from a viewer"), "{refused:?}");
    }
    let get = v1::GetSubscriptionRequest { tenant: "acme".into(), subscription: id, ..Default::default() };
    let seen = world.api.get_subscription(admin(get)).await.unwrap().into_inner();
    assert_eq!(seen.subscription.unwrap().url, url);
    world.end().await;
}

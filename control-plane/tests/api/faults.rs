//! A change that cannot be written with its record is no change; one that is written is carried through.

use std::time::Duration;

use postrider_control_plane::api::Gate;
use postrider_control_plane::diagnoses::{Abilities, Who};
use postrider_control_plane::schedule::HolderId;
use postrider_control_plane::store::Store as _;
use postrider_domain::token::{Kind, Token};
use postrider_proto::v1;
use postrider_proto::v1::delivery_service_server::DeliveryService as _;
use postrider_proto::v1::event_type_service_server::EventTypeService as _;
use postrider_proto::v1::signing_key_service_server::SigningKeyService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::token_service_client::TokenServiceClient;
use postrider_proto::v1::token_service_server::{TokenService as _, TokenServiceServer};
use tonic::{Code, Request};
use tower::Layer as _;

use crate::world::{Things, World, admin};

/// Every method that takes a record.
const RECORDING: [&str; 9] = [
    "settle",
    "put_tenant",
    "begin_tenant_deletion",
    "put_event_type",
    "delete_event_type",
    "put_subscription",
    "put_token",
    "delete_token",
    "put_audit_entry",
];

/// What a user can see of a tenant.
async fn picture(world: &World, things: &Things) -> String {
    let (api, tenant) = (&world.api, things.tenant.clone());
    let found = api.get_tenant(admin(v1::GetTenantRequest { tenant: tenant.clone() })).await.unwrap();
    let request = v1::ListSubscriptionsRequest { tenant: tenant.clone(), ..Default::default() };
    let subscriptions = api.list_subscriptions(admin(request)).await.unwrap();
    let request = v1::ListEventTypesRequest { tenant: tenant.clone(), ..Default::default() };
    let event_types = api.list_event_types(admin(request)).await.unwrap();
    let subscription = things.subscription.clone();
    let request = v1::ListSigningKeysRequest { tenant: tenant.clone(), subscription };
    let keys = api.list_signing_keys(admin(request)).await.unwrap();
    let request = v1::ListDeliveriesRequest { tenant, ..Default::default() };
    let deliveries = api.list_deliveries(admin(request)).await.unwrap();
    let tenants = api.list_tenants(admin(v1::ListTenantsRequest::default())).await.unwrap();
    let tokens = api.list_tokens(admin(v1::ListTokensRequest::default())).await.unwrap();
    let (all, tokens) = (tenants.into_inner(), tokens.into_inner());
    format!("{found:?} {subscriptions:?} {event_types:?} {keys:?} {deliveries:?} {all:?} {tokens:?}")
}

/// The changes that must fail, each with the code it fails with.
async fn attempt_everything(
    world: &World,
    things: &Things,
    token: &str,
) -> Vec<(&'static str, Option<Code>)> {
    let api = &world.api;
    let (tenant, subscription) = (things.tenant.clone(), things.subscription.clone());
    macro_rules! attempts {
        ($($call:ident($kind:ident { $($field:ident: $value:expr),* $(,)? })),+ $(,)?) => {
            vec![$({
                let request = v1::$kind { $($field: $value.into(),)* ..Default::default() };
                (stringify!($call), api.$call(admin(request)).await.err().map(|status| status.code()))
            }),+]
        };
    }
    let new = |id: &str| v1::Tenant { id: id.into(), display_name: "New".into(), ..Default::default() };
    let entry = |name: &str| v1::EventType {
        tenant: things.tenant.clone(),
        name: name.into(),
        description: "New.".into(),
        ..Default::default()
    };
    let wanted = v1::Subscription {
        tenant: tenant.clone(),
        id: subscription.clone(),
        url: "https://other.example.com/".into(),
        event_types: vec!["*".into()],
        ..Default::default()
    };
    attempts![
        create_tenant(CreateTenantRequest { tenant: new("third") }),
        update_tenant(UpdateTenantRequest { tenant: new(&tenant) }),
        delete_tenant(DeleteTenantRequest { tenant: "empty" }),
        create_event_type(CreateEventTypeRequest { event_type: entry("a.new") }),
        update_event_type(UpdateEventTypeRequest { event_type: entry(&things.event_type) }),
        delete_event_type(DeleteEventTypeRequest { tenant: tenant.clone(), name: things.event_type.clone() }),
        create_subscription(CreateSubscriptionRequest { subscription: wanted.clone() }),
        update_subscription(UpdateSubscriptionRequest { subscription: wanted }),
        pause_subscription(PauseSubscriptionRequest {
            tenant: tenant.clone(),
            subscription: subscription.clone()
        }),
        delete_subscription(DeleteSubscriptionRequest {
            tenant: tenant.clone(),
            subscription: subscription.clone(),
        }),
        test_subscription(TestSubscriptionRequest {
            tenant: tenant.clone(),
            subscription: subscription.clone()
        }),
        rotate_signing_key(RotateSigningKeyRequest {
            tenant: tenant.clone(),
            subscription: subscription.clone()
        }),
        reveal_signing_key(RevealSigningKeyRequest {
            tenant: tenant.clone(),
            subscription: subscription.clone()
        }),
        create_token(CreateTokenRequest { role: v1::Role::Viewer }),
        revoke_token(RevokeTokenRequest { token: token }),
    ]
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let things = world.tenant("acme").await;
    let empty = v1::Tenant { id: "empty".into(), ..Default::default() };
    world.api.create_tenant(admin(v1::CreateTenantRequest { tenant: Some(empty) })).await.unwrap();
    let request = v1::CreateTokenRequest { role: v1::Role::Admin.into(), ..Default::default() };
    let made = world.api.create_token(admin(request)).await.unwrap().into_inner();
    let (before, head) = (picture(&world, &things).await, world.store.audit_span().await.unwrap());
    // An agent that would send a test event if it was asked to.
    let agent = Who {
        agent: "agt-1".parse().unwrap(),
        pool: "default".parse().unwrap(),
        version: "test".into(),
        abilities: Abilities { look: true, post: true },
    };
    let (_seat, mut asked) = world.api.diagnoses.sit(HolderId(1), agent);

    world.store.fail(&RECORDING);
    for (call, code) in attempt_everything(&world, &things, &made.token.unwrap().id).await {
        assert_eq!(code, Some(Code::Unavailable), "{call}");
    }
    assert_eq!(picture(&world, &things).await, before, "something has changed");
    let token = Token::parse(Kind::Api, &made.secret).unwrap();
    assert!(
        world.api.tokens.recognise(&token, world.api.clock.wall()).is_some(),
        "a revocation that failed counts"
    );
    assert!(asked.try_recv().is_err(), "a test event was sent");
    world.store.fail(&[]);
    assert_eq!(world.store.audit_span().await.unwrap(), head);
    world.end().await;
}

#[tokio::test]
async fn a_delivery_is_not_cancelled_until_that_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let things = world.tenant("acme").await;
    world.store.fail(&["settle"]);
    let request =
        v1::CancelDeliveryRequest { tenant: things.tenant.clone(), delivery: things.delivery.clone() };
    let cancel = tokio::spawn({
        let api = world.api.clone();
        async move { api.cancel_delivery(admin(request)).await }
    });
    while !world.store.seen().contains(&"settle") {
        tokio::task::yield_now().await;
    }
    assert!(!cancel.is_finished());
    let before = world.store.audit_span().await.unwrap();
    world.store.fail(&[]);
    let cancelled = cancel.await.unwrap().unwrap().into_inner().delivery.unwrap();
    assert_eq!(cancelled.state(), v1::DeliveryState::Cancelled);
    let after = world.store.audit_records_after(before.end.sequence, 10).await.unwrap();
    let told: Vec<_> = after.iter().map(|record| (&*record.entry.action, &*record.entry.target)).collect();
    assert_eq!(told, [("CancelDelivery", things.delivery.as_str())], "tried again and again, recorded once");
    let request =
        v1::CancelDeliveryRequest { tenant: things.tenant.clone(), delivery: things.delivery.clone() };
    let refused = world.api.cancel_delivery(admin(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let span = world.store.audit_span().await.unwrap();
    assert_eq!(span.end.sequence, before.end.sequence + 1, "what is refused is not recorded");
    world.end().await;
}

#[tokio::test]
async fn a_change_is_carried_through_though_its_caller_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let make = v1::CreateTokenRequest { role: v1::Role::Admin.into(), ..Default::default() };
    let made = world.api.create_token(admin(make)).await.unwrap().into_inner();
    let token = Token::parse(Kind::Api, &made.secret).unwrap();
    let gate = Gate::new(Some(world.api.tokens.clone()), world.api.clock);
    let mut client = TokenServiceClient::new(gate.layer(TokenServiceServer::new(world.api.clone())));
    let mut request =
        Request::new(v1::RevokeTokenRequest { token: made.token.unwrap().id, ..Default::default() });
    request.metadata_mut().insert("authorization", format!("Bearer {}", made.secret).parse().unwrap());

    world.store.hold("delete_token");
    let call = tokio::time::timeout(Duration::from_millis(200), client.revoke_token(request));
    assert!(call.await.is_err(), "it was answered before the store was");
    assert!(world.store.seen().contains(&"delete_token"));
    // The caller is gone; the store answers now.
    let valid = || world.api.tokens.recognise(&token, world.api.clock.wall()).is_some();
    assert!(valid());
    world.store.held.add_permits(1);
    while valid() {
        tokio::task::yield_now().await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let gate = Gate::new(None, world.api.clock);
    let mut client = TokenServiceClient::new(gate.layer(TokenServiceServer::new(world.api.clone())));
    world.store.hold("put_token");
    let mut request = Request::new(v1::CreateTokenRequest { role: 1, ..Default::default() });
    request.set_timeout(Duration::from_millis(50));
    let late = client.create_token(request).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(late.message().contains("may still be done"), "{late}");
    world.store.held.add_permits(1);
    while world.api.tokens.list().is_empty() {
        tokio::task::yield_now().await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_watcher_does_not_learn_how_much_others_deliver() {
    use futures::StreamExt as _;
    use postrider_control_plane::watch::Update;
    use postrider_domain::delivery::Delivery;

    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let (own, foreign) = (world.tenant("own").await, world.tenant("foreign").await);
    let request = v1::WatchDeliveriesRequest { tenant: own.tenant.clone(), ..Default::default() };
    let watched = world.api.watch_deliveries(crate::world::confined("own", request)).await.unwrap();
    let mut watched = watched.into_inner();
    let event = own.event.parse().unwrap();
    let publish = |delivery: &str| {
        let id = delivery.parse().unwrap();
        let delivery = Delivery::new(1, event);
        world.api.updates.publish(id, || Update { id, delivery, attempt: None, position: 1, before: 0 });
    };
    (0..10_000).for_each(|_| publish(&foreign.delivery));
    publish(&own.delivery);
    // First of all it is told where it begins.
    assert!(watched.next().await.unwrap().unwrap().delivery.is_none());
    let update = watched.next().await.unwrap().unwrap();
    assert_eq!(update.missed, 0, "a count of what others do");
    assert_eq!(update.delivery.unwrap().id, own.delivery);
    (0..10_000).for_each(|_| publish(&own.delivery));
    publish(&own.delivery);
    while watched.next().await.unwrap().unwrap().missed == 0 {}
    world.end().await;
}

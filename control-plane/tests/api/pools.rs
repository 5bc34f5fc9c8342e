//! From the side of a tenant that wants another's agents: every call that names a pool, or acts through one, is refused,
//! and an unknown pool and one of somebody else's give the same bytes.

use futures::future::BoxFuture;
use postrider_control_plane::api::Api;
use postrider_control_plane::diagnoses::{Abilities, Who};
use postrider_control_plane::schedule::{HolderId, PoolTerms};
use postrider_domain::audit::Entry;
use postrider_domain::id::PoolName;
use postrider_domain::time::Timestamp;
use postrider_proto::v1;
use postrider_proto::v1::delivery_service_server::DeliveryService as _;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::operation_service_server::OperationService as _;
use postrider_proto::v1::pool_service_server::PoolService as _;
use postrider_proto::v1::signing_key_service_server::SigningKeyService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use prost::Message as _;
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::world::{Things, World, admin, confined};

const POOL: &str = "acme-onprem";

type Call = (&'static str, fn(Api, Things) -> BoxFuture<'static, Result<(), Status>>);

macro_rules! calls {
    ($($name:ident($things:ident): $request:expr;)+) => {
        vec![$((stringify!($name), |api: Api, $things: Things| {
            Box::pin(async move { api.$name(confined("evil", $request)).await.map(drop) })
        })),+]
    };
}

fn wanted(things: &Things, id: &str) -> Option<v1::Subscription> {
    Some(v1::Subscription {
        id: id.to_owned(),
        tenant: things.tenant.clone(),
        url: "https://hooks.example.com/".into(),
        event_types: vec!["*".into()],
        pool: POOL.into(),
        ..Default::default()
    })
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

/// Calls that name the pool.
fn naming() -> Vec<Call> {
    calls! {
        create_subscription(t): v1::CreateSubscriptionRequest { subscription: wanted(&t, ""), ..Default::default() };
        check_subscription(t): v1::CheckSubscriptionRequest { subscription: wanted(&t, ""), ..Default::default() };
        update_subscription(t): v1::UpdateSubscriptionRequest {
            subscription: wanted(&t, &t.subscription),
            update_mask: mask(&["pool"]),
        };
        update_subscription(t): v1::UpdateSubscriptionRequest {
            subscription: wanted(&t, &t.subscription),
            update_mask: None,
        };
        check_subscription(t): v1::CheckSubscriptionRequest {
            subscription: wanted(&t, &t.subscription),
            update_mask: mask(&["description", "pool"]),
        };
    }
}

/// Calls that have something sent for a subscription that names the pool already.
fn acting() -> Vec<Call> {
    calls! {
        diagnose_subscription(t): v1::DiagnoseSubscriptionRequest {
            tenant: t.tenant, subscription: t.subscription, ..Default::default()
        };
        diagnose_subscription(t): v1::DiagnoseSubscriptionRequest {
            tenant: t.tenant, subscription: t.subscription, agent: "victim".into(), ..Default::default()
        };
        validate_subscription(t): v1::ValidateSubscriptionRequest {
            tenant: t.tenant, subscription: t.subscription, ..Default::default()
        };
        test_subscription(t): v1::TestSubscriptionRequest {
            tenant: t.tenant, subscription: t.subscription, ..Default::default()
        };
        test_signing_key(t): v1::TestSigningKeyRequest {
            tenant: t.tenant, subscription: t.subscription, ..Default::default()
        };
        retry_delivery(t): v1::RetryDeliveryRequest { tenant: t.tenant, delivery: t.delivery, ..Default::default() };
        replay_deliveries(t): v1::ReplayDeliveriesRequest {
            tenant: t.tenant,
            replay: Some(v1::Replay { subscription: t.subscription, ..Default::default() }),
            ..Default::default()
        };
    }
}

fn bytes(status: &Status) -> (Code, String, Vec<u8>) {
    (status.code(), status.message().to_owned(), status.details().to_vec())
}

async fn refusals(world: &World, things: &Things, calls: &[Call]) -> Vec<(Code, String, Vec<u8>)> {
    let mut found = Vec::new();
    for (name, call) in calls {
        let answer = call(world.api.clone(), things.clone()).await;
        let status = answer.expect_err(name);
        assert_eq!(status.code(), Code::FailedPrecondition, "{name}: {status:?}");
        assert!(status.message().contains("is not available to the tenant evil"), "{name}: {status:?}");
        found.push(bytes(&status));
    }
    found
}

async fn create_pool(world: &World, tenants: &[&str]) {
    let tenants = tenants.iter().map(ToString::to_string).collect();
    let pool = Some(v1::Pool { name: POOL.into(), tenants, ..Default::default() });
    world.api.create_pool(admin(v1::CreatePoolRequest { pool })).await.unwrap();
}

async fn update(world: &World, pool: &str, add: &[&str], remove: &[&str]) -> Result<v1::Pool, Status> {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let request = v1::UpdatePoolRequest {
        pool: Some(v1::Pool { name: pool.into(), ..Default::default() }),
        add_tenants: owned(add),
        remove_tenants: owned(remove),
        ..Default::default()
    };
    Ok(world.api.update_pool(admin(request)).await?.into_inner().pool.unwrap())
}

/// An agent of the pool, as far as looks and test events know of it.
fn victim() -> Who {
    Who {
        agent: "victim".parse().unwrap(),
        pool: POOL.parse().unwrap(),
        version: "0.0.1-secret".into(),
        abilities: Abilities::default(),
    }
}

#[tokio::test]
async fn naming_a_foreign_pool_is_answered_as_naming_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    let evil = world.tenant("evil").await;
    let unknown = refusals(&world, &evil, &naming()).await;
    create_pool(&world, &["acme"]).await;
    let (_seat, _asked) = world.api.diagnoses.sit(HolderId(1), victim());
    assert_eq!(refusals(&world, &evil, &naming()).await, unknown);
    // Whoever sees all pools is told what to do.
    let request = || v1::CreateSubscriptionRequest { subscription: wanted(&evil, ""), ..Default::default() };
    let told = world.api.create_subscription(admin(request())).await.unwrap_err();
    assert!(told.message().contains("postrider pools update acme-onprem --add-tenant evil"), "{told:?}");
    update(&world, POOL, &["evil"], &[]).await.unwrap();
    let made = world.api.create_subscription(confined("evil", request())).await.unwrap().into_inner();
    assert!(made.warnings.is_empty() && made.subscription.unwrap().no_agent);
    world.end().await;
}

#[tokio::test]
async fn a_stored_subscription_of_a_foreign_pool_sends_nothing_and_tells_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    let mut evil = world.tenant("evil").await;
    create_pool(&world, &["acme", "evil"]).await;
    let request = v1::CreateSubscriptionRequest { subscription: wanted(&evil, ""), ..Default::default() };
    let made = world.api.create_subscription(confined("evil", request)).await.unwrap().into_inner();
    evil.subscription = made.subscription.unwrap().id;
    let event = v1::NewEvent { r#type: "a.b".into(), data: "{}".into(), ..Default::default() };
    let emit = v1::EmitRequest { tenant: "evil".into(), event: Some(event) };
    world.api.emit(confined("evil", emit)).await.unwrap();
    let list = v1::ListDeliveriesRequest {
        tenant: "evil".into(),
        subscription: evil.subscription.clone(),
        ..Default::default()
    };
    let found = world.api.list_deliveries(confined("evil", list)).await.unwrap().into_inner();
    evil.delivery.clone_from(&found.deliveries[0].id);
    update(&world, POOL, &[], &["evil"]).await.unwrap();
    let (_seat, _asked) = world.api.diagnoses.sit(HolderId(1), victim());

    let seen = async || {
        let get = v1::GetDeliveryRequest { tenant: "evil".into(), delivery: evil.delivery.clone() };
        let delivery = world.api.get_delivery(confined("evil", get)).await.unwrap().into_inner();
        let held = delivery.delivery.as_ref().unwrap().hold_reason();
        assert_eq!(held, v1::HoldReason::PoolNotAllowed);
        let get =
            v1::GetSubscriptionRequest { tenant: "evil".into(), subscription: evil.subscription.clone() };
        let shown = world.api.get_subscription(confined("evil", get)).await.unwrap().into_inner();
        let subscription = shown.subscription.as_ref().unwrap();
        assert!(subscription.pool_not_allowed && !subscription.no_agent, "{subscription:?}");
        (delivery.encode_to_vec(), shown.encode_to_vec())
    };
    let forbidden = (refusals(&world, &evil, &acting()).await, seen().await);
    // As if the pool had never been there.
    let name: PoolName = POOL.parse().unwrap();
    let entry = Entry::by_postrider("DeletePool", &name, Timestamp::default());
    world.api.pools.remove(&name, entry).await.unwrap();
    world.api.lanes.pool_changed(name.clone(), PoolTerms::of_uncreated(&name)).await;
    assert_eq!((refusals(&world, &evil, &acting()).await, seen().await), forbidden);
    world.end().await;
}

#[tokio::test]
async fn agents_and_their_versions_are_told_to_nobody_who_is_confined() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let evil = world.tenant("evil").await;
    let (_seat, _asked) =
        world.api.diagnoses.sit(HolderId(1), Who { pool: PoolName::default_pool(), ..victim() });
    let diagnose = || v1::DiagnoseSubscriptionRequest {
        tenant: "evil".into(),
        subscription: evil.subscription.clone(),
        ..Default::default()
    };
    let told = world.api.diagnose_subscription(confined("evil", diagnose())).await.unwrap_err();
    assert!(told.message().contains("too old"), "{told:?}");
    let details = String::from_utf8_lossy(told.details()).into_owned();
    for text in [told.message(), &details] {
        assert!(!text.contains("victim") && !text.contains("0.0.1-secret"), "{text}");
    }
    let told = world.api.diagnose_subscription(admin(diagnose())).await.unwrap_err();
    assert!(told.message().contains("victim, version 0.0.1-secret"), "{told:?}");
    world.end().await;
}

#[tokio::test]
async fn lists_of_tenants_change_by_name_alone_and_are_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    world.tenant("evil").await;
    let before = world.api.store.audit_span().await.unwrap().end.sequence;
    create_pool(&world, &["acme"]).await;
    let listed = update(&world, POOL, &["evil"], &["acme"]).await.unwrap();
    assert_eq!(listed.tenants, ["evil"]);
    let request = v1::UpdatePoolRequest {
        pool: Some(v1::Pool { name: POOL.into(), description: "x".into(), ..Default::default() }),
        ..Default::default()
    };
    let kept = world.api.update_pool(admin(request)).await.unwrap().into_inner().pool.unwrap();
    assert_eq!((kept.tenants, kept.description.as_str()), (vec!["evil".to_owned()], "x"));
    let unknown = update(&world, POOL, &["nobody"], &[]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument);
    assert!(unknown.message().contains("names nobody, which is no tenant"), "{unknown:?}");
    assert!(update(&world, "default", &["evil"], &[]).await.is_err(), "every tenant is no list");
    let records = world.api.store.audit_records_after(before, 10).await.unwrap();
    let details: Vec<String> = records.into_iter().map(|record| record.entry.detail).collect();
    assert!(details[0].ends_with("for acme"), "{details:?}");
    assert!(details[1].ends_with("for evil; allows evil; no longer allows acme"), "{details:?}");
    // A tenant that is deleted leaves the lists: another of its name inherits nothing.
    let request = v1::DeleteTenantRequest { tenant: "evil".into(), with_subscriptions: true };
    world.api.delete_tenant(admin(request)).await.unwrap();
    let get = v1::GetPoolRequest { pool: POOL.into() };
    let pool = world.api.get_pool(admin(get)).await.unwrap().into_inner().pool.unwrap();
    assert!(pool.tenants.is_empty(), "{pool:?}");
    world.end().await;
}

#[tokio::test]
async fn the_pool_default_is_not_opened_by_its_deletion() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let set = |tenants: &[&str]| v1::UpdatePoolRequest {
        pool: Some(v1::Pool {
            name: "default".into(),
            tenants: tenants.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }),
        update_mask: mask(&["tenants"]),
        ..Default::default()
    };
    let delete = || admin(v1::DeletePoolRequest { pool: "default".into() });
    world.api.update_pool(admin(set(&[]))).await.unwrap();
    let refused = world.api.delete_pool(delete()).await.unwrap_err();
    assert!(refused.message().contains("--all-tenants"), "{refused:?}");
    world.api.update_pool(admin(set(&["*"]))).await.unwrap();
    world.api.delete_pool(delete()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn what_is_done_to_subscriptions_is_on_record_with_the_pool() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let evil = world.tenant("evil").await;
    create_pool(&world, &["evil"]).await;
    let before = world.api.store.audit_span().await.unwrap().end.sequence;
    let request = v1::UpdateSubscriptionRequest {
        subscription: wanted(&evil, &evil.subscription),
        update_mask: mask(&["pool"]),
    };
    world.api.update_subscription(confined("evil", request)).await.unwrap();
    let request = v1::CreateSubscriptionRequest { subscription: wanted(&evil, ""), ..Default::default() };
    world.api.create_subscription(confined("evil", request)).await.unwrap();
    let request =
        v1::DeleteSubscriptionRequest { tenant: "evil".into(), subscription: evil.subscription.clone() };
    world.api.delete_subscription(confined("evil", request)).await.unwrap();
    let records = world.api.store.audit_records_after(before, 10).await.unwrap();
    assert_eq!(records.len(), 3);
    for record in records {
        assert!(record.entry.detail.starts_with("pool acme-onprem; "), "{record:?}");
    }
    world.end().await;
}

//! What a tenant may use that nobody has set a quota for, and what a flood of few events to many subscriptions does to others.

use std::time::Duration;

use postrider_control_plane::emit::{EmitError, Submitted};
use postrider_control_plane::store::Accept;
use postrider_domain::id::SubscriptionId;
use postrider_domain::quota::{MAX_FAN_OUT, Quota};
use postrider_domain::time::Timestamp;
use postrider_proto::tenant::write_quota;
use postrider_proto::v1::emit_result::Result as Emitted;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::event_type_service_server::EventTypeService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::{self, NewEvent};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::sharing::accept;
use crate::world::{World, admin};

/// Subscriptions that an event of the flood goes to.
const WIDE: usize = 2000;

/// An event of 11 bytes to so many subscriptions, as an operator's raised quota lets it be.
fn wide(tenant: &str, subscriptions: usize) -> Accept {
    let at = Timestamp::from_millis(1_770_028_200_000);
    let ids = (0..subscriptions).map(|number| SubscriptionId::new(at, number as u128 + 1));
    Accept { subscriptions: ids.collect(), ..accept(tenant, 11) }
}

async fn create(world: &World, tenant: &str) -> v1::Tenant {
    let wanted = v1::Tenant { id: tenant.to_owned(), ..Default::default() };
    let request = v1::CreateTenantRequest { tenant: Some(wanted) };
    world.api.create_tenant(admin(request)).await.unwrap().into_inner().tenant.unwrap()
}

async fn subscribe(world: &World, tenant: &str) -> Result<String, Status> {
    let wanted = v1::Subscription {
        tenant: tenant.to_owned(),
        url: "https://hooks.example.com/".into(),
        event_types: vec!["*".into()],
        ..Default::default()
    };
    let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..Default::default() };
    let made = world.api.create_subscription(admin(request)).await?.into_inner();
    Ok(made.subscription.unwrap().id)
}

async fn emit(world: &World, tenant: &str) -> Result<v1::EmitResponse, Status> {
    let event = NewEvent { r#type: "a.b".into(), data: "{}".into(), ..Default::default() };
    let request = v1::EmitRequest { tenant: tenant.to_owned(), event: Some(event) };
    Ok(world.api.emit(admin(request)).await?.into_inner())
}

async fn set(world: &World, tenant: &str, quota: v1::TenantQuota) -> v1::Tenant {
    let tenant = v1::Tenant { id: tenant.to_owned(), quota: Some(quota), ..Default::default() };
    let mask = prost_types::FieldMask { paths: vec!["quota".into()] };
    let request = v1::UpdateTenantRequest { tenant: Some(tenant), update_mask: Some(mask) };
    world.api.update_tenant(admin(request)).await.unwrap().into_inner().tenant.unwrap()
}

/// The reason of a refusal by quota, and when to come back.
fn exceeded(status: &Status) -> (String, Option<Duration>) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    assert!(details.quota_failure().is_some(), "{status:?}");
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    (reason, details.retry_info().and_then(|info| info.retry_delay))
}

#[tokio::test]
async fn a_tenant_of_which_nothing_is_said_has_every_quota() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let made = create(&world, "acme").await;
    assert_eq!(made.quota_in_force, Some(write_quota(&Quota::STANDARD)));
    let none = write_quota(&Quota::default());
    let unlimited = set(&world, "acme", none).await;
    assert_eq!(unlimited.quota_in_force, Some(none));
    let own = v1::TenantQuota { max_subscriptions: 1, ..Default::default() };
    let in_force = set(&world, "acme", own).await.quota_in_force;
    assert_eq!(in_force, Some(v1::TenantQuota { max_subscriptions: 1, ..write_quota(&Quota::STANDARD) }));
    subscribe(&world, "acme").await.unwrap();
    let refused = subscribe(&world, "acme").await.unwrap_err();
    assert_eq!(exceeded(&refused), ("TENANT_SUBSCRIPTIONS_EXCEEDED".into(), None));
    let again = set(&world, "acme", v1::TenantQuota::default()).await;
    assert_eq!(again.quota_in_force, made.quota_in_force);
    world.end().await;
}

#[tokio::test]
async fn event_types_end_at_the_default_unless_the_quota_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    create(&world, "evil").await;
    let define = async |number: u32| {
        let (tenant, name) = ("evil".to_owned(), format!("evil.type{number}"));
        let event_type = Some(v1::EventType { tenant, name, ..Default::default() });
        world.api.create_event_type(admin(v1::CreateEventTypeRequest { event_type })).await
    };
    let most = Quota::STANDARD.max_event_types.unwrap().get();
    for number in 0..most {
        define(number).await.unwrap();
    }
    let refused = define(most).await.unwrap_err();
    assert_eq!(exceeded(&refused), ("TENANT_EVENT_TYPES_EXCEEDED".into(), None));
    set(&world, "evil", v1::TenantQuota { max_event_types: most + 1, ..Default::default() }).await;
    define(most).await.unwrap();
    assert_eq!(exceeded(&define(most + 1).await.unwrap_err()).0, "TENANT_EVENT_TYPES_EXCEEDED");
    set(&world, "evil", v1::TenantQuota { max_event_types: u32::MAX, ..Default::default() }).await;
    define(most + 1).await.unwrap();
    set(&world, "evil", v1::TenantQuota::default()).await;
    assert_eq!(exceeded(&define(most + 2).await.unwrap_err()).0, "TENANT_EVENT_TYPES_EXCEEDED");
    world.end().await;
}

#[tokio::test]
async fn thousands_of_subscriptions_end_at_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    create(&world, "evil").await;
    create(&world, "acme").await;
    let most = Quota::STANDARD.max_subscriptions.unwrap().get();
    for _ in 0..most {
        subscribe(&world, "evil").await.unwrap();
    }
    for _ in 0..10 {
        let refused = subscribe(&world, "evil").await.unwrap_err();
        assert_eq!(exceeded(&refused).0, "TENANT_SUBSCRIPTIONS_EXCEEDED");
    }
    subscribe(&world, "acme").await.unwrap();
    // Each event to all of them costs what it causes.
    let (mut accepted, mut wait) = (0, None);
    while wait.is_none() {
        match emit(&world, "evil").await {
            Ok(_) => accepted += 1,
            Err(refused) => {
                let (reason, retry) = exceeded(&refused);
                assert_eq!(reason, "TENANT_DELIVERY_RATE_EXCEEDED");
                wait = retry;
            }
        }
        assert!(accepted < 1000, "nothing bounds it");
        emit(&world, "acme").await.expect("a neighbour is never refused");
    }
    let burst = Quota::STANDARD.deliveries.unwrap().burst.get();
    assert!(accepted >= burst / most, "the burst is there: {accepted}");
    assert!(wait.is_some_and(|wait| wait > Duration::ZERO && wait < Duration::from_secs(60)), "{wait:?}");
    let event = NewEvent { r#type: "a.b".into(), data: "{}".into(), ..Default::default() };
    let request = v1::EmitBatchRequest { tenant: "evil".into(), events: vec![event; 1000] };
    let results = world.api.emit_batch(admin(request)).await.unwrap().into_inner().results;
    let went_in = results.iter().filter(|result| matches!(result.result, Some(Emitted::Accepted(_)))).count();
    assert!(went_in < 100, "{went_in} of a batch went in");
    world.end().await;
}

/// Hands in events to many subscriptions until that is refused.
fn flood(world: &World, tenant: &str) -> (Vec<Submitted>, EmitError) {
    let mut submitted = Vec::new();
    loop {
        match world.api.emitter.try_submit(wide(tenant, WIDE)) {
            Ok(one) => submitted.push(one),
            Err(error) => return (submitted, error),
        }
        assert!(submitted.len() < 10_000, "nothing bounds it");
    }
}

#[tokio::test]
async fn a_flood_of_wide_events_makes_a_neighbour_wait_for_two_bounded_writes() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    // An operator has raised it.
    world.api.emitter.limit(&"evil".parse().unwrap(), Some(&Quota::default()));
    world.store.hold("accept");
    let (floods, refused) = flood(&world, "evil");
    assert!(matches!(refused, EmitError::ShareUsed), "{refused}");
    let waiting = floods.len() * WIDE;
    assert!((20_000..200_000).contains(&waiting), "rows of the queue are bounded: {waiting}");
    let quiet = world.api.emitter.try_submit(accept("acme", 100)).unwrap();
    // The group that was being written when it came, and the next one.
    world.store.held.add_permits(2);
    quiet.done().await.unwrap();
    world.store.held.add_permits(1000);
    for one in floods {
        one.done().await.unwrap();
    }
    world.end().await;
}

#[tokio::test]
async fn one_event_goes_to_so_many_subscriptions_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.api.emitter.limit(&"evil".parse().unwrap(), Some(&Quota::default()));
    let refused = world.api.emitter.try_submit(wide("evil", MAX_FAN_OUT + 1)).err();
    assert!(matches!(refused, Some(EmitError::TooWide(_))), "{refused:?}");
    let refused = world.api.emitter.submit(wide("evil", MAX_FAN_OUT + 1)).await.err();
    assert!(matches!(refused, Some(EmitError::TooWide(_))), "a stream is told so too: {refused:?}");
    let accepted = world.api.emitter.try_submit(wide("evil", MAX_FAN_OUT)).unwrap().done().await.unwrap();
    assert_eq!(accepted.deliveries.len(), MAX_FAN_OUT);
    world.end().await;
}

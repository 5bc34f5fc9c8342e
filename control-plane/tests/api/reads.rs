//! Another tenant's things are missed by the same reads as what never was, so that no time tells the two apart.
//!
//! Not the time itself is measured: a machine's noise would hide what an attacker finds with enough tries. What a call
//! asks of the store is compared, method by method; what is decided in memory looks among the caller's own things alone.

use futures::future::BoxFuture;
use postrider_control_plane::api::Api;
use postrider_proto::v1;
use postrider_proto::v1::delivery_service_server::DeliveryService as _;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::event_type_service_server::EventTypeService as _;
use postrider_proto::v1::signing_key_service_server::SigningKeyService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use tonic::{Code, Status};

use crate::world::{Things, World, admin, confined};

type Call = (&'static str, fn(Api, Things) -> BoxFuture<'static, Result<(), Status>>);

macro_rules! calls {
    ($($name:ident: $kind:ident { $($field:ident: $from:ident),* $(, ..$rest:expr)? };)+) => {
        [$((stringify!($name), |api: Api, things: Things| {
            Box::pin(async move {
                let request = v1::$kind { $($field: things.$from.clone(),)* ..Default::default() };
                api.$name(confined("own", request)).await.map(drop)
            })
        })),+]
    };
}

/// Every call that names something of a tenant by an id.
fn calls() -> [Call; 20] {
    calls! {
        get_tenant: GetTenantRequest { tenant: tenant };
        get_event_type: GetEventTypeRequest { tenant: tenant, name: event_type };
        delete_event_type: DeleteEventTypeRequest { tenant: tenant, name: event_type };
        list_event_types: ListEventTypesRequest { tenant: tenant };
        get_subscription: GetSubscriptionRequest { tenant: tenant, subscription: subscription };
        list_subscriptions: ListSubscriptionsRequest { tenant: tenant };
        pause_subscription: PauseSubscriptionRequest { tenant: tenant, subscription: subscription };
        resume_subscription: ResumeSubscriptionRequest { tenant: tenant, subscription: subscription };
        delete_subscription: DeleteSubscriptionRequest { tenant: tenant, subscription: subscription };
        test_subscription: TestSubscriptionRequest { tenant: tenant, subscription: subscription };
        list_signing_keys: ListSigningKeysRequest { tenant: tenant, subscription: subscription };
        rotate_signing_key: RotateSigningKeyRequest { tenant: tenant, subscription: subscription };
        reveal_signing_key: RevealSigningKeyRequest { tenant: tenant, subscription: subscription };
        get_event: GetEventRequest { tenant: tenant, event: event };
        list_deliveries: ListDeliveriesRequest { tenant: tenant, event: named };
        get_delivery: GetDeliveryRequest { tenant: tenant, delivery: delivery };
        retry_delivery: RetryDeliveryRequest { tenant: tenant, delivery: delivery };
        cancel_delivery: CancelDeliveryRequest { tenant: tenant, delivery: delivery };
        watch_deliveries: WatchDeliveriesRequest { tenant: tenant, event: event };
        list_events: ListEventsRequest { tenant: tenant };
    }
}

fn missing() -> Things {
    Things {
        tenant: "nobody".into(),
        subscription: "sub_00000000000000000000000000".into(),
        delivery: "dlv_00000000000000000000000000-1".into(),
        event: "evt_00000000000000000000000000".into(),
        named: "nobody-own".into(),
        event_type: "nobody.happened".into(),
    }
}

#[tokio::test]
async fn another_tenants_things_are_missed_by_the_same_reads() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("own").await;
    let foreign = world.tenant("foreign").await;
    // One whose subscription is deleted: only the event tells whose its delivery is.
    let deleted = world.tenant("deleted").await;
    let request = v1::DeleteSubscriptionRequest {
        tenant: deleted.tenant.clone(),
        subscription: deleted.subscription.clone(),
    };
    world.api.delete_subscription(admin(request)).await.unwrap();
    let under_own = |things: &Things| Things { tenant: "own".into(), ..things.clone() };
    for (name, call) in calls() {
        let reads = async |things: Things| {
            world.store.seen();
            let code = call(world.api.clone(), things).await.err().map(|status| status.code());
            (code, world.store.seen())
        };
        let nobodys = reads(missing()).await;
        assert_eq!(nobodys, (Some(Code::NotFound), Vec::new()), "{name}");
        let none = reads(under_own(&missing())).await;
        for things in [&foreign, &deleted] {
            assert_eq!(reads(things.clone()).await, nobodys, "{name} of {}", things.tenant);
            let names_only_the_tenant = none.0.is_none();
            if !names_only_the_tenant {
                assert_eq!(reads(under_own(things)).await, none, "{name} of {}", things.tenant);
            }
        }
    }
    world.end().await;
}

//! The end of a tenant, and what its stored events count for.

use std::num::NonZeroU64;
use std::sync::Arc;

use postrider_control_plane::store::{
    Accept, Conflict, EventQuery, OperationRow, RequestKey, RequestRow, Retention, Settle, Settlement, Store,
    StoreError,
};
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{DeliveryId, OperationId, SubscriptionId, TenantId, TokenId};
use postrider_domain::lane::LowWater;
use postrider_domain::time::Timestamp;
use postrider_proto::v1;

use crate::Backend;
use crate::suite::{accept, accept_one, at, entry, fresh, lane, settle, subscription, tenant};

fn other() -> TenantId {
    "other".parse().unwrap()
}

fn row(tenant: &TenantId, state: v1::TenantState) -> v1::Tenant {
    v1::Tenant { id: tenant.to_string(), state: state.into(), ..v1::Tenant::default() }
}

fn operation(number: u128, tenant: &TenantId) -> OperationRow {
    let id = OperationId::new(at(0), number);
    let operation =
        v1::Operation { id: id.to_string(), tenant: tenant.to_string(), ..v1::Operation::default() };
    OperationRow { id, operation, cursor: String::new() }
}

async fn begin(store: &Arc<dyn Store>, tenant: &TenantId, tokens: &[TokenId]) {
    let deleting = row(tenant, v1::TenantState::Deleting);
    store
        .begin_tenant_deletion(deleting, &operation(1, tenant), tokens, entry("DeleteTenant"))
        .await
        .unwrap();
}

/// Deletes a tenant from the beginning to its end.
pub(crate) async fn delete(store: &Arc<dyn Store>, tenant: &TenantId, tokens: &[TokenId]) {
    begin(store, tenant, tokens).await;
    let mut place = String::new();
    for _ in 0..100 {
        let step = store.delete_of_tenant(tenant, &place).await.unwrap();
        if step.finished {
            let operation = operation(1, tenant);
            return store.finish_tenant_deletion(tenant, &operation, entry("TenantDeleted")).await.unwrap();
        }
        place = step.place;
    }
    panic!("it does not end");
}

fn of(tenant: TenantId, number: u64, lanes: &[SubscriptionId]) -> Accept {
    let mut accept = accept(number, at(number), lanes);
    accept.event.id = format!("own-{number}").parse().unwrap();
    accept.event.tenant = tenant;
    let number = u8::try_from(number % 250).unwrap();
    Accept { client_chosen: true, idempotency: Some([number; 16]), ..accept }
}

fn request(tenant: TenantId) -> RequestKey {
    RequestKey { tenant, actor: "tok_1".into(), method: "Create", request_id: "r".into() }
}

/// A tenant with something of every kind, in these lanes; its deliveries.
async fn fill(
    store: &Arc<dyn Store>,
    tenant: &TenantId,
    lanes: [SubscriptionId; 2],
    from: u64,
) -> Vec<DeliveryId> {
    store.put_tenant(row(tenant, v1::TenantState::Active), entry("CreateTenant")).await.unwrap();
    for (at_, lane) in lanes.into_iter().enumerate() {
        let mut wanted = subscription(lane);
        wanted.subscription.tenant = tenant.clone();
        // The last one is deleted already.
        wanted.deleted = (at_ == 1).then(|| at(5));
        store.put_subscription(&wanted, None, entry("CreateSubscription")).await.unwrap();
    }
    let name = v1::EventType { tenant: tenant.to_string(), name: "a.b".into(), ..v1::EventType::default() };
    store.put_event_type(name, entry("CreateEventType")).await.unwrap();
    let row = RequestRow { result: "x".into(), digest: [1; 16], expires: at(1000) };
    store.put_request(request(tenant.clone()), row).await.unwrap();
    let mut deliveries = Vec::new();
    for number in from..from + 40 {
        let accepted = accept_one(store, of(tenant.clone(), number, &lanes)).await.unwrap();
        let id = accepted.deliveries[0];
        settle(store, id, fresh(id, accepted.key), 500, State::Waiting(at(100))).await;
        deliveries.extend(accepted.deliveries);
    }
    deliveries
}

/// What there is of a tenant, by everything that can be asked.
async fn picture(store: &Arc<dyn Store>, tenant: &TenantId, deliveries: &[DeliveryId]) -> (usize, String) {
    let query = EventQuery {
        tenant: tenant.clone(),
        event_type: None,
        start: Timestamp::default(),
        end: Timestamp::MAX,
        limit: 1000,
        after: None,
    };
    let events = store.list_events(query).await.unwrap().items;
    let types = store.event_types(tenant, None, 10).await.unwrap().items;
    let stored = store.stored_bytes(vec![tenant.clone()]).await.unwrap();
    let named = store.event_key(tenant, &"own-1".parse().unwrap()).await.unwrap();
    let asked = store.request(&request(tenant.clone())).await.unwrap();
    let mut subscriptions = store.subscriptions(None, 100).await.unwrap();
    subscriptions.retain(|row| row.subscription.tenant == *tenant);
    let mut count = events.len() + types.len() + subscriptions.len() + usize::from(stored != [0]);
    count += usize::from(named.is_some()) + usize::from(asked.is_some());
    count += usize::from(store.tenant(tenant).await.unwrap().is_some());
    let mut rest = String::new();
    for id in deliveries {
        let found = store.delivery(*id).await.unwrap();
        let (attempts, due) =
            (store.attempts(*id).await.unwrap(), store.due(id.subscription, 100).await.unwrap());
        count += usize::from(found.is_some()) + attempts.len() + due.rows.len();
        rest += &format!("{found:?} {attempts:?} {due:?}");
    }
    (count, format!("{events:?} {types:?} {stored:?} {named:?} {asked:?} {subscriptions:?} {rest}"))
}

pub(crate) async fn nothing_is_left_of_a_deleted_tenant_and_others_are_untouched(backend: &dyn Backend) {
    let mut store = backend.open();
    let (ours, theirs) = ([lane(1), lane(3)], [lane(2), lane(4)]);
    let own = fill(&store, &tenant(), ours, 1).await;
    let foreign = fill(&store, &other(), theirs, 100).await;
    let before = picture(&store, &other(), &foreign).await;
    assert!(picture(&store, &tenant(), &own).await.0 > 200);
    store.put_operation(&operation(2, &tenant()), None).await.unwrap();
    begin(&store, &tenant(), &[]).await;
    let (mut place, mut progress, mut removed, mut steps) = (String::new(), 0.0, 0, 0);
    loop {
        steps += 1;
        assert!(steps < 50, "it does not end");
        let step = store.delete_of_tenant(&tenant(), &place).await.unwrap();
        assert!((progress..=1.0).contains(&step.progress), "{} after {progress}", step.progress);
        progress = step.progress;
        removed += step.removed;
        // As after a kill, now and then: the place of the step before, and the store opened anew.
        if steps % 2 == 0 {
            store.close().await.unwrap();
            drop(store);
            store = backend.open();
        } else {
            place = step.place;
        }
        if step.finished {
            break;
        }
    }
    assert!(removed > 200, "{removed}");
    let done = operation(1, &tenant());
    store.finish_tenant_deletion(&tenant(), &done, entry("TenantDeleted")).await.unwrap();
    assert_eq!(picture(&store, &tenant(), &own).await.0, 0);
    assert_eq!(picture(&store, &other(), &foreign).await, before);
    assert_eq!(store.operations(None, 9).await.unwrap().items, std::slice::from_ref(&done));
    assert_eq!(store.operations_of(&tenant(), None, 9).await.unwrap().items, [done]);
    // The id is free, and stands for a new tenant.
    store.put_tenant(row(&tenant(), v1::TenantState::Active), entry("CreateTenant")).await.unwrap();
    accept_one(&store, of(tenant(), 1, &[lane(9)])).await.unwrap();
}

pub(crate) async fn what_comes_late_for_a_tenant_that_is_being_deleted_is_refused(backend: &dyn Backend) {
    let mut store = backend.open();
    let own = fill(&store, &tenant(), [lane(1), lane(3)], 1).await;
    begin(&store, &tenant(), &[]).await;
    for _ in 0..2 {
        let accepted = accept_one(&store, of(tenant(), 200, &[lane(1)])).await;
        assert_eq!(accepted.unwrap_err(), Conflict::TenantDeleting);
        let written = store.put_subscription(&subscription(lane(7)), None, entry("x")).await;
        assert!(matches!(written, Err(StoreError::Deleting(_))), "{written:?}");
        let written = store.put_tenant(row(&tenant(), v1::TenantState::Active), entry("x")).await;
        assert!(matches!(written, Err(StoreError::Deleting(_))), "{written:?}");
        // It knows after a restart, too.
        store.close().await.unwrap();
        drop(store);
        store = backend.open();
    }
    let mut place = String::new();
    loop {
        let step = store.delete_of_tenant(&tenant(), &place).await.unwrap();
        // An attempt that was under way ends while its delivery is removed, or after.
        let settles = own.iter().map(|id| Settle {
            id: *id,
            was_due: Some(at(100)),
            delivery: Delivery {
                state: State::Waiting(at(500)),
                ..Delivery::new(id.sequence, of(tenant(), 1, &[]).event.key)
            },
            attempt: None,
        });
        let low = LowWater { number: 7, covers_waiting: false };
        let low_water = vec![(lane(1), low), (lane(3), low)];
        let late = Settlement { deliveries: settles.collect(), low_water, ..Settlement::default() };
        store.settle(late).await.unwrap();
        if step.finished {
            break;
        }
        place = step.place;
    }
    store.finish_tenant_deletion(&tenant(), &operation(1, &tenant()), entry("x")).await.unwrap();
    assert_eq!(picture(&store, &tenant(), &own).await.0, 0);
    assert_eq!(store.lane(lane(1)).await.unwrap().low_water.number, 1, "the lane's row is written again");
}

/// What an event of the suite counts for.
fn charge(accept: &Accept) -> u64 {
    accept.event.data.len() as u64 + 256 + 128 * accept.subscriptions.len() as u64
}

pub(crate) async fn stored_bytes_are_exact_and_hold_at_the_limit(backend: &dyn Backend) {
    let mut store = backend.open();
    let lanes = [lane(1), lane(2)];
    let limit = 3 * charge(&of(tenant(), 1, &lanes)) + 2;
    let limited = |number| Accept { max_stored: NonZeroU64::new(limit), ..of(tenant(), number, &lanes) };
    let batch = (1..=5).map(limited).collect();
    let results = store.accept(batch).await.unwrap();
    let used = 3 * charge(&limited(1));
    let refused = Conflict::StorageUsed { stored: used, max: limit };
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);
    assert_eq!(results[3..], [Err(refused), Err(refused)]);
    let foreign = of(other(), 100, &[]);
    accept_one(&store, foreign.clone()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.stored_bytes(vec![tenant(), other()]).await.unwrap(), [used, charge(&foreign)]);
        assert!(accept_one(&store, limited(2)).await.unwrap().duplicate, "a repeat needs no room");
        assert_eq!(accept_one(&store, limited(9)).await, Err(refused));
        store.close().await.unwrap();
        drop(store);
        store = backend.open();
    }
}

pub(crate) async fn stored_bytes_are_freed_as_things_age_out(backend: &dyn Backend) {
    let mut store = backend.open();
    let stored = async |store: &Arc<dyn Store>| store.stored_bytes(vec![tenant()]).await.unwrap()[0];
    store.put_subscription(&subscription(lane(1)), None, entry("CreateSubscription")).await.unwrap();
    let events: Vec<_> = (1..=3).map(|number| of(tenant(), number, &[lane(1)])).collect();
    let all: u64 = events.iter().map(charge).sum();
    for (at_, accepted) in store.accept(events.clone()).await.unwrap().into_iter().enumerate() {
        let accepted = accepted.unwrap();
        let id = accepted.deliveries[0];
        // The last one is still owed.
        if at_ < 2 {
            settle(&store, id, fresh(id, accepted.key), 204, State::Delivered(at(9))).await;
        }
    }
    assert_eq!(stored(&store).await, all);
    let nothing = Timestamp::default();
    let keep = Retention {
        idempotency: nothing,
        delivered_data: nothing,
        events: nothing,
        audit: None,
        now: at(50),
    };
    let age_out = async |store: &Arc<dyn Store>, retention: Retention| {
        while store.age_out(retention).await.unwrap() {}
    };
    age_out(&store, Retention { delivered_data: at(2), ..keep }).await;
    let data = |number: usize| events[number - 1].event.data.len() as u64;
    assert_eq!(stored(&store).await, all - data(1), "its data is erased");
    // Data is erased and the event removed in one step: it must not be freed twice.
    for _ in 0..2 {
        age_out(&store, Retention { delivered_data: at(50), events: at(50), ..keep }).await;
        assert_eq!(stored(&store).await, charge(&events[2]));
        store.close().await.unwrap();
        drop(store);
        store = backend.open();
    }
}

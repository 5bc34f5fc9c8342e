//! The promises, one a function. Those about who may what, and who did what, are in [`crate::trust`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::store::{
    Accept, Accepted, AgentRow, Conflict, DeliveryQuery, EventQuery, OperationRow, RequestKey, RequestRow,
    Retention, Settle, Settlement, SigningKeyRow, Store, SubscriptionRow,
};
use postrider_domain::audit::Entry;
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::event::{Attributes, Event, content_digest};
use postrider_domain::id::{DeliveryId, EventKey, KeyId, OperationId, SubscriptionId, TenantId};
use postrider_domain::lane::LowWater;
use postrider_domain::lane::health::{Told, Trouble};
use postrider_domain::order::OrderingKey;
use postrider_domain::outcome::{Attempt, Class, Outcome, Response};
use postrider_domain::signing::Scheme;
use postrider_domain::time::Timestamp;
use postrider_proto::v1::{self, DeliveryState};

use crate::Backend;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
}

pub(crate) fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

/// What the audit log is told.
pub(crate) fn entry(action: &str) -> Entry {
    Entry {
        time: at(0),
        actor: "tok_1".into(),
        address: "127.0.0.1".into(),
        action: action.into(),
        target: "t".into(),
        tenant: Some(tenant()),
        request_id: String::new(),
        detail: String::new(),
    }
}

pub(crate) fn lane(number: u128) -> SubscriptionId {
    SubscriptionId::new(at(0), number)
}

/// An event that differs from others by its number.
pub(crate) fn accept(number: u64, now: Timestamp, lanes: &[SubscriptionId]) -> Accept {
    let data = bytes::Bytes::from(format!(r#"{{"number":{number}}}"#));
    let key = EventKey::new(now, u128::from(number));
    let event_type: postrider_domain::event::EventTypeName = "a.b".parse().unwrap();
    let content = content_digest(&event_type, None, None, &data, &Attributes::default(), None);
    let event = Event {
        key,
        id: key.into(),
        tenant: tenant(),
        event_type,
        timestamp: now.into(),
        accepted: now,
        data,
        attributes: Attributes::default(),
        ordering_key: None,
        trace: None,
    };
    Accept {
        event,
        client_chosen: false,
        idempotency: None,
        content,
        subscriptions: lanes.to_vec(),
        max_stored: None,
    }
}

pub(crate) async fn accept_one(store: &Arc<dyn Store>, accept: Accept) -> Result<Accepted, Conflict> {
    store.accept(vec![accept]).await.unwrap().pop().unwrap()
}

fn attempt(number: u32, status: u16) -> Attempt {
    let response = Some(Response { status, ..Response::default() });
    let outcome = Outcome { response, ..Outcome::failure(Class::of_status(status), "") };
    Attempt { number, started: at(0), agent: "a-1".parse().unwrap(), outcome }
}

/// Writes what an attempt made of a delivery.
pub(crate) async fn settle(
    store: &Arc<dyn Store>,
    id: DeliveryId,
    before: Delivery,
    status: u16,
    state: State,
) -> Delivery {
    let number = before.attempts + 1;
    let delivery = Delivery { state, attempts: number, ..before };
    let settle = Settle { id, was_due: before.state.due(), delivery, attempt: Some(attempt(number, status)) };
    store.settle(Settlement { deliveries: vec![settle], ..Settlement::default() }).await.unwrap();
    delivery
}

pub(crate) fn query() -> DeliveryQuery {
    DeliveryQuery {
        tenant: tenant(),
        subscription: None,
        event: None,
        states: Vec::new(),
        start: Timestamp::default(),
        end: Timestamp::MAX,
        limit: 1000,
        after: None,
    }
}

pub(crate) fn fresh(id: DeliveryId, event: EventKey) -> Delivery {
    Delivery::new(id.sequence, event)
}

pub(crate) async fn accepts_and_finds_again(backend: &dyn Backend) {
    let store = backend.open();
    let wanted = accept(1, at(0), &[lane(1), lane(2)]);
    let accepted = accept_one(&store, wanted.clone()).await.unwrap();
    assert!(!accepted.duplicate);
    assert_eq!(accepted.deliveries.len(), 2);
    let found =
        store.events(vec![(tenant(), accepted.key), (tenant(), EventKey::first_at(at(9)))]).await.unwrap();
    let row = found[0].clone().unwrap();
    assert_eq!(row.event, wanted.event);
    assert_eq!(row.deliveries, accepted.deliveries);
    assert!(!row.is_erased());
    assert!(found[1].is_none());
    let other: TenantId = "other".parse().unwrap();
    assert!(store.events(vec![(other, accepted.key)]).await.unwrap()[0].is_none(), "another tenant sees it");
    for id in accepted.deliveries {
        let delivery = store.delivery(id).await.unwrap().unwrap();
        assert_eq!(delivery.delivery, fresh(id, accepted.key));
        assert_eq!(delivery.last, None);
    }
    assert!(store.delivery(DeliveryId { subscription: lane(1), sequence: 2 }).await.unwrap().is_none());
}

pub(crate) async fn an_idempotency_key_makes_one_event(backend: &dyn Backend) {
    let store = backend.open();
    let keyed = |number| Accept { idempotency: Some([7; 16]), ..accept(number, at(0), &[lane(1)]) };
    let first = keyed(1);
    let again = Accept { content: first.content, ..keyed(2) };
    let results = store.accept(vec![first.clone(), again.clone(), keyed(3)]).await.unwrap();
    let original = results[0].clone().unwrap();
    assert_eq!(results[1], Ok(Accepted { duplicate: true, ..original.clone() }), "within one group");
    assert_eq!(results[2], Err(Conflict::IdempotencyKey));
    assert_eq!(accept_one(&store, again.clone()).await, Ok(Accepted { duplicate: true, ..original.clone() }));
    assert_eq!(accept_one(&store, keyed(3)).await, Err(Conflict::IdempotencyKey));
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    assert_eq!(
        accept_one(&store, again).await,
        Ok(Accepted { duplicate: true, ..original }),
        "after a restart"
    );
    assert_eq!(store.lane(lane(1)).await.unwrap().end, 2, "a duplicate made a delivery");
}

pub(crate) async fn an_idempotency_key_is_forgotten_after_a_day(backend: &dyn Backend) {
    let store = backend.open();
    let keyed = |number, now| Accept { idempotency: Some([7; 16]), ..accept(number, now, &[lane(1)]) };
    accept_one(&store, keyed(1, at(0))).await.unwrap();
    assert_eq!(
        accept_one(&store, keyed(2, at(0) + DAY - Duration::from_secs(1))).await,
        Err(Conflict::IdempotencyKey)
    );
    let later = accept_one(&store, keyed(2, at(0) + DAY)).await.unwrap();
    assert!(!later.duplicate);
    let retention =
        Retention { idempotency: at(1), delivered_data: at(0), events: at(0), audit: None, now: at(0) + DAY };
    while store.age_out(retention).await.unwrap() {}
    assert_eq!(
        accept_one(&store, keyed(3, at(0) + DAY)).await,
        Err(Conflict::IdempotencyKey),
        "the newer one's was removed"
    );
}

pub(crate) async fn a_client_chosen_id_is_unique_in_its_tenant(backend: &dyn Backend) {
    let store = backend.open();
    let named = |number, tenant: &str| {
        let mut accept = accept(number, at(0), &[lane(1)]);
        accept.event.id = "order-1".parse().unwrap();
        accept.event.tenant = tenant.parse().unwrap();
        accept.client_chosen = true;
        accept
    };
    let first = accept_one(&store, named(1, "acme")).await.unwrap();
    assert_eq!(first.id.as_str(), "order-1");
    let again = Accept { content: named(1, "acme").content, ..named(5, "acme") };
    assert_eq!(accept_one(&store, again).await, Ok(Accepted { duplicate: true, ..first.clone() }));
    assert_eq!(accept_one(&store, named(2, "acme")).await, Err(Conflict::EventId));
    assert!(!accept_one(&store, named(3, "other")).await.unwrap().duplicate);
    assert_eq!(store.event_key(&tenant(), &first.id).await.unwrap(), Some(first.key));
    assert_eq!(store.event_key(&tenant(), &"order-2".parse().unwrap()).await.unwrap(), None);
}

pub(crate) async fn deliveries_of_a_lane_are_numbered_without_gaps(backend: &dyn Backend) {
    let store = backend.open();
    let waits = (0..40_u64).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            accept_one(&store, accept(number, at(number), &[lane(1), lane(2)])).await.unwrap()
        })
    });
    let mut numbers = BTreeSet::new();
    for wait in waits.collect::<Vec<_>>() {
        let accepted = wait.await.unwrap();
        assert_eq!(accepted.deliveries[0].sequence, accepted.deliveries[1].sequence);
        numbers.insert(accepted.deliveries[0].sequence);
    }
    assert_eq!(numbers, (1..=40).collect());
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    let next = accept_one(&store, accept(99, at(99), &[lane(1)])).await.unwrap();
    assert_eq!(next.deliveries[0].sequence, 41);
}

pub(crate) async fn fresh_rows_come_in_order_and_once(backend: &dyn Backend) {
    let store = backend.open();
    for number in 1..=10 {
        accept_one(&store, accept(number, at(number), &[lane(1), lane(2)])).await.unwrap();
    }
    let id = |sequence| DeliveryId { subscription: lane(1), sequence };
    let third = store.delivery(id(3)).await.unwrap().unwrap().delivery;
    settle(&store, id(3), third, 200, State::Delivered(at(20))).await;
    let page = store.fresh(lane(1), 1, 4).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert_eq!(page.next, 6);
    let page = store.fresh(lane(1), page.next, 100).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [6, 7, 8, 9, 10]);
    assert_eq!(page.next, 11);
    assert_eq!(store.fresh(lane(3), 1, 4).await.unwrap().rows, []);

    let fourth = store.delivery(id(4)).await.unwrap().unwrap().delivery;
    settle(&store, id(4), fourth, 500, State::Waiting(at(30))).await;
    assert_eq!(store.fresh(lane(1), 3, 1).await.unwrap().rows[0].sequence, 5);
    let page = store.open(lane(1), 3, 2).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(page.next, 6);
}

pub(crate) async fn an_ordering_key_is_known_to_the_deliveries(backend: &dyn Backend) {
    let store = backend.open();
    let mut keyed = accept(1, at(1), &[lane(1)]);
    keyed.event.ordering_key = OrderingKey::new("document 7").unwrap();
    let accepted = accept_one(&store, keyed.clone()).await.unwrap();
    let place = (keyed.event.tenant.clone(), accepted.key);
    let stored = store.events(vec![place]).await.unwrap().remove(0).unwrap();
    assert_eq!(stored.event.ordering_key, keyed.event.ordering_key);
    let hash = keyed.event.ordering_key.as_ref().map(OrderingKey::hash);
    assert_eq!(store.fresh(lane(1), 1, 1).await.unwrap().rows[0].ordering, hash);
    let delivery = store.delivery(accepted.deliveries[0]).await.unwrap().unwrap().delivery;
    settle(&store, accepted.deliveries[0], delivery, 500, State::Waiting(at(5))).await;
    assert_eq!(store.due(lane(1), 1).await.unwrap().rows[0].ordering, hash);
}

pub(crate) async fn due_rows_come_by_time(backend: &dyn Backend) {
    let store = backend.open();
    let mut deliveries = Vec::new();
    for number in 1..=5_u64 {
        let accepted = accept_one(&store, accept(number, at(0), &[lane(1)])).await.unwrap();
        let id = accepted.deliveries[0];
        let due = State::Waiting(at(100 - number));
        deliveries.push((id, settle(&store, id, fresh(id, accepted.key), 500, due).await));
    }
    let (id, before) = deliveries[4];
    settle(&store, id, before, 500, State::Waiting(at(500))).await;
    let rows = store.due(lane(1), 3).await.unwrap();
    assert_eq!(rows.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [4, 3, 2]);
    assert!(!rows.complete);
    assert_eq!(rows.rows[0].state, State::Waiting(at(96)));
    let rows = store.due(lane(1), 5).await.unwrap();
    assert_eq!(
        rows.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(),
        [4, 3, 2, 1, 5],
        "the earlier time is gone"
    );
    assert!(rows.complete);
}

pub(crate) async fn every_attempt_is_remembered(backend: &dyn Backend) {
    let store = backend.open();
    let accepted = accept_one(&store, accept(1, at(0), &[lane(1)])).await.unwrap();
    let id = accepted.deliveries[0];
    let mut delivery = fresh(id, accepted.key);
    for number in 1..=104_u64 {
        delivery = settle(&store, id, delivery, 500, State::Waiting(at(number))).await;
    }
    let row = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(row.last.unwrap().number, 104);
    settle(&store, id, delivery, 204, State::Delivered(at(900))).await;
    let row = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(row.last.as_ref().unwrap().outcome.status(), Some(204));
    let numbers: Vec<u32> = store.attempts(id).await.unwrap().iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, (5..=105).collect::<Vec<_>>(), "the last hundred, and the one that delivered");
    assert_eq!(store.due(lane(1), 9).await.unwrap().rows, []);
}

pub(crate) async fn lists_page_through_everything_once(backend: &dyn Backend) {
    let store = backend.open();
    let mut all = Vec::new();
    for number in 0..25_u64 {
        let lanes = if number % 2 == 0 { vec![lane(1)] } else { vec![lane(1), lane(2)] };
        all.push(accept_one(&store, accept(number, at(number), &lanes)).await.unwrap());
    }
    let third = all[3].deliveries[0];
    settle(&store, third, fresh(third, all[3].key), 200, State::Delivered(at(50))).await;
    let everything: BTreeSet<DeliveryId> =
        all.iter().flat_map(|accepted| accepted.deliveries.clone()).collect();
    let of_lane =
        |wanted| everything.iter().copied().filter(|id| id.subscription == wanted).collect::<BTreeSet<_>>();
    let event: BTreeSet<DeliveryId> = all[5].deliveries.iter().copied().collect();
    let table = [
        (query(), everything.clone()),
        (DeliveryQuery { subscription: Some(lane(2)), ..query() }, of_lane(lane(2))),
        (DeliveryQuery { event: Some(all[5].key), ..query() }, event),
        (DeliveryQuery { states: vec![DeliveryState::Delivered], ..query() }, BTreeSet::from([third])),
        (DeliveryQuery { tenant: "other".parse().unwrap(), ..query() }, BTreeSet::new()),
        (
            DeliveryQuery { start: at(10), end: at(12), ..query() },
            all[10..12].iter().flat_map(|accepted| accepted.deliveries.clone()).collect(),
        ),
    ];
    for (query, expected) in table {
        for limit in [1, 4, 1000] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = store.deliveries(DeliveryQuery { limit, after, ..query.clone() }).await.unwrap();
                assert!(page.items.len() <= limit);
                found.extend(page.items.iter().map(|row| row.id));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found.len(), expected.len(), "limit {limit}: {query:?}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "limit {limit}: {query:?}");
        }
    }
    let mut query =
        EventQuery { tenant: tenant(), event_type: None, start: at(5), end: at(20), limit: 4, after: None };
    let mut found = Vec::new();
    loop {
        let page = store.list_events(query.clone()).await.unwrap();
        found.extend(page.items.iter().map(|row| row.event.key));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = all[5..20].iter().rev().map(|accepted| accepted.key).collect();
    assert_eq!(found, expected, "newest first");
}

pub(crate) async fn a_lane_is_found_as_it_was_left(backend: &dyn Backend) {
    let store = backend.open();
    let empty = store.lane(lane(1)).await.unwrap();
    assert_eq!((empty.low_water, empty.end, empty.waiting), (LowWater::default(), 1, false));
    let accepted = accept_one(&store, accept(1, at(0), &[lane(1)])).await.unwrap();
    let id = accepted.deliveries[0];
    settle(&store, id, fresh(id, accepted.key), 500, State::Waiting(at(5))).await;
    let low_water = LowWater { number: 2, covers_waiting: false };
    store
        .settle(Settlement { low_water: vec![(lane(1), low_water)], ..Settlement::default() })
        .await
        .unwrap();
    store.close().await.unwrap();
    drop(store);
    let row = backend.open().lane(lane(1)).await.unwrap();
    assert_eq!((row.low_water, row.end, row.waiting), (low_water, 2, true));
    assert_eq!(row.trouble, None);
    let trouble = Trouble { since: Some(at(5)), last: at(9), told: Told::Failing(DAY) };
    for trouble in [Some(trouble), None] {
        let settlement = Settlement { troubles: vec![(lane(1), trouble)], ..Settlement::default() };
        let store = backend.open();
        store.settle(settlement).await.unwrap();
        let row = store.lane(lane(1)).await.unwrap();
        assert_eq!((row.low_water, row.trouble), (low_water, trouble));
    }
}

pub(crate) async fn epochs_grow(backend: &dyn Backend) {
    let mut last = 0;
    for _ in 0..3 {
        let store = backend.open();
        assert!(store.epoch() > last);
        last = store.epoch();
        store.close().await.unwrap();
    }
}

pub(crate) fn subscription(id: SubscriptionId) -> SubscriptionRow {
    let wire = v1::Subscription {
        id: id.to_string(),
        tenant: "acme".into(),
        url: "https://hooks.example.com/".into(),
        event_types: vec!["*".into()],
        create_time: Some(postrider_proto::time::write(at(0))),
        update_time: Some(postrider_proto::time::write(at(0))),
        ..v1::Subscription::default()
    };
    let key = SigningKeyRow {
        id: KeyId::new(at(0), 1),
        scheme: Scheme::V1,
        secret: None,
        created: at(0),
        pending: false,
        retire: None,
    };
    let subscription = postrider_proto::subscription::read(&wire).unwrap();
    SubscriptionRow { subscription, headers: None, keys: vec![key], deleted: None }
}

pub(crate) async fn requests_and_agents_are_remembered(backend: &dyn Backend) {
    let store = backend.open();
    let key =
        RequestKey { tenant: tenant(), actor: "tok_1".into(), method: "Create", request_id: "r".into() };
    let row = RequestRow { result: "sub".into(), digest: [1; 16], expires: at(10) };
    store
        .put_subscription(&subscription(lane(1)), Some((key.clone(), row.clone())), entry("create"))
        .await
        .unwrap();
    assert_eq!(store.request(&key).await.unwrap(), Some(row));
    for other in [
        RequestKey { method: "Rotate", ..key.clone() },
        RequestKey { actor: "tok_2".into(), ..key.clone() },
        RequestKey { tenant: "other".parse().unwrap(), ..key.clone() },
    ] {
        assert_eq!(store.request(&other).await.unwrap(), None);
    }
    let retention =
        Retention { idempotency: at(0), delivered_data: at(0), events: at(0), audit: None, now: at(10) };
    while store.age_out(retention).await.unwrap() {}
    assert_eq!(store.request(&key).await.unwrap(), None);
    let agent = AgentRow {
        id: "a-1".parse().unwrap(),
        pool: "default".into(),
        version: "1".into(),
        instance: "i".into(),
        connected_at: at(1),
        last_seen: at(2),
        streams: 2,
        egress_policy_hash: "h".into(),
        max_in_flight: 8,
        drained: Some(at(3)),
    };
    store.put_agent(&agent).await.unwrap();
    assert_eq!(store.agents().await.unwrap(), std::slice::from_ref(&agent));
    store.delete_agent(&agent.id).await.unwrap();
    assert_eq!(store.agents().await.unwrap(), []);
}

pub(crate) async fn things_age_out_in_steps(backend: &dyn Backend) {
    let store = backend.open();
    store.put_subscription(&subscription(lane(1)), None, entry("change")).await.unwrap();
    let mut all = Vec::new();
    for number in 0..700_u64 {
        let accept = accept(number, at(number), &[lane(1)]);
        let accepted =
            accept_one(&store, Accept { idempotency: Some([(number % 250) as u8; 16]), ..accept }).await;
        all.extend(accepted);
    }
    for accepted in &all {
        let id = accepted.deliveries[0];
        settle(&store, id, fresh(id, accepted.key), 200, State::Delivered(at(1000))).await;
    }
    let age_out = async |delivered_data, events| {
        let retention = Retention { idempotency: at(0), delivered_data, events, audit: None, now: at(0) };
        let mut steps = 1;
        while store.age_out(retention).await.unwrap() {
            steps += 1;
            assert!(steps < 100, "it does not end");
        }
    };
    let count = async || {
        let query = EventQuery {
            tenant: tenant(),
            event_type: None,
            start: Timestamp::default(),
            end: Timestamp::MAX,
            limit: 10_000,
            after: None,
        };
        let items = store.list_events(query).await.unwrap().items;
        (items.len(), items.iter().filter(|row| row.is_erased()).count())
    };
    assert_eq!(count().await, (all.len(), 0));
    age_out(at(100), at(0)).await;
    assert_eq!(count().await, (all.len(), 100));
    age_out(at(100), at(50)).await;
    assert_eq!(count().await, (all.len() - 50, 50));
    age_out(at(9999), at(9999)).await;
    assert_eq!(count().await, (0, 0));
    assert_eq!(store.delivery(all[0].deliveries[0]).await.unwrap(), None);
    let next = accept_one(&store, accept(9999, at(9999), &[lane(1)])).await.unwrap();
    assert!(next.deliveries[0].sequence > all.len() as u64, "a number was used twice");
}

pub(crate) async fn what_is_owed_does_not_age_out(backend: &dyn Backend) {
    let store = backend.open();
    for id in [lane(1), lane(2)] {
        store.put_subscription(&subscription(id), None, entry("change")).await.unwrap();
    }
    let mut all = Vec::new();
    for number in 0..3_u64 {
        all.push(accept_one(&store, accept(number, at(number), &[lane(1)])).await.unwrap());
    }
    let first = all[0].deliveries[0];
    settle(&store, first, fresh(first, all[0].key), 500, State::Exhausted(at(5))).await;
    let second = all[1].deliveries[0];
    settle(&store, second, fresh(second, all[1].key), 500, State::Waiting(at(5))).await;
    let retention =
        Retention { idempotency: at(99), delivered_data: at(99), events: at(50), audit: None, now: at(99) };
    let left = async || {
        for _ in 0..5 {
            while store.age_out(retention).await.unwrap() {}
        }
        let found =
            store.events(all.iter().map(|accepted| (tenant(), accepted.key)).collect()).await.unwrap();
        found.into_iter().map(|row| row.is_some_and(|row| !row.is_erased())).collect::<Vec<_>>()
    };
    assert_eq!(left().await, [false, true, true]);
    let deleted = SubscriptionRow { deleted: Some(at(10)), ..subscription(lane(1)) };
    store.put_subscription(&deleted, None, entry("change")).await.unwrap();
    assert_eq!(left().await, [false, false, false], "nobody is owed any more");
    let ids: Vec<_> =
        store.subscriptions(None, 9).await.unwrap().iter().map(|row| row.subscription.id).collect();
    assert_eq!(ids, [lane(2)]);
}

pub(crate) async fn events_come_oldest_first_from_a_place_on(backend: &dyn Backend) {
    let store = backend.open();
    let mut keys = Vec::new();
    for number in [4_u64, 1, 3, 0, 2] {
        keys.push(accept_one(&store, accept(number, at(number), &[lane(1)])).await.unwrap().key);
    }
    keys.sort_unstable();
    let table = [
        (EventKey::first_at(at(0)), at(9), 9, &keys[..]),
        (EventKey::first_at(at(0)), at(9), 2, &keys[..2]),
        (keys[2], at(9), 9, &keys[2..]),
        (keys[2], at(4), 9, &keys[2..4]),
        (keys[2], at(1), 9, &[]),
    ];
    for (from, end, limit, expected) in table {
        let found = store.events_from(&tenant(), from, end, limit).await.unwrap();
        let found: Vec<EventKey> = found.items.into_iter().map(|row| row.event.key).collect();
        assert_eq!(found, expected, "from {from} to {end}, {limit}");
    }
    let other = "other".parse().unwrap();
    assert!(store.events_from(&other, EventKey::first_at(at(0)), at(9), 9).await.unwrap().items.is_empty());
}

pub(crate) async fn operations_are_kept_until_they_are_forgotten(backend: &dyn Backend) {
    let operation = |number: u128, tenant: &str, cursor: &str| {
        let id = OperationId::new(at(0), number);
        let operation = v1::Operation {
            id: id.to_string(),
            tenant: tenant.to_owned(),
            matched: 7,
            ..v1::Operation::default()
        };
        OperationRow { id, operation, cursor: cursor.into() }
    };
    let store = backend.open();
    store.put_operation(&operation(1, "acme", ""), Some(entry("ReplayDeliveries"))).await.unwrap();
    for (number, tenant) in [(2, "acme"), (3, "other"), (4, "acme"), (5, "acme2")] {
        store.put_operation(&operation(number, tenant, ""), None).await.unwrap();
    }
    store.put_operation(&operation(1, "acme", "there"), None).await.unwrap();
    store.delete_operations(vec![("acme".parse().unwrap(), operation(2, "", "").id)]).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    let first = operation(1, "acme", "there");
    assert_eq!(store.operation(first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(store.operation(operation(2, "", "").id).await.unwrap(), None);
    let page = store.operations(None, 2).await.unwrap();
    assert_eq!(
        (page.items, page.next),
        (vec![first.clone(), operation(3, "other", "")], Some(operation(3, "", "").id))
    );
    let rest = store.operations(page.next, 9).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (2, None));
    let acme = "acme".parse().unwrap();
    let page = store.operations_of(&acme, None, 1).await.unwrap();
    assert_eq!((page.items, page.next), (vec![operation(4, "acme", "")], Some(operation(4, "", "").id)));
    let rest = store.operations_of(&acme, page.next, 9).await.unwrap();
    assert_eq!((rest.items, rest.next), (vec![first], None));
    assert_eq!(store.audit_span().await.unwrap().end.sequence, 1);
}

pub(crate) async fn the_oldest_operations_that_have_ended_are_trimmed(backend: &dyn Backend) {
    let store = backend.open();
    let (acme, other) = ("acme".parse().unwrap(), "other".parse().unwrap());
    let operation = |number: u128, tenant: &TenantId, state: v1::OperationState| {
        let id = OperationId::new(at(0), number);
        let operation =
            v1::Operation { tenant: tenant.to_string(), state: state.into(), ..v1::Operation::default() };
        OperationRow { id, operation, cursor: String::new() }
    };
    for number in 1..=20 {
        let state = match number {
            1 | 15 => v1::OperationState::Running,
            2 => v1::OperationState::Paused,
            _ => v1::OperationState::Done,
        };
        store.put_operation(&operation(number, &acme, state), None).await.unwrap();
        store.put_operation(&operation(100 + number, &other, v1::OperationState::Done), None).await.unwrap();
    }
    assert_eq!(store.trim_operations(&acme, 20).await.unwrap(), 0);
    assert_eq!(store.trim_operations(&acme, 10).await.unwrap(), 8);
    assert_eq!(store.trim_operations(&acme, 10).await.unwrap(), 0);
    let left = store.operations_of(&acme, None, 99).await.unwrap().items;
    let mut numbers: Vec<u128> = (11..=20).chain([1, 2]).collect();
    numbers.sort_unstable_by(|one, other| other.cmp(one));
    let expected: Vec<OperationId> = numbers.iter().map(|number| OperationId::new(at(0), *number)).collect();
    assert_eq!(left.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
    assert_eq!(store.operations_of(&other, None, 99).await.unwrap().items.len(), 20);
}

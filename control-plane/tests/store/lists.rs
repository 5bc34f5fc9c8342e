//! Lists hold no data of events, end where they are large, and end when nobody waits for them any
//! more.

use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::store::{
    ChangeQuery, EventQuery, Page, RequestKey, RequestRow, Retention, Settle, Settlement, Store,
};
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId};
use postrider_domain::outcome::{Attempt, Class, Outcome, Response};
use postrider_domain::time::Timestamp;
use postrider_proto::v1::DeliveryState;

use crate::suite::{accept, at, fresh, lane, query, tenant};
use crate::{Backend, open_sled};

const LARGE: usize = 200 * 1024;
const MIB: usize = 1024 * 1024;

fn events() -> EventQuery {
    EventQuery {
        tenant: tenant(),
        event_type: None,
        start: Timestamp::default(),
        end: Timestamp::MAX,
        limit: 1000,
        after: None,
    }
}

fn changes() -> ChangeQuery {
    let from = EventKey::first_at(Timestamp::default()).into();
    ChangeQuery { tenant: tenant(), subscription: None, after: 0, until: u64::MAX, from }
}

/// Events with data of so many bytes.
async fn fill(store: &dyn Store, count: u64, bytes: usize, lanes: &[SubscriptionId]) -> Vec<EventKey> {
    let mut batch = Vec::new();
    for number in 0..count {
        let mut one = accept(number, at(number), lanes);
        one.event.data = vec![b'1'; bytes].into();
        batch.push(one);
    }
    let accepted = store.accept(batch).await.unwrap();
    accepted.into_iter().map(|one| one.unwrap().key).collect()
}

#[tokio::test]
async fn no_list_reads_what_events_hold() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_sled(folder.path().to_owned());
    let keys = fill(&store, 30, LARGE, &[lane(1), lane(2)]).await;
    let before = store.bytes_looked_at();
    let found = store.list_events(events()).await.unwrap().items;
    assert!(found.len() == 30 && found.iter().all(|row| row.event.data.is_empty() && !row.is_erased()));
    assert!(found.iter().all(|row| usize::try_from(row.data_size).unwrap() == LARGE));
    let deliveries = store.deliveries(query()).await.unwrap().items;
    assert_eq!(deliveries.len(), 60.min(query().limit));
    let heads = store.event_heads(&tenant(), keys.clone()).await.unwrap();
    assert!(heads.iter().all(|head| head.as_ref().is_some_and(|head| !head.erased)));
    let from = store.events_from(&tenant(), keys[0], Timestamp::MAX, 1000).await.unwrap();
    assert!(from.items.len() == 30 && from.items.iter().all(|row| row.event.data.is_empty()));
    store.changes(changes()).await.unwrap();
    let looked = store.bytes_looked_at() - before;
    assert!(looked < LARGE as u64, "{looked} bytes: more than one event holds");
    let whole = store.events(vec![(tenant(), keys[0])]).await.unwrap();
    assert_eq!(whole[0].as_ref().unwrap().event.data.len(), LARGE);
    assert!(store.bytes_looked_at() - before > LARGE as u64, "it would have been counted");
    store.close().await.unwrap();
}

/// A delivery of every event, with an attempt whose response is as long as any that is kept.
async fn attempted(store: &Arc<dyn Store>, count: u64) -> u64 {
    let keys = fill(&**store, count, 2, &[lane(1)]).await;
    let response = Response { status: 500, body: vec![b'x'; 4096].into(), ..Response::default() };
    let outcome = Outcome { response: Some(response), ..Outcome::failure(Class::HttpStatus, "") };
    let attempt = Attempt { number: 1, started: at(0), agent: "a-1".parse().unwrap(), outcome };
    let mut settlement = Settlement { position: 7, ..Settlement::default() };
    for (number, event) in (1..).zip(keys) {
        let id = DeliveryId { subscription: lane(1), sequence: number };
        let delivery = Delivery { state: State::Exhausted(at(9)), attempts: 1, ..fresh(id, event) };
        settlement.deliveries.push(Settle { id, was_due: None, delivery, attempt: Some(attempt.clone()) });
    }
    store.settle(settlement).await.unwrap();
    count
}

pub(crate) async fn a_page_ends_where_its_answer_is_large(backend: &dyn Backend) {
    let store = backend.open();
    let count = attempted(&store, 700).await;
    let weigh = |items: usize| items * 4096;
    let (mut found, mut pages) = (0, 0);
    let mut wanted = crate::suite::query();
    wanted.limit = usize::MAX;
    loop {
        let Page { items, next } = store.deliveries(wanted.clone()).await.unwrap();
        assert!(weigh(items.len()) <= MIB + 8192, "{} deliveries", items.len());
        (found, pages) = (found + items.len() as u64, pages + 1);
        wanted.after = next;
        if next.is_none() {
            break;
        }
    }
    assert!(found == count && pages >= 3, "{found} on {pages} pages");
    let (mut found, mut query) = (0, changes());
    loop {
        let Page { items, next } = store.changes(query.clone()).await.unwrap();
        assert!(weigh(items.len()) <= MIB + 8192, "{} changes", items.len());
        found += items.len() as u64;
        match next {
            Some(next) => query.from = next,
            None => break,
        }
    }
    assert_eq!(found, count);
}

pub(crate) async fn changes_of_one_event_with_many_deliveries_come_in_pages(backend: &dyn Backend) {
    let store = backend.open();
    let lanes: Vec<SubscriptionId> = (0..3000).map(lane).collect();
    let keys = fill(&*store, 2, 2, &lanes).await;
    let mut settlement = Settlement { position: 7, ..Settlement::default() };
    for (lane, event) in lanes.iter().flat_map(|lane| keys.iter().map(move |event| (lane, event))) {
        let sequence = if *event == keys[0] { 1 } else { 2 };
        let id = DeliveryId { subscription: *lane, sequence };
        let delivery = Delivery { state: State::Delivered(at(9)), attempts: 1, ..fresh(id, *event) };
        settlement.deliveries.push(Settle { id, was_due: None, delivery, attempt: None });
    }
    store.settle(settlement).await.unwrap();
    let (mut seen, mut query, mut pages) = (std::collections::HashSet::new(), changes(), 0);
    loop {
        let Page { items, next } = store.changes(query.clone()).await.unwrap();
        assert!(items.len() <= 2000, "{}", items.len());
        items.iter().for_each(|change| assert!(seen.insert(change.row.id), "{} twice", change.row.id));
        pages += 1;
        match next {
            Some(next) => query.from = next,
            None => break,
        }
    }
    assert!(seen.len() == 6000 && pages >= 3, "{} on {pages} pages", seen.len());
}

pub(crate) async fn a_list_over_events_without_deliveries_ends(backend: &dyn Backend) {
    let store = backend.open();
    for _ in 0..6 {
        let batch = (0..1000).map(|number| {
            let mut one = accept(number, at(number), &[]);
            one.event.key = EventKey::new(at(number), rand::random());
            one
        });
        store.accept(batch.collect()).await.unwrap();
    }
    let (mut wanted, mut pages) = (crate::suite::query(), 0);
    loop {
        let Page { items, next } = store.deliveries(wanted.clone()).await.unwrap();
        assert!(items.is_empty());
        pages += 1;
        wanted.after = next;
        if next.is_none() {
            break;
        }
        assert!(next.map(|next| next.to_string().parse()) == Some(Ok(next.unwrap())), "it is a page token");
    }
    assert_eq!(pages, 2, "of 4000 rows each");
}

/// What is read is counted: abandoned reads must cost next to nothing of what they would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_nobody_waits_for_ends() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open_sled(folder.path().to_owned()));
    for _ in 0..4 {
        let batch = (0..1000).map(|number| {
            let mut one = accept(number, at(number), &[lane(1)]);
            one.event.key = EventKey::new(at(number), rand::random());
            one
        });
        store.accept(batch.collect()).await.unwrap();
    }
    let mut wanted = query();
    (wanted.limit, wanted.states) = (1000, vec![DeliveryState::Cancelled]);
    let before = store.bytes_looked_at();
    assert!(store.deliveries(wanted.clone()).await.unwrap().items.is_empty());
    let whole = store.bytes_looked_at() - before;
    let begun: Vec<_> = (0..300)
        .map(|_| {
            let (store, wanted) = (store.clone(), wanted.clone());
            tokio::spawn(async move { store.deliveries(wanted).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    begun.iter().for_each(tokio::task::JoinHandle::abort);
    for one in begun {
        let _cancelled = one.await;
    }
    let mut last = u64::MAX;
    while last != store.bytes_looked_at() {
        last = store.bytes_looked_at();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let cost = last - before - whole;
    assert!(cost < 100 * whole, "{cost} bytes of {} were read for nobody", 300 * whole);
    store.close().await.unwrap();
}

pub(crate) async fn request_ids_expire_a_bounded_number_a_round(backend: &dyn Backend) {
    let store = backend.open();
    let key = |number: usize| RequestKey {
        tenant: tenant(),
        actor: "tok_1".into(),
        method: "RetryDelivery",
        request_id: format!("{number:05}"),
    };
    let row = |seconds| RequestRow { result: String::new(), digest: [1; 16], expires: at(seconds) };
    let writes = (0..5000).map(|number| {
        // The old ones are behind the many that are not.
        store.put_request(key(number), row(if number >= 4990 { 10 } else { 10_000 }))
    });
    for written in futures::future::join_all(writes).await {
        written.unwrap();
    }
    let retention = Retention {
        idempotency: Timestamp::default(),
        delivered_data: Timestamp::default(),
        events: Timestamp::default(),
        audit: None,
        now: at(100),
    };
    assert!(!store.age_out(retention).await.unwrap(), "a round looks at some");
    assert!(store.request(&key(4995)).await.unwrap().is_some());
    assert!(!store.age_out(retention).await.unwrap());
    assert!(store.request(&key(4995)).await.unwrap().is_none(), "the next round has gone on there");
    // When many have expired, a round does not stop there.
    let retention = Retention { now: at(20_000), ..retention };
    while store.age_out(retention).await.unwrap() {}
    for number in [0, 2500, 4096, 4989] {
        assert!(store.request(&key(number)).await.unwrap().is_none(), "{number}");
    }
}

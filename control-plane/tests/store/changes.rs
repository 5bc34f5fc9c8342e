//! What has happened to deliveries since a position.

use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::store::{Change, ChangeQuery, Settle, Settlement, Store};
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{DeliveryId, EventKey};
use postrider_domain::outcome::{Attempt, Class, Outcome};
use postrider_domain::time::Timestamp;

use crate::Backend;
use crate::suite::{accept, accept_one, at, fresh, lane, tenant};

fn query(after: u64, until: u64) -> ChangeQuery {
    let from = EventKey::first_at(Timestamp::default()).into();
    ChangeQuery { tenant: tenant(), subscription: None, after, until, from }
}

async fn changes(store: &Arc<dyn Store>, mut query: ChangeQuery) -> Vec<Change> {
    let mut found = Vec::new();
    loop {
        let page = store.changes(query.clone()).await.unwrap();
        found.extend(page.items);
        match page.next {
            Some(next) => query.from = next,
            None => return found,
        }
    }
}

/// Writes what the next attempt made of a delivery.
async fn settle(
    store: &Arc<dyn Store>,
    id: DeliveryId,
    before: Delivery,
    state: State,
    position: u64,
) -> Delivery {
    let number = before.attempts + 1;
    let started = at(u64::from(number));
    let outcome = Outcome::failure(Class::Timeout, "");
    let attempt = Some(Attempt { number, started, agent: "a-1".parse().unwrap(), outcome });
    let delivery = Delivery { state, attempts: number, ..before };
    let settle = Settle { id, was_due: before.state.due(), delivery, attempt };
    let settlement = Settlement { deliveries: vec![settle], position, ..Settlement::default() };
    store.settle(settlement).await.unwrap();
    delivery
}

fn told(changes: &[Change]) -> Vec<(u32, &'static str, bool)> {
    let name = |state: State| match state {
        State::Waiting(_) => "waiting",
        State::Delivered(_) => "delivered",
        _ => "other",
    };
    changes
        .iter()
        .map(|change| (change.row.delivery.attempts, name(change.row.delivery.state), change.past))
        .collect()
}

pub(crate) async fn what_has_happened_since_a_position_is_found(backend: &dyn Backend) {
    let store = backend.open();
    assert_eq!(store.last_position().await.unwrap(), 0);
    let accepted = accept_one(&store, accept(1, at(0), &[lane(1), lane(2)])).await.unwrap();
    let (id, other) = (accepted.deliveries[0], accepted.deliveries[1]);
    assert!(changes(&store, query(0, u64::MAX)).await.is_empty(), "nothing has happened yet");
    let first = settle(&store, id, fresh(id, accepted.key), State::Waiting(at(9)), 10).await;
    let second = settle(&store, id, first, State::Waiting(at(99)), 20).await;
    settle(&store, other, fresh(other, accepted.key), State::Delivered(at(5)), 25).await;
    settle(&store, id, second, State::Delivered(at(100)), 30).await;
    assert_eq!(store.last_position().await.unwrap(), 30);

    let of_first = |query| ChangeQuery { subscription: Some(id.subscription), ..query };
    let all = changes(&store, of_first(query(0, 30))).await;
    assert_eq!(told(&all), [(1, "waiting", true), (2, "waiting", true), (3, "delivered", false)]);
    // The second attempt is when the first delay was over, as far as is known.
    assert_eq!(all[0].row.delivery.state, State::Waiting(at(2)));
    let some = changes(&store, of_first(query(10, 29))).await;
    assert_eq!(told(&some), [(2, "waiting", true)]);
    let both = changes(&store, query(20, 30)).await;
    assert_eq!(both.iter().map(|change| change.row.id).collect::<Vec<_>>(), [id, other]);
    assert!(changes(&store, query(30, u64::MAX)).await.is_empty());
    let nobody = ChangeQuery { tenant: "other".parse().unwrap(), ..query(0, u64::MAX) };
    assert!(changes(&store, nobody).await.is_empty(), "another tenant sees it");
}

pub(crate) async fn changes_page_through_everything_once(backend: &dyn Backend) {
    let store = backend.open();
    let batch: Vec<_> = (0..700).map(|n| accept(n, at(0) + Duration::from_millis(n), &[lane(1)])).collect();
    let accepted = store.accept(batch).await.unwrap();
    let deliveries: Vec<Settle> = accepted
        .iter()
        .map(|accepted| {
            let accepted = accepted.as_ref().unwrap();
            let id = accepted.deliveries[0];
            let delivery = Delivery { state: State::Cancelled(at(9)), ..fresh(id, accepted.key) };
            Settle { id, was_due: None, delivery, attempt: None }
        })
        .collect();
    store.settle(Settlement { deliveries, position: 7, ..Settlement::default() }).await.unwrap();
    let mut found: Vec<u64> =
        changes(&store, query(0, 7)).await.iter().map(|change| change.row.id.sequence).collect();
    found.sort_unstable();
    assert_eq!(found, (1..=700).collect::<Vec<_>>());
}

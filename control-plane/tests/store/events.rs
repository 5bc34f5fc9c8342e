//! What events carry beside their data.

use postrider_control_plane::store::{EventQuery, Retention};
use postrider_domain::delivery::State;
use postrider_domain::event::{Attributes, Event};
use postrider_domain::quota;
use postrider_domain::time::Timestamp;
use postrider_domain::trace::TraceContext;

use crate::Backend;
use crate::suite::{accept, accept_one, at, fresh, lane, settle, tenant};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(crate) async fn attributes_and_trace_are_kept_and_attributes_go_with_the_data(backend: &dyn Backend) {
    let mut store = backend.open();
    let mut wanted = accept(1, at(0), &[lane(1)]);
    let attributes = [("region".to_owned(), "eu-ä".to_owned()), ("empty".to_owned(), String::new())];
    wanted.event.attributes = Attributes::new(attributes).unwrap();
    wanted.event.trace = TraceContext::new(PARENT, "vendor=1").unwrap();
    let accepted = accept_one(&store, wanted.clone()).await.unwrap();
    let id = accepted.deliveries[0];
    settle(&store, id, fresh(id, accepted.key), 204, State::Delivered(at(1))).await;
    store.close().await.unwrap();
    drop(store);
    store = backend.open();
    let query = EventQuery {
        tenant: tenant(),
        event_type: None,
        start: Timestamp::default(),
        end: Timestamp::MAX,
        limit: 10,
        after: None,
    };
    let row = store.list_events(query).await.unwrap().items.remove(0);
    let data = wanted.event.data.clone();
    assert_eq!(Event { data, ..row.event }, wanted.event);
    // Names and values count, as the data does.
    let content = quota::content(wanted.event.data.len(), [6 + 5, 5].into_iter());
    assert_eq!(store.stored_bytes(vec![tenant()]).await.unwrap(), [content + quota::frame(1)]);

    let nothing = Timestamp::default();
    let retention =
        Retention { idempotency: nothing, delivered_data: at(50), events: nothing, audit: None, now: at(50) };
    while store.age_out(retention).await.unwrap() {}
    let row = store.events(vec![(tenant(), accepted.key)]).await.unwrap().remove(0).unwrap();
    assert!(row.is_erased() && row.event.attributes == Attributes::default());
    assert_eq!(row.event.trace, wanted.event.trace, "a trace says nothing of what the event holds");
    assert_eq!(store.stored_bytes(vec![tenant()]).await.unwrap(), [quota::frame(1)]);
}

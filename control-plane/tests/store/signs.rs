//! What a store promises to those who look after it.

use crate::Backend;
use crate::suite::{accept, accept_one, at, lane};

pub(crate) async fn a_beat_is_a_write_and_changes_nothing(backend: &dyn Backend) {
    let store = backend.open();
    let first = accept_one(&store, accept(1, at(0), &[lane(1)])).await.unwrap();
    store.beat().await.unwrap();
    store.beat().await.unwrap();
    assert!(store.size().await.unwrap() > 0);
    let second = accept_one(&store, accept(2, at(1), &[lane(1)])).await.unwrap();
    let sequences = [first, second].map(|accepted| accepted.deliveries[0].sequence);
    assert_eq!(sequences, [1, 2]);
    assert_eq!(store.audit_span().await.unwrap().end.sequence, 0, "nobody asks who did it");
    store.close().await.unwrap();
    assert!(store.beat().await.is_err(), "a store that is closed cannot be written");
}

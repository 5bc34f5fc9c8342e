//! What has happened to deliveries between two positions.
//!
//! There is no log of it: that would be a row more for each delivery. It is found by looking at what the tenant's events are
//! owed as, so it costs what the tenant has stored, a bounded number of rows a page.

use std::ops::Range;

use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{DeliveryId, EventKey};
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use sled::Tree;

use super::{codec, failure, key, read};
use crate::store::{Change, ChangeQuery, DeliveryRow, Page, StoreError};

/// Deliveries that one page looks at, but for the last event's.
const LOOK: usize = 2000;
/// Events that are read for them.
const EVENTS: usize = 256;

pub(super) fn page(tree: &Tree, query: &ChangeQuery) -> Result<Page<Change, EventKey>, StoreError> {
    let events = read::events_from(tree, &query.tenant, query.from, Timestamp::MAX, EVENTS)?;
    let (mut items, mut looked) = (Vec::new(), 0);
    for event in &events {
        if looked >= LOOK {
            return Ok(Page { items, next: Some(event.event.key) });
        }
        for id in &event.deliveries {
            looked += 1;
            if query.subscription.is_none_or(|wanted| wanted == id.subscription) {
                of_delivery(
                    tree,
                    query.after.saturating_add(1)..query.until.saturating_add(1),
                    *id,
                    &mut items,
                )?;
            }
        }
    }
    let last = events.last().filter(|_| events.len() == EVENTS).map(|last| last.event.key);
    Ok(Page { items, next: last.map(EventKey::next) })
}

fn of_delivery(
    tree: &Tree,
    span: Range<u64>,
    id: DeliveryId,
    found: &mut Vec<Change>,
) -> Result<(), StoreError> {
    let row_key = key::delivery(id);
    let Some(value) = tree.get(&row_key).map_err(failure)? else { return Ok(()) };
    let record: records::DeliveryRecord = codec::decode(&row_key, &value)?;
    let (delivery, delivering) = codec::read_delivery(&row_key, &value)?;
    // Of before there were positions, its end says when that was; if it has not ended, something is still to come.
    let of_end = delivery.state.end().map_or(0, |end| u64::try_from(end.as_millis()).unwrap_or(0) * 1000);
    let position = if record.position == 0 { of_end } else { record.position };
    if position < span.start {
        return Ok(());
    }
    let mut attempts = Vec::new();
    for row in tree.scan_prefix(key::attempts(id)) {
        let (key, value) = row.map_err(failure)?;
        attempts.push((codec::read_attempt_position(&key, &value)?, codec::read_attempt(&key, &value)?));
    }
    let last = delivering.or_else(|| attempts.last().map(|(_, attempt)| attempt.clone()));
    for (at, (place, attempt)) in attempts.iter().enumerate() {
        // The present state is told below.
        let present = attempt.number == delivery.attempts && *place == position;
        if span.contains(place) && !present {
            let next = attempts.get(at + 1).map(|(_, next)| next).or(last.as_ref());
            found.push(past(id, &delivery, attempt, next));
        }
    }
    if span.contains(&position) {
        found.push(Change { row: DeliveryRow { id, delivery, last }, past: false });
    }
    Ok(())
}

/// A delivery as an attempt left it that others have followed: it waited for the next one.
fn past(id: DeliveryId, now: &Delivery, attempt: &Attempt, next: Option<&Attempt>) -> Change {
    let due = next.map_or(attempt.started, |next| next.started);
    let delivery = Delivery { state: State::Waiting(due), attempts: attempt.number, ..*now };
    Change { row: DeliveryRow { id, delivery, last: Some(attempt.clone()) }, past: true }
}

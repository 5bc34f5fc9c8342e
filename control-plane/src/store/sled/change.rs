//! What has happened to deliveries between two positions.
//!
//! There is no log of it: that would be a row more for each delivery. It is found by looking at what the tenant's events are
//! owed as, so it costs what the tenant has stored, a bounded number of rows a page.

use std::ops::Range;

use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::DeliveryId;
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;

use super::lists::{Filling, event_keys, weight_of_attempt};
use super::reading::Reading;
use super::{codec, failure, key};
use crate::store::{Change, ChangePlace, ChangeQuery, DeliveryRow, Page, StoreError};

/// Rows that one page looks at.
const LOOK: usize = 2000;

pub(super) fn page(reading: &Reading, query: &ChangeQuery) -> Result<Page<Change, ChangePlace>, StoreError> {
    let (mut found, mut next) = (Filling::of_rows(usize::MAX, LOOK), None);
    let span = query.after.saturating_add(1)..query.until.saturating_add(1);
    let keys = event_keys(&query.tenant, query.from.event, Timestamp::MAX);
    if keys.is_empty() {
        return Ok(found.page(None));
    }
    for row in reading.range(keys) {
        if next.is_some() && found.is_full(reading) {
            return Ok(found.page(next));
        }
        let (key, value) = row.map_err(failure)?;
        reading.look(value.len())?;
        let row = codec::read_event_without_data(&key, &query.tenant, &value)?;
        let event = row.event.key;
        let first = if event == query.from.event { query.from.seen } else { 0 };
        for (seen, id) in row.deliveries.iter().enumerate().skip(first) {
            if next.is_some() && found.is_full(reading) {
                return Ok(found.page(Some(ChangePlace { event, seen })));
            }
            next = Some(ChangePlace { event, seen });
            if query.subscription.is_none_or(|wanted| wanted == id.subscription) {
                of_delivery(reading, span.clone(), *id, &mut found)?;
            }
        }
        next = Some(event.next().into());
    }
    Ok(found.page(None))
}

fn of_delivery(
    reading: &Reading,
    span: Range<u64>,
    id: DeliveryId,
    found: &mut Filling<Change>,
) -> Result<(), StoreError> {
    let row_key = key::delivery(id);
    let Some(value) = reading.get(&row_key).map_err(failure)? else { return reading.look(0) };
    reading.look(value.len())?;
    let record: records::DeliveryRecord = codec::decode(&row_key, &value)?;
    let (delivery, delivering) = codec::read_delivery(&row_key, &value)?;
    // Of before there were positions, its end says when that was; if it has not ended, something is still to come.
    let of_end = delivery.state.end().map_or(0, |end| u64::try_from(end.as_millis()).unwrap_or(0) * 1000);
    let position = if record.position == 0 { of_end } else { record.position };
    if position < span.start {
        return Ok(());
    }
    let mut attempts = Vec::new();
    for row in reading.scan_prefix(key::attempts(id)) {
        let (key, value) = row.map_err(failure)?;
        reading.look(value.len())?;
        attempts.push((codec::read_attempt_position(&key, &value)?, codec::read_attempt(&key, &value)?));
    }
    let last = delivering.or_else(|| attempts.last().map(|(_, attempt)| attempt.clone()));
    for (at, (place, attempt)) in attempts.iter().enumerate() {
        // The present state is told below.
        let present = attempt.number == delivery.attempts && *place == position;
        if span.contains(place) && !present {
            let next = attempts.get(at + 1).map(|(_, next)| next).or(last.as_ref());
            found.push(past(id, &delivery, attempt, next), weight_of_attempt(attempt));
        }
    }
    if span.contains(&position) {
        let weight = last.as_ref().map_or(0, weight_of_attempt);
        found.push(Change { row: DeliveryRow { id, delivery, last }, past: false }, weight);
    }
    Ok(())
}

/// A delivery as an attempt left it that others have followed: it waited for the next one.
fn past(id: DeliveryId, now: &Delivery, attempt: &Attempt, next: Option<&Attempt>) -> Change {
    let due = next.map_or(attempt.started, |next| next.started);
    let delivery = Delivery { state: State::Waiting(due), attempts: attempt.number, ..*now };
    Change { row: DeliveryRow { id, delivery, last: Some(attempt.clone()) }, past: true }
}

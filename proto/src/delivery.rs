//! Deliveries: states on the wire and records of deliveries ⇄ [`Delivery`].

use std::num::NonZeroU64;

use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::EventKey;
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;

use crate::attempt;
use crate::store::DeliveryRecord;
use crate::v1::DeliveryState;

/// A state, written. That an attempt is under way is not a state; only a lane knows.
#[must_use]
pub fn write_state(state: State) -> DeliveryState {
    match state {
        State::Pending => DeliveryState::Pending,
        State::Waiting(_) => DeliveryState::Waiting,
        State::Delivered(_) => DeliveryState::Delivered,
        State::Exhausted(_) => DeliveryState::Exhausted,
        State::Cancelled(_) => DeliveryState::Cancelled,
    }
}

/// A delivery as a record, with the attempt that delivered it.
#[must_use]
pub fn write_record(delivery: &Delivery, delivering: Option<&Attempt>) -> DeliveryRecord {
    DeliveryRecord {
        event: delivery.event.to_bytes().to_vec().into(),
        state: write_state(delivery.state).into(),
        attempts: delivery.attempts,
        failures: delivery.failures,
        window_start_ms: delivery.window_start.map_or(0, Timestamp::as_millis),
        due_ms: delivery.state.due().map_or(0, Timestamp::as_millis),
        end_time_ms: delivery.state.end().map_or(0, Timestamp::as_millis),
        delivering_attempt: delivering.map(attempt::write),
        ordering: delivery.ordering.map_or(0, NonZeroU64::get),
        // The store knows it.
        position: 0,
    }
}

/// A delivery from its record; `None` when the record is not one that [`write_record`] wrote.
#[must_use]
pub fn read_record(sequence: u64, record: &DeliveryRecord) -> Option<Delivery> {
    let ended = Timestamp::from_millis(record.end_time_ms);
    let state = match record.state() {
        DeliveryState::Pending => State::Pending,
        DeliveryState::Waiting => State::Waiting(Timestamp::from_millis(record.due_ms)),
        DeliveryState::Delivered => State::Delivered(ended),
        DeliveryState::Exhausted => State::Exhausted(ended),
        DeliveryState::Cancelled => State::Cancelled(ended),
        DeliveryState::Unspecified | DeliveryState::Attempting => return None,
    };
    Some(Delivery {
        sequence,
        event: EventKey::from_bytes(record.event.as_ref().try_into().ok()?),
        ordering: NonZeroU64::new(record.ordering),
        state,
        attempts: record.attempts,
        failures: record.failures,
        window_start: (record.window_start_ms != 0).then(|| Timestamp::from_millis(record.window_start_ms)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let now = Timestamp::from_millis(1_770_028_200_123);
        let base = Delivery::new(9, EventKey::new(now, 5)).ordered_by(NonZeroU64::new(u64::MAX));
        let states = [
            State::Pending,
            State::Waiting(now),
            State::Delivered(now),
            State::Exhausted(now),
            State::Cancelled(now),
        ];
        for state in states {
            let delivery = Delivery { state, attempts: 4, failures: 3, window_start: Some(now), ..base };
            assert_eq!(read_record(9, &write_record(&delivery, None)), Some(delivery));
        }
        assert_eq!(read_record(9, &DeliveryRecord::default()), None);
    }
}

//! Times and durations on the wire.

use std::time::Duration;

use postrider_domain::time::{EventTime, Timestamp};
use postrider_domain::violation::Violation;

/// A time, written.
#[must_use]
pub fn write(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.as_millis();
    let nanos = i32::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds: millis / 1000, nanos }
}

/// A time, read. What is finer than a millisecond is cut off.
///
/// # Errors
/// A violation of `field` when the time is before 1970, after 9999, or not in its canonical form.
pub fn read(field: &str, time: &prost_types::Timestamp) -> Result<Timestamp, Violation> {
    let in_range =
        (0..=Timestamp::MAX.as_seconds()).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
    if !in_range {
        return Err(Violation::new(
            field,
            "must be a time from 1970 to 9999 with 0 to 999,999,999 nanoseconds",
        ));
    }
    Ok(Timestamp::from_millis(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000))
}

/// An event's time, written.
#[must_use]
pub fn write_event(time: EventTime) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.subsec_nanos()).unwrap_or(0);
    prost_types::Timestamp { seconds: time.cut().as_seconds(), nanos }
}

/// An event's time, read.
///
/// # Errors
/// A violation of `field` when the time is before 1970, after 9999, or not in its canonical form.
pub fn read_event(field: &str, time: &prost_types::Timestamp) -> Result<EventTime, Violation> {
    let cut = read(field, time)?;
    Ok(EventTime::new(cut, time.nanos.unsigned_abs() % 1_000_000))
}

/// A duration, written.
#[must_use]
pub fn write_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A duration, read.
///
/// # Errors
/// A violation of `field` when it is negative, longer than a hundred years, or not in its canonical form.
pub fn read_duration(field: &str, duration: &prost_types::Duration) -> Result<Duration, Violation> {
    const CENTURY: i64 = 100 * 366 * 86_400;
    match (u64::try_from(duration.seconds), u32::try_from(duration.nanos)) {
        (Ok(seconds), Ok(nanos)) if duration.seconds <= CENTURY && nanos < 1_000_000_000 => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => Err(Violation::new(field, "must be a duration from 0 to a hundred years")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back_and_bad_ones_are_refused() {
        let time = Timestamp::from_millis(1_770_028_200_123);
        assert_eq!(read("t", &write(time)), Ok(time));
        for nanos in [0, 1, 100_000, 999_999_999] {
            let wire = prost_types::Timestamp { seconds: 1_770_028_200, nanos };
            assert_eq!(read_event("t", &wire).map(write_event), Ok(wire));
        }
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert!(read("t", &prost_types::Timestamp { seconds, nanos }).is_err());
            assert!(read_duration("t", &prost_types::Duration { seconds, nanos }).is_err());
        }
        let duration = Duration::from_micros(1_500_001);
        assert_eq!(read_duration("t", &write_duration(duration)), Ok(duration));
    }
}

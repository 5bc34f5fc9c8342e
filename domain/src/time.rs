//! Points in time, as values. Nobody in this crate asks what time it is.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;

/// A point in time: whole milliseconds since 1970-01-01T00:00:00Z, never before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-31T23:59:59.999Z: the last time that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The time that many milliseconds after 1970, held within 1970 and [`Timestamp::MAX`].
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(0, Self::MAX.0))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, as signatures carry them.
    #[must_use]
    pub fn as_seconds(self) -> i64 {
        self.0 / 1000
    }

    /// The time from `earlier` to this, zero when this is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// Reads an RFC 3339 time such as `2026-02-02T10:30:00Z`. What is finer than a millisecond is cut off.
    ///
    /// # Errors
    /// A sentence, when the text is not such a time or is before 1970.
    pub fn parse(text: &str) -> Result<Self, String> {
        EventTime::parse(text).map(EventTime::cut)
    }
}

/// When an event happened: to the nanosecond, from 1970 to 9999. Everything that Postrider does itself has a
/// [`Timestamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventTime {
    cut: Timestamp,
    /// Nanoseconds below the millisecond.
    rest: u32,
}

impl EventTime {
    const NANOS: u32 = 1_000_000;

    /// A time and the nanoseconds beyond its millisecond.
    #[must_use]
    pub fn new(cut: Timestamp, rest: u32) -> Self {
        Self { cut, rest: rest.min(Self::NANOS - 1) }
    }

    /// The time, cut off at its millisecond.
    #[must_use]
    pub fn cut(self) -> Timestamp {
        self.cut
    }

    /// Nanoseconds beyond the millisecond.
    #[must_use]
    pub fn rest(self) -> u32 {
        self.rest
    }

    /// Nanoseconds beyond the second.
    #[must_use]
    pub fn subsec_nanos(self) -> u32 {
        u32::try_from(self.cut.0 % 1000).unwrap_or(0) * Self::NANOS + self.rest
    }

    /// Reads an RFC 3339 time such as `2026-02-02T10:30:00.000100Z`.
    ///
    /// # Errors
    /// A sentence, when the text is not such a time or is before 1970.
    pub fn parse(text: &str) -> Result<Self, String> {
        let since = since_epoch(text)
            .ok_or_else(|| format!("'{text}' is not an RFC 3339 time such as 2026-02-02T10:30:00Z"))?;
        if since.is_negative() {
            return Err(format!("'{text}' is before 1970"));
        }
        match i64::try_from(since.as_millis()) {
            Ok(millis) if millis <= Timestamp::MAX.0 => {
                let rest = since.subsec_nanos().unsigned_abs() % Self::NANOS;
                Ok(Self::new(Timestamp(millis), rest))
            }
            _ => Err(format!("'{text}' is after 9999")),
        }
    }
}

impl From<Timestamp> for EventTime {
    fn from(time: Timestamp) -> Self {
        Self::new(time, 0)
    }
}

/// RFC 3339 in UTC, with 0, 3, 6 or 9 decimals: as few as it needs.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.subsec_nanos();
        let whole = EPOCH.saturating_add(SignedDuration::from_secs(self.cut.as_seconds()));
        match nanos {
            0 => write!(f, "{whole}Z"),
            _ if nanos.is_multiple_of(1_000_000) => write!(f, "{whole}.{:03}Z", nanos / 1_000_000),
            _ if nanos.is_multiple_of(1000) => write!(f, "{whole}.{:06}Z", nanos / 1000),
            _ => write!(f, "{whole}.{nanos:09}Z"),
        }
    }
}

/// 1970 as a date without a place: `jiff::Timestamp` ends 26 hours before 9999 does, so that it has a date in every place.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

fn since_epoch(text: &str) -> Option<SignedDuration> {
    let pieces = Pieces::parse(text).ok()?;
    let (time, offset) = (pieces.time()?, pieces.to_numeric_offset()?);
    let local = pieces.date().to_datetime(time).duration_since(EPOCH);
    Some(local - SignedDuration::from_secs(offset.seconds().into()))
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at [`Timestamp::MAX`].
    fn add(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at 1970.
    fn sub(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(millis))
    }
}

/// RFC 3339 in UTC; milliseconds only when they are not zero.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every value is within what can be added.
        write!(f, "{}Z", EPOCH.saturating_add(SignedDuration::from_millis(self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_mission_writes() {
        let time = Timestamp::parse("2026-02-02T10:30:00Z").unwrap();
        assert_eq!(time.to_string(), "2026-02-02T10:30:00Z");
        assert_eq!((time + Duration::from_millis(120)).to_string(), "2026-02-02T10:30:00.12Z");
    }

    #[test]
    fn is_read_with_any_offset_and_to_the_last_millisecond() {
        let table = [
            ("2026-02-02T12:30:00.1239+02:00", Some(1_770_028_200_123)),
            ("2026-02-02T10:30:00Z", Some(1_770_028_200_000)),
            ("1969-12-31T23:30:00.0005-01:00", Some(1_800_000)),
            ("9999-12-31T10:00:00Z", Some(253_402_250_400_000)),
            ("9999-12-31T23:59:59.999Z", Some(Timestamp::MAX.0)),
            ("9999-12-31T23:59:59-01:00", None),
            ("1970-01-01T00:30:00+01:00", None),
            ("2026-02-02T10:30:00", None),
            ("2026-02-02", None),
            ("10000-01-01T00:00:00Z", None),
        ];
        for (text, millis) in table {
            assert_eq!(Timestamp::parse(text).ok().map(Timestamp::as_millis), millis, "{text}");
        }
    }

    #[test]
    fn an_event_keeps_its_nanoseconds() {
        let table = [
            ("2026-02-02T10:30:00Z", "2026-02-02T10:30:00Z"),
            ("2026-02-02T10:30:00.000Z", "2026-02-02T10:30:00Z"),
            ("2026-02-02T10:30:00.12Z", "2026-02-02T10:30:00.120Z"),
            ("2026-02-02T10:30:00.0001Z", "2026-02-02T10:30:00.000100Z"),
            ("2026-02-02T12:30:00.123456+02:00", "2026-02-02T10:30:00.123456Z"),
            ("2026-02-02T10:30:00.000000001Z", "2026-02-02T10:30:00.000000001Z"),
            ("1970-01-01T00:00:00.999999999Z", "1970-01-01T00:00:00.999999999Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
        ];
        for (text, shown) in table {
            let time = EventTime::parse(text).unwrap();
            assert_eq!(time.to_string(), shown, "{text}");
            assert_eq!(EventTime::parse(shown), Ok(time), "{text}");
            assert_eq!(EventTime::new(time.cut(), time.rest()), time, "{text}");
        }
        let time = |text| EventTime::parse(text).unwrap();
        assert!(time("2026-02-02T10:30:00.0001Z") < time("2026-02-02T10:30:00.0004Z"));
        assert!(time("2026-02-02T10:30:00.000999999Z") < time("2026-02-02T10:30:00.001Z"));
        assert_eq!(time("2026-02-02T10:30:00.123456789Z").subsec_nanos(), 123_456_789);
        assert!(EventTime::parse("1969-12-31T23:59:59.999999999Z").is_err());
    }

    #[test]
    fn the_last_day_of_9999_is_not_shown_as_its_end() {
        for millis in
            [0, 999, 253_402_207_200_999, 253_402_207_201_000, 253_402_250_400_000, Timestamp::MAX.0]
        {
            let time = Timestamp::from_millis(millis);
            assert_eq!(Timestamp::parse(&time.to_string()), Ok(time), "{time}");
        }
    }

    #[test]
    fn stays_within_its_range() {
        assert_eq!(Timestamp::from_millis(-1), Timestamp::default());
        assert_eq!(Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::default() - Duration::from_secs(1), Timestamp::default());
        assert_eq!(Timestamp::default().since(Timestamp::MAX), Duration::ZERO);
        assert!(Timestamp::parse("yesterday").is_err());
        assert!(Timestamp::parse("1969-12-31T23:59:59Z").is_err());
    }
}

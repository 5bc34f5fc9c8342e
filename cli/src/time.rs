//! Times and durations as people write and read them, and as the wire carries them.

use std::fmt::Write as _;
use std::time::Duration;

use postrider_domain::time::{EventTime, Timestamp};

/// A moment given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// An RFC 3339 time.
    At(Timestamp),
    /// That long ago.
    Ago(Duration),
}

impl When {
    /// The moment, on the wire.
    pub(crate) fn to_wire(self, now: Timestamp) -> prost_types::Timestamp {
        to_wire(match self {
            Self::At(time) => time,
            Self::Ago(duration) => now - duration,
        })
    }
}

/// Reads `2026-02-02T10:30:00Z`, or a duration such as `15m`, which means that long ago.
pub(crate) fn parse_when(text: &str) -> Result<When, String> {
    if let Ok(duration) = parse_duration(text) {
        return Ok(When::Ago(duration));
    }
    Timestamp::parse(text).map(When::At).map_err(|_| {
        "give an RFC 3339 time such as 2026-02-02T10:30:00Z, or how long ago, such as 15m".into()
    })
}

/// Reads the RFC 3339 time of an event.
pub(crate) fn parse_event_time(text: &str) -> Result<EventTime, String> {
    EventTime::parse(text)
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration such as `500ms`, `5s`, `1m30s`, `24h`, `7d` or `0`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration such as 500ms, 5s, 1m30s, 24h or 7d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut millis) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let amount = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or_else(wrong)?;
        millis = millis.checked_add(amount).ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(millis)) }
}

/// The time, on the wire.
pub(crate) fn to_wire(time: impl Into<EventTime>) -> prost_types::Timestamp {
    let time = time.into();
    let nanos = i32::try_from(time.subsec_nanos()).unwrap_or(0);
    prost_types::Timestamp { seconds: time.cut().as_seconds(), nanos }
}

/// The duration, on the wire.
pub(crate) fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// The duration that the wire carries; zero when it is negative.
pub(crate) fn duration_from_wire(duration: &prost_types::Duration) -> Duration {
    Duration::try_from(*duration).unwrap_or_default()
}

/// RFC 3339 in UTC, as precise as the wire carries it.
pub(crate) fn rfc3339(time: &prost_types::Timestamp) -> String {
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{}s", time.seconds),
    }
}

/// RFC 3339 in UTC with exactly three decimals, so that columns line up.
pub(crate) fn for_table(time: &prost_types::Timestamp) -> String {
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{}s", time.seconds),
    }
}

/// A duration for programs, as protobuf's JSON has it: `1.5s`.
pub(crate) fn duration_json(duration: &prost_types::Duration) -> String {
    let duration = duration_from_wire(duration);
    let mut text = duration.as_secs().to_string();
    if duration.subsec_nanos() != 0 {
        let decimals = format!("{:09}", duration.subsec_nanos());
        text = format!("{text}.{}", decimals.trim_end_matches('0'));
    }
    text + "s"
}

/// A duration for people: `0.42ms`, `12.3ms`, `1.5s`, `1m30s`, `24h`, `7d`.
pub(crate) fn duration_for_people(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if duration.is_zero() {
        return "0".into();
    }
    if millis < 10.0 {
        return format!("{millis:.2}ms");
    }
    if millis < 1000.0 {
        return format!("{millis:.1}ms");
    }
    if duration.as_secs() < 60 {
        let seconds = format!("{:.1}", duration.as_secs_f64());
        return format!("{}s", seconds.trim_end_matches(".0"));
    }
    let mut rest = duration.as_secs();
    let mut text = String::new();
    let days = if rest > 86_400 { rest / 86_400 } else { 0 };
    rest -= days * 86_400;
    for (amount, unit) in [(days, 'd'), (rest / 3600, 'h'), (rest % 3600 / 60, 'm'), (rest % 60, 's')] {
        if amount > 0 {
            write!(text, "{amount}{unit}").expect("writing to a string succeeds");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let table = [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("24h", Some(86_400_000)),
            ("7d", Some(604_800_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1.5s", None),
            ("-5s", None),
            ("5 s", None),
            ("5é", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ];
        for (text, millis) in table {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn durations_are_written_for_people() {
        let table = [
            (0, "0"),
            (420, "0.42ms"),
            (12_340, "12.3ms"),
            (1_500_000, "1.5s"),
            (5_000_000, "5s"),
            (90_000_000, "1m30s"),
            (86_400_000_000, "24h"),
            (604_800_000_000, "7d"),
            (90_000_000_000, "1d1h"),
        ];
        for (micros, text) in table {
            assert_eq!(duration_for_people(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn durations_are_written_for_programs() {
        let wire = |seconds, nanos| duration_json(&prost_types::Duration { seconds, nanos });
        assert_eq!(wire(15, 0), "15s");
        assert_eq!(wire(0, 1_500_000), "0.0015s");
        assert_eq!(wire(-1, 0), "0s");
    }

    #[test]
    fn moments_are_read() {
        let now = Timestamp::parse("2026-02-02T10:30:00Z").unwrap();
        let at = |text: &str| parse_when(text).map(|when| rfc3339(&when.to_wire(now)));
        assert_eq!(at("15m").unwrap(), "2026-02-02T10:15:00Z");
        assert_eq!(at("2026-02-01T00:00:00.5Z").unwrap(), "2026-02-01T00:00:00.5Z");
        assert!(at("yesterday").is_err());
    }

    #[test]
    fn times_are_written() {
        let time = prost_types::Timestamp { seconds: 1_770_028_200, nanos: 0 };
        assert_eq!(rfc3339(&time), "2026-02-02T10:30:00Z");
        assert_eq!(for_table(&time), "2026-02-02T10:30:00.000Z");
    }
}

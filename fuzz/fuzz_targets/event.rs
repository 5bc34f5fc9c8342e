//! An event's data, which goes into the signed body byte for byte: whatever is accepted stays inside `data`.
//!
//! The input is the type, the time in nanoseconds, and the data, with zero bytes between them.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use postrider_domain::body::{Format, render};
use postrider_domain::event::{Attributes, Event, check_data};
use postrider_domain::id::EventKey;
use postrider_domain::json::read;
use postrider_domain::time::{EventTime, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

const MAX_BYTES: usize = 64 * 1024;

/// The body, as a receiver reads it that takes nothing unknown and nothing twice.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(alias = "type")]
    event: &'a str,
    timestamp: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The same as a CloudEvent.
#[derive(Deserialize)]
struct CloudEvent<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == 0);
    let (Some(name), Some(time), Some(data)) = (parts.next(), parts.next(), parts.next()) else { return };
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let Ok(event_type) = text(name).parse() else { return };
    if check_data(data, MAX_BYTES).is_err() {
        return;
    }
    assert!(!data.is_empty() && data.len() <= MAX_BYTES);
    assert!(read::<serde_json::Value>(data).is_ok(), "accepted data cannot be read by schemas and filters");
    let nanos: i64 = text(time).parse().unwrap_or_default();
    let cut = Timestamp::from_millis(nanos / 1_000_000);
    let timestamp = EventTime::new(cut, u32::try_from(nanos % 1_000_000).unwrap_or_default());
    let key = EventKey::new(cut, 1);
    let event = Event {
        key,
        id: key.into(),
        tenant: "acme".parse().expect("a tenant"),
        event_type,
        timestamp,
        accepted: key.created(),
        data: Bytes::copy_from_slice(data),
        attributes: Attributes::default(),
        ordering_key: None,
        trace: None,
    };
    let cloud_event = render(&event, Format::CloudEvents);
    let cloud_event: CloudEvent<'_> = serde_json::from_slice(&cloud_event).expect("a CloudEvent in JSON");
    assert_eq!(cloud_event.data.get().as_bytes(), data.trim_ascii(), "the data is not what was emitted");
    assert_eq!(cloud_event.r#type, event.event_type.as_str());
    for format in [Format::Event, Format::StandardWebhooks] {
        let body = render(&event, format);
        let read: Body<'_> = serde_json::from_slice(&body).expect("the body is JSON of these fields");
        assert_eq!(read.event, event.event_type.as_str());
        assert_eq!(read.data.get().as_bytes(), data.trim_ascii(), "the data is not what was emitted");
        assert_eq!(read.timestamp, event.timestamp.to_string());
        assert_eq!(EventTime::parse(read.timestamp), Ok(event.timestamp), "the body says another time");
    }
});

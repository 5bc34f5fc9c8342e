//! The body of a delivery: the event in the shape that its subscription asked for.

use bytes::Bytes;

use crate::event::Event;
use crate::trace::TraceContext;

/// The shape of a body. `data` is the emitted JSON, byte for byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `{"event": type, "timestamp": …, "data": …}`
    #[default]
    Event,
    /// `{"type": type, "timestamp": …, "data": …}`: Standard Webhooks, 'Payload structure'.
    StandardWebhooks,
    /// `{"specversion": "1.0", "id": …, "type": …, …, "data": …}`: CloudEvents 1.0, structured mode.
    CloudEvents,
    /// The data alone, with all else in headers `ce-*`: CloudEvents 1.0, binary mode.
    CloudEventsBinary,
    /// The data alone.
    Data,
}

impl Format {
    /// The header `content-type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Event | Self::StandardWebhooks | Self::CloudEventsBinary | Self::Data => "application/json",
            Self::CloudEvents => "application/cloudevents+json",
        }
    }

    /// What whoever chooses this format should know.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Self::CloudEventsBinary => Some(
                "the signature covers the id, the time of sending and the body, but no other header: in this format ce-type, \
                 ce-time, ce-source and the like are not signed, so a receiver must not trust them; cloudevents signs all of it",
            ),
            Self::Data => Some("in this format nothing tells a receiver the event's type"),
            Self::Event | Self::StandardWebhooks | Self::CloudEvents => None,
        }
    }

    /// Whether this header of a subscription's own would contradict the format.
    #[must_use]
    pub fn reserves(self, header: &str) -> bool {
        let prefix = header.as_bytes().get(..3);
        self == Self::CloudEventsBinary && prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"ce-"))
    }
}

/// The bytes that are signed and sent.
///
/// Names of event types, ids and tenants need no escaping: they consist of letters, digits, `.`, `_` and `-`.
#[must_use]
pub fn render(event: &Event, format: Format) -> Bytes {
    let head = match format {
        Format::Event => envelope("event", event),
        Format::StandardWebhooks => envelope("type", event),
        Format::CloudEvents => {
            let texts =
                attributes(event).into_iter().map(|(name, value)| format!(r#""{name}":{}"#, quoted(&value)));
            let texts: Vec<String> = texts.collect();
            format!(r#"{{{},"datacontenttype":"application/json","data":"#, texts.join(","))
        }
        Format::CloudEventsBinary | Format::Data => return event.data.clone(),
    };
    let mut body = Vec::with_capacity(head.len() + event.data.len() + 1);
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&event.data);
    body.push(b'}');
    body.into()
}

/// The headers that belong to the format, beside its content type.
#[must_use]
pub fn headers(event: &Event, format: Format) -> Vec<(String, String)> {
    match format {
        Format::CloudEventsBinary => {
            let header = |(name, value): (&str, String)| (format!("ce-{name}"), in_header(&value));
            attributes(event).into_iter().map(header).collect()
        }
        Format::Event | Format::StandardWebhooks | Format::CloudEvents | Format::Data => Vec::new(),
    }
}

fn envelope(name: &str, event: &Event) -> String {
    format!(r#"{{"{name}":"{}","timestamp":"{}","data":"#, event.event_type, event.timestamp)
}

/// CloudEvents' context attributes, with those of the extension Distributed Tracing. Source and id are unique together.
fn attributes(event: &Event) -> Vec<(&'static str, String)> {
    let mut attributes = vec![
        ("specversion", "1.0".to_owned()),
        ("id", event.id.to_string()),
        ("source", format!("/tenants/{}", event.tenant)),
        ("type", event.event_type.to_string()),
        ("time", event.timestamp.to_string()),
    ];
    let trace = event.trace.iter().flat_map(|trace: &TraceContext| {
        [("traceparent", trace.parent().to_owned()), ("tracestate", trace.state().to_owned())]
    });
    attributes.extend(trace.filter(|(_, value)| !value.is_empty()));
    attributes
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// As the HTTP binding wants it: space, `"`, `%` and what is not printable ASCII as percent and hex digits.
fn in_header(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'"' | b'%') => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Attributes;
    use crate::id::EventKey;
    use crate::time::{EventTime, Timestamp};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn event(state: Option<&str>) -> Event {
        let now = Timestamp::parse("2026-02-02T10:30:00Z").unwrap();
        Event {
            key: EventKey::new(now, 1),
            id: "my-event".parse().unwrap(),
            tenant: "docurift".parse().unwrap(),
            event_type: "document.completed".parse().unwrap(),
            timestamp: now.into(),
            accepted: now,
            data: Bytes::from_static(b"{ \"b\": 1.50, \"a\": \"\\u00e9\" }"),
            attributes: Attributes::new([("region".to_owned(), "eu".to_owned())]).unwrap(),
            ordering_key: None,
            trace: state.map(|state| TraceContext::new(PARENT, state).unwrap().unwrap()),
        }
    }

    #[test]
    fn the_data_is_carried_byte_for_byte() {
        let data = r#"{ "b": 1.50, "a": "\u00e9" }"#;
        let table = [
            (
                Format::Event,
                r#"{"event":"document.completed","timestamp":"2026-02-02T10:30:00Z","data":DATA}"#,
            ),
            (
                Format::StandardWebhooks,
                r#"{"type":"document.completed","timestamp":"2026-02-02T10:30:00Z","data":DATA}"#,
            ),
            (
                Format::CloudEvents,
                r#"{"specversion":"1.0","id":"my-event","source":"/tenants/docurift","type":"document.completed","time":"2026-02-02T10:30:00Z","datacontenttype":"application/json","data":DATA}"#,
            ),
            (Format::CloudEventsBinary, "DATA"),
            (Format::Data, "DATA"),
        ];
        for (format, expected) in table {
            assert_eq!(render(&event(None), format), expected.replace("DATA", data).as_bytes(), "{format:?}");
            assert_eq!(headers(&event(None), format).is_empty(), format != Format::CloudEventsBinary);
        }
    }

    #[test]
    fn cloud_events_have_the_trace_escaped_as_each_mode_wants() {
        let event = event(Some(r#"a=x"y \z%"#));
        let body: serde_json::Value = serde_json::from_slice(&render(&event, Format::CloudEvents)).unwrap();
        assert_eq!((&body["traceparent"], &body["tracestate"]), (&PARENT.into(), &r#"a=x"y \z%"#.into()));
        let headers = headers(&event, Format::CloudEventsBinary);
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time", "ce-traceparent", "ce-tracestate"];
        assert_eq!(names, expected);
        assert_eq!(headers[6].1, "a=x%22y%20\\z%25");
    }

    #[test]
    fn times_are_as_fine_as_they_were_emitted() {
        let mut event = event(None);
        event.timestamp = EventTime::parse("2026-02-02T10:30:00.000100Z").unwrap();
        for format in [Format::Event, Format::StandardWebhooks, Format::CloudEvents] {
            let body = String::from_utf8(render(&event, format).to_vec()).unwrap();
            assert!(body.contains(r#":"2026-02-02T10:30:00.000100Z""#), "{body}");
        }
        let headers = headers(&event, Format::CloudEventsBinary);
        assert!(headers.contains(&("ce-time".to_owned(), "2026-02-02T10:30:00.000100Z".to_owned())));
    }

    #[test]
    fn only_what_contradicts_a_format_is_reserved_by_it() {
        assert!(Format::CloudEventsBinary.reserves("CE-type"));
        assert!(!Format::CloudEventsBinary.reserves("ce"));
        assert!(!Format::CloudEvents.reserves("ce-type"));
    }
}

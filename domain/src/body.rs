//! The body of a delivery: the event in the shape that its subscription asked for.

use bytes::Bytes;

use crate::event::Event;

/// The shape of a body. `data` is the emitted JSON, byte for byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `{"event": type, "timestamp": …, "data": …}`
    #[default]
    Event,
    /// `{"type": type, "timestamp": …, "data": …}`: Standard Webhooks, «Payload structure».
    StandardWebhooks,
}

/// The bytes that are signed and sent.
///
/// Names of event types need no escaping: they consist of letters, digits, `.`, `_` and `-`.
#[must_use]
pub fn render(event: &Event, format: Format) -> Bytes {
    let name = match format {
        Format::Event => "event",
        Format::StandardWebhooks => "type",
    };
    let head = format!(r#"{{"{name}":"{}","timestamp":"{}","data":"#, event.event_type, event.timestamp);
    let mut body = Vec::with_capacity(head.len() + event.data.len() + 1);
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&event.data);
    body.push(b'}');
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Attributes;
    use crate::id::EventKey;
    use crate::time::Timestamp;

    #[test]
    fn the_data_is_carried_byte_for_byte() {
        let now = Timestamp::parse("2026-02-02T10:30:00Z").unwrap();
        let key = EventKey::new(now, 1);
        let event = Event {
            key,
            id: key.into(),
            tenant: "docurift".parse().unwrap(),
            event_type: "document.completed".parse().unwrap(),
            timestamp: now,
            accepted: now,
            data: Bytes::from_static(b"{ \"b\": 1.50, \"a\": \"\\u00e9\" }"),
            attributes: Attributes::default(),
            trace: None,
        };
        let table = [(Format::Event, "event"), (Format::StandardWebhooks, "type")];
        for (format, name) in table {
            let expected = format!(
                r#"{{"{name}":"document.completed","timestamp":"2026-02-02T10:30:00Z","data":{{ "b": 1.50, "a": "\u00e9" }}}}"#
            );
            assert_eq!(render(&event, format), expected.as_bytes());
        }
    }
}

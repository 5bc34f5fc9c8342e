//! The event that is emitted, and the POST it becomes: a processed document, of the size such events have.

/// The event's type.
pub(crate) const EVENT_TYPE: &str = "document.completed";

/// The event's data: 327 bytes of JSON.
pub(crate) const DATA: &str = concat!(
    r#"{"documentId":"doc_01J9Z8Q6X4T2","jobId":"job_01J9Z8Q6X5B7","status":"completed","confidence":0.95,"#,
    r#""documentType":"invoice","fileName":"invoice-2026-02-001873.pdf","pageCount":3,"processingTimeMs":1874,"#,
    r#""creditsUsed":3,"creditsRemaining":48211,"resultUrl":"https://api.example.com/v1/documents/doc_01J9Z8Q6X4T2","#,
    r#""labels":["eu"]}"#
);

/// The body of the POST that a delivery of it is.
pub(crate) fn body() -> String {
    format!(r#"{{"event":"{EVENT_TYPE}","timestamp":"2026-02-02T10:30:00.000Z","data":{DATA}}}"#)
}

/// The headers of that POST, as a control plane writes them.
pub(crate) const HEADERS: [(&str, &str); 5] = [
    ("content-type", "application/json"),
    ("user-agent", "Postrider/0.1.0"),
    ("webhook-id", "evt_01J9Z8Q6X4T2M3N4P5Q6R7S8T9"),
    ("webhook-timestamp", "1770028200"),
    ("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_is_json_of_the_size_it_claims() {
        assert_eq!(DATA.len(), 327);
        assert!(serde_json::from_str::<serde_json::Value>(&body()).unwrap()["data"].is_object());
    }
}

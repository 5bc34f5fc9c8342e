//! A tenant's headers: what is accepted is a header to every client, once, and frames or spoofs nothing.
//!
//! The input is `name:value` pairs with zero bytes between them.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use postrider_domain::headers::{CustomHeaders, MAX_COUNT, MAX_HEADER_BYTES, MAX_TOTAL_BYTES};

/// What no gateway must be able to read out of a tenant's header, however it spells names.
const NEVER: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "metadata-flavor",
    "te",
    "transfer-encoding",
    "upgrade",
    "webhook-signature",
    "x-aws-ec2-metadata-token",
    "x-forwarded-for",
];

fuzz_target!(|text: &str| {
    let pairs: Vec<(String, String)> = text
        .split('\0')
        .map(|pair| pair.split_once(':').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    hidden(&pairs);
    let Ok(headers) = CustomHeaders::new(pairs.clone()) else { return };
    assert_eq!(headers.len(), pairs.len());
    assert!(headers.len() <= MAX_COUNT);
    let mut names = HashSet::new();
    let mut total = 0;
    for (name, value) in headers.iter() {
        total += name.len() + value.len();
        assert!(name.len() + value.len() <= MAX_HEADER_BYTES);
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        assert!(!NEVER.contains(&name.replace('_', "-").as_str()), "{name} is accepted");
        let wire_name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name to the client");
        let wire_value = http::HeaderValue::from_str(value).expect("a value to the client");
        assert_eq!((wire_name.as_str(), wire_value.to_str().ok()), (name, Some(value)));
        assert!(headers.contains(&name.to_ascii_uppercase()));
    }
    assert!(total <= MAX_TOTAL_BYTES);
    let again = headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(CustomHeaders::new(again).as_ref(), Ok(&headers), "accepted once, refused again");
});

/// Neither an error nor what is kept shows a value.
fn hidden(pairs: &[(String, String)]) {
    let names: Vec<&String> = pairs.iter().map(|(name, _)| name).collect();
    if names.iter().any(|name| name.to_ascii_lowercase().contains("s3cr3t")) {
        return;
    }
    for value in ["s3cr3t", "s3cr3t\n"] {
        let shown = match CustomHeaders::new(names.iter().map(|&name| (name.clone(), value.to_owned()))) {
            Ok(headers) => format!("{headers:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}

//! Ids, names and SPIFFE identities: one spelling each, and none that means something in a path or a URI.

#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use postrider_domain::egress::HostPattern;
use postrider_domain::event::{Attributes, EventTypeName};
use postrider_domain::filter::Facts;
use postrider_domain::id::{
    AgentId, DeliveryId, EventId, EventKey, KeyId, PoolName, SubscriptionId, TenantId, TokenId,
};
use postrider_domain::identity::{AgentIdentity, TrustDomain};
use postrider_domain::join::Pin;
use postrider_domain::pattern::{Index, Pattern};
use postrider_domain::time::Timestamp;

/// The longest SPIFFE ID.
const MAX_SPIFFE_ID: usize = 2048;

fuzz_target!(|text: &str| {
    one_spelling::<SubscriptionId>(text);
    one_spelling::<KeyId>(text);
    one_spelling::<TokenId>(text);
    one_spelling::<EventKey>(text);
    one_spelling::<DeliveryId>(text);
    one_spelling::<Pin>(text);
    let words = [
        one_spelling::<TenantId>(text).is_some(),
        one_spelling::<PoolName>(text).is_some(),
        one_spelling::<AgentId>(text).is_some(),
        one_spelling::<EventId>(text).is_some(),
        one_spelling::<EventTypeName>(text).is_some(),
        one_spelling::<TrustDomain>(text).is_some(),
    ];
    if words.contains(&true) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(text.len() <= 255 && text.bytes().all(plain), "not a plain word: {text}");
    }
    identity(text);
    pattern(text);
    if let Ok(host) = text.parse::<HostPattern>() {
        assert_eq!(host.to_string().parse().as_ref(), Ok(&host));
        assert!(!host.covers("169.254.169.254") && !host.covers("127.0.0.1"), "a pattern covers an address");
    }
});

/// What the text is, if it is one; written again it must be the same text.
fn one_spelling<T: FromStr + Display>(text: &str) -> Option<T> {
    let read: T = text.parse().ok()?;
    assert_eq!(read.to_string(), text, "two spellings");
    Some(read)
}

fn identity(text: &str) {
    let Some(identity) = one_spelling::<AgentIdentity>(text) else { return };
    assert!(text.len() <= MAX_SPIFFE_ID);
    let uri: http::Uri = text.parse().expect("a SPIFFE ID is a URI");
    assert_eq!(uri.scheme_str(), Some("spiffe"));
    assert_eq!(uri.authority().map(|found| found.as_str()), Some(identity.trust_domain.to_string().as_str()));
    assert_eq!(uri.path(), format!("/pool/{}/agent/{}", identity.pool, identity.agent));
    assert_eq!(uri.query(), None);
}

fn pattern(text: &str) {
    let Some(pattern) = one_spelling::<Pattern>(text) else { return };
    let mut index = Index::default();
    index.insert(std::slice::from_ref(&pattern), None, 1);
    for name in ["document.completed", "document", "documents.completed"] {
        let name: EventTypeName = name.parse().expect("a name");
        assert_eq!(found(&index, &name), usize::from(pattern.matches(&name)));
    }
    index.remove(std::slice::from_ref(&pattern), None, 1);
    assert_eq!(found(&index, &"document.completed".parse().expect("a name")), 0);
}

fn found(index: &Index<i32>, name: &EventTypeName) -> usize {
    index.find(&Facts::new(name, Timestamp::default(), &Attributes::default(), b"{}")).len()
}

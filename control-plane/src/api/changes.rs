//! What the audit log is told of a change, in words. Never a secret: headers by name alone, and of a URL what is before
//! its query, where tokens travel.

use std::fmt::Display;

use postrider_domain::audit::Entry;
use postrider_domain::id::KeyId;
use postrider_proto::v1;

/// The action of every record of a secret that was shown after it was made.
pub(super) const REVEAL: &str = "RevealSigningKey";
/// How long a detail may be, in bytes.
const MAX: usize = 2000;

/// What a new subscription is.
pub(super) fn new(subscription: &v1::Subscription) -> String {
    let types = subscription.event_types.join(", ");
    bounded(format!("{}; url {}; event_types {types}", pool(subscription), address(&subscription.url)))
}

/// The end of a subscription.
pub(super) fn gone(subscription: &v1::Subscription) -> String {
    bounded(format!("{}; url {}", pool(subscription), address(&subscription.url)))
}

/// Whose agents act for a subscription.
fn pool(subscription: &v1::Subscription) -> String {
    let fallback = if subscription.allow_fallback_pool { " or its fallback" } else { "" };
    format!("pool {}{fallback}", subscription.pool)
}

/// Which of a subscription's fields have changed, from what to what.
pub(super) fn between(before: &v1::Subscription, after: &v1::Subscription) -> String {
    let mut changes = Vec::new();
    let mut changed = |field: &str, before: String, after: String, differs: bool| {
        if differs {
            changes.push(match before == after {
                // What differs is left out of both.
                true => format!("{field}: {after}, changed"),
                false => format!("{field}: {before} → {after}"),
            });
        }
    };
    macro_rules! compare {
        ($($field:ident by $show:expr),+ $(,)?) => {
            $({
                let (before, after) = (&before.$field, &after.$field);
                changed(stringify!($field), $show(before), $show(after), before != after);
            })+
        };
    }
    compare!(
        name by |text: &String| quoted(text),
        url by |url: &String| address(url),
        event_types by |types: &Vec<String>| types.join(", "),
        filter by |text: &String| if text.is_empty() { "none".to_owned() } else { quoted(text) },
        description by |text: &String| quoted(text),
        pool by |pool: &String| pool.clone(),
        allow_fallback_pool by |allowed: &bool| allowed.to_string(),
        validation_handshake by |wanted: &bool| wanted.to_string(),
        body_format by |format: &i32| {
            v1::BodyFormat::try_from(*format).map_or_else(|_| format.to_string(), |known| known.as_str_name().into())
        },
        headers by |headers: &std::collections::HashMap<String, String>| {
            let mut names: Vec<&str> = headers.keys().map(String::as_str).collect();
            names.sort_unstable();
            none_or(&names.join(", "))
        },
        retry_policy by |policy: &Option<v1::RetryPolicy>| retries(policy.as_ref()),
        max_in_flight by |count: &i32| count.to_string(),
        timeout by duration,
        connect_timeout by duration,
        order by |order: &i32| {
            v1::DeliveryOrder::try_from(*order).map_or_else(|_| order.to_string(), |known| known.as_str_name().into())
        },
        head_of_line by |policy: &i32| {
            v1::HeadOfLine::try_from(*policy).map_or_else(|_| policy.to_string(), |known| known.as_str_name().into())
        },
        failure_policy by |policy: &Option<v1::FailurePolicy>| policy.as_ref().map_or("default".to_owned(), |policy| {
            format!("disable_after {} {}", duration(&policy.disable_after), policy.while_disabled().as_str_name())
        }),
        rate_limit by |limit: &Option<v1::RateLimit>| {
            limit.as_ref().map_or_else(|| "none".to_owned(), |limit| format!("{}/s burst {}", limit.per_second, limit.burst))
        },
    );
    let changes = if changes.is_empty() { "nothing differs".to_owned() } else { changes.join("; ") };
    bounded(format!("{}; {changes}", pool(after)))
}

/// A repeated call that changed nothing and returned no secret.
pub(super) fn repeated(entry: Entry, request_id: &str) -> Entry {
    let detail = "a repeated call: nothing was changed, and no secret was returned".to_owned();
    Entry { request_id: request_id.to_owned(), detail, ..entry }
}

/// A repeated call that returned the secret of the key that the first call made: recorded as a reveal.
pub(super) fn revealed_again(entry: Entry, key: KeyId, request_id: &str) -> Entry {
    let detail = format!("{key}, by a repeated {}", entry.action);
    Entry { request_id: request_id.to_owned(), action: REVEAL.to_owned(), detail, ..entry }
}

/// A URL without its query.
fn address(url: &str) -> String {
    match url.split_once('?') {
        Some((address, _)) => format!("{address}?…"),
        None => url.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    format!("'{text}'")
}

fn none_or(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

fn duration(duration: &Option<prost_types::Duration>) -> String {
    duration.as_ref().map_or_else(|| "default".to_owned(), seconds)
}

fn seconds(duration: &prost_types::Duration) -> String {
    format!("{}s", duration.seconds as f64 + f64::from(duration.nanos) / 1e9)
}

fn retries(policy: Option<&v1::RetryPolicy>) -> String {
    let Some(policy) = policy else { return "default".to_owned() };
    let or_default = |value: Option<&dyn Display>| value.map_or("default".to_owned(), ToString::to_string);
    let schedule: Vec<String> = policy.schedule.iter().map(seconds).collect();
    let jitter = or_default(policy.jitter.as_ref().map(|jitter| jitter as &dyn Display));
    format!("[{}] jitter {jitter} window {}", schedule.join(" "), duration(&policy.window))
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX {
        let end = (0..=MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription() -> v1::Subscription {
        v1::Subscription {
            url: "https://hooks.example.com/a?token=s3cret".into(),
            pool: "edge".into(),
            event_types: vec!["a.b".into(), "c.*".into()],
            headers: [("authorization".to_owned(), "Bearer s3cret".to_owned())].into(),
            timeout: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
            ..v1::Subscription::default()
        }
    }

    #[test]
    fn each_changed_field_is_told_and_no_secret() {
        let before = subscription();
        assert_eq!(between(&before, &before), "pool edge; nothing differs");
        let mut after = before.clone();
        after.url = "https://hooks.example.com/b?token=s3cret2".into();
        after.timeout = Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 });
        after.max_in_flight = 8;
        assert_eq!(
            between(&before, &after),
            "pool edge; url: https://hooks.example.com/a?… → https://hooks.example.com/b?…; max_in_flight: 0 → 8; \
             timeout: 15s → 2.5s"
        );
        let mut hidden = before.clone();
        hidden.url = "https://hooks.example.com/a?token=other".into();
        hidden.headers.insert("authorization".into(), "Bearer s3cret3".into());
        let told = between(&before, &hidden);
        assert_eq!(
            told,
            "pool edge; url: https://hooks.example.com/a?…, changed; headers: authorization, changed"
        );
        let mut moved = before.clone();
        (moved.pool, moved.allow_fallback_pool) = ("acme".into(), true);
        assert_eq!(
            between(&before, &moved),
            "pool acme or its fallback; pool: edge → acme; allow_fallback_pool: false → true"
        );
        assert_eq!(gone(&before), "pool edge; url https://hooks.example.com/a?…");
        assert!(new(&before).starts_with("pool edge; url https://hooks.example.com/a?…; event_types"));
        for text in [new(&before), told] {
            assert!(!text.contains("s3cret") && !text.contains("other"), "{text}");
        }
    }

    #[test]
    fn whatever_is_changed_the_detail_is_of_bounded_size() {
        let mut after = subscription();
        after.event_types = vec!["ä.".repeat(60); 100];
        let told = between(&subscription(), &after);
        assert!(told.len() <= MAX + 3 && told.ends_with('…'), "{}", told.len());
    }
}

//! What a file can say of each thing: its fields as they are named there, as values that can be compared.
//!
//! What is wanted is read by the server's own rules first (`postrider_proto::subscription::read`), so that defaults are filled in
//! and a field that says what is the default anyway does not differ.

use postrider_proto::v1;
use serde_json::{Value, json};

use super::plan::Fields;
use crate::commands::signature_profile;
use crate::time::{duration_for_people, duration_from_wire};
use crate::view::{limit, word};

/// The fields of a tenant.
pub(crate) const TENANT: [&str; 3] = ["display_name", "unknown_event_types", "quota"];
/// The fields of an event type, beside its name.
pub(crate) const EVENT_TYPE: [&str; 6] =
    ["description", "example", "schema", "validation", "deprecated", "deprecation_message"];
/// The fields of a subscription, beside its id, and but for whether it is paused.
pub(crate) const SUBSCRIPTION: [&str; 19] = [
    "name",
    "url",
    "event_types",
    "filter",
    "description",
    "pool",
    "body_format",
    "headers",
    "signature_profiles",
    "retry_policy",
    "rate_limit",
    "order",
    "head_of_line",
    "failure_policy",
    "allow_fallback_pool",
    "validation_handshake",
    "max_in_flight",
    "timeout",
    "connect_timeout",
];

/// What a tenant is set to.
pub(crate) fn of_tenant(tenant: &v1::Tenant) -> Fields {
    let quota = tenant.quota.unwrap_or_default();
    Fields::from([
        ("display_name", tenant.display_name.clone().into()),
        ("unknown_event_types", strictness(tenant.unknown_event_types)),
        (
            "quota",
            json!({
                "max_subscriptions": limit::write(quota.max_subscriptions),
                "emit_rate": limit::write(quota.emit_rate),
                "emit_burst": quota.emit_burst,
                "max_stored_bytes": limit::write_bytes(quota.max_stored_bytes),
                "max_event_types": limit::write(quota.max_event_types),
                "delivery_rate": limit::write(quota.delivery_rate),
                "delivery_burst": quota.delivery_burst,
            }),
        ),
    ])
}

/// What an event type is.
pub(crate) fn of_event_type(event_type: &v1::EventType) -> Fields {
    Fields::from([
        ("description", event_type.description.clone().into()),
        ("example", json_text(&event_type.example)),
        ("schema", json_text(&event_type.schema)),
        ("validation", strictness(event_type.validation)),
        ("deprecated", event_type.deprecated.into()),
        ("deprecation_message", event_type.deprecation_message.clone().into()),
    ])
}

/// What a subscription is. Of headers the names are compared alone: their values are never shown.
pub(crate) fn of_subscription(subscription: &v1::Subscription) -> Fields {
    let mut headers: Vec<String> =
        subscription.headers.keys().map(|name| name.to_ascii_lowercase()).collect();
    headers.sort();
    let profiles: Vec<String> =
        subscription.signature_profiles.iter().map(signature_profile::write).collect();
    let rate = |limit: &v1::RateLimit| json!({ "per_second": limit.per_second, "burst": limit.burst });
    Fields::from([
        ("name", subscription.name.clone().into()),
        ("url", subscription.url.clone().into()),
        ("event_types", subscription.event_types.clone().into()),
        ("filter", subscription.filter.clone().into()),
        ("description", subscription.description.clone().into()),
        ("pool", subscription.pool.clone().into()),
        ("body_format", word::<v1::BodyFormat>(subscription.body_format).into()),
        ("headers", headers.into()),
        ("signature_profiles", profiles.into()),
        ("retry_policy", subscription.retry_policy.as_ref().map_or(Value::Null, retries)),
        ("rate_limit", subscription.rate_limit.as_ref().map_or(Value::Null, rate)),
        ("order", word::<v1::DeliveryOrder>(subscription.order).into()),
        ("head_of_line", word::<v1::HeadOfLine>(subscription.head_of_line).into()),
        ("failure_policy", subscription.failure_policy.as_ref().map_or(Value::Null, failures)),
        ("allow_fallback_pool", subscription.allow_fallback_pool.into()),
        ("validation_handshake", subscription.validation_handshake.into()),
        ("max_in_flight", subscription.max_in_flight.into()),
        ("timeout", duration(subscription.timeout.as_ref())),
        ("connect_timeout", duration(subscription.connect_timeout.as_ref())),
    ])
}

/// Whether a subscription is paused.
pub(crate) fn is_paused(subscription: &v1::Subscription) -> Value {
    (subscription.state() == v1::SubscriptionState::Paused).into()
}

fn retries(policy: &v1::RetryPolicy) -> Value {
    if !policy.schedule.is_empty() {
        let schedule: Vec<Value> = policy.schedule.iter().map(|delay| duration(Some(delay))).collect();
        return json!({ "schedule": schedule, "jitter": policy.jitter });
    }
    json!({
        "initial_delay": duration(policy.initial_delay.as_ref()),
        "factor": policy.factor,
        "max_delay": duration(policy.max_delay.as_ref()),
        "window": duration(policy.window.as_ref()),
        "jitter": policy.jitter,
    })
}

fn failures(policy: &v1::FailurePolicy) -> Value {
    json!({
        "disable_after": duration(policy.disable_after.as_ref()),
        "while_disabled": word::<v1::WhileDisabled>(policy.while_disabled),
    })
}

fn duration(given: Option<&prost_types::Duration>) -> Value {
    let text = |given: &prost_types::Duration| {
        let duration = duration_from_wire(given);
        // As it is read: whole milliseconds, where there are parts of a second.
        match duration.subsec_millis() {
            0 => duration_for_people(duration),
            _ => format!("{}ms", duration.as_millis()),
        }
    };
    given.map_or(Value::Null, |given| text(given).into())
}

fn strictness(value: i32) -> Value {
    let value = if value == 0 { v1::Strictness::Off.into() } else { value };
    word::<v1::Strictness>(value).into()
}

/// JSON text by what it says: its layout is nobody's business.
fn json_text(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn a_file_can_say_whatever_an_update_can_set() {
        let contract = include_str!("../../../proto/postrider/v1/subscriptions.proto");
        let update = contract.split_once("message UpdateSubscriptionRequest").unwrap().1;
        let list = update.split_once("// Allowed:").unwrap().1.split_once("google.").unwrap().0;
        let settable: BTreeSet<&str> = list.split('`').skip(1).step_by(2).collect();
        assert_eq!(settable, super::SUBSCRIPTION.into_iter().collect());
    }
}

//! The fields of a subscription that an update can set, and what they must satisfy beyond what the store may already
//! hold.

use postrider_domain::subscription::Subscription;
use postrider_proto::v1;
use tonic::Status;

use crate::api::status;

pub(super) const SETTABLE: [&str; 19] = [
    "name",
    "url",
    "event_types",
    "description",
    "pool",
    "body_format",
    "headers",
    "retry_policy",
    "max_in_flight",
    "timeout",
    "connect_timeout",
    "signature_profiles",
    "filter",
    "rate_limit",
    "order",
    "head_of_line",
    "failure_policy",
    "allow_fallback_pool",
    "validation_handshake",
];

/// Copies a field of [`SETTABLE`].
pub(super) fn set(wire: &mut v1::Subscription, wanted: &v1::Subscription, field: &str) {
    match field {
        "name" => wire.name.clone_from(&wanted.name),
        "url" => wire.url.clone_from(&wanted.url),
        "event_types" => wire.event_types.clone_from(&wanted.event_types),
        "description" => wire.description.clone_from(&wanted.description),
        "pool" => wire.pool.clone_from(&wanted.pool),
        "body_format" => wire.body_format = wanted.body_format,
        "headers" => wire.headers.clone_from(&wanted.headers),
        "retry_policy" => wire.retry_policy.clone_from(&wanted.retry_policy),
        "max_in_flight" => wire.max_in_flight = wanted.max_in_flight,
        "timeout" => wire.timeout = wanted.timeout,
        "connect_timeout" => wire.connect_timeout = wanted.connect_timeout,
        "signature_profiles" => wire.signature_profiles.clone_from(&wanted.signature_profiles),
        "filter" => wire.filter.clone_from(&wanted.filter),
        "rate_limit" => wire.rate_limit = wanted.rate_limit,
        "order" => wire.order = wanted.order,
        "head_of_line" => wire.head_of_line = wanted.head_of_line,
        "failure_policy" => wire.failure_policy = wanted.failure_policy,
        "allow_fallback_pool" => wire.allow_fallback_pool = wanted.allow_fallback_pool,
        "validation_handshake" => wire.validation_handshake = wanted.validation_handshake,
        _ => {}
    }
}

/// Refuses new values that can never work: a filter with a part that has no value for any event, such as
/// `timestamp("2026-13-01T00:00:00Z")`, and a URL with port 0.
pub(super) fn check_new(
    subscription: &Subscription,
    before: Option<&v1::Subscription>,
) -> Result<(), Status> {
    let filter =
        subscription.filter.as_ref().filter(|filter| before.is_none_or(|old| old.filter != filter.as_str()));
    if let Some(problem) = filter.and_then(|filter| filter.constant_problem()) {
        return Err(status::invalid_field("subscription.filter", problem.to_string()));
    }
    let url = &subscription.url;
    if url.port() == 0 && before.is_none_or(|old| old.url != url.as_str()) {
        let problem = "has the port 0, which cannot be called; write a port from 1 to 65535, or none";
        return Err(status::invalid_field("subscription.url", problem));
    }
    Ok(())
}

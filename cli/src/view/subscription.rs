//! Subscriptions, shown.

use std::collections::BTreeMap;

use postrider_proto::v1;
use serde::Serialize;

use super::health::{FailurePolicy, Health};
use super::key::SigningKey;
use super::{duration, time, word, word_unless_unspecified};
use crate::commands::signature_profile;
use crate::output::View;
use crate::time::{duration_for_people, duration_from_wire};

/// Mirrors `postrider.v1.Subscription`.
#[derive(Debug, Serialize)]
pub(crate) struct Subscription {
    id: String,
    tenant: String,
    name: String,
    url: String,
    event_types: Vec<String>,
    description: String,
    pool: String,
    body_format: String,
    headers: BTreeMap<String, String>,
    retry_policy: Option<RetryPolicy>,
    max_in_flight: i32,
    timeout: Option<String>,
    connect_timeout: Option<String>,
    rate_limit: Option<RateLimit>,
    order: String,
    head_of_line: String,
    failure_policy: Option<FailurePolicy>,
    state: String,
    state_reason: String,
    disable_cause: Option<String>,
    health: Option<Health>,
    create_time: Option<String>,
    update_time: Option<String>,
    signature_profiles: Vec<String>,
    filter: String,
    filter_error_count: u64,
    last_filter_error: String,
    last_filter_error_time: Option<String>,
    allow_fallback_pool: bool,
    validation_handshake: bool,
    validation: Option<Validation>,
    no_agent: bool,
    pool_not_allowed: bool,
}

/// Mirrors `postrider.v1.EndpointValidation`.
#[derive(Debug, Serialize)]
struct Validation {
    state: String,
    time: Option<String>,
    detail: String,
    allowed_origin: String,
    allowed_rate_per_minute: u32,
}

impl From<v1::EndpointValidation> for Validation {
    fn from(validation: v1::EndpointValidation) -> Self {
        Self {
            state: word::<v1::ValidationState>(validation.state),
            time: time(validation.time.as_ref()),
            detail: validation.detail,
            allowed_origin: validation.allowed_origin,
            allowed_rate_per_minute: validation.allowed_rate_per_minute,
        }
    }
}

/// Mirrors `postrider.v1.RateLimit`.
#[derive(Debug, Serialize)]
struct RateLimit {
    per_second: f64,
    burst: u32,
}

/// Mirrors `postrider.v1.RetryPolicy`.
#[derive(Debug, Serialize)]
struct RetryPolicy {
    initial_delay: Option<String>,
    factor: f64,
    max_delay: Option<String>,
    window: Option<String>,
    schedule: Vec<String>,
    jitter: Option<f64>,
    #[serde(skip)]
    sentence: String,
}

impl From<v1::Subscription> for Subscription {
    fn from(subscription: v1::Subscription) -> Self {
        Self {
            body_format: word::<v1::BodyFormat>(subscription.body_format),
            headers: subscription.headers.into_iter().collect(),
            signature_profiles: subscription
                .signature_profiles
                .iter()
                .map(signature_profile::write)
                .collect(),
            retry_policy: subscription.retry_policy.map(RetryPolicy::from),
            timeout: duration(subscription.timeout.as_ref()),
            connect_timeout: duration(subscription.connect_timeout.as_ref()),
            rate_limit: subscription
                .rate_limit
                .map(|limit| RateLimit { per_second: limit.per_second, burst: limit.burst }),
            order: word::<v1::DeliveryOrder>(subscription.order),
            head_of_line: word::<v1::HeadOfLine>(subscription.head_of_line),
            failure_policy: subscription.failure_policy.map(FailurePolicy::from),
            state: word::<v1::SubscriptionState>(subscription.state),
            disable_cause: word_unless_unspecified::<v1::DisableCause>(subscription.disable_cause),
            health: subscription.health.map(Health::from),
            create_time: time(subscription.create_time.as_ref()),
            update_time: time(subscription.update_time.as_ref()),
            filter: subscription.filter,
            filter_error_count: subscription.filter_error_count,
            last_filter_error: subscription.last_filter_error,
            last_filter_error_time: time(subscription.last_filter_error_time.as_ref()),
            allow_fallback_pool: subscription.allow_fallback_pool,
            validation_handshake: subscription.validation_handshake,
            validation: subscription.validation.map(Validation::from),
            no_agent: subscription.no_agent,
            pool_not_allowed: subscription.pool_not_allowed,
            id: subscription.id,
            tenant: subscription.tenant,
            name: subscription.name,
            url: subscription.url,
            event_types: subscription.event_types,
            description: subscription.description,
            pool: subscription.pool,
            max_in_flight: subscription.max_in_flight,
            state_reason: subscription.state_reason,
        }
    }
}

impl From<v1::RetryPolicy> for RetryPolicy {
    fn from(policy: v1::RetryPolicy) -> Self {
        Self {
            sentence: sentence(&policy),
            initial_delay: duration(policy.initial_delay.as_ref()),
            factor: policy.factor,
            max_delay: duration(policy.max_delay.as_ref()),
            window: duration(policy.window.as_ref()),
            schedule: policy.schedule.iter().map(crate::time::duration_json).collect(),
            jitter: policy.jitter,
        }
    }
}

fn sentence(policy: &v1::RetryPolicy) -> String {
    let people = |duration: &prost_types::Duration| duration_for_people(duration_from_wire(duration));
    let jitter = policy.jitter.map(|share| format!(", ±{:.0} %", share * 100.0)).unwrap_or_default();
    if !policy.schedule.is_empty() {
        let delays: Vec<String> = policy.schedule.iter().map(people).collect();
        return format!("after {}{jitter}", delays.join(", "));
    }
    let or = |duration: &Option<prost_types::Duration>, default: &str| {
        duration.as_ref().map_or_else(|| default.to_owned(), people)
    };
    let factor = if policy.factor == 0.0 { 3.0 } else { policy.factor };
    format!(
        "after {}, × {factor} up to {}, for {}{jitter}",
        or(&policy.initial_delay, "5s"),
        or(&policy.max_delay, "3h"),
        or(&policy.window, "24h")
    )
}

impl Subscription {
    fn order_sentence(&self) -> String {
        match self.order.as_str() {
            "none" => "none".to_owned(),
            order => format!("{order}, {} when one fails", self.head_of_line),
        }
    }

    fn filter_errors(&self) -> String {
        let time = self.last_filter_error_time.as_deref().unwrap_or_default();
        match self.filter_error_count {
            0 => String::new(),
            count => format!("{count}, delivered all the same; last at {time}: {}", self.last_filter_error),
        }
    }
}

impl Subscription {
    fn pool_and_fallback(&self) -> String {
        let fallback = if self.allow_fallback_pool { ", or its fallback" } else { "" };
        let waits = match (self.pool_not_allowed, self.no_agent) {
            (true, _) => " (not available to the tenant: deliveries are held)",
            (false, true) => " (no agent takes jobs: deliveries wait)",
            (false, false) => "",
        };
        format!("{}{fallback}{waits}", self.pool)
    }

    fn consent(&self) -> String {
        let Some(validation) = &self.validation else {
            return if self.validation_handshake { "not asked yet".to_owned() } else { String::new() };
        };
        let time = validation.time.as_deref().unwrap_or_default();
        let rate = match validation.allowed_rate_per_minute {
            0 => String::new(),
            rate => format!(", {rate} requests a minute"),
        };
        let detail = match validation.detail.as_str() {
            "" => String::new(),
            detail => format!(": {detail}"),
        };
        format!("{} at {time}{rate}{detail}", validation.state)
    }
}

impl View for Subscription {
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "STATE", "HEALTH", "POOL", "EVENT TYPES", "URL"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.state.clone(),
            self.health.as_ref().map(Health::state).unwrap_or_default(),
            self.pool.clone(),
            self.event_types.join(","),
            self.url.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}"));
        let state = match self.state_reason.as_str() {
            "" => self.state.clone(),
            reason => format!("{} ({reason})", self.state),
        };
        let in_flight = if self.max_in_flight == 0 { 64 } else { self.max_in_flight };
        let rate = self
            .rate_limit
            .as_ref()
            .map(|limit| format!("{} a second, {} at once", limit.per_second, limit.burst));
        let retries = self.retry_policy.as_ref().map(|policy| policy.sentence.clone());
        let failure = self.failure_policy.as_ref().map(|policy| policy.sentence().to_owned());
        let mut lines = vec![
            ("Subscription", self.id.clone()),
            ("Name", self.name.clone()),
            ("Tenant", self.tenant.clone()),
            ("State", state),
            ("URL", self.url.clone()),
            ("Event types", self.event_types.join(", ")),
            ("Filter", self.filter.clone()),
            ("Filter errors", self.filter_errors()),
            ("Description", self.description.clone()),
            ("Pool", self.pool_and_fallback()),
            ("Validation", self.consent()),
            ("Body format", self.body_format.clone()),
            ("Headers", headers.collect::<Vec<_>>().join("\n")),
            ("Signed as", self.signature_profiles.join("\n")),
            ("Retries", retries.unwrap_or_default()),
            ("When it fails", failure.unwrap_or_default()),
            ("Max in flight", in_flight.to_string()),
            ("Rate limit", rate.unwrap_or_else(|| "none".to_owned())),
            ("Order", self.order_sentence()),
            ("Timeout", self.timeout.clone().unwrap_or_default()),
            ("Connect timeout", self.connect_timeout.clone().unwrap_or_default()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Updated", self.update_time.clone().unwrap_or_default()),
        ];
        // After the state.
        let health = self.health.iter().flat_map(Health::details);
        lines.splice(3..3, health);
        lines
    }
}

/// A new subscription with its key and secret, as create prints it. It has no `Debug`.
#[derive(Serialize)]
pub(crate) struct Created {
    subscription: Subscription,
    signing_key: SigningKey,
    secret: String,
    warnings: Vec<String>,
}

impl Created {
    /// Joins them.
    pub(crate) fn new(
        subscription: v1::Subscription,
        key: v1::SigningKey,
        secret: String,
        warnings: Vec<String>,
    ) -> Self {
        Self { subscription: subscription.into(), signing_key: key.into(), secret, warnings }
    }
}

impl View for Created {
    const COLUMNS: &'static [&'static str] = Subscription::COLUMNS;

    fn row(&self) -> Vec<String> {
        self.subscription.row()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs = self.subscription.details();
        pairs.extend(self.signing_key.details().into_iter().take(1));
        if !self.secret.is_empty() {
            pairs.push(("Secret", self.secret.clone()));
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_mirrors_the_message() {
        let subscription = v1::Subscription {
            id: "sub_1".into(),
            event_types: vec!["*".into()],
            body_format: v1::BodyFormat::Event.into(),
            state: v1::SubscriptionState::Active.into(),
            retry_policy: Some(v1::RetryPolicy { jitter: Some(0.2), ..Default::default() }),
            timeout: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
            ..Default::default()
        };
        let json = serde_json::to_value(Subscription::from(subscription)).unwrap();
        assert_eq!(json["body_format"], "event");
        assert_eq!(json["state"], "active");
        assert_eq!(json["timeout"], "15s");
        assert_eq!(json["retry_policy"]["jitter"], 0.2);
        assert_eq!(json.as_object().unwrap().len(), 33);
    }

    #[test]
    fn a_retry_policy_is_a_sentence() {
        assert_eq!(sentence(&v1::RetryPolicy::default()), "after 5s, × 3 up to 3h, for 24h");
        let schedule = vec![prost_types::Duration { seconds: 90, nanos: 0 }; 2];
        let policy = v1::RetryPolicy { schedule, jitter: Some(0.1), ..Default::default() };
        assert_eq!(sentence(&policy), "after 1m30s, 1m30s, ±10 %");
    }
}

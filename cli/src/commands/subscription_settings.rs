//! The settings of a subscription as options, for create and update.

use std::time::Duration;

use postrider_proto::v1::{self, BodyFormat, DeliveryOrder, HeadOfLine};

use super::input::parse_header;
use super::signature_profile;
use crate::time::{duration_to_wire, parse_duration};
use crate::view::parse_word;

/// Delivery settings. Settings that are not given keep their value on update and take their default on create.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// External ID, unique in the tenant; '' on update removes it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Description, at most 500 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Filter: a CEL expression, such as 'event.data.amount > 100'; '' on update removes it
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Pool of agents that delivers [default: default]
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Format of the body: event, standard_webhooks, cloudevents, cloudevents_binary or data [default: event]
    #[arg(long, value_name = "FORMAT", value_parser = parse_word::<BodyFormat>)]
    body_format: Option<BodyFormat>,
    /// Extra request header, 'Name: value'; may be repeated. An update replaces all headers
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Signature profile; may be repeated. An update replaces all profiles [default: standard_webhooks]
    ///
    /// One of: standard_webhooks, timestamped:encoding=hex,signature=HEADER,timestamp=HEADER,event-id=HEADER
    /// (encoding may be base64), stripe:header=HEADER, github:header=HEADER. The part after the colon is optional.
    #[arg(long = "signature-profile", value_name = "PROFILE", value_parser = signature_profile::parse)]
    signature_profiles: Vec<v1::SignatureProfile>,
    /// Maximum number of attempts in flight: 1 to 1000 [default: 64]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<i32>,
    /// Maximum attempts per second, including retries: 0.1 to 10000; 0 for no limit [default: no limit]
    #[arg(long, value_name = "NUMBER")]
    rate_limit: Option<f64>,
    /// Maximum burst of attempts: 1 to 10000 [default: the attempts of one second]
    #[arg(long, value_name = "N", requires = "rate_limit")]
    rate_burst: Option<u32>,
    /// Timeout of an attempt as a whole: 1s to 60s [default: 15s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    attempt_timeout: Option<Duration>,
    /// Timeout of the TCP connect: 100ms to 30s [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    connect_timeout: Option<Duration>,
    #[command(flatten)]
    order: Order,
    #[command(flatten)]
    failure: FailurePolicy,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    retries: Retries,
}

/// What waits for what.
#[derive(clap::Args, Clone, Debug, Default)]
struct Order {
    /// Delivery order: none, per_key (events with the same ordering key in order) or strict (all in order) [default:
    /// none]
    #[arg(long, value_name = "ORDER", value_parser = parse_word::<DeliveryOrder>)]
    order: Option<DeliveryOrder>,
    /// With an order, how a failing delivery affects those behind it: skip (they continue when its retries are
    /// exhausted) or block (it is retried until it succeeds or is cancelled) [default: skip]
    #[arg(long, value_name = "POLICY", value_parser = parse_word::<HeadOfLine>)]
    head_of_line: Option<HeadOfLine>,
}

/// Handling of continuous failure.
#[derive(clap::Args, Clone, Debug, Default)]
struct FailurePolicy {
    /// Disable the subscription after continuous failure for this long: 1s to 30d; 0s for never [default: 5d]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    disable_after: Option<Duration>,
    /// How to handle events while it is disabled because of failures: queue or drop [default: queue]
    #[arg(long, value_name = "WHAT", value_parser = parse_word::<v1::WhileDisabled>)]
    while_disabled: Option<v1::WhileDisabled>,
}

/// By whom the endpoint is called, and whether it is asked before.
#[derive(clap::Args, Clone, Debug, Default)]
struct Reach {
    /// Allow agents of the fallback pool to deliver while the pool has none [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_fallback_pool: Option<bool>,
    /// Allow the CloudEvents validation handshake (`subscriptions validate`) [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    validation_handshake: Option<bool>,
}

/// When to try again.
#[derive(clap::Args, Clone, Debug, Default)]
struct Retries {
    /// Delay after the first failure: 1s to 24h [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Retries")]
    retry_initial_delay: Option<Duration>,
    /// Factor by which the delay grows: 1 to 10 [default: 3]
    #[arg(long, value_name = "NUMBER", help_heading = "Retries")]
    retry_factor: Option<f64>,
    /// Maximum delay: up to 24h [default: 3h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Retries")]
    retry_max_delay: Option<Duration>,
    /// How long retries continue after the first attempt: 0 (one attempt) to 7d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Retries")]
    retry_window: Option<Duration>,
    /// Explicit list of delays instead, one per retry, such as 5s,1m,1h
    #[arg(long, value_name = "DURATION,…", value_delimiter = ',', value_parser = parse_duration)]
    #[arg(help_heading = "Retries")]
    #[arg(conflicts_with_all = ["retry_initial_delay", "retry_factor", "retry_max_delay", "retry_window"])]
    retry_schedule: Vec<Duration>,
    /// Jitter: the random share of a delay: 0 to 0.5 [default: 0.2]
    #[arg(long, value_name = "NUMBER", help_heading = "Retries")]
    retry_jitter: Option<f64>,
}

impl Settings {
    /// Writes what was given into the subscription, and returns the paths of the fields it wrote.
    pub(crate) fn apply(self, subscription: &mut v1::Subscription) -> Vec<String> {
        let mut paths = Vec::new();
        let mut wrote = |path: &str| paths.push(path.to_owned());
        if let Some(name) = self.name {
            subscription.name = name;
            wrote("name");
        }
        if let Some(description) = self.description {
            subscription.description = description;
            wrote("description");
        }
        if let Some(filter) = self.filter {
            subscription.filter = filter;
            wrote("filter");
        }
        if let Some(pool) = self.pool {
            subscription.pool = pool;
            wrote("pool");
        }
        self.reach.apply(subscription, &mut wrote);
        if let Some(format) = self.body_format {
            subscription.set_body_format(format);
            wrote("body_format");
        }
        if !self.headers.is_empty() {
            subscription.headers = self.headers.into_iter().collect();
            wrote("headers");
        }
        if !self.signature_profiles.is_empty() {
            subscription.signature_profiles = self.signature_profiles;
            wrote("signature_profiles");
        }
        if let Some(max) = self.max_in_flight {
            subscription.max_in_flight = max;
            wrote("max_in_flight");
        }
        if let Some(per_second) = self.rate_limit {
            let limit = v1::RateLimit { per_second, burst: self.rate_burst.unwrap_or(0) };
            subscription.rate_limit = (per_second != 0.0).then_some(limit);
            wrote("rate_limit");
        }
        self.order.apply(subscription, &mut wrote);
        if self.failure.given() {
            self.failure.apply(subscription.failure_policy.get_or_insert_default());
            wrote("failure_policy");
        }
        if let Some(timeout) = self.attempt_timeout {
            subscription.timeout = Some(duration_to_wire(timeout));
            wrote("timeout");
        }
        if let Some(timeout) = self.connect_timeout {
            subscription.connect_timeout = Some(duration_to_wire(timeout));
            wrote("connect_timeout");
        }
        if self.retries.given() {
            self.retries.apply(subscription.retry_policy.get_or_insert_default());
            wrote("retry_policy");
        }
        paths
    }

    /// Whether part of the failure policy is given, which is updated as a whole.
    pub(crate) fn changes_failure_policy(&self) -> bool {
        self.failure.given()
    }

    /// Whether part of the retry policy is given, which is updated as a whole.
    pub(crate) fn changes_retries(&self) -> bool {
        self.retries.given()
    }
}

impl Order {
    fn apply(self, subscription: &mut v1::Subscription, wrote: &mut impl FnMut(&str)) {
        if let Some(order) = self.order {
            subscription.set_order(order);
            wrote("order");
        }
        if let Some(head_of_line) = self.head_of_line {
            subscription.set_head_of_line(head_of_line);
            wrote("head_of_line");
        }
    }
}

impl FailurePolicy {
    fn given(&self) -> bool {
        self.disable_after.is_some() || self.while_disabled.is_some()
    }

    fn apply(self, policy: &mut v1::FailurePolicy) {
        if let Some(after) = self.disable_after {
            policy.disable_after = Some(duration_to_wire(after));
        }
        if let Some(meanwhile) = self.while_disabled {
            policy.set_while_disabled(meanwhile);
        }
    }
}

impl Reach {
    fn apply(self, subscription: &mut v1::Subscription, wrote: &mut impl FnMut(&str)) {
        if let Some(allow) = self.allow_fallback_pool {
            subscription.allow_fallback_pool = allow;
            wrote("allow_fallback_pool");
        }
        if let Some(wanted) = self.validation_handshake {
            subscription.validation_handshake = wanted;
            wrote("validation_handshake");
        }
    }
}

impl Retries {
    fn given(&self) -> bool {
        self.retry_factor.is_some()
            || self.retry_jitter.is_some()
            || !self.retry_schedule.is_empty()
            || self.changes_growth()
    }

    fn changes_growth(&self) -> bool {
        let durations = [self.retry_initial_delay, self.retry_max_delay, self.retry_window];
        self.retry_factor.is_some() || durations.iter().any(Option::is_some)
    }

    fn apply(self, policy: &mut v1::RetryPolicy) {
        if !self.retry_schedule.is_empty() {
            let schedule = self.retry_schedule.into_iter().map(duration_to_wire).collect();
            *policy = v1::RetryPolicy { schedule, jitter: policy.jitter, ..Default::default() };
        } else if self.changes_growth() {
            policy.schedule.clear();
        }
        let replace = |field: &mut Option<prost_types::Duration>, given: Option<Duration>| {
            if let Some(duration) = given {
                *field = Some(duration_to_wire(duration));
            }
        };
        replace(&mut policy.initial_delay, self.retry_initial_delay);
        replace(&mut policy.max_delay, self.retry_max_delay);
        replace(&mut policy.window, self.retry_window);
        policy.factor = self.retry_factor.unwrap_or(policy.factor);
        policy.jitter = self.retry_jitter.or(policy.jitter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn parsed(args: &[&str]) -> Settings {
        let command = Settings::augment_args(clap::Command::new("test").no_binary_name(true));
        Settings::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    #[test]
    fn only_what_was_given_is_written() {
        let mut subscription = v1::Subscription { pool: "eu".into(), ..Default::default() };
        assert_eq!(parsed(&[]).apply(&mut subscription), Vec::<String>::new());
        let args = ["--description", "x", "-H", "A: 1", "-H", "B: 2", "--attempt-timeout", "5s"];
        assert_eq!(parsed(&args).apply(&mut subscription), ["description", "headers", "timeout"]);
        assert_eq!(subscription.pool, "eu");
        assert_eq!(subscription.headers.len(), 2);
        assert_eq!(subscription.timeout.unwrap().seconds, 5);
    }

    #[test]
    fn a_rate_limit_is_set_with_its_burst_and_taken_away_by_0() {
        let mut subscription = v1::Subscription::default();
        let paths = parsed(&["--rate-limit", "2.5", "--rate-burst", "4"]).apply(&mut subscription);
        assert_eq!(paths, ["rate_limit"]);
        assert_eq!(subscription.rate_limit, Some(v1::RateLimit { per_second: 2.5, burst: 4 }));
        assert_eq!(parsed(&["--rate-limit", "0"]).apply(&mut subscription), ["rate_limit"]);
        assert_eq!(subscription.rate_limit, None);
    }

    #[test]
    fn parts_of_the_failure_policy_that_are_not_given_stay() {
        let mut subscription = v1::Subscription::default();
        assert_eq!(parsed(&["--while-disabled", "drop"]).apply(&mut subscription), ["failure_policy"]);
        assert_eq!(parsed(&["--disable-after", "0s"]).apply(&mut subscription), ["failure_policy"]);
        let policy = subscription.failure_policy.unwrap();
        assert_eq!(
            (policy.disable_after.unwrap().seconds, policy.while_disabled()),
            (0, v1::WhileDisabled::Drop)
        );
    }

    #[test]
    fn a_schedule_and_growth_replace_each_other() {
        let mut subscription = v1::Subscription::default();
        let paths = parsed(&["--retry-window", "1h", "--retry-jitter", "0.1"]).apply(&mut subscription);
        assert_eq!(paths, ["retry_policy"]);
        parsed(&["--retry-schedule", "5s,1m"]).apply(&mut subscription);
        let policy = subscription.retry_policy.as_ref().unwrap();
        assert_eq!((policy.schedule.len(), policy.window, policy.jitter), (2, None, Some(0.1)));
        parsed(&["--retry-factor", "2"]).apply(&mut subscription);
        let policy = subscription.retry_policy.unwrap();
        assert_eq!((policy.schedule.len(), policy.factor), (0, 2.0));
    }
}

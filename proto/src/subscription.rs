//! Subscriptions: `postrider.v1.Subscription` ⇄ [`Subscription`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use postrider_domain::body::Format;
use postrider_domain::egress::EndpointUrl;
use postrider_domain::filter::Filter;
use postrider_domain::headers::CustomHeaders;
use postrider_domain::id::{PoolName, SubscriptionId, TenantId};
use postrider_domain::lane::RateLimit;
use postrider_domain::order::{HeadOfLine, Order};
use postrider_domain::pattern::Pattern;
use postrider_domain::retry;
use postrider_domain::signing::Profiles;
use postrider_domain::subscription::{
    DEFAULT_CONNECT_TIMEOUT, DEFAULT_MAX_IN_FLIGHT, DEFAULT_TIMEOUT, DisableCause, Ranges, State,
    Subscription,
};
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;

use crate::v1;
use crate::{health, signature_profile, time, validation};

/// What stands for the value of a header in answers: the values are credentials of receivers.
pub const HIDDEN: &str = "***";

/// What stands for the path and the query of a URL that is shown to somebody who may only look: they may be secrets.
pub const HIDDEN_PATH: &str = "/…";

/// A URL as it is shown to somebody who may only look: where it leads, and nothing of its path and query.
#[must_use]
pub fn hide_path(url: &EndpointUrl) -> String {
    let path = if url.path_and_query() == "/" { "/" } else { HIDDEN_PATH };
    format!("{}{path}", url.origin())
}

/// A subscription as answers show it: with [`HIDDEN`] for the values of its headers.
#[must_use]
pub fn show(subscription: &Subscription) -> v1::Subscription {
    let mut shown = write(subscription);
    shown.headers.values_mut().for_each(|value| HIDDEN.clone_into(value));
    shown
}

/// Puts the value that is stored where headers that were sent hold [`HIDDEN`], so that what was read can be sent back.
///
/// # Errors
/// When there is no value that it could stand for.
pub fn restore_masked(sent: &mut HashMap<String, String>, stored: &CustomHeaders) -> Result<(), Violation> {
    for (name, value) in sent.iter_mut().filter(|(_, value)| *value == HIDDEN) {
        let known = stored.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let problem = || {
            format!("the header {name:.64} has no value yet that {HIDDEN} could stand for; give its value")
        };
        known.ok_or_else(|| Violation::new("headers", problem()))?.1.clone_into(value);
    }
    Ok(())
}

/// A subscription, written with all that it has.
#[must_use]
pub fn write(subscription: &Subscription) -> v1::Subscription {
    let (state, cause, state_reason) = write_state(&subscription.state);
    v1::Subscription {
        id: subscription.id.to_string(),
        tenant: subscription.tenant.to_string(),
        name: subscription.name.clone(),
        url: subscription.url.as_str().to_owned(),
        event_types: subscription.patterns.iter().map(ToString::to_string).collect(),
        description: subscription.description.clone(),
        pool: subscription.pool.to_string(),
        body_format: write_format(subscription.format).into(),
        headers: subscription
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        retry_policy: Some(write_retry(&subscription.retry)),
        max_in_flight: i32::try_from(subscription.max_in_flight).unwrap_or(i32::MAX),
        timeout: Some(time::write_duration(subscription.timeout)),
        connect_timeout: Some(time::write_duration(subscription.connect_timeout)),
        state: state.into(),
        disable_cause: cause.into(),
        state_reason,
        failure_policy: Some(health::write_policy(&subscription.failure)),
        create_time: Some(time::write(subscription.created)),
        update_time: Some(time::write(subscription.updated)),
        rate_limit: subscription
            .rate_limit
            .map(|limit| v1::RateLimit { per_second: limit.per_second, burst: limit.burst }),
        signature_profiles: signature_profile::write(&subscription.profiles),
        filter: subscription.filter.as_ref().map(ToString::to_string).unwrap_or_default(),
        order: write_order(subscription.order).into(),
        head_of_line: write_head_of_line(subscription.head_of_line).into(),
        allow_fallback_pool: subscription.allow_fallback,
        validation_handshake: subscription.handshake,
        validation: subscription.validation.as_ref().map(validation::write),
        // What the control plane counts, it adds itself.
        ..v1::Subscription::default()
    }
}

/// A subscription, read: unset settings take their defaults. The caller has set what the server decides (`id`,
/// `state`, times).
///
/// # Errors
/// Every problem in every field.
pub fn read(wire: &v1::Subscription) -> Result<Subscription, Vec<Violation>> {
    let mut reader = Reader::default();
    let names = read_names(wire, &mut reader);
    let request = read_request(wire, &mut reader);
    let wanted = read_wanted(wire, &mut reader);
    let retry = read_retry(wire.retry_policy.as_ref(), &mut reader);
    let (timeout, connect_timeout) = read_deadlines(wire, &mut reader);
    let created = reader.time("create_time", wire.create_time.as_ref());
    let updated = reader.time("update_time", wire.update_time.as_ref());
    let validation = wire.validation.as_ref().and_then(|wire| reader.keep(validation::read(wire))).flatten();
    let max_in_flight = read_max_in_flight(wire);
    let rate_limit = wire.rate_limit.as_ref().map(read_rate_limit);
    let (order, head_of_line) = read_order(wire, &mut reader);
    let failure = reader.keep_all(health::read_policy(wire.failure_policy.as_ref()));
    let ranges = Ranges {
        patterns: wire.event_types.len(),
        name: &wire.name,
        description: &wire.description,
        retry: &retry,
        max_in_flight,
        rate_limit,
        failure,
        timeout,
        connect_timeout,
    };
    reader.out_of_range(ranges.violations());
    let (Some(names), Some(request), Some(wanted), []) =
        (names, request, wanted, reader.violations.as_slice())
    else {
        return Err(reader.violations);
    };
    let ((url, id, tenant, pool), (headers, profiles, format), (patterns, filter)) = (names, request, wanted);
    Ok(Subscription {
        id,
        tenant,
        name: wire.name.clone(),
        url,
        patterns,
        filter,
        description: wire.description.clone(),
        pool,
        allow_fallback: wire.allow_fallback_pool,
        format,
        headers,
        profiles,
        retry,
        max_in_flight,
        rate_limit,
        order,
        head_of_line,
        failure,
        timeout,
        connect_timeout,
        handshake: wire.validation_handshake,
        validation,
        state: read_state(wire),
        created,
        updated,
    })
}

/// Where to, which one it is, whose, and who delivers.
fn read_names(
    wire: &v1::Subscription,
    reader: &mut Reader,
) -> Option<(EndpointUrl, SubscriptionId, TenantId, PoolName)> {
    let url = reader.parse("url", wire.url.as_str(), read_url);
    let id = reader.parse("id", wire.id.as_str(), str::parse);
    let tenant = reader.parse("tenant", wire.tenant.as_str(), str::parse);
    let pool = if wire.pool.is_empty() {
        Some(PoolName::default_pool())
    } else {
        reader.parse("pool", wire.pool.as_str(), str::parse)
    };
    Some((url?, id?, tenant?, pool?))
}

/// What a viewer was shown cannot be sent back: it would be another URL.
fn read_url(text: &str) -> Result<EndpointUrl, String> {
    if text.ends_with(HIDDEN_PATH) {
        return Err(format!(
            "its path was hidden from a viewer ({HIDDEN_PATH}); give the whole URL, or read it with the role operator"
        ));
    }
    EndpointUrl::parse(text).map_err(|refusal| refusal.to_string())
}

/// Which events.
fn read_wanted(wire: &v1::Subscription, reader: &mut Reader) -> Option<(Vec<Pattern>, Option<Filter>)> {
    let types = wire.event_types.iter();
    let patterns = types.filter_map(|text| reader.parse("event_types", text.as_str(), str::parse)).collect();
    Some((patterns, reader.filter(&wire.filter)?))
}

/// What a request looks like. The parts must suit each other.
fn read_request(wire: &v1::Subscription, reader: &mut Reader) -> Option<(CustomHeaders, Profiles, Format)> {
    // A map has no order; what is sent, and what is found wrong first, must not change from one reading to the next.
    let headers: BTreeMap<_, _> = wire.headers.clone().into_iter().collect();
    let headers = CustomHeaders::new(headers).map_err(|error| Violation::new("headers", error.to_string()));
    let headers = reader.keep(headers);
    let profiles = read_profiles(wire, headers.as_ref());
    let profiles = reader.keep(profiles);
    let format = reader.keep(read_format(wire.body_format));
    reader.headers_suit(format, headers.as_ref());
    reader.handshake_suits(format, wire.validation_handshake);
    Some((headers?, profiles?, format?))
}

fn read_profiles(wire: &v1::Subscription, headers: Option<&CustomHeaders>) -> Result<Profiles, Violation> {
    let profiles = signature_profile::read(&wire.signature_profiles)?;
    let clash = headers.map_or(Ok(()), |headers| profiles.check_custom(headers));
    clash.map_err(|error| Violation::new("signature_profiles", error.to_string()))?;
    Ok(profiles)
}

/// Which deliveries wait for one another, and what a failing one does to the others.
fn read_order(wire: &v1::Subscription, reader: &mut Reader) -> (Order, HeadOfLine) {
    let order = match v1::DeliveryOrder::try_from(wire.order) {
        Ok(v1::DeliveryOrder::Unspecified | v1::DeliveryOrder::None) => Ok(Order::None),
        Ok(v1::DeliveryOrder::PerKey) => Ok(Order::PerKey),
        Ok(v1::DeliveryOrder::Strict) => Ok(Order::Strict),
        Err(_) => Err(Violation::new(
            "order",
            "must be DELIVERY_ORDER_NONE, DELIVERY_ORDER_PER_KEY or DELIVERY_ORDER_STRICT",
        )),
    };
    let head_of_line = match v1::HeadOfLine::try_from(wire.head_of_line) {
        Ok(v1::HeadOfLine::Unspecified | v1::HeadOfLine::Skip) => Ok(HeadOfLine::Skip),
        Ok(v1::HeadOfLine::Block) if order == Ok(Order::None) => Err(Violation::new(
            "head_of_line",
            "HEAD_OF_LINE_BLOCK needs an order: nothing waits for a delivery without one; set order too",
        )),
        Ok(v1::HeadOfLine::Block) => Ok(HeadOfLine::Block),
        Err(_) => Err(Violation::new("head_of_line", "must be HEAD_OF_LINE_SKIP or HEAD_OF_LINE_BLOCK")),
    };
    (reader.keep(order).unwrap_or_default(), reader.keep(head_of_line).unwrap_or_default())
}

fn write_order(order: Order) -> v1::DeliveryOrder {
    match order {
        Order::None => v1::DeliveryOrder::None,
        Order::PerKey => v1::DeliveryOrder::PerKey,
        Order::Strict => v1::DeliveryOrder::Strict,
    }
}

fn write_head_of_line(head_of_line: HeadOfLine) -> v1::HeadOfLine {
    match head_of_line {
        HeadOfLine::Skip => v1::HeadOfLine::Skip,
        HeadOfLine::Block => v1::HeadOfLine::Block,
    }
}

fn read_deadlines(wire: &v1::Subscription, reader: &mut Reader) -> (Duration, Duration) {
    let timeout = reader.duration("timeout", wire.timeout.as_ref(), DEFAULT_TIMEOUT);
    let connect = wire.connect_timeout.as_ref();
    (timeout, reader.duration("connect_timeout", connect, DEFAULT_CONNECT_TIMEOUT))
}

fn read_max_in_flight(wire: &v1::Subscription) -> u32 {
    match wire.max_in_flight {
        0 => DEFAULT_MAX_IN_FLIGHT,
        set => u32::try_from(set).unwrap_or(0),
    }
}

fn read_rate_limit(wire: &v1::RateLimit) -> RateLimit {
    let limit = RateLimit::new(wire.per_second);
    if wire.burst == 0 { limit } else { RateLimit { burst: wire.burst, ..limit } }
}

/// Collects problems, so that a user hears of all of them at once.
#[derive(Default)]
struct Reader {
    violations: Vec<Violation>,
}

impl Reader {
    fn parse<'a, I: ?Sized, T, E: ToString>(
        &mut self,
        field: &str,
        input: &'a I,
        parse: impl FnOnce(&'a I) -> Result<T, E>,
    ) -> Option<T> {
        self.keep(parse(input).map_err(|error| Violation::new(field, error.to_string())))
    }

    fn keep<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        result.map_err(|violation| self.violations.push(violation)).ok()
    }

    fn keep_all<T: Default>(&mut self, result: Result<T, Vec<Violation>>) -> T {
        result.map_err(|violations| self.violations.extend(violations)).unwrap_or_default()
    }

    fn headers_suit(&mut self, format: Option<Format>, headers: Option<&CustomHeaders>) {
        let (Some(format), Some(headers)) = (format, headers) else { return };
        if let Some((name, _)) = headers.iter().find(|(name, _)| format.reserves(name)) {
            let problem = format!("{name} is set by Postrider itself in this body format");
            self.violations.push(Violation::new("headers", problem));
        }
    }

    fn handshake_suits(&mut self, format: Option<Format>, wanted: bool) {
        let suits = |format| matches!(format, Format::CloudEvents | Format::CloudEventsBinary);
        if wanted && format.is_some_and(|format| !suits(format)) {
            let problem = "is a handshake of CloudEvents: it needs BODY_FORMAT_CLOUDEVENTS or BODY_FORMAT_CLOUDEVENTS_BINARY";
            self.violations.push(Violation::new("validation_handshake", problem));
        }
    }

    fn filter(&mut self, text: &str) -> Option<Option<Filter>> {
        if text.is_empty() {
            return Some(None);
        }
        self.parse("filter", text, str::parse::<Filter>).map(Some)
    }

    /// Adds what is out of range, unless the field could not even be read.
    fn out_of_range(&mut self, violations: Vec<Violation>) {
        for violation in violations {
            if self.violations.iter().all(|known| known.field != violation.field) {
                self.violations.push(violation);
            }
        }
    }

    fn duration(&mut self, field: &str, wire: Option<&prost_types::Duration>, default: Duration) -> Duration {
        wire.map_or(Some(default), |wire| self.keep(time::read_duration(field, wire))).unwrap_or(default)
    }

    fn time(&mut self, field: &str, wire: Option<&prost_types::Timestamp>) -> Timestamp {
        wire.and_then(|wire| self.keep(time::read(field, wire))).unwrap_or_default()
    }
}

fn write_format(format: Format) -> v1::BodyFormat {
    match format {
        Format::Event => v1::BodyFormat::Event,
        Format::StandardWebhooks => v1::BodyFormat::StandardWebhooks,
        Format::CloudEvents => v1::BodyFormat::Cloudevents,
        Format::CloudEventsBinary => v1::BodyFormat::CloudeventsBinary,
        Format::Data => v1::BodyFormat::Data,
    }
}

fn read_format(wire: i32) -> Result<Format, Violation> {
    match v1::BodyFormat::try_from(wire) {
        Ok(v1::BodyFormat::Unspecified | v1::BodyFormat::Event) => Ok(Format::Event),
        Ok(v1::BodyFormat::StandardWebhooks) => Ok(Format::StandardWebhooks),
        Ok(v1::BodyFormat::Cloudevents) => Ok(Format::CloudEvents),
        Ok(v1::BodyFormat::CloudeventsBinary) => Ok(Format::CloudEventsBinary),
        Ok(v1::BodyFormat::Data) => Ok(Format::Data),
        Err(_) => Err(Violation::new(
            "body_format",
            "must be BODY_FORMAT_EVENT, BODY_FORMAT_STANDARD_WEBHOOKS, BODY_FORMAT_CLOUDEVENTS, \
             BODY_FORMAT_CLOUDEVENTS_BINARY or BODY_FORMAT_DATA",
        )),
    }
}

fn write_state(state: &State) -> (v1::SubscriptionState, v1::DisableCause, String) {
    let none = v1::DisableCause::Unspecified;
    match state {
        State::Active => (v1::SubscriptionState::Active, none, String::new()),
        State::Paused => (v1::SubscriptionState::Paused, none, String::new()),
        State::Disabled { cause, reason } => {
            let cause = match cause {
                DisableCause::Gone => v1::DisableCause::Gone,
                DisableCause::Failing => v1::DisableCause::Failing,
            };
            (v1::SubscriptionState::Disabled, cause, reason.clone())
        }
    }
}

fn read_state(wire: &v1::Subscription) -> State {
    match wire.state() {
        v1::SubscriptionState::Unspecified | v1::SubscriptionState::Active => State::Active,
        v1::SubscriptionState::Paused => State::Paused,
        v1::SubscriptionState::Disabled => {
            let cause = match wire.disable_cause() {
                // Before there were causes, only this one disabled.
                v1::DisableCause::Unspecified | v1::DisableCause::Gone => DisableCause::Gone,
                v1::DisableCause::Failing => DisableCause::Failing,
            };
            State::Disabled { cause, reason: wire.state_reason.clone() }
        }
    }
}

fn write_retry(policy: &retry::Policy) -> v1::RetryPolicy {
    v1::RetryPolicy {
        initial_delay: Some(time::write_duration(policy.initial_delay)),
        factor: policy.factor,
        max_delay: Some(time::write_duration(policy.max_delay)),
        window: Some(time::write_duration(policy.window)),
        schedule: policy.schedule.iter().copied().map(time::write_duration).collect(),
        jitter: Some(policy.jitter),
    }
}

fn read_retry(wire: Option<&v1::RetryPolicy>, reader: &mut Reader) -> retry::Policy {
    let default = retry::Policy::default();
    let Some(wire) = wire else { return default };
    let initial_delay =
        reader.duration("retry_policy.initial_delay", wire.initial_delay.as_ref(), default.initial_delay);
    retry::Policy {
        initial_delay,
        factor: if wire.factor == 0.0 { default.factor } else { wire.factor },
        max_delay: reader.duration(
            "retry_policy.max_delay",
            wire.max_delay.as_ref(),
            default.max_delay.max(initial_delay),
        ),
        window: reader.duration("retry_policy.window", wire.window.as_ref(), default.window),
        schedule: wire
            .schedule
            .iter()
            .map(|delay| reader.duration("retry_policy.schedule", Some(delay), Duration::ZERO))
            .collect(),
        jitter: wire.jitter.unwrap_or(default.jitter),
        endless: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Subscription {
        v1::Subscription {
            id: "sub_01h455vb4pex5vsknk084sn02q".into(),
            tenant: "docurift".into(),
            url: "https://hooks.example.com/in".into(),
            event_types: vec!["document.*".into()],
            ..v1::Subscription::default()
        }
    }

    #[test]
    fn settings_read_back() {
        let mut custom = wire();
        custom.headers = [("authorization".to_owned(), "Bearer x".to_owned())].into();
        custom.max_in_flight = 7;
        custom.rate_limit = Some(v1::RateLimit { per_second: 2.5, burst: 0 });
        custom.body_format = v1::BodyFormat::StandardWebhooks.into();
        custom.retry_policy =
            Some(v1::RetryPolicy { factor: 2.0, jitter: Some(0.0), ..v1::RetryPolicy::default() });
        custom.state = v1::SubscriptionState::Disabled.into();
        custom.state_reason = "410".into();
        let mut failing = custom.clone();
        failing.disable_cause = v1::DisableCause::Failing.into();
        let mut dropping = failing.clone();
        dropping.failure_policy = Some(v1::FailurePolicy {
            disable_after: Some(prost_types::Duration::default()),
            while_disabled: v1::WhileDisabled::Drop.into(),
        });
        assert_eq!(read(&dropping).unwrap().failure.disable_after, None);
        for wire in [wire(), custom, failing, dropping] {
            let subscription = read(&wire).unwrap();
            assert_eq!(read(&write(&subscription)), Ok(subscription));
        }
    }

    #[test]
    fn values_of_headers_are_hidden_and_what_was_shown_can_be_sent_back() {
        let mut custom = wire();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        custom.headers = [header("authorization", "Bearer x"), header("x-empty", "")].into();
        let subscription = read(&custom).unwrap();
        let mut shown = show(&subscription);
        assert_eq!(shown.headers, [header("authorization", HIDDEN), header("x-empty", HIDDEN)].into());
        shown.headers.remove("authorization");
        shown.headers.extend([header("Authorization", HIDDEN), header("x-new", "y")]);
        restore_masked(&mut shown.headers, &subscription.headers).unwrap();
        let expected = [header("Authorization", "Bearer x"), header("x-empty", ""), header("x-new", "y")];
        assert_eq!(shown.headers, expected.into());
        shown.headers.extend([header("x-other", HIDDEN)]);
        let violation = restore_masked(&mut shown.headers, &subscription.headers).unwrap_err();
        assert_eq!(violation.field, "headers");
        assert!(violation.problem.contains("x-other"));
    }

    #[test]
    fn headers_have_one_order_whatever_the_maps() {
        let names: Vec<String> = (0..20).map(|number| format!("x-{number:02}")).collect();
        let wire = v1::Subscription {
            headers: names.iter().rev().map(|name| (name.clone(), "1".to_owned())).collect(),
            ..wire()
        };
        let headers = read(&wire).unwrap().headers;
        assert!(headers.iter().map(|(name, _)| name).eq(names.iter().map(String::as_str)));
    }

    #[test]
    fn headers_have_one_order_whatever_the_case_of_their_names() {
        let mut wire = wire();
        let header = |name: &str| (name.to_owned(), "1".to_owned());
        wire.headers = [header("X-Last"), header("accept-language"), header("Middle")].into();
        let subscription = read(&wire).unwrap();
        let names: Vec<&str> = subscription.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["accept-language", "middle", "x-last"]);
        assert_eq!(read(&write(&subscription)), Ok(subscription));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let wire = v1::Subscription {
            url: "ftp://x".into(),
            event_types: vec!["a..b".into(), "*".into()],
            pool: "Über".into(),
            body_format: 9,
            timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            max_in_flight: 1001,
            rate_limit: Some(v1::RateLimit { per_second: 0.0, burst: 1 }),
            ..wire()
        };
        let fields: Vec<String> =
            read(&wire).unwrap_err().into_iter().map(|violation| violation.field).collect();
        assert_eq!(
            fields,
            [
                "url",
                "pool",
                "body_format",
                "event_types",
                "timeout",
                "rate_limit.per_second",
                "max_in_flight"
            ]
        );
        let wire = v1::Subscription { max_in_flight: -1, event_types: vec![], ..self::wire() };
        assert_eq!(read(&wire).unwrap_err().len(), 2);
    }
}

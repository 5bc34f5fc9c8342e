//! A subscription: which events of a tenant go where, and how. Here are its limits.

use std::time::Duration;

use crate::body::Format;
use crate::egress::EndpointUrl;
use crate::filter::Filter;
use crate::headers::CustomHeaders;
use crate::id::{PoolName, SubscriptionId, TenantId};
use crate::lane::{FailurePolicy, RateLimit, WhileDisabled};
use crate::order::{HeadOfLine, Order};
use crate::pattern::Pattern;
use crate::retry;
use crate::signing::Profiles;
use crate::time::Timestamp;
use crate::validation::Validation;
use crate::violation::Violation;

/// How many patterns a subscription may have.
pub const MAX_PATTERNS: usize = 100;
/// How many attempts may be under way at once when nobody says otherwise.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 64;
/// The most attempts that may be under way at once.
pub const MAX_IN_FLIGHT: u32 = 1000;
/// An attempt's deadline when nobody says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest deadline of an attempt.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// The deadline for TCP connect when nobody says otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const MAX_DESCRIPTION: usize = 500;

/// A tenant's wish to receive events at a URL.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Which one.
    pub id: SubscriptionId,
    /// Whose events.
    pub tenant: TenantId,
    /// What it is found again by; empty for none.
    pub name: String,
    /// Where to.
    pub url: EndpointUrl,
    /// Which events.
    pub patterns: Vec<Pattern>,
    /// Which of them: only those that pass.
    pub filter: Option<Filter>,
    /// For people.
    pub description: String,
    /// Which agents deliver.
    pub pool: PoolName,
    /// Whether the pool's fallback may deliver.
    pub allow_fallback: bool,
    /// The shape of the body.
    pub format: Format,
    /// Extra request headers.
    pub headers: CustomHeaders,
    /// How POSTs are signed.
    pub profiles: Profiles,
    /// When to try again.
    pub retry: retry::Policy,
    /// How many attempts may be under way at once.
    pub max_in_flight: u32,
    /// How fast attempts may follow each other; `None` for no limit.
    pub rate_limit: Option<RateLimit>,
    /// Which deliveries wait for one another.
    pub order: Order,
    /// What one that fails does to those that wait for it.
    pub head_of_line: HeadOfLine,
    /// Handling of continuous failure.
    pub failure: FailurePolicy,
    /// One deadline for an attempt, up to the response's headers.
    pub timeout: Duration,
    /// Deadline for TCP connect.
    pub connect_timeout: Duration,
    /// Whether the endpoint may be asked for its consent.
    pub handshake: bool,
    /// What it last answered.
    pub validation: Option<Validation>,
    /// Whether deliveries are dispatched.
    pub state: State,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
}

/// Whether a name of a subscription is one; the empty one is none.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().all(|byte| good(byte) || b"-_.".contains(&byte))
        && text.bytes().next().is_none_or(good)
}

/// Whether deliveries are dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Yes.
    Active,
    /// Held by hand.
    Paused,
    /// Held by Postrider.
    Disabled {
        /// Why.
        cause: DisableCause,
        /// Why, for people.
        reason: String,
    },
}

/// Why Postrider holds a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisableCause {
    /// The endpoint answered 410 Gone: no POST any more until somebody resumes it.
    Gone,
    /// The endpoint failed continuously for as long as the policy bears: it is probed, rarely, and enabled again when
    /// it answers.
    Failing,
}

impl Subscription {
    /// How rarely its endpoint is probed, when it is disabled for its failures.
    #[must_use]
    pub fn probed_every(&self) -> Option<Duration> {
        let failing = matches!(self.state, State::Disabled { cause: DisableCause::Failing, .. });
        failing.then(|| self.failure.probe_every())
    }

    /// Whether events are not owed to it now: it is disabled for its failures, and its owner wants nothing of that time.
    #[must_use]
    pub fn drops(&self) -> bool {
        self.probed_every().is_some() && self.failure.while_disabled == WhileDisabled::Drop
    }
}

/// The settings that have a range, apart from the rest: they can be judged even when a URL cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    /// How many patterns there are.
    pub patterns: usize,
    /// What it is found again by.
    pub name: &'a str,
    /// For people.
    pub description: &'a str,
    /// When to try again.
    pub retry: &'a retry::Policy,
    /// How many attempts may be under way at once.
    pub max_in_flight: u32,
    /// How fast attempts may follow each other.
    pub rate_limit: Option<RateLimit>,
    /// Handling of continuous failure.
    pub failure: FailurePolicy,
    /// One deadline for an attempt.
    pub timeout: Duration,
    /// Deadline for TCP connect.
    pub connect_timeout: Duration,
}

impl Ranges<'_> {
    /// Says every field that is out of range.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut found: Vec<Violation> =
            self.retry.violations().into_iter().map(|violation| violation.within("retry_policy")).collect();
        let of_rate = self.rate_limit.iter().flat_map(RateLimit::violations);
        found.extend(of_rate.map(|violation| violation.within("rate_limit")));
        let of_failure = self.failure.violations().into_iter();
        found.extend(of_failure.map(|violation| violation.within("failure_policy")));
        let mut check = |good: bool, field: &str, problem: String| {
            if !good {
                found.push(Violation::new(field, problem));
            }
        };
        check(
            (1..=MAX_PATTERNS).contains(&self.patterns),
            "event_types",
            format!("must name 1 to {MAX_PATTERNS} types or patterns; * means every event"),
        );
        check(
            is_name(self.name),
            "name",
            "must be 1 to 63 characters of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
                .to_owned(),
        );
        check(
            self.description.chars().count() <= MAX_DESCRIPTION,
            "description",
            format!("must have at most {MAX_DESCRIPTION} characters"),
        );
        check(
            (1..=MAX_IN_FLIGHT).contains(&self.max_in_flight),
            "max_in_flight",
            format!("must be 1 to {MAX_IN_FLIGHT}"),
        );
        check(
            (Duration::from_secs(1)..=MAX_TIMEOUT).contains(&self.timeout),
            "timeout",
            "must be 1 s to 60 s".to_owned(),
        );
        check(
            (Duration::from_millis(100)..=Duration::from_secs(30)).contains(&self.connect_timeout),
            "connect_timeout",
            "must be 100 ms to 30 s".to_owned(),
        );
        found
    }
}

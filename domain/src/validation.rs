//! The validation handshake of CloudEvents' HTTP WebHook specification: whether an endpoint wants to be called by us, and how
//! often.
//!
//! We ask by OPTIONS with `WebHook-Request-Origin` (a DNS name of ours) and, when the subscription has a rate limit,
//! `WebHook-Request-Rate` (a minute). It consents by `WebHook-Allowed-Origin`, our origin or `*`, and may set a rate by
//! `WebHook-Allowed-Rate`, a number a minute or `*`.

use crate::lane::{MAX_RATE, RateLimit};
use crate::time::Timestamp;

/// The header by which we say who asks.
pub const REQUEST_ORIGIN: &str = "webhook-request-origin";
/// The header by which we say how often we would call.
pub const REQUEST_RATE: &str = "webhook-request-rate";
/// The header by which an endpoint consents.
pub const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
/// The header by which an endpoint says how often it may be called.
pub const ALLOWED_RATE: &str = "webhook-allowed-rate";

const MAX_ORIGIN: usize = 253;

/// What an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// Whether it wants to be called.
    pub state: State,
    /// When it was asked.
    pub time: Timestamp,
    /// What is wrong, or to be looked at: a sentence, empty when all is well.
    pub detail: String,
    /// Who may call it, as it said.
    pub allowed_origin: String,
    /// How often a minute; `None`: it did not say, or sets no limit.
    pub allowed_rate: Option<u32>,
}

/// Whether an endpoint wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has consented.
    Validated,
    /// It answered, and did not consent.
    Refused,
    /// It could not be asked.
    Unreachable,
}

/// What an endpoint's response said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// [`ALLOWED_ORIGIN`], if it was there.
    pub origin: Option<&'a str>,
    /// [`ALLOWED_RATE`], if it was there.
    pub rate: Option<&'a str>,
}

/// Whether a text can be our origin: a DNS name, as the specification wants it.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    let label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(good)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_ORIGIN && text.split('.').all(label)
}

/// The rate that is asked for: a whole number a minute, at least one; `None` when the subscription has no limit.
#[must_use]
pub fn wanted_rate(limit: Option<RateLimit>) -> Option<u32> {
    let a_minute = limit?.per_second * 60.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is within the range of a limit"
    )]
    Some(a_minute.floor().clamp(1.0, f64::from(u32::MAX)) as u32)
}

/// Judges an answer that came.
#[must_use]
pub fn judge(origin: &str, wanted: Option<u32>, answer: Answer<'_>, now: Timestamp) -> Validation {
    let (state, detail) = consent(origin, answer);
    let (allowed_rate, about_rate) = rate(answer.rate, wanted);
    let validated = state == State::Validated;
    Validation {
        state,
        time: now,
        detail: if validated { about_rate.to_owned() } else { detail },
        allowed_origin: answer.origin.map(str::trim).unwrap_or_default().to_owned(),
        allowed_rate: allowed_rate.filter(|_| validated),
    }
}

fn consent(origin: &str, answer: Answer<'_>) -> (State, String) {
    let refused = |detail: String| (State::Refused, detail);
    if !(200..300).contains(&answer.status) {
        let status = answer.status;
        return refused(format!(
            "the endpoint answered OPTIONS with status {status}; it must answer 2xx with WebHook-Allowed-Origin"
        ));
    }
    match answer.origin.map(str::trim) {
        None | Some("") => refused(
            "the endpoint answered OPTIONS without WebHook-Allowed-Origin: it does not consent".to_owned(),
        ),
        Some(allowed) if allowed == "*" || allowed.eq_ignore_ascii_case(origin) => {
            (State::Validated, String::new())
        }
        Some(_) => {
            refused(format!("the endpoint allows another origin in WebHook-Allowed-Origin than {origin}"))
        }
    }
}

/// The rate that is allowed, and what to say of it.
fn rate(said: Option<&str>, wanted: Option<u32>) -> (Option<u32>, &'static str) {
    match said.map(str::trim) {
        Some("*") => (None, ""),
        Some(text) => match whole(text) {
            Some(rate) if rate > 0 => (Some(rate), ""),
            _ => (
                None,
                "the endpoint's WebHook-Allowed-Rate is neither a positive whole number nor *, so no rate is kept",
            ),
        },
        None if wanted.is_some() => {
            (None, "the endpoint did not answer WebHook-Request-Rate with WebHook-Allowed-Rate, as it should")
        }
        None => (None, ""),
    }
}

/// A whole number; the largest that is kept for any larger one.
fn whole(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

impl Validation {
    /// It could not be asked.
    #[must_use]
    pub fn unreachable(detail: &str, now: Timestamp) -> Self {
        Self {
            state: State::Unreachable,
            time: now,
            detail: detail.to_owned(),
            allowed_origin: String::new(),
            allowed_rate: None,
        }
    }

    /// The rate limit that keeps to what is allowed, when the present one does not.
    #[must_use]
    pub fn slower(&self, present: Option<RateLimit>) -> Option<RateLimit> {
        let allowed = f64::from(self.allowed_rate?) / 60.0;
        let faster = present.is_none_or(|present| present.per_second > allowed);
        // A limit has a least value; below it the endpoint is warned of, not obeyed.
        faster.then(|| RateLimit::new(allowed.clamp(RateLimit::SLOWEST, f64::from(MAX_RATE))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "postrider.example.com";

    fn judged(status: u16, origin: Option<&str>, rate: Option<&str>) -> Validation {
        judge(ORIGIN, Some(120), Answer { status, origin, rate }, Timestamp::default())
    }

    #[test]
    fn an_endpoint_consents_by_naming_us_or_everybody() {
        for (status, origin, expected) in [
            (200, Some(ORIGIN), State::Validated),
            (204, Some("*"), State::Validated),
            (200, Some(" Postrider.Example.com "), State::Validated),
            (200, Some("example.com"), State::Refused),
            (200, Some(""), State::Refused),
            (200, None, State::Refused),
            (404, Some(ORIGIN), State::Refused),
            (301, Some("*"), State::Refused),
        ] {
            let validation = judged(status, origin, Some("*"));
            assert_eq!(validation.state, expected, "{status} {origin:?}");
            assert_eq!(validation.detail.is_empty(), expected == State::Validated);
        }
    }

    #[test]
    fn a_rate_is_a_number_a_minute_or_none() {
        for (said, rate, told) in [
            (Some("100"), Some(100), false),
            (Some("*"), None, false),
            (Some(" 5 "), Some(5), false),
            (Some("4294967296"), Some(u32::MAX), false),
            (Some("99999999999999999999999"), Some(u32::MAX), false),
            (Some("0"), None, true),
            (Some("+5"), None, true),
            (Some("1.5"), None, true),
            (Some(""), None, true),
            (Some("-5"), None, true),
            (Some("many"), None, true),
            (None, None, true),
        ] {
            let validation = judged(200, Some("*"), said);
            assert_eq!((validation.allowed_rate, !validation.detail.is_empty()), (rate, told), "{said:?}");
        }
        assert_eq!(judged(200, None, Some("100")).allowed_rate, None, "who does not consent sets no rate");
        assert_eq!(wanted_rate(None), None);
        assert_eq!(wanted_rate(Some(RateLimit::new(2.5))), Some(150));
    }

    #[test]
    fn a_limit_is_lowered_to_what_is_allowed_and_never_raised() {
        let allows = |rate| Validation { allowed_rate: rate, ..judged(200, Some("*"), Some("*")) };
        let slower = |rate, present: Option<f64>| {
            allows(rate).slower(present.map(RateLimit::new)).map(|limit| limit.per_second)
        };
        assert_eq!(slower(Some(120), None), Some(2.0));
        assert_eq!(slower(Some(120), Some(5.0)), Some(2.0));
        assert_eq!(slower(Some(120), Some(1.0)), None);
        assert_eq!(slower(None, None), None);
        assert_eq!(slower(Some(1), None), Some(RateLimit::SLOWEST));
    }

    #[test]
    fn an_origin_is_a_dns_name() {
        for good in ["postrider.example.com", "localhost", "a-b.c"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["", "https://a.example", "a b", "a..b", "-a.example", "*", "a:80", &"a".repeat(64)] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}

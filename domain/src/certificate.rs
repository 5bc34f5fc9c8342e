//! When a certificate can be used, when people are told that it expires, and when it must not take the place of another.
//!
//! Called by both programs for the files that they follow, and by `postrider doctor`. Reading X.509 is theirs.

use std::time::Duration;

use crate::time::Timestamp;

/// The longest time before its end that people are told of it.
const WARN_AT_MOST: Duration = Duration::from_secs(14 * 86_400);

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before this.
    pub from: Timestamp,
    /// Not after this.
    pub until: Timestamp,
}

/// How a certificate stands at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateStatus {
    /// Its time has not come.
    NotYetValid,
    /// Valid, and for a while.
    Valid,
    /// Valid, but less than a third of its lifetime or less than 14 days are left, whichever is less.
    ExpiresSoon,
    /// Its time is over.
    Expired,
}

impl Validity {
    /// How long before its end people are told: a third of its lifetime, at most 14 days. A certificate that is renewed in
    /// time, at two thirds of its lifetime or earlier, is never told of.
    #[must_use]
    pub fn warn_before(self) -> Duration {
        (self.until.since(self.from) / 3).min(WARN_AT_MOST)
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn status(self, now: Timestamp) -> CertificateStatus {
        match self.until.since(now) {
            _ if now < self.from => CertificateStatus::NotYetValid,
            left if left.is_zero() => CertificateStatus::Expired,
            left if left < self.warn_before() => CertificateStatus::ExpiresSoon,
            _ => CertificateStatus::Valid,
        }
    }

    /// Whether it can be used at `now`.
    #[must_use]
    pub fn is_valid(self, now: Timestamp) -> bool {
        matches!(self.status(now), CertificateStatus::Valid | CertificateStatus::ExpiresSoon)
    }

    /// What people must know of it at `now`, as the end of a sentence that begins with its name.
    #[must_use]
    pub fn complaint(self, now: Timestamp) -> Option<String> {
        match self.status(now) {
            CertificateStatus::Valid => None,
            CertificateStatus::ExpiresSoon => Some(format!("expires on {}", self.until)),
            _ => self.fault(now),
        }
    }

    /// Why it cannot be used at `now`, as the end of a sentence that begins with its name.
    #[must_use]
    pub fn fault(self, now: Timestamp) -> Option<String> {
        match self.status(now) {
            CertificateStatus::NotYetValid => Some(format!("is not valid before {}", self.from)),
            CertificateStatus::Expired => Some(format!("expired on {}", self.until)),
            CertificateStatus::Valid | CertificateStatus::ExpiresSoon => None,
        }
    }
}

/// What a certificate says that decides about its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// When it is valid.
    pub validity: Validity,
    /// The DNS names and IP addresses that it is for.
    pub names: Vec<String>,
}

impl Facts {
    /// Why this certificate must not take the place of `former`, as the end of a sentence that begins with its name; nothing
    /// if it may. Names count as long as the former one is valid: without one that works, another name is better than none.
    #[must_use]
    pub fn refusal(&self, former: &Self, now: Timestamp) -> Option<String> {
        if let Some(fault) = self.validity.fault(now) {
            return Some(fault);
        }
        let lost = former.names.iter().filter(|name| !self.covers(name));
        let lost: Vec<&str> = lost.map(String::as_str).collect();
        if lost.is_empty() || !former.validity.is_valid(now) {
            return None;
        }
        Some(format!("is not for {}, which the certificate in use is for", lost.join(", ")))
    }

    /// Whether it is for all that `name` is for.
    fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|own| {
            let wildcard = || Some((own.strip_prefix("*.")?, name.split_once('.')?));
            own.eq_ignore_ascii_case(name)
                || wildcard().is_some_and(|(domain, (label, rest))| {
                    label != "*" && !label.is_empty() && rest.eq_ignore_ascii_case(domain)
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn start() -> Timestamp {
        Timestamp::from_millis(1_770_028_200_000)
    }

    fn lasting(days: u32) -> Validity {
        Validity { from: start(), until: start() + DAY * days }
    }

    #[test]
    fn people_are_told_when_a_third_or_two_weeks_are_left() {
        // Days of life, days from its beginning on.
        let table = [
            (365, 0, CertificateStatus::Valid),
            (365, 350, CertificateStatus::Valid),
            (365, 352, CertificateStatus::ExpiresSoon),
            (365, 365, CertificateStatus::Expired),
            (6, 3, CertificateStatus::Valid),
            (6, 5, CertificateStatus::ExpiresSoon),
            (6, 7, CertificateStatus::Expired),
        ];
        for (lasts, after, expected) in table {
            let status = lasting(lasts).status(start() + DAY * after);
            assert_eq!(status, expected, "{lasts} days, after {after}");
        }
        let early = lasting(365).status(start() - DAY);
        assert_eq!(early, CertificateStatus::NotYetValid);
        assert_eq!(lasting(365).warn_before(), 14 * DAY);
        assert_eq!(lasting(0).status(start()), CertificateStatus::Expired, "it has no life at all");
    }

    #[test]
    fn what_people_are_told() {
        let certificate = lasting(9);
        let complaint = |now| certificate.complaint(now).unwrap_or_default();
        assert_eq!(complaint(start()), "");
        assert_eq!(complaint(start() - DAY), format!("is not valid before {}", start()));
        assert_eq!(complaint(start() + DAY * 8), format!("expires on {}", start() + DAY * 9));
        assert_eq!(complaint(start() + DAY * 9), format!("expired on {}", start() + DAY * 9));
        assert_eq!(certificate.fault(start() + DAY * 8), None);
    }

    /// Names and validity of a former and of a new certificate, and why the new one is refused.
    type Case = (&'static [&'static str], Validity, &'static [&'static str], Validity, Option<&'static str>);

    #[test]
    fn a_certificate_that_works_is_not_replaced_by_one_that_does_not() {
        let facts = |names: &[&str], validity| Facts {
            validity,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let now = start() + DAY;
        let (good, over) = (lasting(365), lasting(1));
        let early = Validity { from: now + DAY, until: now + DAY * 9 };
        let api: &'static [&str] = &["api.example.com", "10.0.0.1"];
        let table: [Case; 12] = [
            (api, good, api, good, None),
            (api, good, api, over, Some("expired on")),
            (api, good, api, early, Some("is not valid before")),
            (api, over, api, over, Some("expired on")),
            (api, good, &["10.0.0.1", "API.example.com", "more.example.com"], good, None),
            (api, good, &["api.example.com"], good, Some("is not for 10.0.0.1, which")),
            (api, good, &["other.example.com"], good, Some("api.example.com, 10.0.0.1, which")),
            (api, good, &["*.example.com", "10.0.0.1"], good, None),
            (&["*.example.com"], good, &["a.example.com"], good, Some("*.example.com")),
            (&["a.b.example.com"], good, &["*.example.com"], good, Some("a.b.example.com")),
            (api, over, &["other.example.com"], good, None),
            (&[], good, &["other.example.com"], good, None),
        ];
        for (former, was, new, is, expected) in table {
            let refused = facts(new, is).refusal(&facts(former, was), now);
            assert_eq!(refused.is_some(), expected.is_some(), "{former:?} by {new:?}: {refused:?}");
            assert!(expected.is_none_or(|part| refused.unwrap().contains(part)), "{former:?} by {new:?}");
        }
    }
}

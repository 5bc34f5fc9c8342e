//! The API's certificate: its facts, whether another one may replace it, and what is reported about it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postrider_domain::certificate::{Facts, Validity};
use postrider_domain::time::Timestamp;
use rustls::pki_types::CertificateDer;
use tracing::{error, warn};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// How often people are reminded of a certificate that expires.
const REMIND_EVERY: Duration = Duration::from_secs(86_400);

/// What a certificate says; nothing when it cannot be read.
#[must_use]
pub fn facts(der: &CertificateDer<'_>) -> Option<Facts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let time = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
    let validity = Validity {
        from: time(certificate.validity().not_before.timestamp()),
        until: time(certificate.validity().not_after.timestamp()),
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress([a, b, c, d]) => Some(Ipv4Addr::new(*a, *b, *c, *d).to_string()),
        GeneralName::IPAddress(bytes) => {
            <[u8; 16]>::try_from(*bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string())
        }
        _ => None,
    });
    Some(Facts { validity, names: names.collect() })
}

/// Why none of these authorities' certificates can be used; nothing if one can.
#[must_use]
pub fn authorities_fault(certificates: &[CertificateDer<'_>], now: Timestamp) -> Option<String> {
    // What cannot be read is judged elsewhere.
    let faults = certificates.iter().map(|der| facts(der)?.validity.fault(now));
    let faults: Option<Vec<String>> = faults.collect();
    faults?.into_iter().next()
}

/// The certificate in use, for all that show something of it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ApiCertificate(Arc<ArcSwap<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    facts: Option<Facts>,
    /// Why the files were not taken over.
    refused: Option<String>,
}

impl ApiCertificate {
    /// This one is in use from now on.
    pub fn serve(&self, facts: Option<Facts>) {
        self.0.store(Arc::new(State { facts, refused: None }));
    }

    /// The files do not replace it, and why; `None` when they are the same again.
    pub(super) fn refuse(&self, refused: Option<String>) {
        let facts = self.0.load().facts.clone();
        self.0.store(Arc::new(State { facts, refused }));
    }

    /// What it says; nothing without TLS.
    #[must_use]
    pub fn facts(&self) -> Option<Facts> {
        self.0.load().facts.clone()
    }

    /// Why the files are not in use.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.0.load().refused.clone()
    }

    /// What people must know: that it expires soon, or cannot be used.
    #[must_use]
    pub fn complaint(&self, now: Timestamp) -> Option<String> {
        let complaint = self.facts()?.validity.complaint(now)?;
        Some(format!(
            "the API's certificate {complaint}; renew the files in tls_cert and tls_key, no restart is needed"
        ))
    }
}

/// When the log was last told of the certificate.
#[derive(Default)]
pub(super) struct Reminder(Option<(Validity, bool, Timestamp)>);

impl Reminder {
    /// Writes to the log that it expires or has expired: when that begins, and once a day.
    pub(super) fn tell(&mut self, facts: Option<&Facts>, now: Timestamp) {
        let Some(validity) = facts.map(|facts| facts.validity) else { return };
        let Some(complaint) = validity.complaint(now) else { return };
        let usable = validity.is_valid(now);
        let told = |(known, was_usable, at): (Validity, bool, Timestamp)| {
            known == validity && was_usable == usable && now.since(at) < REMIND_EVERY
        };
        if self.0.is_some_and(told) {
            return;
        }
        self.0 = Some((validity, usable, now));
        if usable {
            warn!(
                "the API's certificate {complaint}; renew the files in tls_cert and tls_key, they are taken over without a \
                 restart"
            );
        } else {
            error!(
                "the API's certificate {complaint}, so clients refuse it; put a valid one into tls_cert and tls_key, it is \
                 taken over without a restart. Deliveries and agents are not affected"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn certificate(names: &[&str], from: i32, until: i32) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn year(year: i32) -> Timestamp {
        Timestamp::parse(&format!("{year}-06-01T00:00:00Z")).unwrap()
    }

    #[test]
    fn names_and_times_are_read() {
        let read = facts(&certificate(&["api.example.com", "10.0.0.1", "::1"], 2025, 2027)).unwrap();
        assert_eq!(read.names, ["api.example.com", "10.0.0.1", "::1"]);
        assert_eq!(read.validity.from.to_string(), "2025-01-01T00:00:00Z");
        assert_eq!(read.validity.until.to_string(), "2027-01-01T00:00:00Z");
        assert_eq!(facts(&CertificateDer::from(vec![0])), None);
    }

    #[test]
    fn a_bundle_is_good_as_long_as_one_of_it_is() {
        let (old, good) = (certificate(&[], 2001, 2002), certificate(&[], 2025, 2030));
        assert_eq!(authorities_fault(&[old.clone(), good], year(2026)), None);
        let fault = authorities_fault(&[old], year(2026)).unwrap();
        assert_eq!(fault, "expired on 2002-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let api = ApiCertificate::default();
        assert_eq!(api.complaint(year(2026)), None);
        api.serve(facts(&certificate(&["a"], 2025, 2027)));
        assert_eq!(api.complaint(year(2026)), None);
        assert!(
            api.complaint(year(2027)).unwrap().starts_with("the API's certificate expired on 2027-01-01")
        );
        api.refuse(Some("because".into()));
        assert_eq!((api.refused().as_deref(), api.facts().is_some()), (Some("because"), true));
        api.serve(None);
        assert_eq!(api.refused(), None);
    }

    #[test]
    fn the_log_is_told_at_first_and_daily() {
        let facts = facts(&certificate(&["a"], 2025, 2026)).unwrap();
        let mut reminder = Reminder::default();
        let mut told = |now| {
            let before = reminder.0;
            reminder.tell(Some(&facts), now);
            reminder.0 != before
        };
        let end = facts.validity.until;
        let hour = Duration::from_secs(3600);
        let table = [
            (end - hour * 24 * 30, false),
            (end - hour * 40, true),
            (end - hour * 39, false),
            (end - hour * 16, true),
            (end + hour, true),
            (end + hour * 2, false),
            (end + hour * 26, true),
        ];
        for (now, expected) in table {
            assert_eq!(told(now), expected, "{now}");
        }
    }
}

//! When the certificates in an entry's files are valid: so that none that works is replaced by one that does not, and so that
//! the agent's owner learns of it in time.

use std::time::Duration;

use postrider_domain::certificate::Validity;
use postrider_domain::time::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Contents, Problem, Settings, certificates, in_file};

/// How often a warning about an expiring certificate is logged.
const REMIND_EVERY: Duration = Duration::from_secs(86_400);

/// What is known of an entry's certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expiry {
    client: Dated,
    ca: Dated,
}

/// A file, and when the certificates in it are valid: the one that is shown, or all authorities of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Dated {
    digest: Option<[u8; 32]>,
    /// Empty without a file, or when it cannot be read: then TLS says what is wrong.
    validities: Vec<Validity>,
}

impl Dated {
    fn of(pem: Option<&[u8]>, count: usize) -> Dated {
        let Some(pem) = pem else { return Dated::default() };
        let found = certificates(pem).unwrap_or_default();
        let validities = found.iter().take(count).filter_map(validity).collect();
        Dated { digest: Some(Sha256::digest(pem).into()), validities }
    }

    /// What is wrong with the certificate that lasts longest; nothing while one of them is good.
    fn judge(&self, judge: impl Fn(Validity, Timestamp) -> Option<String>, now: Timestamp) -> Option<String> {
        let judged: Option<Vec<_>> =
            self.validities.iter().map(|one| Some((one.until, judge(*one, now)?))).collect();
        judged?.into_iter().max().map(|(_, why)| why)
    }
}

impl Expiry {
    pub(super) fn of(contents: &Contents) -> Expiry {
        let client = Dated::of(contents.client_cert.as_ref().map(|pem| pem.as_slice()), 1);
        let ca = Dated::of(contents.ca.as_ref().map(|pem| pem.as_slice()), usize::MAX);
        Expiry { client, ca }
    }

    /// Why files that have changed since `former` may not be taken over.
    pub(super) fn refusal(&self, former: &Expiry, entry: &Settings, now: Timestamp) -> Option<Problem> {
        let changed = |new: &Dated, former: &Dated| {
            if new.digest == former.digest { None } else { new.judge(Validity::fault, now) }
        };
        Self::problem(entry, changed(&self.client, &former.client), changed(&self.ca, &former.ca))
    }

    /// What cannot be used now.
    pub(super) fn fault(&self, entry: &Settings, now: Timestamp) -> Option<Problem> {
        let fault = |dated: &Dated| dated.judge(Validity::fault, now);
        Self::problem(entry, fault(&self.client), fault(&self.ca))
    }

    /// What cannot be used now, or not for long.
    pub(super) fn complaint(&self, entry: &Settings, now: Timestamp) -> Option<Problem> {
        let complaint = |dated: &Dated| dated.judge(Validity::complaint, now);
        Self::problem(entry, complaint(&self.client), complaint(&self.ca))
    }

    fn problem(entry: &Settings, client: Option<String>, ca: Option<String>) -> Option<Problem> {
        let client = client.map(|why| in_file("client_cert", &entry.client_cert, &why));
        client.or_else(|| ca.map(|why| in_file("ca", &entry.ca, &why)))
    }
}

fn validity(der: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let time = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
    let dates = certificate.validity();
    Some(Validity { from: time(dates.not_before.timestamp()), until: time(dates.not_after.timestamp()) })
}

/// What the log was last told of an entry's certificates, and when.
#[derive(Debug, Default)]
pub(super) struct Reminder(Option<(Problem, Timestamp)>);

impl Reminder {
    /// Whether the log is to be told: when it begins, when it changes, and once a day.
    pub(super) fn is_due(&mut self, complaint: Option<&Problem>, now: Timestamp) -> bool {
        let Some(complaint) = complaint else {
            self.0 = None;
            return false;
        };
        let told = |(known, at): &(Problem, Timestamp)| known == complaint && now.since(*at) < REMIND_EVERY;
        if self.0.as_ref().is_some_and(told) {
            return false;
        }
        self.0 = Some((complaint.clone(), now));
        true
    }
}

//! What is looked at from time to time, since it takes the disk: sizes, and when certificates end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::certificate::Validity;
use postrider_domain::time::Timestamp;
use postrider_telemetry::blocking;
use postrider_telemetry::metrics::{Catalogue, IntGaugeVec, Known, Label};
use tokio::time::sleep;
use tracing::debug;

use super::Metrics;
use crate::authority::Authorities;
use crate::listen::certificate::{ApiCertificate, facts};
use crate::store::Store;

/// How often.
const EVERY: Duration = Duration::from_secs(30);

const CERTIFICATE: [Label; 1] = [Label { name: "certificate", values: &["api", "agents_authority"] }];

pub(super) struct Kept {
    size: Known,
    free: Known,
    expiry: IntGaugeVec,
}

/// What is looked at.
pub struct Watched {
    /// How large it is.
    pub store: Arc<dyn Store>,
    /// The folder on whose disk it is.
    pub data_dir: PathBuf,
    /// The certificate that the API shows.
    pub api_certificate: ApiCertificate,
    /// Those that issue agents' certificates.
    pub authorities: Arc<Authorities>,
}

/// What was seen; times in seconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Bytes that the store takes.
    pub size: Option<u64>,
    /// Bytes that are free on its disk.
    pub free: Option<u64>,
    /// When the certificate that the API shows is valid.
    pub api_certificate: Option<Validity>,
    /// When the authority of agents' certificates ends.
    pub authority_ends: Option<i64>,
}

impl Kept {
    pub(super) fn new(all: &mut Catalogue) -> Self {
        let expiry =
            "When a certificate ends: the API's, and the one that agents' certificates are issued with.";
        Self {
            size: all.known("postrider_store_size_bytes", "What the embedded store takes on disk."),
            free: all.known("postrider_store_disk_free_bytes", "Free bytes on the store's disk."),
            expiry: all.gauges("postrider_certificate_expiry_timestamp_seconds", expiry, &CERTIFICATE),
        }
    }
}

/// Looks at all of it every half minute, until it is cancelled.
pub async fn watch(metrics: Arc<Metrics>, watched: Arc<Watched>) {
    loop {
        metrics.kept.show(&watched.look().await);
        sleep(EVERY).await;
    }
}

impl Kept {
    fn show(&self, seen: &Seen) {
        seen.size.into_iter().for_each(|size| self.size.set(bytes(size)));
        seen.free.into_iter().for_each(|free| self.free.set(bytes(free)));
        let api = seen.api_certificate.map(|validity| validity.until.as_seconds());
        api.into_iter().for_each(|end| self.expires("api", end));
        seen.authority_ends.into_iter().for_each(|end| self.expires("agents_authority", end));
    }

    fn expires(&self, certificate: &str, at: i64) {
        self.expiry.with_label_values(&[certificate]).set(at);
    }
}

impl Watched {
    /// Looks at all of it. What cannot be seen is missing.
    pub async fn look(&self) -> Seen {
        let size = self.store.size().await;
        let size = size.inspect_err(|error| debug!(%error, "failed to read the size of the store")).ok();
        let authority = self.authorities.trusted().first().map(|authority| authority.expires);
        let folder = self.data_dir.clone();
        let free = blocking::run(move || free(&folder)).await.unwrap_or_default();
        let api_certificate = self.api_certificate.facts().map(|facts| facts.validity);
        let authority_ends = authority.map(|expires| expires.as_millis() / 1000);
        Seen { size, free, api_certificate, authority_ends }
    }

    /// What people must know of certificates: those that expire soon or have expired, and those
    /// that were not taken over. A sentence each.
    #[must_use]
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let issuing = self.authorities.trusted().first().cloned();
        let complaint = issuing.and_then(|issuing| facts(&issuing.certificate)?.validity.complaint(now));
        let complaint = complaint.map(|complaint| {
            format!("the agents' authority {complaint}; rotate it, or renew the files in agent_ca")
        });
        let api = self.api_certificate.complaint(now);
        api.into_iter().chain(complaint).chain(self.refused()).collect()
    }

    /// Files with certificates that have changed and were not taken over, and why. A sentence each.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        let api = self.api_certificate.refused();
        let api = api.map(|why| format!("keeping the API's previous certificate: {why}"));
        let authorities = self.authorities.refused();
        let authorities =
            authorities.map(|why| format!("the former authorities of agents stay in force: {why}"));
        api.into_iter().chain(authorities).collect()
    }
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Bytes that this program may still write.
fn free(folder: &std::path::Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

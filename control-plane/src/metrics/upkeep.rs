//! What is looked at from time to time, since it takes the disk: sizes, and when certificates end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postrider_telemetry::metrics::{Catalogue, IntGauge, IntGaugeVec, Label};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::sleep;
use tracing::debug;

use super::Metrics;
use crate::authority::{self, Authorities};
use crate::store::Store;

/// How often.
const EVERY: Duration = Duration::from_secs(30);

const CERTIFICATE: [Label; 1] = [Label { name: "certificate", values: &["api", "agents_authority"] }];

pub(super) struct Kept {
    size: IntGauge,
    free: IntGauge,
    expiry: IntGaugeVec,
}

/// What is looked at.
pub struct Watched {
    /// How large it is.
    pub store: Arc<dyn Store>,
    /// The folder on whose disk it is.
    pub data_dir: PathBuf,
    /// The API's certificate, if it has one.
    pub api_certificate: Option<PathBuf>,
    /// Those that issue agents' certificates.
    pub authorities: Arc<Authorities>,
}

impl Kept {
    pub(super) fn new(all: &mut Catalogue) -> Self {
        let expiry =
            "When a certificate ends: the API's, and the one that agents' certificates are issued with.";
        Self {
            size: all.gauge("postrider_store_size_bytes", "What the embedded store takes on disk."),
            free: all.gauge("postrider_store_disk_free_bytes", "What is free on the store's disk."),
            expiry: all.gauges("postrider_certificate_expiry_timestamp_seconds", expiry, &CERTIFICATE),
        }
    }
}

/// Looks at all of it every half minute, until it is cancelled.
pub async fn watch(metrics: Arc<Metrics>, watched: Watched) {
    loop {
        metrics.kept.look(&watched).await;
        sleep(EVERY).await;
    }
}

impl Kept {
    async fn look(&self, watched: &Watched) {
        match watched.store.size().await {
            Ok(size) => self.size.set(i64::try_from(size).unwrap_or(i64::MAX)),
            Err(error) => debug!(%error, "how large the store is cannot be seen"),
        }
        if let Some(authority) = watched.authorities.trusted().first() {
            self.expires("agents_authority", authority.expires.as_millis() / 1000);
        }
        let (folder, certificate) = (watched.data_dir.clone(), watched.api_certificate.clone());
        let looked = tokio::task::spawn_blocking(move || (free(&folder), certificate.and_then(end_of)));
        let Ok((free, end)) = looked.await else { return };
        free.into_iter().for_each(|free| self.free.set(free));
        end.into_iter().for_each(|end| self.expires("api", end));
    }

    fn expires(&self, certificate: &str, at: i64) {
        self.expiry.with_label_values(&[certificate]).set(at);
    }
}

/// Bytes that this program may still write.
fn free(folder: &std::path::Path) -> Option<i64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    i64::try_from(disk.f_bavail.saturating_mul(disk.f_frsize)).ok()
}

/// When the first certificate of a file ends. Half a file is left alone: it is being written.
fn end_of(path: PathBuf) -> Option<i64> {
    let certificate = CertificateDer::pem_file_iter(path).ok()?.next()?.ok()?;
    Some(authority::end_of(&certificate).ok()?.as_millis() / 1000)
}

//! The control plane's metrics.

use postrider_telemetry::metrics::Catalogue;

/// See the [module](self).
pub struct Metrics {
    catalogue: Catalogue,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut catalogue = Catalogue::new();
        catalogue.build("postrider_build_info", env!("CARGO_PKG_VERSION"));
        Self { catalogue }
    }

    /// All of them as they are now, in Prometheus' text format.
    pub async fn show(&self) -> String {
        self.catalogue.encode()
    }
}

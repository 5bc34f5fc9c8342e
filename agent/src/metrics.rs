//! The agent's metrics.

use postrider_telemetry::metrics::Catalogue;

/// See the [module](self).
pub struct Metrics {
    catalogue: Catalogue,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All of them, at nothing.
    #[must_use]
    pub fn new() -> Metrics {
        let mut catalogue = Catalogue::new();
        catalogue.build("postrider_agent_build_info", env!("CARGO_PKG_VERSION"));
        Metrics { catalogue }
    }

    /// All of them as they are now, in Prometheus' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        self.catalogue.encode()
    }
}

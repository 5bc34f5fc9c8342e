//! Reads of the API and streams that watch: how many, and which were refused.

use postrider_telemetry::metrics::{Catalogue, Counters, IntGauge, Label};

use crate::reads::Busy;
use crate::watchers::TooMany;

const REASON: [Label; 1] = [Label {
    name: "reason",
    values: &["token_queue", "tenant_queue", "queue", "token_watchers", "tenant_watchers", "operation_rate"],
}];

/// Where it is counted.
#[derive(Clone)]
pub struct ReadCounts {
    waiting: IntGauge,
    under_way: IntGauge,
    bytes: IntGauge,
    watchers: IntGauge,
    refused: Counters,
}

impl Default for ReadCounts {
    fn default() -> Self {
        Self::new(&mut Catalogue::new())
    }
}

impl ReadCounts {
    pub(super) fn new(all: &mut Catalogue) -> Self {
        let bytes =
            "Bytes of the API's answers to reads that are being made or not yet taken by their callers.";
        let refused = "Reads, streams that watch and starts of operations that were refused because there were too many, by \
            what there was too much of.";
        Self {
            waiting: all.gauge("postrider_reads_waiting", "Reads of the API that wait for their turn."),
            under_way: all.gauge("postrider_reads_in_flight", "Reads of the API in flight."),
            bytes: all.gauge("postrider_read_answer_bytes", bytes),
            watchers: all.gauge("postrider_watchers", "Streams that watch deliveries."),
            refused: all.counters("postrider_read_refusals_total", refused, &REASON),
        }
    }

    /// So many wait, are under way, and take so many bytes.
    pub fn show(&self, waiting: usize, under_way: usize, bytes: usize) {
        for (gauge, count) in [(&self.waiting, waiting), (&self.under_way, under_way), (&self.bytes, bytes)] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A read got no turn.
    pub fn refused(&self, busy: Busy) {
        match busy {
            Busy::Token => self.refused.inc("token_queue"),
            Busy::Tenant => self.refused.inc("tenant_queue"),
            Busy::All => self.refused.inc("queue"),
            Busy::Stopping => {}
        }
    }

    /// So many streams more, or less, watch.
    pub fn watches(&self, more: i64) {
        self.watchers.add(more);
    }

    /// A stream may not watch.
    pub fn too_many_watchers(&self, refused: TooMany) {
        self.refused.inc(match refused {
            TooMany::OfToken(_) => "token_watchers",
            TooMany::OfTenant(_) => "tenant_watchers",
        });
    }

    /// Operations of a tenant were started too fast.
    pub fn operations_too_fast(&self) {
        self.refused.inc("operation_rate");
    }
}

//! What judging events by schemas and filters takes: time, places, memory.

use std::time::Duration;

use postrider_telemetry::metrics::{Catalogue, Counters, Histograms, IntGauge, IntGaugeVec, Label};

const STATE: [Label; 1] = [Label { name: "state", values: &["waiting", "running"] }];
const KIND: [Label; 1] = [Label { name: "kind", values: &["judge", "compile", "explain"] }];
const REASON: [Label; 1] = [Label { name: "reason", values: &["busy", "call_cost", "schema_unusable"] }];

/// See the [module](self).
pub struct Compute {
    waiting: IntGauge,
    running: IntGauge,
    took: Histograms,
    refused: Counters,
    cached: IntGauge,
}

impl Compute {
    pub(super) fn new(all: &mut Catalogue) -> Self {
        let tasks = "Pieces of work for the threads that judge events by schemas and filters, by whether they wait or run.";
        let took = "Processor time of each turn of such work, by what it was for: judging events, compiling a schema, \
            explaining what filters say. A turn of judging ends after about 2 ms, so that others have theirs.";
        let refused = "Calls refused for what judging events takes: because too much of the tenant's work waits, because the \
            call costs too much, or because a stored schema cannot be used.";
        let cached =
            "Bytes of memory that compiled schemas take, about. At most 64 MiB, and 16 MiB for one tenant.";
        let tasks: IntGaugeVec = all.gauges("postrider_compute_tasks", tasks, &STATE);
        Self {
            waiting: tasks.with_label_values(&["waiting"]),
            running: tasks.with_label_values(&["running"]),
            took: all.histograms("postrider_compute_turn_seconds", took, &KIND),
            refused: all.counters("postrider_compute_refused_total", refused, &REASON),
            cached: all.gauge("postrider_schema_cache_bytes", cached),
        }
    }

    /// So many pieces of work wait, and run.
    pub(crate) fn tasks(&self, waiting: usize, running: u32) {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.running.set(running.into());
    }

    /// A turn has had so much time.
    pub(crate) fn had(&self, kind: &str, time: Duration) {
        self.took.observe(kind, time);
    }

    /// A call was refused.
    pub(crate) fn refused(&self, reason: &str) {
        self.refused.inc(reason);
    }

    /// Compiled schemas take so many bytes.
    pub(crate) fn cached(&self, bytes: usize) {
        self.cached.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

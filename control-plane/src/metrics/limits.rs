//! What limits refuse, and how much waits or is under way of what they bound.

use postrider_telemetry::metrics::{Catalogue, Counters, IntGauge, Label};

const LIMIT: [Label; 1] = [Label {
    name: "limit",
    values: &[
        "subscriptions",
        "event_types",
        "emit_rate",
        "delivery_rate",
        "fan_out",
        "stored_bytes",
        "queue_share",
        "calls",
    ],
}];
const DECISION: [Label; 1] =
    [Label { name: "decision", values: &["unauthenticated_evicted", "holder_evicted", "refused"] }];

/// See the [module](self).
pub(crate) struct Limits {
    refusals: Counters,
    events: IntGauge,
    deliveries: IntGauge,
    pub(crate) calls: IntGauge,
    pub(super) decisions: Counters,
}

impl Limits {
    pub(super) fn new(all: &mut Catalogue) -> Self {
        let refusals = "Calls and events that were refused, by the limit: a tenant's subscriptions or event types, its events or deliveries per second, or its stored bytes; an event to too many subscriptions; the accept queue or a tenant's share of it; concurrent calls.";
        let decisions = "New connections, or first calls on them, for which there was no free place, by what followed: the \
            oldest of those that have not shown who they are made room, or one of the holder with the most did, or the new one \
            was refused.";
        Self {
            refusals: all.counters("postrider_limit_refusals_total", refusals, &LIMIT),
            events: all.gauge("postrider_emit_queue_events", "Events that wait to be written."),
            deliveries: all.gauge(
                "postrider_emit_queue_deliveries",
                "Deliveries of the events that wait to be written: rows of the next writes.",
            ),
            calls: all.gauge(
                "postrider_api_calls",
                "Concurrent calls to the API, streams included. Not counted when tokens are off.",
            ),
            decisions: all.counters("postrider_connection_decisions_total", decisions, &DECISION),
        }
    }

    /// Something was refused.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.refusals.inc(limit);
    }

    /// An event with so many deliveries waits to be written.
    pub(crate) fn queued(&self, deliveries: usize) {
        self.events.inc();
        self.deliveries.add(whole(deliveries));
    }

    /// So many events with so many deliveries are being written.
    pub(crate) fn taken(&self, events: usize, deliveries: usize) {
        self.events.sub(whole(events));
        self.deliveries.sub(whole(deliveries));
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

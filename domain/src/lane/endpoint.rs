//! What a lane is told of its endpoint as a whole, apart from outcomes.

use std::time::Duration;

use super::{Breaker, Lane};
use crate::time::Timestamp;

impl Lane {
    /// Probes the endpoint only every so often, while its subscription is disabled for its failures. A success, or
    /// [`Lane::release_endpoint`], ends that.
    pub fn doze(&mut self, every: Duration, now: Timestamp, random: f64) {
        self.flow.doze(every, now, random);
    }

    /// Somebody has said that the endpoint works: it is tried at once, with one attempt at first.
    pub fn release_endpoint(&mut self) {
        self.flow.release();
    }

    /// Whether the endpoint is being probed.
    #[must_use]
    pub fn breaker(&self) -> Breaker {
        self.flow.breaker()
    }
}

//! What the control plane's clock says at most, and so until when a job may start.
//!
//! A job carries its start-by time on the control plane's monotonic clock. The agent knows that clock only
//! from stamps in messages that were under way for an unknown time. But a stamp was made *after* the agent
//! sent the message that it answers, so from then on the clock cannot have run further than the agent's own.
//! That gives an upper bound of the control plane's time, the tightest of the recent stamps is used, and an
//! error makes the agent refuse early, never start late. Wall clocks play no part.
//!
//! Pure: moments come in as arguments. The session asks; one value lives as long as one connection, since
//! the next may lead to another replica with another clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Instant, far};

/// How many stamps are kept. Old ones fall out, so that clocks which drift apart are followed.
const SAMPLES: usize = 12;

/// How late a stamp can be within its millisecond.
const STAMP_RESOLUTION: Duration = Duration::from_millis(1);

/// The stamps of one connection.
#[derive(Debug, Default)]
pub struct ServerTime {
    stamps: VecDeque<Stamp>,
}

#[derive(Debug, Clone, Copy)]
struct Stamp {
    /// When the message that the stamp answers was sent. The stamp was made no earlier.
    asked: Instant,
    /// The control plane's clock then.
    server: Duration,
}

impl ServerTime {
    /// Notes a stamp that answers a message sent at `asked`.
    pub fn note(&mut self, asked: Instant, server_time_ms: u64) {
        if self.stamps.len() == SAMPLES {
            self.stamps.pop_front();
        }
        self.stamps.push_back(Stamp { asked, server: Duration::from_millis(server_time_ms) });
    }

    /// The last moment at which the control plane's clock surely has not passed `start_by_ms`. `None` if no
    /// stamp is known or if that moment lies before this clock began: too late in any case.
    #[must_use]
    pub fn deadline(&self, start_by_ms: u64) -> Option<Instant> {
        let start_by = Duration::from_millis(start_by_ms);
        self.stamps.iter().filter_map(|stamp| stamp.deadline(start_by)).max()
    }
}

impl Stamp {
    fn deadline(&self, start_by: Duration) -> Option<Instant> {
        let latest = self.server + STAMP_RESOLUTION;
        match start_by.checked_sub(latest) {
            Some(left) => Some(self.asked.checked_add(left).unwrap_or_else(|| far(self.asked))),
            None => self.asked.checked_sub(latest - start_by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn without_a_stamp_nothing_may_start() {
        assert_eq!(ServerTime::default().deadline(u64::MAX), None);
    }

    #[test]
    fn the_tightest_stamp_counts() {
        let start = now();
        let mut time = ServerTime::default();
        time.note(start, 1_000); // half a second under way, so the clock may be that much further
        assert_eq!(time.deadline(21_000), Some(start + ms(19_999)));
        time.note(start + ms(1_000), 2_100);
        assert_eq!(time.deadline(21_000), Some(start + ms(19_999)), "a looser bound changes nothing");
        time.note(start + ms(2_000), 2_600);
        assert_eq!(time.deadline(21_000), Some(start + ms(20_399)), "a tighter one does");
    }

    #[test]
    fn old_stamps_fall_out() {
        let start = now();
        let mut time = ServerTime::default();
        time.note(start, 0);
        for i in 1..=SAMPLES as u64 {
            time.note(start + ms(i * 10_000), i * 10_000 + 400);
        }
        assert_eq!(time.deadline(100_000), Some(start + ms(99_599)));
    }

    #[test]
    fn extreme_stamps_do_not_overflow() {
        let start = now();
        let mut time = ServerTime::default();
        time.note(start, 0);
        assert!(time.deadline(u64::MAX).is_some_and(|deadline| deadline > start + ms(1_000_000)));
        let mut time = ServerTime::default();
        time.note(start, u64::MAX);
        assert!(time.deadline(0).is_none_or(|deadline| deadline < start));
    }

    proptest! {
        /// Whatever the offset of the clocks and the delays of messages, a deadline is never later than the
        /// true one, and earlier by no more than the best round trip (and a millisecond of rounding).
        #[test]
        fn a_deadline_is_never_late_and_hardly_early(
            server_ahead_us in 0u64..10_000_000_000,
            exchanges in prop::collection::vec((0u64..20_000_000, 0u64..5_000_000, 0u64..5_000_000), 1..12),
            start_by_in_ms in 0u64..60_000,
        ) {
            let base = now();
            let us = Duration::from_micros;
            let mut time = ServerTime::default();
            let mut at = 0;
            let mut best = u64::MAX;
            for (gap, there, back) in exchanges {
                at += gap;
                time.note(base + us(at), (server_ahead_us + at + there) / 1_000);
                at += there + back;
                best = best.min(there);
            }
            let start_by_ms = (server_ahead_us + at) / 1_000 + start_by_in_ms;
            let truth = base + us(start_by_ms * 1_000 - server_ahead_us.min(start_by_ms * 1_000));
            let deadline = time.deadline(start_by_ms).unwrap();
            prop_assert!(deadline <= truth, "late by {:?}", deadline - truth);
            prop_assert!(truth - deadline <= us(best) + ms(2), "early by {:?}", truth - deadline);
        }
    }
}

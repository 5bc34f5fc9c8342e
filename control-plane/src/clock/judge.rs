//! Judges the wall clock by the monotonic one, which never jumps, and by the latest time in the store.
//!
//! Pure: both times come in as arguments, whenever somebody asks. The judge keeps a *reference*, the wall clock's lead over
//! the monotonic clock that it believes.
//!
//! - A wall clock within [`TOLERANCE`] of the reference is believed. Ahead of it, it moves the reference along; behind it,
//!   the time stands where it was for as long as it takes to be sure, so that what has begun or expired stays so.
//! - Further off it is not believed, and the time goes on by the monotonic clock. If it runs steadily there for
//!   [`CONFIRMED_AFTER`], it is taken for right: then it was the reference that was wrong.
//! - After a start nobody knows how long the program was away. Until the wall clock is confirmed, the time is the later one
//!   of the two: what has expired by either counts as expired.

use std::time::Duration;

use postrider_domain::time::Timestamp;

/// How far the wall clock may be off and still be believed.
pub const TOLERANCE: Duration = Duration::from_secs(3_600);
/// How long a wall clock that is further off must run steadily before it is believed.
pub const CONFIRMED_AFTER: Duration = Duration::from_secs(3_600);
/// How far a steady clock may drift meanwhile.
const DRIFT: i64 = 60_000;

/// What is to be believed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// The time of day.
    pub(super) time: Timestamp,
    /// Whether it is the wall clock's, near enough: things may be removed by it.
    pub(super) trusted: bool,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge {
    /// The wall clock's lead over the monotonic clock that is believed, in milliseconds.
    reference: i64,
    /// Whether the wall clock was believed since the start.
    confirmed: bool,
    /// The lead that the wall clock has shown steadily, and since when, if it is not the reference.
    steady: Option<(i64, Duration)>,
}

impl Judge {
    /// One that knows of nothing to compare with.
    pub(super) fn new(wall: Timestamp, mono: Duration) -> Self {
        Self { reference: lead(wall, mono), confirmed: true, steady: None }
    }

    /// One that knows that it was at least `stored` when the program was left.
    pub(super) fn after(stored: Timestamp, wall: Timestamp, mono: Duration) -> Self {
        let ahead = wall.since(stored);
        // A short absence: the time that has passed is the wall clock's.
        let believed = if ahead <= TOLERANCE { wall.max(stored) } else { stored };
        Self { reference: lead(believed, mono), confirmed: false, steady: None }
    }

    /// Both clocks were read. Asked at least every few seconds.
    pub(super) fn observe(&mut self, wall: Timestamp, mono: Duration) -> Judgement {
        let shown = lead(wall, mono);
        let off = shown - self.reference;
        let near = off.unsigned_abs() <= millis(TOLERANCE).unsigned_abs();
        self.watch(shown, mono);
        if (near && off >= 0) || self.is_steady(mono) {
            self.reference = shown;
            self.steady = None;
        }
        let trusted = near || self.reference == shown;
        self.confirmed |= trusted;
        let believed = time(self.reference, mono);
        let time = if self.confirmed { believed } else { believed.max(wall) };
        Judgement { time, trusted }
    }

    /// Follows how long the wall clock has shown this lead.
    fn watch(&mut self, shown: i64, mono: Duration) {
        let same = |(lead, _): &(i64, Duration)| (shown - lead).abs() <= DRIFT;
        if shown == self.reference {
            self.steady = None;
        } else if !self.steady.as_ref().is_some_and(same) {
            self.steady = Some((shown, mono));
        }
    }

    fn is_steady(&self, mono: Duration) -> bool {
        self.steady.is_some_and(|(_, since)| mono.saturating_sub(since) >= CONFIRMED_AFTER)
    }
}

fn lead(wall: Timestamp, mono: Duration) -> i64 {
    wall.as_millis() - millis(mono)
}

fn time(lead: i64, mono: Duration) -> Timestamp {
    Timestamp::from_millis(lead.saturating_add(millis(mono)))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

//! A lane's logical clock: it ticks with every outcome.
//!
//! Whether an attempt began before or after an outcome was known decides what its failure says. Timestamps of whole
//! milliseconds cannot tell: attempts that begin and fail within one millisecond are common on a local network.

/// How many outcomes of a lane were known at some point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    /// The moment after one more outcome.
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// When an attempt began, and when its outcome became known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The default is the beginning of the lane: an attempt of which nobody knows when it began.
    pub(super) begun: Moment,
    pub(super) known: Moment,
}

impl Span {
    /// Whether the attempt began when everything up to `moment` was known.
    pub(super) fn begins_after(self, moment: Moment) -> bool {
        self.begun >= moment
    }
}

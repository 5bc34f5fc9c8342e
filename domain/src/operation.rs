//! Operations: work on many things that goes on by itself. How they end, which deliveries a replay is for, and how far one
//! is.

use crate::delivery;
use crate::time::Timestamp;

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// At work.
    Running,
    /// Held by hand.
    Paused,
    /// It has done all that there was to do.
    Done,
    /// Ended by hand.
    Cancelled,
}

/// What a user may request of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Pause it.
    Pause,
    /// Continue it.
    Resume,
    /// End it.
    Cancel,
}

impl State {
    /// Whether it will do nothing more.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }

    /// The state after an action; `None` when the operation has ended in another way.
    #[must_use]
    pub fn after(self, action: Action) -> Option<Self> {
        match (self, action) {
            (Self::Running | Self::Paused, Action::Pause) => Some(Self::Paused),
            (Self::Running | Self::Paused, Action::Resume) => Some(Self::Running),
            (Self::Running | Self::Paused | Self::Cancelled, Action::Cancel) => Some(Self::Cancelled),
            (Self::Done | Self::Cancelled, _) => None,
        }
    }
}

/// The kinds of ended deliveries that a replay is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Those that were delivered.
    pub delivered: bool,
    /// Those whose retry policy was spent.
    pub exhausted: bool,
    /// Those that were ended by hand.
    pub cancelled: bool,
}

impl Ended {
    /// Whether a delivery in this state is among them, for a replay that was created at `created`.
    ///
    /// Only what had ended before is: so one that the replay itself, or somebody else, has attempted again since is not
    /// attempted once more, however often the replay looks at it. That is what lets it go on after a crash from a place
    /// that it has passed already.
    #[must_use]
    pub fn has(&self, state: delivery::State, created: Timestamp) -> bool {
        match state {
            delivery::State::Pending | delivery::State::Waiting(_) => false,
            delivery::State::Delivered(end) => self.delivered && end < created,
            delivery::State::Exhausted(end) => self.exhausted && end < created,
            delivery::State::Cancelled(end) => self.cancelled && end < created,
        }
    }
}

/// How much of a span of time has been gone through: 0 to 1.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "it is a share for people")]
pub fn progress(start: Timestamp, end: Timestamp, at: Timestamp) -> f64 {
    let length = end.as_millis().saturating_sub(start.as_millis());
    let gone = at.as_millis().saturating_sub(start.as_millis());
    if length <= 0 { 1.0 } else { (gone as f64 / length as f64).clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_wished_comes_true_until_the_end() {
        use State::{Cancelled, Done, Paused, Running};
        let table = [
            (Running, [Some(Paused), Some(Running), Some(Cancelled)]),
            (Paused, [Some(Paused), Some(Running), Some(Cancelled)]),
            (Cancelled, [None, None, Some(Cancelled)]),
            (Done, [None, None, None]),
        ];
        for (state, expected) in table {
            assert_eq!(
                [Action::Pause, Action::Resume, Action::Cancel].map(|action| state.after(action)),
                expected
            );
            assert_eq!(state.has_ended(), matches!(state, Done | Cancelled));
        }
    }

    #[test]
    fn a_replay_is_for_what_ended_before_it_was_created() {
        let failed = Ended { delivered: false, exhausted: true, cancelled: false };
        let all = Ended { delivered: true, exhausted: true, cancelled: true };
        for (state, of_failed, of_all) in [
            (delivery::State::Pending, false, false),
            (delivery::State::Waiting(at(1)), false, false),
            (delivery::State::Exhausted(at(9)), true, true),
            (delivery::State::Exhausted(at(10)), false, false),
            (delivery::State::Delivered(at(9)), false, true),
            (delivery::State::Delivered(at(11)), false, false),
            (delivery::State::Cancelled(at(9)), false, true),
        ] {
            assert_eq!((failed.has(state, at(10)), all.has(state, at(10))), (of_failed, of_all), "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn progress_is_a_share_and_never_goes_back(start in 0_u64..1000, length in 0_u64..1000, mut two in prop::array::uniform2(0_u64..3000)) {
            two.sort_unstable();
            let share = two.map(|gone| progress(at(start), at(start + length), at(gone)));
            prop_assert!(share.iter().all(|share| (0.0..=1.0).contains(share)));
            prop_assert!(share[0] <= share[1]);
        }
    }
}

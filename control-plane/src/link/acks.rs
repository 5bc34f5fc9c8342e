//! Which outcomes may be acknowledged: acknowledgements are cumulative, but outcomes are stored in any order.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Messages whose lag is waited for: an agent that numbers its outcomes wrongly leaves no more than these.
const HEARD: usize = 1024;

/// Outcomes of one stream that are stored.
#[derive(Debug)]
pub(super) struct Acks {
    /// Everything before this is stored.
    next: u64,
    /// The number of the outcome that comes next.
    expected: u64,
    /// Stored ones behind a gap: no more than came and are not acknowledged.
    ahead: BTreeSet<u64>,
    /// Messages of outcomes that are not all stored: the number of the last outcome, and when it came.
    heard: VecDeque<(u64, Duration)>,
}

impl Acks {
    /// A stream whose first outcome will have this number.
    pub(super) fn new(next: u64) -> Self {
        Self { next, expected: next, ahead: BTreeSet::new(), heard: VecDeque::new() }
    }

    /// An outcome came; whether it has the number of the one that comes next.
    pub(super) fn follows(&mut self, sequence: u64) -> bool {
        let follows = sequence == self.expected;
        self.expected = self.expected.saturating_add(u64::from(follows));
        follows
    }

    /// A message of outcomes came, of which this is the last.
    pub(super) fn heard(&mut self, last: u64, now: Duration) {
        if self.heard.len() == HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back((last, now));
    }

    /// How long ago those messages came that are stored by now, each told once.
    pub(super) fn lags(&mut self, now: Duration) -> impl Iterator<Item = Duration> + '_ {
        let next = self.next;
        let stored = self.heard.iter().take_while(|(last, _)| *last < next).count();
        self.heard.drain(..stored).map(move |(_, came)| now.saturating_sub(came))
    }

    /// These are stored; the highest number up to which all are, if it has grown.
    pub(super) fn stored(&mut self, sequences: impl IntoIterator<Item = u64>) -> Option<u64> {
        let before = self.next;
        let came = before..self.expected;
        self.ahead.extend(sequences.into_iter().filter(|sequence| came.contains(sequence)));
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
        (self.next > before).then(|| self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_lags_until_all_of_it_is_stored() {
        let seconds = Duration::from_secs;
        let mut acks = Acks::new(1);
        assert!((1..=3).all(|sequence| acks.follows(sequence)));
        acks.heard(2, seconds(10));
        acks.heard(3, seconds(11));
        acks.stored([1, 3]);
        assert_eq!(acks.lags(seconds(12)).count(), 0);
        acks.stored([2]);
        assert_eq!(acks.lags(seconds(15)).collect::<Vec<_>>(), [seconds(5), seconds(4)]);
        assert_eq!(acks.lags(seconds(16)).count(), 0);
    }

    #[test]
    fn numbers_have_no_gap_and_nothing_is_kept_of_what_never_came() {
        let mut acks = Acks::new(7);
        for (sequence, follows) in
            [(7, true), (7, false), (9, false), (u64::MAX, false), (8, true), (6, false)]
        {
            assert_eq!(acks.follows(sequence), follows, "{sequence}");
        }
        assert_eq!(acks.stored([9, 1_000, u64::MAX]), None);
        assert!(acks.ahead.is_empty());
        assert_eq!(acks.stored([8, 7]), Some(8));
    }

    proptest! {
        #[test]
        fn an_acknowledgement_never_reaches_past_a_gap(
            order in Just((5_u64..40).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut acks = Acks::new(5);
            prop_assert!((5..40).all(|sequence| acks.follows(sequence)));
            let mut stored = BTreeSet::new();
            let mut last = 4;
            for sequence in order {
                stored.insert(sequence);
                let acknowledged = acks.stored([sequence, 3]);
                let whole = (5..40).take_while(|number| stored.contains(number)).last().unwrap_or(4);
                prop_assert_eq!(acknowledged.unwrap_or(last), whole);
                last = whole;
            }
            prop_assert_eq!(last, 39);
        }
    }
}

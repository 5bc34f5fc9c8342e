//! Which outcomes may be acknowledged: acknowledgements are cumulative, but outcomes are stored in any order.

use std::collections::BTreeSet;

/// Outcomes of one stream that are stored.
#[derive(Debug)]
pub(super) struct Acks {
    /// Everything before this is stored.
    next: u64,
    /// Stored ones behind a gap.
    ahead: BTreeSet<u64>,
}

impl Acks {
    /// A stream whose first outcome will have this number.
    pub(super) fn new(next: u64) -> Self {
        Self { next, ahead: BTreeSet::new() }
    }

    /// These are stored; the highest number up to which all are, if it has grown.
    pub(super) fn stored(&mut self, sequences: impl IntoIterator<Item = u64>) -> Option<u64> {
        let before = self.next;
        self.ahead.extend(sequences.into_iter().filter(|sequence| *sequence >= before));
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

    proptest! {
        #[test]
        fn an_acknowledgement_never_reaches_past_a_gap(
            order in Just((5_u64..40).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut acks = Acks::new(5);
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

//! Shares of a number of places that many parties use at once: who may take another one.
//!
//! A party may use up to `SHARE_FACTOR` times what is free. Alone it takes most of the places; the more
//! parties use many, the smaller the share of each becomes, and all of them end up with equal shares
//! ("dynamic thresholds": the result is max-min fair among parties with more demand than that). A
//! reserve is left out of that count: only users of few places may use it, so that a newcomer never
//! waits for the places of those who came first.

/// How often what is free one party may use.
const SHARE_FACTOR: usize = 3;

/// How places are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// All places.
    pub capacity: usize,
    /// Places that only users of few places may take.
    pub reserve: usize,
    /// A user of fewer places than this is a user of few.
    pub few: usize,
}

impl Shares {
    /// Whether a user may take one more place.
    ///
    /// `used` is the number of places in use. `own` is what this user has of them. `parties` are the
    /// uses of the parties that it belongs to, each of which includes `own`.
    #[must_use]
    pub fn admits(&self, used: usize, own: usize, parties: &[usize]) -> bool {
        let free = self.capacity.saturating_sub(used);
        if free == 0 {
            return false;
        }
        let room = free.saturating_sub(self.reserve).saturating_mul(SHARE_FACTOR);
        own < self.few.min(free) || parties.iter().all(|party| *party < room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARES: Shares = Shares { capacity: 1_000, reserve: 200, few: 10 };

    #[test]
    fn who_may_take_another_place() {
        let table = [
            ("an empty house", 0, 0, vec![0, 0], true),
            ("alone, below the threshold", 500, 500, vec![500, 500], true),
            ("alone, at the threshold", 600, 600, vec![600, 600], false),
            ("the reserve is for users of few", 850, 9, vec![9, 9], true),
            ("who uses more is not admitted to it", 850, 10, vec![10, 10], false),
            ("a greedy pool does not stop a small tenant in it", 700, 3, vec![600, 3], true),
            ("a greedy tenant does not get more through another pool", 700, 20, vec![20, 600], false),
            ("few free places are for those with fewer", 996, 3, vec![3, 3], true),
            ("few free places, as many used", 996, 4, vec![4, 4], false),
            ("a full house", 1_000, 0, vec![0, 0], false),
            ("more used than there are places", 2_000, 0, vec![0, 0], false),
        ];
        for (case, used, own, parties, admitted) in table {
            assert_eq!(SHARES.admits(used, own, &parties), admitted, "{case}");
        }
    }

    #[test]
    fn the_smallest_capacities_serve_somebody() {
        for capacity in 1..20 {
            let shares = Shares { capacity, reserve: capacity / 8, few: 64 };
            assert!(shares.admits(0, 0, &[0]), "{capacity}");
            assert!(!shares.admits(capacity, 0, &[0]), "{capacity}");
        }
    }

    /// Takes places in turns until nobody is admitted.
    fn fill(shares: Shares, uses: &mut [usize], demands: &[usize]) {
        loop {
            let mut admitted = false;
            for (own, demand) in (0..uses.len()).zip(demands) {
                let used = uses.iter().sum();
                if uses[own] < *demand && shares.admits(used, uses[own], &[uses[own]]) {
                    uses[own] += 1;
                    admitted = true;
                }
            }
            if !admitted {
                return;
            }
        }
    }

    proptest! {
        /// Nobody waits while a party that has more is admitted.
        #[test]
        fn who_has_less_is_admitted_before_who_has_more(
            used in 0_usize..1_100, less in 0_usize..1_000, more in 0_usize..1_000,
        ) {
            prop_assume!(less <= more);
            let admits = |own: usize| SHARES.admits(used, own, &[own]);
            prop_assert!(admits(less) || !admits(more));
        }

        /// Who wants less than an equal share gets all of it, and the others get the same.
        #[test]
        fn places_are_shared_max_min_fairly(demands in prop::collection::vec(0_usize..1_200, 1..40)) {
            let mut uses = vec![0; demands.len()];
            fill(SHARES, &mut uses, &demands);
            let highest = uses.iter().max().copied().unwrap_or(0);
            for (own, demand) in uses.iter().zip(&demands) {
                prop_assert!(own == demand || own + 1 >= highest, "{uses:?} of {demands:?}");
            }
            prop_assert!(uses.iter().sum::<usize>() <= SHARES.capacity);
        }

        /// However greedy those are who came first and keep what they have, the next user of few gets a few.
        #[test]
        fn a_newcomer_gets_a_place_beside_hoarders(hoarders in 1_usize..20, wants in 1_usize..10) {
            let mut uses = vec![0; hoarders + 1];
            for hoarder in 0..hoarders {
                let mut demands = uses.clone();
                demands[hoarder] = usize::MAX;
                fill(SHARES, &mut uses, &demands);
            }
            let mut demands = uses.clone();
            demands[hoarders] = wants;
            fill(SHARES, &mut uses, &demands);
            prop_assert_eq!(uses[hoarders], wants, "{:?}", uses);
        }
    }
}

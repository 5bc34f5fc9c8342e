//! Affinity: which of two sessions gets the next job of a lane, the one whose turn it is, or the one that had the lane's
//! last job and may still have a connection to the endpoint open.
//!
//! A connection that is reused saves the endpoint a handshake; it must not cost the balance. So the last session is
//! preferred only while it is hardly fuller than the other.

/// The part of its capacity by which the last session may be fuller.
const SLACK: usize = 16;

/// How full a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// How many jobs it has.
    pub jobs: usize,
    /// How many it can hold.
    pub most: usize,
}

/// Whether the last session is preferred to the one whose turn it is.
#[must_use]
pub fn stays(last: Load, turn: Load) -> bool {
    if last.jobs >= last.most {
        return false;
    }
    // Shares are compared by cross-multiplication: no rounding. Small holders may be one job ahead.
    let slack = (last.most / SLACK).max(1);
    let ahead = last.jobs.saturating_sub(slack);
    ahead.saturating_mul(turn.most) <= turn.jobs.saturating_mul(last.most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(jobs: usize, most: usize) -> Load {
        Load { jobs, most }
    }

    #[test]
    fn a_warm_holder_is_preferred_until_it_is_clearly_fuller() {
        for (last, turn, expected) in [
            (load(0, 256), load(0, 256), true),
            (load(16, 256), load(0, 256), true),
            (load(17, 256), load(0, 256), false),
            (load(100, 256), load(90, 256), true),
            (load(107, 256), load(90, 256), false),
            (load(1, 8), load(0, 8), true),
            (load(2, 8), load(0, 8), false),
            (load(8, 8), load(8, 8), false),
            (load(16, 32), load(256, 512), true),
            (load(0, 1), load(0, 1), true),
        ] {
            assert_eq!(stays(last, turn), expected, "{last:?} {turn:?}");
        }
    }

    proptest! {
        /// However long one lane is handed out to two equal holders, they end nearly equally full.
        #[test]
        fn balance_is_kept(most in 1_usize..600, jobs in 0_usize..1000) {
            let mut held = [0_usize; 2];
            let mut last = 0;
            for given in 0..jobs.min(2 * most) {
                let turn = [given % 2, 1 - given % 2].into_iter().find(|turn| held[*turn] < most).unwrap();
                let chosen = if stays(load(held[last], most), load(held[turn], most)) { last } else { turn };
                held[chosen] += 1;
                last = chosen;
                let ahead = held[0].abs_diff(held[1]);
                // One more, since the last one may be the one whose turn it is.
                prop_assert!(ahead <= (most / SLACK).max(1) + 2, "{held:?}");
                prop_assert!(held.iter().all(|held| *held <= most));
            }
        }
    }
}

//! How many attempts may be under way at once, between one and the cap: what the endpoint can bear.
//!
//! It begins at the cap. Signs of overload halve it, once for all attempts that were under way by then; each round of
//! successes adds one. After an outage it begins at one, and doubles each round up to half of what it was before.

use super::moment::{Moment, Span};
use super::verdict::Verdict;

/// How many attempts may be under way at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adaptive {
    cap: usize,
    limit: f64,
    /// Below this, each success adds one.
    steep_below: f64,
    /// Of attempts begun before this, signs of overload are known already.
    halved: Moment,
}

impl Adaptive {
    pub(super) fn new(cap: usize) -> Self {
        let limit = as_limit(cap);
        Self { cap, limit, steep_below: limit, halved: Moment::default() }
    }

    /// Never more than the cap, never less than one.
    pub(super) fn limit(&self) -> usize {
        // Between 1 and the cap: it is cut to the whole number below.
        (self.limit as usize).clamp(1, self.cap.max(1))
    }

    pub(super) fn set_cap(&mut self, cap: usize) {
        let at_cap = self.limit >= as_limit(self.cap);
        self.cap = cap;
        self.limit = if at_cap { as_limit(cap) } else { self.limit.min(as_limit(cap)) };
    }

    /// An attempt has ended.
    pub(super) fn heard(&mut self, verdict: Verdict, span: Span) {
        match verdict {
            Verdict::Well => {
                let step = if self.limit < self.steep_below { 1.0 } else { 1.0 / self.limit };
                self.limit = (self.limit + step).min(as_limit(self.cap));
            }
            Verdict::TooMany | Verdict::Failure { overload: true } if span.begins_after(self.halved) => {
                self.limit = (self.limit / 2.0).max(1.0);
                self.steep_below = self.limit;
                self.halved = span.known;
            }
            _ => {}
        }
    }

    /// An outage has begun: what follows it begins at one.
    pub(super) fn restart(&mut self) {
        self.steep_below = (self.limit / 2.0).max(self.steep_below.min(self.limit)).max(1.0);
        self.limit = 1.0;
    }
}

fn as_limit(cap: usize) -> f64 {
    u32::try_from(cap.max(1)).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moment(number: u32) -> Moment {
        (0..number).fold(Moment::default(), |moment, _| moment.next())
    }

    fn span(begun: u32, known: u32) -> Span {
        Span { begun: moment(begun), known: moment(known) }
    }

    #[test]
    fn overload_halves_once_a_round_and_success_adds_one_a_round() {
        let mut adaptive = Adaptive::new(64);
        assert_eq!(adaptive.limit(), 64);
        for known in 1..=64 {
            adaptive.heard(Verdict::Failure { overload: true }, span(0, known));
        }
        assert_eq!(adaptive.limit(), 32, "one round, one cut");
        adaptive.heard(Verdict::TooMany, span(64, 65));
        assert_eq!(adaptive.limit(), 16);
        adaptive.heard(Verdict::Failure { overload: false }, span(65, 66));
        assert_eq!(adaptive.limit(), 16, "another failure is no overload");
        for _ in 0..17 {
            adaptive.heard(Verdict::Well, span(65, 67));
        }
        assert_eq!(adaptive.limit(), 17);
    }

    #[test]
    fn after_an_outage_it_doubles_each_round() {
        let mut adaptive = Adaptive::new(64);
        adaptive.restart();
        let mut rounds = vec![adaptive.limit()];
        for _ in 0..6 {
            for _ in 0..adaptive.limit() {
                adaptive.heard(Verdict::Well, span(0, 1));
            }
            rounds.push(adaptive.limit());
        }
        assert_eq!(rounds, [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn a_new_cap_is_used_at_once_unless_the_endpoint_bears_less() {
        let mut adaptive = Adaptive::new(4);
        adaptive.set_cap(10);
        assert_eq!(adaptive.limit(), 10);
        adaptive.heard(Verdict::TooMany, span(0, 1));
        adaptive.set_cap(20);
        assert_eq!(adaptive.limit(), 5);
        adaptive.set_cap(2);
        assert_eq!(adaptive.limit(), 2);
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_the_cap(steps in prop::collection::vec((0_u8..6, 1_usize..100), 1..200)) {
            let (mut adaptive, mut cap) = (Adaptive::new(64), 64);
            for (number, (step, value)) in steps.into_iter().enumerate() {
                let now = span(number as u32, number as u32 + 1);
                match step {
                    0 => adaptive.heard(Verdict::Failure { overload: true }, now),
                    1 => adaptive.restart(),
                    2 => { cap = value; adaptive.set_cap(cap); }
                    _ => (0..value).for_each(|_| adaptive.heard(Verdict::Well, now)),
                }
                prop_assert!((1..=cap).contains(&adaptive.limit()));
            }
        }
    }
}

//! How many frames a server may send on one connection, by the requests that are under way on it.
//!
//! The agent reads little of a response and resets the rest, so what a server sends for one request is bounded in all
//! its parts. What is left over when a request ends is lost: a connection without a request has the allowance of an
//! idle one, however many requests it has carried.

use super::{Amount, TooMany};

/// For one request, up to the end of its response. Of a body the agent reads 64 KiB, and as much again is under way;
/// in pieces of one byte each that is 2 MiB as it is counted.
const REQUEST: Amount = Amount { frames: 10_000, bytes: 1 << 20, body: 2 << 20 };
/// Without a request. A server may end 100 streams at once with some frames each, and of bodies that nobody reads any
/// more as much comes as the window of the connection lets through.
const IDLE: Amount = Amount { frames: 1_000, bytes: 64 << 10, body: 2 << 20 };

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Answers {
    left: Amount,
    /// Requests under way.
    open: u64,
    exceeded: bool,
}

impl Default for Answers {
    fn default() -> Answers {
        Answers { left: IDLE, open: 0, exceeded: false }
    }
}

impl Answers {
    /// A request is about to be sent.
    pub fn begin(&mut self) {
        self.open += 1;
        self.left = self.left.plus(REQUEST).at_most(self.most());
    }

    /// A request has ended, with a response or without.
    pub fn end(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.left = self.left.at_most(self.most());
    }

    /// The server has sent this.
    ///
    /// # Errors
    ///
    /// [`TooMany`] from the moment on when it has sent more than it may.
    pub fn charge(&mut self, sent: Amount) -> Result<(), TooMany> {
        match self.left.less(sent) {
            Some(left) if !self.exceeded => {
                self.left = left;
                Ok(())
            }
            _ => {
                self.exceeded = true;
                Err(TooMany)
            }
        }
    }

    /// Whether it has sent more than it may.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    fn most(&self) -> Amount {
        REQUEST.times(self.open).plus(IDLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PING: Amount = Amount { frames: 1, bytes: 17, body: 0 };

    fn pings(answers: &mut Answers) -> u64 {
        (0..).take_while(|_| answers.charge(PING).is_ok()).count() as u64
    }

    #[test]
    fn a_request_has_its_allowance_and_an_idle_connection_a_small_one() {
        let mut idle = Answers::default();
        assert_eq!(pings(&mut idle), IDLE.frames);
        assert!(idle.is_exceeded());
        let mut busy = Answers::default();
        busy.begin();
        assert_eq!(pings(&mut busy), IDLE.frames + REQUEST.frames);
    }

    #[test]
    fn what_requests_did_not_use_is_not_left_to_an_idle_connection() {
        let mut answers = Answers::default();
        for _ in 0..1000 {
            answers.begin();
            answers.end();
        }
        for _ in 0..100 {
            answers.begin();
        }
        for _ in 0..100 {
            answers.end();
        }
        assert_eq!(pings(&mut answers), IDLE.frames);
    }

    #[test]
    fn each_part_has_its_bound() {
        let large = [
            Amount { frames: 1, bytes: 0, body: 0 }.times(REQUEST.frames + IDLE.frames + 1),
            Amount { frames: 0, bytes: REQUEST.bytes + IDLE.bytes + 1, body: 0 },
            Amount { frames: 0, bytes: 0, body: REQUEST.body + IDLE.body + 1 },
        ];
        for sent in large {
            let mut answers = Answers::default();
            answers.begin();
            assert_eq!(answers.charge(sent), Err(TooMany), "{sent:?}");
            assert_eq!(answers.charge(Amount::default()), Err(TooMany), "it stays exceeded");
        }
    }

    #[test]
    fn a_connection_lives_as_long_as_its_requests_use_less_than_they_may() {
        let each = Amount { frames: 500, bytes: 60 << 10, body: 128 << 10 };
        let mut answers = Answers::default();
        for _ in 0..100_000 {
            answers.begin();
            answers.charge(each).unwrap();
            answers.end();
        }
    }

    proptest! {
        #[test]
        fn a_server_never_sends_more_than_requests_and_one_idle_time_allow(
            steps in prop::collection::vec((0_u8..3, 0_u64..3000), 1..300),
        ) {
            let (mut answers, mut sent, mut requests, mut open) = (Answers::default(), 0_u64, 0_u64, 0_u64);
            for (step, frames) in steps {
                match step {
                    0 => { answers.begin(); requests += 1; open += 1; }
                    1 if open > 0 => { answers.end(); open -= 1; }
                    1 => {}
                    _ => sent += answers.charge(PING.times(frames)).map_or(0, |()| frames),
                }
                prop_assert!(sent <= IDLE.frames + requests * REQUEST.frames);
            }
        }
    }
}

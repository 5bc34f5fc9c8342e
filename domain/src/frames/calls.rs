//! How many frames a client may send on one connection, by the calls that it makes.
//!
//! A client that has not shown who it is has a small allowance for its whole connection. A known one has a larger one that
//! grows back: with each call, with what is sent to it, which it acknowledges, and slowly with time, so that the session
//! of an agent lives for months on its pings. Bodies of known clients are bounded elsewhere.

use std::time::Duration;

use super::{Amount, TooMany};

/// For a client that has not shown who it is: a call or a few, with what large headers and a first message need.
const STRANGER: Amount = Amount { frames: 2_000, bytes: 256 << 10, body: 8 << 20 };
/// The most that a known client has left.
const KNOWN: Amount = Amount { frames: 10_000, bytes: 1 << 20, body: u64::MAX };
/// What a call of a known client adds.
const CALL: Amount = Amount { frames: 64, bytes: 64 << 10, body: 0 };
/// What each second adds for a known client.
const SECOND: Amount = Amount { frames: 100, bytes: 8 << 10, body: 0 };
/// Bytes sent to the client for which it gets one frame more. The answer to a ping has 17 bytes: pings must not pay for
/// themselves.
const SENT_PER_FRAME: u64 = 32;
/// And for which it gets one byte more.
const SENT_PER_BYTE: u64 = 2;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Calls {
    left: Amount,
    known: Option<Grown>,
}

/// Up to when the allowance of a known client has grown.
#[derive(Clone, Copy, Debug)]
struct Grown {
    seconds: u64,
    calls: u64,
    /// What was sent to it, less what it has got nothing for.
    sent: u64,
}

/// What is known of a client when it has sent something.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Whether it has shown who it is.
    pub known: bool,
    /// Calls that it has made on the connection.
    pub calls: u64,
    /// Bytes that were sent to it on the connection.
    pub sent: u64,
    /// How long the connection has lasted.
    pub age: Duration,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls { left: STRANGER, known: None }
    }
}

impl Calls {
    /// The client has sent this.
    ///
    /// # Errors
    ///
    /// [`TooMany`] when it is more than the client may send now. The connection is to be closed then.
    pub fn charge(&mut self, client: &Client, received: Amount) -> Result<(), TooMany> {
        if client.known {
            self.grow(client);
        }
        self.left = self.left.less(received).ok_or(TooMany)?;
        Ok(())
    }

    fn grow(&mut self, client: &Client) {
        let seconds = client.age.as_secs();
        let now = Grown { seconds, calls: client.calls, sent: client.sent };
        let Some(grown) = &mut self.known else {
            (self.left, self.known) = (KNOWN, Some(now));
            return;
        };
        // In steps that lose nothing: what is sent is counted by whole frames' worth.
        let frames = client.sent.saturating_sub(grown.sent) / SENT_PER_FRAME;
        let acknowledged = Amount { frames, bytes: frames * SENT_PER_FRAME / SENT_PER_BYTE, body: 0 };
        let added = CALL
            .times(client.calls.saturating_sub(grown.calls))
            .plus(SECOND.times(seconds.saturating_sub(grown.seconds)))
            .plus(acknowledged);
        *grown = Grown { sent: grown.sent + frames * SENT_PER_FRAME, ..now };
        self.left = self.left.plus(added).at_most(KNOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Amount = Amount { frames: 1, bytes: 17, body: 0 };
    const STRANGE: Client = Client { known: false, calls: 0, sent: 0, age: Duration::ZERO };
    const FRIEND: Client = Client { known: true, ..STRANGE };

    /// How many pings pass, each of which is answered.
    fn answered_pings(calls: &mut Calls, mut client: Client) -> u64 {
        (0..)
            .take_while(|_| {
                client.sent += 17;
                calls.charge(&client, PING).is_ok()
            })
            .count() as u64
    }

    #[test]
    fn a_stranger_has_little_whatever_it_makes_the_server_do() {
        let busy = Client { calls: 64, sent: 1 << 30, age: Duration::from_secs(60), ..STRANGE };
        for client in [STRANGE, busy] {
            assert_eq!(answered_pings(&mut Calls::default(), client), STRANGER.frames);
        }
        let body = Amount { frames: 0, bytes: 0, body: STRANGER.body + 1 };
        assert_eq!(Calls::default().charge(&STRANGE, body), Err(TooMany));
    }

    #[test]
    fn pings_do_not_pay_for_themselves() {
        let pings = answered_pings(&mut Calls::default(), FRIEND);
        assert!((KNOWN.frames..3 * KNOWN.frames).contains(&pings), "{pings}");
    }

    #[test]
    fn a_known_client_has_as_much_as_it_makes_calls() {
        let mut calls = Calls::default();
        let request = Amount { frames: 10, bytes: 20 << 10, body: 1 << 20 };
        for made in 0..100_000 {
            calls.charge(&Client { calls: made, ..FRIEND }, request).unwrap();
        }
    }

    #[test]
    fn a_session_of_a_month_lives_on_its_pings_and_window_updates() {
        let mut calls = Calls::default();
        let (mut sent, window_update) = (0, Amount { frames: 1, bytes: 13, body: 0 });
        for second in 0..31 * 86_400 {
            sent += 64 << 10;
            let client = Client { calls: 1, sent, age: Duration::from_secs(second), ..FRIEND };
            calls.charge(&client, window_update.times(200).plus(PING)).unwrap();
        }
    }

    #[test]
    fn an_agent_that_is_sent_nothing_may_ping_once_a_second() {
        let mut calls = Calls::default();
        for second in 0..86_400 {
            let client = Client { calls: 1, age: Duration::from_secs(second), ..FRIEND };
            calls.charge(&client, PING.times(2)).unwrap();
        }
    }

    #[test]
    fn what_is_sent_in_small_pieces_counts_as_much_as_in_one() {
        let after = |piece: u64| {
            let mut calls = Calls::default();
            calls.charge(&FRIEND, Amount { frames: 9_000, ..Amount::default() }).unwrap();
            for sent in (0..=32_000).step_by(usize::try_from(piece).unwrap()) {
                calls.charge(&Client { sent, ..FRIEND }, Amount::default()).unwrap();
            }
            calls.left
        };
        assert_eq!(after(1), after(32_000));
    }
}

//! Whether a request that an endpoint did not process is sent again at once, and when.
//!
//! Only what certainly was not processed comes here: a request that never left, because its connection was closed while it
//! was idle; an HTTP/2 stream that was refused, or is above the last one of a GOAWAY (RFC 9113, section 8.7); and one that
//! the endpoint wants over HTTP/1.1. A request that was sent over HTTP/1.1 and got no answer may have been processed, and
//! a POST is not idempotent (RFC 9110, section 9.2.2), so that is an outcome.

use std::time::Duration;

/// How the endpoint has let know that it did not process a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotProcessed {
    /// The connection was closed before the request was sent.
    Closed {
        /// Before it had carried any other request, too.
        new: bool,
    },
    /// REFUSED_STREAM.
    Refused,
    /// GOAWAY, with a last stream below this request's.
    GoingAway,
    /// HTTP_1_1_REQUIRED.
    Http1Required,
}

/// How often in all. An endpoint that closes each connection after one request makes the last of a hundred requests at
/// once wait for as many connections.
const MOST: u32 = 100;
/// How often a stream may be refused.
const MOST_REFUSED: u32 = 50;
/// How often a new connection may be closed before it is used.
const MOST_CLOSED_NEW: u32 = 3;
/// How often without a pause.
const AT_ONCE: u32 = 3;
/// The pause is doubled from this to that.
const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
const GOING_AWAY_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(40));

/// What has happened to one request so far.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    all: u32,
    refused: u32,
    going_away: u32,
    closed_new: u32,
}

impl Repeats {
    /// How long to wait before the request is sent again. `None`: it is not. `random` is from 0 to 1.
    pub(super) fn next(&mut self, why: NotProcessed, random: f64) -> Option<Duration> {
        self.all += 1;
        let (count, most, pause) = match why {
            NotProcessed::Refused => (&mut self.refused, MOST_REFUSED, Some(REFUSED_PAUSE)),
            NotProcessed::GoingAway => (&mut self.going_away, MOST, Some(GOING_AWAY_PAUSE)),
            NotProcessed::Closed { new: true } => (&mut self.closed_new, MOST_CLOSED_NEW, None),
            NotProcessed::Closed { new: false } | NotProcessed::Http1Required => (&mut 0, MOST, None),
        };
        *count += 1;
        if *count > most || self.all > MOST {
            return None;
        }
        let Some((first, longest)) = pause.filter(|_| *count > AT_ONCE) else { return Some(Duration::ZERO) };
        let doublings = (*count - AT_ONCE - 1).min(10);
        Some(first.saturating_mul(1 << doublings).min(longest).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(why: NotProcessed) -> Vec<Duration> {
        let mut repeats = Repeats::default();
        std::iter::from_fn(|| repeats.next(why, 1.0)).take(1000).collect()
    }

    #[test]
    fn the_first_repeats_are_at_once_and_all_are_bounded() {
        let (closed, new) = (NotProcessed::Closed { new: false }, NotProcessed::Closed { new: true });
        for (why, number) in [
            (closed, 100),
            (new, 3),
            (NotProcessed::Refused, 50),
            (NotProcessed::GoingAway, 100),
            (NotProcessed::Http1Required, 100),
        ] {
            let pauses = pauses(why);
            assert_eq!(pauses.len(), number, "{why:?}");
            assert!(pauses.iter().take(3).all(Duration::is_zero), "{why:?}");
            assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(250)), "{why:?}");
        }
        let refused = pauses(NotProcessed::Refused);
        assert_eq!(refused[3..6], [10, 20, 40].map(Duration::from_millis));
        assert!(pauses(NotProcessed::GoingAway).iter().sum::<Duration>() < Duration::from_secs(5));
    }

    #[test]
    fn the_bound_is_for_all_reasons_together() {
        let mut repeats = Repeats::default();
        for _ in 0..60 {
            assert!(repeats.next(NotProcessed::GoingAway, 0.0).is_some());
        }
        for _ in 0..40 {
            assert!(repeats.next(NotProcessed::Refused, 0.0).is_some());
        }
        assert_eq!(repeats.next(NotProcessed::GoingAway, 0.0), None);
    }
}

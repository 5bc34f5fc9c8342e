//! What waits in a lane: how much, for how long, and when that is worth telling people.

use std::time::Duration;

use super::Lane;
use crate::time::Timestamp;

/// What has not ended of a lane's deliveries, as far as its live view knows without reading the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many: what is in memory or under way, and every number that was never read. Of those, some may have been
    /// ended by hand.
    pub count: u64,
    /// Whether there may be more that wait in the store for another attempt.
    pub more: bool,
    /// When the oldest event was accepted of which no attempt was made, of those in memory.
    pub oldest: Option<Timestamp>,
}

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// So many deliveries.
    pub count: u64,
    /// So long without an attempt.
    pub age: Duration,
}

/// Whether people were told of a lane that what waits in it is too much. They are told again only after it was down to
/// half of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth(bool);

impl Growth {
    /// Looks at what waits now. Says whether people are to be told.
    pub fn look(&mut self, backlog: &Backlog, bounds: &Bounds, now: Timestamp) -> bool {
        let age = backlog.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
        let too_much = backlog.count >= bounds.count || age >= bounds.age;
        let calm = backlog.count <= bounds.count / 2 && age <= bounds.age / 2;
        let tell = too_much && !self.0;
        self.0 = too_much || (self.0 && !calm);
        tell
    }

    /// Whether it is still too much, as far as people know.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.0
    }
}

impl Lane {
    /// What waits.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let under_way = u64::try_from(self.in_flight.len()).unwrap_or(u64::MAX);
        let first = [self.fresh.values().next(), self.behind.values().next()];
        Backlog {
            count: self.waiting().saturating_add(under_way),
            more: self.due_beyond.is_some(),
            oldest: first.into_iter().flatten().map(|delivery| delivery.event.created()).min(),
        }
    }

    /// How many have not ended and are not under way, as far as its live view knows.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let queued = u64::try_from(self.queued()).unwrap_or(u64::MAX);
        queued.saturating_add(self.end.saturating_sub(self.next))
    }

    /// Since when the delivery in memory is due that is due for longest, whether or not the cap and the rate limit let it go
    /// now. `None` when there is none, or the endpoint is left alone: then nothing is due.
    #[must_use]
    pub fn due_since(&self, now: Timestamp) -> Option<Timestamp> {
        let fresh = self.fresh.values().next().map(|delivery| delivery.event.created());
        let due = self.waiting.keys().next().map(|(due, _)| *due).filter(|due| *due <= now);
        let since = fresh.into_iter().chain(due).min()?;
        (!self.held && self.flow.rest(now).is_none()).then_some(since)
    }

    /// From when on the next attempt may be made of what is in memory; `None` when there is nothing, or an outcome must
    /// come first.
    #[must_use]
    pub fn next_try(&self) -> Option<Timestamp> {
        let opens = self.flow.opens(self.in_flight.len())?;
        let due = self.waiting.keys().next().map(|(due, _)| opens.max(*due));
        if self.fresh.is_empty() { due } else { Some(opens) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Delivery;
    use crate::id::EventKey;
    use crate::lane::Limits;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
    }

    #[test]
    fn people_are_told_once_until_it_is_down_to_half() {
        let bounds = Bounds { count: 100, age: Duration::from_secs(60) };
        let mut growth = Growth::default();
        let table = [
            (99, 59, false),
            (100, 0, true),
            (500, 0, false),
            (60, 0, false),
            (100, 0, false),
            (50, 31, false),
            (50, 30, false),
            (10, 60, true),
            (100, 60, false),
        ];
        for (count, age, told) in table {
            let backlog = Backlog { count, more: false, oldest: Some(at(1_000 - age)) };
            assert_eq!(growth.look(&backlog, &bounds, at(1_000)), told, "{count} {age}");
        }
        assert!(growth.is_told());
    }

    #[test]
    fn it_counts_what_is_in_memory_and_what_was_never_read() {
        let mut lane = Lane::empty(Limits { window: 4, look_ahead: 4, max_in_flight: 2 });
        assert_eq!(lane.backlog(), Backlog::default());
        for sequence in 1..=10 {
            lane.accepted(Delivery::new(sequence, EventKey::new(at(sequence), 1)));
        }
        assert_eq!(lane.backlog(), Backlog { count: 10, more: false, oldest: Some(at(1)) });
        let taken = lane.take(at(20)).unwrap();
        assert_eq!(lane.backlog(), Backlog { count: 10, more: false, oldest: Some(at(2)) });
        lane.settle(Delivery { state: crate::delivery::State::Delivered(at(21)), ..taken });
        assert_eq!(lane.backlog().count, 9);
        assert_eq!(lane.next_try(), Some(Timestamp::default()));
        let restored = Lane::new(Limits { window: 4, look_ahead: 4, max_in_flight: 2 }, 2, 11);
        assert_eq!(restored.backlog(), Backlog { count: 9, more: true, oldest: None });
    }
}

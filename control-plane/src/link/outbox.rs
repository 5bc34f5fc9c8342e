//! Jobs on their way to one agent: never more bytes at once than the agent said it can hold.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::HashMap;
use postrider_domain::time::Timestamp;
use postrider_proto::session::JobKey;

use crate::schedule::Assignment;

/// How long an assignment waits for room before it is given back, to go to another agent.
pub(super) const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// Jobs that an agent has and owes an outcome of, and assignments that wait for room.
pub(super) struct Outbox {
    max_bytes: u64,
    /// By job, the bytes that it takes. Of those that it has named in Hello nobody knows.
    owed: HashMap<JobKey, u64>,
    bytes: u64,
    /// Since when each waits.
    waiting: VecDeque<(Assignment, Timestamp)>,
}

impl Outbox {
    /// Of an agent that has named these jobs.
    pub(super) fn new(max_bytes: u64, named: &[JobKey]) -> Self {
        let owed = named.iter().map(|key| (*key, 0)).collect();
        Self { max_bytes, owed, bytes: 0, waiting: VecDeque::new() }
    }

    /// More to send.
    pub(super) fn push(&mut self, assignments: Vec<Assignment>, now: Timestamp) {
        self.waiting.extend(assignments.into_iter().map(|assignment| (assignment, now)));
    }

    /// What may be signed and sent now. One is let through even when it alone is larger than the room.
    pub(super) fn take(&mut self, limit: usize) -> Vec<(Assignment, Timestamp)> {
        if self.bytes >= self.max_bytes {
            return Vec::new();
        }
        self.waiting.drain(..self.waiting.len().min(limit)).collect()
    }

    /// Puts back what did not fit.
    pub(super) fn put_back(&mut self, waiting: (Assignment, Timestamp)) {
        self.waiting.push_front(waiting);
    }

    /// Takes out what has waited too long.
    pub(super) fn overdue(&mut self, now: Timestamp) -> Vec<JobKey> {
        let since = |(_, since): &(Assignment, Timestamp)| *since + ROOM_WITHIN <= now;
        let overdue = self.waiting.iter().take_while(|waiting| since(waiting)).count();
        self.waiting.drain(..overdue).map(|(assignment, _)| assignment.key).collect()
    }

    /// Whether a job of so many bytes fits now.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.max_bytes
    }

    /// A job was sent.
    pub(super) fn sent(&mut self, job: JobKey, bytes: u64) {
        self.bytes += bytes;
        self.bytes -= self.owed.insert(job, bytes).unwrap_or(0);
    }

    /// The agent reports of a job; whether it had it to report.
    pub(super) fn done(&mut self, job: JobKey) -> bool {
        let Some(bytes) = self.owed.remove(&job) else { return false };
        self.bytes -= bytes;
        true
    }

    /// Takes out what has not been sent of these jobs; those, and those that were sent.
    pub(super) fn forget(&mut self, keys: Vec<JobKey>) -> (Vec<JobKey>, Vec<JobKey>) {
        let waits = |key: &JobKey| self.waiting.iter().any(|(waiting, _)| waiting.key == *key);
        let (unsent, sent): (Vec<_>, Vec<_>) = keys.into_iter().partition(waits);
        if !unsent.is_empty() {
            self.waiting.retain(|(waiting, _)| !unsent.contains(&waiting.key));
        }
        (unsent, sent)
    }

    /// What was never sent: the link is ending.
    pub(super) fn drain(&mut self) -> Vec<JobKey> {
        self.waiting.drain(..).map(|(assignment, _)| assignment.key).collect()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::delivery::Delivery;
    use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId};
    use postrider_domain::time::Timestamp;

    fn assignment(sequence: u64) -> Assignment {
        let delivery = DeliveryId { subscription: SubscriptionId::new(Timestamp::default(), 1), sequence };
        let event = EventKey::new(Timestamp::default(), 1);
        Assignment {
            key: JobKey { delivery, attempt: 1, epoch: 1 },
            delivery: Delivery::new(sequence, event),
        }
    }

    #[test]
    fn bytes_are_a_credit() {
        let now = Timestamp::default();
        let mut outbox = Outbox::new(100, &[]);
        outbox.push(vec![assignment(1), assignment(2)], now);
        let taken = outbox.take(10);
        assert_eq!(taken.len(), 2);
        assert!(outbox.fits(500), "one is always let through");
        outbox.sent(taken[0].0.key, 500);
        assert!(!outbox.fits(1));
        outbox.put_back(taken[1]);
        assert!(outbox.take(10).is_empty() && outbox.has_waiting());
        assert!(outbox.done(taken[0].0.key));
        assert_eq!(outbox.take(10).len(), 1);
    }

    #[test]
    fn what_was_not_sent_is_forgotten_here() {
        let mut outbox = Outbox::new(100, &[]);
        outbox.push(vec![assignment(1), assignment(2)], Timestamp::default());
        let (unsent, sent) = outbox.forget(vec![assignment(1).key, assignment(9).key]);
        assert_eq!((unsent, sent), (vec![assignment(1).key], vec![assignment(9).key]));
        assert_eq!(outbox.drain(), [assignment(2).key]);
    }

    #[test]
    fn an_agent_reports_what_it_was_sent_or_has_named_and_each_once() {
        let [sent, named, waiting, other] = [1, 2, 3, 4].map(|sequence| assignment(sequence).key);
        let mut outbox = Outbox::new(100, &[named]);
        outbox.push(vec![assignment(3)], Timestamp::default());
        outbox.sent(sent, 10);
        let another_attempt = JobKey { attempt: 2, ..sent };
        let table = [(other, false), (waiting, false), (another_attempt, false), (sent, true), (sent, false)];
        for (key, owed) in table.into_iter().chain([(named, true), (named, false)]) {
            assert_eq!(outbox.done(key), owed, "{key:?}");
        }
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn what_waits_too_long_for_room_is_given_back() {
        let now = Timestamp::default();
        let mut outbox = Outbox::new(100, &[]);
        outbox.push(vec![assignment(1)], now);
        outbox.push(vec![assignment(2)], now + Duration::from_secs(1));
        assert!(outbox.overdue(now + ROOM_WITHIN - Duration::from_millis(1)).is_empty());
        assert_eq!(outbox.overdue(now + ROOM_WITHIN), [assignment(1).key]);
        assert_eq!(outbox.drain(), [assignment(2).key]);
    }
}

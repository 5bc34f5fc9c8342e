//! Jobs on their way to one agent: never more bytes at once than the agent said it can hold.

use std::collections::{HashMap, VecDeque};

use postrider_domain::id::DeliveryId;
use postrider_proto::session::JobKey;

use crate::schedule::Assignment;

/// Bytes that an agent holds, and assignments that wait for room.
pub(super) struct Outbox {
    max_bytes: u64,
    held: HashMap<DeliveryId, u64>,
    bytes: u64,
    waiting: VecDeque<Assignment>,
}

impl Outbox {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, held: HashMap::new(), bytes: 0, waiting: VecDeque::new() }
    }

    /// More to send.
    pub(super) fn push(&mut self, assignments: Vec<Assignment>) {
        self.waiting.extend(assignments);
    }

    /// What may be signed and sent now. One is let through even when it alone is larger than the room.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Assignment> {
        if self.bytes >= self.max_bytes {
            return Vec::new();
        }
        self.waiting.drain(..self.waiting.len().min(limit)).collect()
    }

    /// Puts back what did not fit.
    pub(super) fn put_back(&mut self, assignment: Assignment) {
        self.waiting.push_front(assignment);
    }

    /// Whether a job of so many bytes fits now.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.held.is_empty() || self.bytes + bytes <= self.max_bytes
    }

    /// A job was sent.
    pub(super) fn sent(&mut self, delivery: DeliveryId, bytes: u64) {
        self.bytes += bytes;
        self.bytes -= self.held.insert(delivery, bytes).unwrap_or(0);
    }

    /// The agent does not hold the job any more.
    pub(super) fn done(&mut self, delivery: DeliveryId) {
        self.bytes -= self.held.remove(&delivery).unwrap_or(0);
    }

    /// Removes what has not been sent of these jobs; those that were are returned.
    pub(super) fn forget(&mut self, keys: Vec<JobKey>) -> Vec<JobKey> {
        let (unsent, sent): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| self.waiting.iter().any(|waiting| waiting.key == *key));
        self.waiting.retain(|waiting| !unsent.contains(&waiting.key));
        sent
    }

    /// What was never sent: the link is ending.
    pub(super) fn drain(&mut self) -> Vec<JobKey> {
        self.waiting.drain(..).map(|assignment| assignment.key).collect()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::delivery::Delivery;
    use postrider_domain::id::{EventKey, SubscriptionId};
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
        let mut outbox = Outbox::new(100);
        outbox.push(vec![assignment(1), assignment(2)]);
        let taken = outbox.take(10);
        assert_eq!(taken.len(), 2);
        assert!(outbox.fits(500), "one is always let through");
        outbox.sent(taken[0].key.delivery, 500);
        assert!(!outbox.fits(1));
        outbox.put_back(taken[1]);
        assert!(outbox.take(10).is_empty() && outbox.has_waiting());
        outbox.done(taken[0].key.delivery);
        assert_eq!(outbox.take(10).len(), 1);
    }

    #[test]
    fn what_was_not_sent_is_forgotten_here() {
        let mut outbox = Outbox::new(100);
        outbox.push(vec![assignment(1), assignment(2)]);
        let sent = assignment(9).key;
        assert_eq!(outbox.forget(vec![assignment(1).key, sent]), [sent]);
        assert_eq!(outbox.drain(), [assignment(2).key]);
    }
}

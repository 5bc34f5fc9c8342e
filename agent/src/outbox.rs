//! Outcomes that the control plane has not acknowledged, in order, across connections.
//!
//! The session pushes what happened to a job, takes batches to send, and forgets what is acknowledged: the
//! control plane stores first and acknowledges then. A new connection rewinds, so everything not yet
//! acknowledged is sent again; the sequence lets the receiver tell a repetition.
//!
//! It is bounded. An outcome, once sent, gives its job's credit back, and so lets another job come whose
//! outcome needs a place too. So when too much is sent and not acknowledged (the control plane's store is
//! slow or down), further outcomes are *held back*: their credit stays out, and at most the jobs under
//! way add to what is kept. Jobs already here are still finished, and nothing is lost.

use std::collections::VecDeque;

/// How much may be sent and not acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In outcomes.
    pub count: usize,
    /// In bytes.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { count: 16_384, bytes: 64 << 20 }
    }
}

/// See the [module](self). `T` is an outcome; the tests use simpler things.
#[derive(Debug)]
pub struct Outbox<T> {
    limits: Limits,
    /// By sequence, without gaps.
    entries: VecDeque<Entry<T>>,
    /// The sequence of the first entry.
    first: u64,
    /// How many entries, from the first, are sent on this connection.
    sent: usize,
    /// Their bytes.
    sent_bytes: usize,
    /// The last sequence that was ever sent, on any connection.
    last_ever_sent: u64,
}

#[derive(Debug)]
struct Entry<T> {
    outcome: T,
    bytes: usize,
}

/// The control plane acknowledged what it was never sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("outcome {acknowledged} was acknowledged, but the last one sent is {sent}")]
pub struct AcknowledgedTooMuch {
    acknowledged: u64,
    sent: u64,
}

impl<T: Clone> Outbox<T> {
    /// An empty one. The first sequence is 1.
    #[must_use]
    pub fn new(limits: Limits) -> Outbox<T> {
        Outbox { limits, entries: VecDeque::new(), first: 1, sent: 0, sent_bytes: 0, last_ever_sent: 0 }
    }

    /// Adds an outcome of about `bytes`, made with the sequence it gets.
    pub fn push(&mut self, bytes: usize, make: impl FnOnce(u64) -> T) {
        let outcome = make(self.first + self.entries.len() as u64);
        self.entries.push_back(Entry { outcome, bytes });
    }

    /// The sequence of the first outcome that is not acknowledged, or of the next one if all are.
    #[must_use]
    pub fn first_unacknowledged(&self) -> u64 {
        self.first
    }

    /// What waits to be sent or acknowledged, by sequence.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.outcome)
    }

    /// Whether nothing waits to be sent or acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many outcomes wait to be sent or acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is something to send, within the limits.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.sent < self.entries.len() && !self.is_full()
    }

    /// The next outcomes to send, by sequence: at most `count`, and at most `bytes` unless the first alone
    /// is larger.
    pub fn take_batch(&mut self, count: usize, bytes: usize) -> Vec<T> {
        let ready = (self.entries.len() - self.sent).min(count);
        let mut batch = Vec::with_capacity(ready);
        let mut batch_bytes = 0;
        while batch.len() < ready && !self.is_full() {
            let entry = &self.entries[self.sent];
            if !batch.is_empty() && batch_bytes + entry.bytes > bytes {
                break;
            }
            batch_bytes += entry.bytes;
            batch.push(entry.outcome.clone());
            self.sent += 1;
            self.sent_bytes += entry.bytes;
        }
        self.last_ever_sent = self.last_ever_sent.max(self.first + self.sent as u64 - 1);
        batch
    }

    /// Forgets all up to and including `sequence`. Also what was sent on an earlier connection only.
    ///
    /// # Errors
    ///
    /// [`AcknowledgedTooMuch`], and then nothing is forgotten.
    pub fn acknowledge(&mut self, sequence: u64) -> Result<(), AcknowledgedTooMuch> {
        if sequence > self.last_ever_sent {
            return Err(AcknowledgedTooMuch { acknowledged: sequence, sent: self.last_ever_sent });
        }
        while self.first <= sequence
            && let Some(entry) = self.entries.pop_front()
        {
            self.first += 1;
            if self.sent > 0 {
                self.sent -= 1;
                self.sent_bytes -= entry.bytes;
            }
        }
        Ok(())
    }

    /// Starts over from the first outcome that is not acknowledged: a new connection.
    pub fn rewind(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
    }

    fn is_full(&self) -> bool {
        self.sent >= self.limits.count || self.sent_bytes >= self.limits.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outbox(count: usize, bytes: usize) -> Outbox<u64> {
        Outbox::new(Limits { count, bytes })
    }

    fn push(outbox: &mut Outbox<u64>, bytes: usize) {
        outbox.push(bytes, |sequence| sequence);
    }

    #[test]
    fn a_batch_is_bounded_but_never_empty_when_something_waits() {
        let mut outbox = outbox(100, 1_000);
        for bytes in [50, 10, 10, 10] {
            push(&mut outbox, bytes);
        }
        assert_eq!(outbox.take_batch(10, 20), [1]);
        assert_eq!(outbox.take_batch(10, 20), [2, 3]);
        assert_eq!(outbox.take_batch(10, 20), [4]);
        assert!(!outbox.can_send() && !outbox.is_empty());
        assert!(outbox.take_batch(10, 20).is_empty());
    }

    #[test]
    fn too_much_unacknowledged_holds_the_rest_back() {
        let mut by_count = outbox(2, 1_000);
        let mut by_bytes = outbox(100, 15);
        for outbox in [&mut by_count, &mut by_bytes] {
            for _ in 0..3 {
                push(outbox, 10);
            }
            assert_eq!(outbox.take_batch(10, 1_000), [1, 2]);
            assert!(!outbox.can_send());
            outbox.acknowledge(1).unwrap();
            assert_eq!(outbox.take_batch(10, 1_000), [3]);
        }
    }

    #[test]
    fn what_was_sent_on_an_earlier_connection_may_be_acknowledged_on_this_one() {
        let mut outbox = outbox(100, 1_000);
        push(&mut outbox, 1);
        push(&mut outbox, 1);
        outbox.take_batch(1, 1_000);
        outbox.rewind();
        assert_eq!(outbox.acknowledge(2), Err(AcknowledgedTooMuch { acknowledged: 2, sent: 1 }));
        outbox.acknowledge(1).unwrap();
        assert_eq!(outbox.first_unacknowledged(), 2);
        assert_eq!(outbox.take_batch(10, 1_000), [2]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Send { count: usize, bytes: usize },
        Acknowledge(u64),
        Reconnect,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1usize..40).prop_map(Step::Push),
            4 => (1usize..6, 1usize..80).prop_map(|(count, bytes)| Step::Send { count, bytes }),
            3 => (0u64..60).prop_map(Step::Acknowledge),
            1 => Just(Step::Reconnect),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        /// Against a control plane that remembers all: each connection carries the sequences from the first
        /// that is not acknowledged, without gap or repetition; what is forgotten was acknowledged; what is
        /// sent and not acknowledged stays within the limits; and in the end everything gets through.
        #[test]
        fn nothing_is_lost_or_repeated(steps in steps()) {
            let mut outbox = outbox(8, 100);
            let (mut pushed, mut acknowledged, mut ever_sent) = (0u64, 0u64, 0u64);
            let mut on_connection: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(bytes) => { push(&mut outbox, bytes); pushed += 1; }
                    Step::Send { count, bytes } => {
                        let could = outbox.can_send();
                        let batch = outbox.take_batch(count, bytes);
                        prop_assert_eq!(could, !batch.is_empty());
                        prop_assert!(batch.len() <= count);
                        let next = on_connection.last().copied().unwrap_or(acknowledged) .max(acknowledged) + 1;
                        let expected: Vec<u64> = (next..).take(batch.len()).collect();
                        prop_assert_eq!(&batch, &expected);
                        ever_sent = ever_sent.max(batch.last().copied().unwrap_or(0));
                        on_connection.extend(batch);
                    }
                    Step::Acknowledge(sequence) => {
                        let result = outbox.acknowledge(sequence);
                        prop_assert_eq!(result.is_err(), sequence > ever_sent);
                        if result.is_ok() { acknowledged = acknowledged.max(sequence); }
                    }
                    Step::Reconnect => { outbox.rewind(); on_connection.clear(); }
                }
                prop_assert_eq!(outbox.first_unacknowledged(), acknowledged + 1);
                prop_assert_eq!(outbox.len() as u64, pushed - acknowledged);
                prop_assert!(outbox.sent <= 8 && outbox.sent_bytes < 100 + 40);
            }
            outbox.rewind();
            let mut got = Vec::new();
            while outbox.can_send() {
                got.extend(outbox.take_batch(3, 50));
                outbox.acknowledge(got.last().copied().unwrap()).unwrap();
            }
            prop_assert_eq!(got, (acknowledged + 1..=pushed).collect::<Vec<_>>());
            prop_assert!(outbox.is_empty());
        }
    }
}

//! Who stands before whom: the queues of an ordered lane, and its window, which is one by number.
//!
//! A lane without order keeps the fresh by number and the waiting by time, and may put either out of memory. An ordered lane must know
//! everything that stands before what it hands out. So it loads by number whatever has not ended, and every such delivery below
//! [`Lane::next`] is in memory; what must make room is the highest number, and `next` goes back to it.
//!
//! Of each queue at most one delivery stands among the fresh or the waiting: the lowest, while no attempt of that queue is under way.
//! The others stand behind.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Lane;
use crate::delivery::{Delivery, State};
use crate::order::{Order, QueueId};
use crate::time::Timestamp;

/// The queues of one lane, by what orders them.
#[derive(Debug, Default)]
pub(super) struct Queues(HashMap<QueueId, Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// Those in memory that have not ended, and those whose end must be written before others go on.
    open: BTreeSet<u64>,
    /// Attempts under way.
    under_way: u32,
    /// The one that stands among the fresh or the waiting.
    out: Option<u64>,
}

/// What must move when a queue has changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moves {
    back: Option<u64>,
    out: Option<u64>,
}

impl Queues {
    fn change(&mut self, id: QueueId, change: impl FnOnce(&mut Queue)) -> Moves {
        let queue = self.0.entry(id).or_default();
        change(queue);
        let turn = queue.open.first().copied().filter(|_| queue.under_way == 0);
        let moves = if turn == queue.out {
            Moves::default()
        } else {
            Moves { back: std::mem::replace(&mut queue.out, turn), out: turn }
        };
        if queue.open.is_empty() && queue.under_way == 0 {
            self.0.remove(&id);
        }
        moves
    }
}

impl Lane {
    /// The same lane, of a subscription with this order. Its low water must cover waiting deliveries too.
    #[must_use]
    pub fn ordered(mut self, order: Order) -> Self {
        self.order = order;
        if self.is_ordered() {
            self.due_beyond = None;
        }
        self
    }

    /// Changes the order. Deliveries accepted from now on keep it; those that wait already are sorted as they come.
    pub fn set_order(&mut self, order: Order) {
        if order == self.order {
            return;
        }
        let (was_ordered, queued) = (self.is_ordered(), self.unqueue_all());
        self.order = order;
        self.queues = Queues::default();
        if let Some(loading) = &mut self.loading {
            loading.outdated = true;
        }
        if !self.is_ordered() {
            self.ended.clear();
            // Those that wait beyond the window are found by time again.
            self.due_beyond = Some(Timestamp::default());
        } else if was_ordered {
            let ended: Vec<Delivery> = self.ended.values().flatten().copied().collect();
            ended.iter().for_each(|delivery| self.stands(delivery));
        } else {
            self.due_beyond = None;
            let known =
                |sequence: &u64| self.in_flight.contains_key(sequence) || self.reserved.contains(sequence);
            let waits: HashSet<u64> = queued.iter().map(|delivery| delivery.sequence).collect();
            let ended =
                self.settling.keys().filter(|sequence| !known(sequence) && !waits.contains(*sequence));
            self.ended = ended.map(|sequence| (*sequence, None)).collect();
            self.open.extend(self.ended.keys());
            self.rewind(1);
        }
        let under_way: Vec<Delivery> = self.in_flight.values().map(|attempt| attempt.delivery).collect();
        under_way.iter().for_each(|delivery| self.begins(delivery));
        for delivery in queued {
            if !self.settling.contains_key(&delivery.sequence) {
                self.open.remove(&delivery.sequence);
            }
            self.enqueue(delivery);
        }
    }

    /// Whether this delivery is in memory and must wait for another one to end.
    #[must_use]
    pub fn is_behind(&self, sequence: u64) -> bool {
        self.behind.contains_key(&sequence)
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.order != Order::None
    }

    /// Deliveries in memory that are not under way.
    pub(super) fn queued(&self) -> usize {
        self.fresh.len() + self.waiting.len() + self.behind.len()
    }

    /// How many deliveries that have not ended it may keep in memory: beyond a window of them, only keys that are stuck matter.
    pub(super) fn look_ahead(&self) -> usize {
        if self.order == Order::PerKey {
            self.limits.look_ahead.max(self.limits.window)
        } else {
            self.limits.window
        }
    }

    /// Puts a delivery that has not ended where it belongs.
    pub(super) fn enqueue(&mut self, delivery: Delivery) {
        let sequence = delivery.sequence;
        if !self.is_ordered() {
            if delivery.state == State::Pending {
                self.open.insert(sequence);
            }
            self.place(delivery);
        } else if sequence >= self.next && !self.settling.contains_key(&sequence) {
            // The store has it as it is, and it will be loaded when all before it are known.
            self.open.remove(&sequence);
            self.loads_again(sequence);
            self.leaves(&delivery);
        } else {
            self.open.insert(sequence);
            if self.order.queue(&delivery).is_some() {
                self.behind.insert(sequence, delivery);
                self.stands(&delivery);
            } else {
                self.place(delivery);
            }
        }
    }

    /// An attempt begins, or somebody takes a delivery out as if one did.
    pub(super) fn begins(&mut self, delivery: &Delivery) {
        let sequence = delivery.sequence;
        if self.is_ordered() && !delivery.state.has_ended() {
            self.open.insert(sequence);
        }
        self.change(delivery, |queue| {
            queue.open.insert(sequence);
            queue.under_way += 1;
            queue.out = queue.out.filter(|out| *out != sequence);
        });
    }

    /// It is not under way any more. It still stands in its queue.
    pub(super) fn finishes(&mut self, delivery: &Delivery) {
        self.change(delivery, |queue| queue.under_way = queue.under_way.saturating_sub(1));
    }

    /// A delivery has ended. If it was delivered, the next may go at once, for the receiver has this one. Otherwise only when the end is
    /// written: it could be attempted again after a crash, behind its successors.
    pub(super) fn ends(&mut self, delivery: &Delivery) {
        if !self.is_ordered() {
            return;
        }
        let delivered = matches!(delivery.state, State::Delivered(_));
        if delivered {
            self.leaves(delivery);
        }
        self.ended.insert(delivery.sequence, (!delivered).then_some(*delivery));
    }

    /// A delivery's latest state was written.
    pub(super) fn written(&mut self, sequence: u64) {
        if let Some(ended) = self.ended.remove(&sequence) {
            self.open.remove(&sequence);
            if let Some(ended) = ended {
                self.leaves(&ended);
            }
        } else if sequence >= self.next {
            self.forget(sequence);
        }
    }

    /// Puts the highest numbers out of memory when there are too many. One whose state is not written yet stays: the store could not
    /// give it back.
    pub(super) fn trim_ordered(&mut self) {
        while self.queued() > self.look_ahead() + self.limits.window {
            let (before, last) = (self.queued(), self.open.last().copied());
            let Some(last) = last.filter(|last| !self.in_flight.contains_key(last)) else { return };
            self.rewind(last);
            if self.queued() == before {
                return;
            }
        }
    }

    /// From here on nothing is known any more: it will be loaded again.
    pub(super) fn rewind(&mut self, to: u64) {
        self.next = self.next.min(to);
        self.loads_again(to);
        let above: Vec<u64> = self.open.range(to..).copied().collect();
        above.into_iter().for_each(|sequence| self.forget(sequence));
    }

    /// Takes a delivery out of wherever it is queued.
    pub(super) fn unqueue(&mut self, sequence: u64) -> Option<Delivery> {
        if let Some(delivery) = self.fresh.remove(&sequence).or_else(|| self.behind.remove(&sequence)) {
            return Some(delivery);
        }
        let key =
            self.waiting.iter().find(|(_, delivery)| delivery.sequence == sequence).map(|(key, _)| *key)?;
        self.waiting.remove(&key)
    }

    fn unqueue_all(&mut self) -> Vec<Delivery> {
        let mut queued: Vec<Delivery> = std::mem::take(&mut self.fresh).into_values().collect();
        queued.extend(std::mem::take(&mut self.waiting).into_values());
        queued.extend(std::mem::take(&mut self.behind).into_values());
        queued
    }

    /// Puts a queued delivery out of memory, unless its state is still being written.
    fn forget(&mut self, sequence: u64) {
        if self.settling.contains_key(&sequence) {
            return;
        }
        if let Some(delivery) = self.unqueue(sequence) {
            self.open.remove(&sequence);
            self.leaves(&delivery);
            self.loads_again(sequence);
        }
    }

    fn loads_again(&mut self, sequence: u64) {
        if let Some(loading) = &mut self.loading {
            loading.rewound = Some(loading.rewound.map_or(sequence, |first| first.min(sequence)));
        }
    }

    fn stands(&mut self, delivery: &Delivery) {
        let sequence = delivery.sequence;
        self.change(delivery, |queue| {
            queue.open.insert(sequence);
            queue.out = queue.out.filter(|out| *out != sequence);
        });
    }

    fn leaves(&mut self, delivery: &Delivery) {
        let sequence = delivery.sequence;
        self.change(delivery, |queue| {
            queue.open.remove(&sequence);
            queue.out = queue.out.filter(|out| *out != sequence);
        });
    }

    fn change(&mut self, delivery: &Delivery, change: impl FnOnce(&mut Queue)) {
        let Some(queue) = self.order.queue(delivery) else { return };
        let Moves { back, out } = self.queues.change(queue, change);
        if let Some(delivery) = back.and_then(|sequence| self.unqueue(sequence)) {
            self.behind.insert(delivery.sequence, delivery);
        }
        if let Some(delivery) = out.and_then(|sequence| self.behind.remove(&sequence)) {
            self.place(delivery);
        }
    }

    fn place(&mut self, delivery: Delivery) {
        match delivery.state {
            State::Waiting(due) => _ = self.waiting.insert((due, delivery.sequence), delivery),
            _ => _ = self.fresh.insert(delivery.sequence, delivery),
        }
    }
}

//! What a lane wants from the store, what it makes of the answer, and what it puts out of memory.

use std::collections::HashSet;

use super::Lane;
use crate::delivery::{Delivery, State};
use crate::time::Timestamp;

/// What a lane wants from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Pending deliveries in order of number, from this one on.
    Fresh {
        /// The first number to look at.
        from: u64,
        /// How many to bring at the most.
        limit: usize,
    },
    /// Pending and waiting deliveries in order of number, from this one on: for an ordered lane.
    Open {
        /// The first number to look at.
        from: u64,
        /// How many to bring at the most.
        limit: usize,
    },
    /// Waiting deliveries in order of due time, from the earliest on.
    Due {
        /// How many to bring at the most.
        limit: usize,
    },
}

#[derive(Debug, Default)]
pub(super) struct Loading {
    /// Deliveries whose state was written since the load began.
    pub(super) written: HashSet<u64>,
    /// The earliest due time of what was put out of memory since the load began.
    pub(super) evicted: Option<Timestamp>,
    /// The first number that must be looked at again, if one was found to be unread since the load began.
    pub(super) rewound: Option<u64>,
    /// The lane's order has changed since: the answer is not what is wanted now.
    pub(super) outdated: bool,
}

impl Lane {
    /// What should be read from the store now. It counts as begun: the answer must be given to
    /// [`Lane::loaded_fresh`] or [`Lane::loaded_due`], or [`Lane::load_failed`] be called.
    pub fn wants(&mut self, now: Timestamp) -> Option<Load> {
        if self.held || self.loading.is_some() {
            return None;
        }
        let load = self.wanted(now)?;
        self.loading = Some(Loading::default());
        Some(load)
    }

    fn wanted(&self, now: Timestamp) -> Option<Load> {
        if self.is_ordered() {
            return self.wanted_in_order();
        }
        let room_below = self.limits.window / 2;
        if self.next < self.end && self.fresh.len() <= room_below {
            return Some(Load::Fresh { from: self.next, limit: self.limits.window - self.fresh.len() });
        }
        // Only those due now count against the room: later ones give way when earlier ones come.
        let due_now = || self.waiting.range(..=(now, u64::MAX)).take(room_below + 1).count();
        if self.due_beyond.is_some_and(|due| due <= now) && due_now() <= room_below {
            // Rows of known deliveries come first in the store; the limit reaches past them.
            let known = self.waiting.len() + self.in_flight.len() + self.settling.len();
            return Some(Load::Due { limit: self.limits.window + known });
        }
        None
    }

    fn wanted_in_order(&self) -> Option<Load> {
        let window = self.limits.window;
        let room = self.look_ahead().saturating_sub(self.queued());
        let wanted = self.next < self.end && self.fresh.len() <= window / 2 && room > 0;
        wanted.then(|| Load::Open { from: self.next, limit: room.min(window - self.fresh.len()) })
    }

    /// The store could not be read; the same is wanted again.
    pub fn load_failed(&mut self) {
        if let Some(Loading { evicted: Some(due), .. }) = self.loading.take() {
            self.beyond(due);
        }
    }

    /// Pending deliveries from the store, by number; for an ordered lane waiting ones too. Every number before `next` was
    /// looked at.
    pub fn loaded_fresh(&mut self, rows: Vec<Delivery>, next: u64) {
        let loading = self.loading.take().unwrap_or_default();
        if loading.outdated {
            return;
        }
        let first = self.next;
        self.next = loading.rewound.map_or(first.max(next), |rewound| rewound.min(next));
        self.end = self.end.max(self.next);
        let ordered = self.is_ordered();
        for row in rows {
            let wanted = !ordered || row.sequence < self.next;
            let news = row.sequence >= first
                && !self.knows(row.sequence)
                && !loading.written.contains(&row.sequence);
            if wanted && news {
                self.enqueue(row);
            }
        }
    }

    /// Waiting deliveries from the store, by due time; `complete` when there are no others.
    pub fn loaded_due(&mut self, rows: Vec<Delivery>, complete: bool) {
        let loading = self.loading.take().unwrap_or_default();
        if loading.outdated {
            return;
        }
        let last = rows.last().and_then(|row| row.state.due());
        self.due_beyond = loading.evicted;
        if let (false, Some(due)) = (complete, last) {
            self.beyond(due);
        }
        for row in rows {
            if let State::Waiting(due) = row.state
                && !self.knows(row.sequence)
                && !loading.written.contains(&row.sequence)
            {
                self.waiting.insert((due, row.sequence), row);
            }
        }
        self.trim();
    }

    fn knows(&self, sequence: u64) -> bool {
        self.in_flight.contains_key(&sequence)
            || self.settling.contains_key(&sequence)
            || self.open.contains(&sequence)
            || self.waiting.values().any(|delivery| delivery.sequence == sequence)
    }

    pub(super) fn beyond(&mut self, due: Timestamp) {
        self.due_beyond = Some(self.due_beyond.map_or(due, |known| known.min(due)));
    }

    /// Puts the latest waiting deliveries out of memory when there are too many. One whose state is not
    /// written yet stays: the store could not give it back.
    pub(super) fn trim(&mut self) {
        if self.is_ordered() {
            self.trim_ordered();
            return;
        }
        while self.waiting.len() > 2 * self.limits.window {
            let Some(entry) = self.waiting.last_entry() else { return };
            let (due, sequence) = *entry.key();
            if self.settling.contains_key(&sequence) {
                return;
            }
            entry.remove();
            self.beyond(due);
            if let Some(loading) = &mut self.loading {
                loading.evicted = Some(loading.evicted.map_or(due, |known| known.min(due)));
            }
        }
    }
}

//! A lane: the live view of one subscription's queue.
//!
//! The store keeps every delivery; a lane keeps a small window of them in memory, hands them out one by one
//! within the subscription's cap, and remembers what is under way. It does no I/O: it says what it wants
//! loaded ([`Lane::wants`]) and is told what was found, what was accepted and what is stored. There is one
//! lane a subscription, in one place, so nothing here needs a lock or a claim in the store.
//!
//! Rows that a load brings may be older than what the lane knows: an outcome can be decided while the store
//! is being read. Hence the two rules that keep a delivery from being handed out twice: a row of a delivery
//! that the lane knows is ignored, and so is one that was written while the load was under way.

mod adaptive;
mod backlog;
mod breaker;
mod endpoint;
mod failure;
mod flow;
pub mod health;
mod loads;
mod moment;
mod order;
mod rate;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use ahash::HashMap;

pub use self::backlog::{Backlog, Bounds, Growth};
pub use self::breaker::{Heard, State as Breaker};
pub use self::failure::{DEFAULT_DISABLE_AFTER, FailurePolicy, WARNINGS, WhileDisabled};
use self::flow::Flow;
pub use self::flow::Rest;
pub use self::loads::Load;
use self::loads::Loading;
use self::moment::Moment;
use self::order::Queues;
pub use self::rate::{MAX_RATE, RateLimit};
use crate::delivery::{Delivery, State};
use crate::order::Order;
use crate::outcome::Outcome;
use crate::time::Timestamp;

/// How much a lane may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Deliveries in memory that are not under way: about this many of either kind, fresh and waiting.
    pub window: usize,
    /// Of a lane ordered by key: how many deliveries that have not ended it looks through, to find keys whose turn it is
    /// behind others that are stuck.
    pub look_ahead: usize,
    /// Attempts under way at once.
    pub max_in_flight: usize,
}

/// Where a restart must begin to look for a lane's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowWater {
    /// Every delivery before this number has ended or has its due time written.
    pub number: u64,
    /// Whether those have ended that have their due time written: only such a low water will do for an ordered lane.
    pub covers_waiting: bool,
}

impl LowWater {
    /// The first number that a lane with this order must look at.
    #[must_use]
    pub fn first_for(self, order: Order) -> u64 {
        if order == Order::None || self.covers_waiting { self.number } else { 1 }
    }
}

impl Default for LowWater {
    /// Of a lane that never settled anything.
    fn default() -> Self {
        Self { number: 1, covers_waiting: true }
    }
}

/// A delivery that is handed out.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    delivery: Delivery,
    begun: Moment,
}

/// Where a lane has a delivery.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// An attempt is under way.
    InFlight,
    /// Its latest state is being written.
    Settling,
    /// It was queued in memory; it is now taken out, as if handed out.
    Taken(Delivery),
    /// Not in memory: only the store knows.
    Elsewhere,
}

/// The live view of one subscription's queue.
#[derive(Debug)]
pub struct Lane {
    limits: Limits,
    flow: Flow,
    held: bool,
    /// After a restart: deliveries below this number wait to be recognised.
    resume_below: Option<u64>,
    /// Accepted, never attempted, in order.
    fresh: BTreeMap<u64, Delivery>,
    /// To be attempted again, by due time.
    waiting: BTreeMap<(Timestamp, u64), Delivery>,
    order: Order,
    queues: Queues,
    /// In memory, but not to be attempted before others that are.
    behind: BTreeMap<u64, Delivery>,
    /// Of an ordered lane: those whose end is being written, and what their queue waits for until then.
    ended: HashMap<u64, Option<Delivery>>,
    /// Handed out.
    in_flight: HashMap<u64, UnderWay>,
    /// Writes under way, by delivery.
    settling: HashMap<u64, u32>,
    /// Those that somebody else decides about: they may be pending, though they are not in memory.
    reserved: BTreeSet<u64>,
    /// Fresh ones in memory, handed out or settling: the lowest bounds what a restart must look at.
    open: BTreeSet<u64>,
    /// The first number that was never brought into memory.
    next: u64,
    /// One past the highest number that is known to be accepted.
    end: u64,
    /// The earliest due time of waiting deliveries that are only in the store.
    due_beyond: Option<Timestamp>,
    loading: Option<Loading>,
    /// Whether the next turn is a waiting delivery's: fresh and waiting ones take turns.
    waiting_first: bool,
}

impl Lane {
    /// A lane whose deliveries before `low_water` have all ended or wait, and which has none from `end` on.
    #[must_use]
    pub fn new(limits: Limits, low_water: u64, end: u64) -> Self {
        Self {
            limits,
            flow: Flow::new(limits.max_in_flight),
            held: false,
            resume_below: None,
            fresh: BTreeMap::new(),
            waiting: BTreeMap::new(),
            order: Order::None,
            queues: Queues::default(),
            behind: BTreeMap::new(),
            ended: HashMap::default(),
            in_flight: HashMap::default(),
            settling: HashMap::default(),
            reserved: BTreeSet::new(),
            open: BTreeSet::new(),
            next: low_water,
            end: end.max(low_water),
            // Nothing is known of the waiting ones yet.
            due_beyond: Some(Timestamp::default()),
            loading: None,
            waiting_first: false,
        }
    }

    /// The same, when no delivery waits.
    #[must_use]
    pub fn without_waiting(limits: Limits, low_water: u64, end: u64) -> Self {
        Self { due_beyond: None, ..Self::new(limits, low_water, end) }
    }

    /// A lane of a subscription that never had a delivery.
    #[must_use]
    pub fn empty(limits: Limits) -> Self {
        Self::without_waiting(limits, 1, 1)
    }

    /// Changes the cap. What is under way beyond it finishes.
    pub fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.limits.max_in_flight = max_in_flight;
        self.flow.set_cap(max_in_flight);
    }

    /// Changes the rate limit.
    pub fn set_rate(&mut self, limit: Option<RateLimit>, now: Timestamp) {
        self.flow.set_rate(limit, now);
    }

    /// After a restart: takes the rate limit's burst as used.
    pub fn spend_burst(&mut self, now: Timestamp) {
        self.flow.spend_burst(now);
    }

    /// Holds or releases the lane: a held lane hands nothing out and loads nothing. Released, it tries its endpoint at
    /// once, whatever was heard of it before, and begins with one attempt.
    pub fn hold(&mut self, held: bool) {
        if self.held && !held {
            self.flow.release();
        }
        self.held = held;
    }

    /// What the outcome of a delivery's attempt says of the endpoint. `random` in 0..1 is the jitter's. [`Lane::settle`]
    /// must follow.
    pub fn heard(&mut self, sequence: u64, outcome: &Outcome, now: Timestamp, random: f64) -> Heard {
        let begun = self.in_flight.get(&sequence).map(|attempt| attempt.begun).unwrap_or_default();
        self.flow.heard(outcome, begun, now, random)
    }

    /// Why the endpoint is left alone now, if it is.
    #[must_use]
    pub fn rest(&self, now: Timestamp) -> Option<Rest> {
        self.flow.rest(now)
    }

    /// After a restart: hands out no delivery below `end`, until called with `None`. An agent may still be at work
    /// on them.
    pub fn resume_below(&mut self, end: Option<u64>) {
        self.resume_below = end;
    }

    /// A delivery was accepted. It is kept when it is the next one and there is room; otherwise it will be
    /// loaded when its turn comes.
    pub fn accepted(&mut self, delivery: Delivery) {
        self.end = self.end.max(delivery.sequence + 1);
        let room = self.fresh.len() < self.limits.window
            && (!self.is_ordered() || self.queued() < self.look_ahead());
        if delivery.sequence == self.next && room {
            self.next += 1;
            self.enqueue(delivery);
        }
    }

    /// Takes the next delivery to be attempted now, if the lane may hand one out.
    pub fn take(&mut self, now: Timestamp) -> Option<Delivery> {
        if !self.may_hand_out(now) {
            return None;
        }
        let delivery = match (self.first_due(now), self.first_fresh()) {
            (Some(key), fresh) if self.waiting_first || fresh.is_none() => self.waiting.remove(&key)?,
            (_, sequence) => self.fresh.remove(&sequence?)?,
        };
        self.waiting_first = !self.waiting_first;
        self.taken(delivery, self.flow.moment());
        self.flow.took(now);
        Some(delivery)
    }

    /// Whether [`Lane::take`] would hand something out.
    #[must_use]
    pub fn is_ready(&self, now: Timestamp) -> bool {
        self.may_hand_out(now) && (self.first_fresh().is_some() || self.first_due(now).is_some())
    }

    fn may_hand_out(&self, now: Timestamp) -> bool {
        self.opens().is_some_and(|opens| opens <= now)
    }

    /// From when on one more attempt may go out; `None` when something else must happen first.
    fn opens(&self) -> Option<Timestamp> {
        // Nobody knows which key a reserved one has.
        let unsure = self.is_ordered() && !self.reserved.is_empty();
        if self.held || unsure { None } else { self.flow.opens(self.in_flight.len()) }
    }

    /// When, after now, time alone makes the lane ready, or want a load; `None` when something else must happen first.
    #[must_use]
    pub fn wakes(&self, now: Timestamp) -> Option<Timestamp> {
        if self.held {
            return None;
        }
        let opens = self.opens();
        let fresh = opens.filter(|_| self.first_fresh().is_some());
        let due = self.waiting.keys().next().and_then(|(due, _)| opens.map(|opens| opens.max(*due)));
        let beyond = if self.loading.is_none() { self.due_beyond } else { None };
        [fresh, due, beyond].into_iter().flatten().filter(|time| *time > now).min()
    }

    /// The delivery whose attempt is under way.
    #[must_use]
    pub fn in_flight(&self, sequence: u64) -> Option<&Delivery> {
        self.in_flight.get(&sequence).map(|attempt| &attempt.delivery)
    }

    /// How many attempts are under way.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Finds a delivery and, when it is queued in memory, takes it out, whatever the cap and the hold say.
    pub fn claim(&mut self, sequence: u64) -> Place {
        if self.in_flight.contains_key(&sequence) {
            return Place::InFlight;
        }
        match self.unqueue(sequence) {
            Some(delivery) => {
                // An attempt that somebody else knows of: when it began is not known here.
                self.taken(delivery, Moment::default());
                Place::Taken(delivery)
            }
            None if self.settling.contains_key(&sequence) => Place::Settling,
            None => Place::Elsewhere,
        }
    }

    /// Puts a delivery that was elsewhere under way.
    pub fn adopt(&mut self, delivery: Delivery) {
        if delivery.state == State::Pending {
            self.open.insert(delivery.sequence);
        }
        self.taken(delivery, Moment::default());
    }

    /// What was kept from loads could not be read after all: a later load will bring it.
    pub fn unread(&mut self, sequence: u64) {
        self.release(sequence);
        if self.is_ordered() {
            self.rewind(sequence);
            return;
        }
        self.next = self.next.min(sequence);
        self.due_beyond = Some(Timestamp::default());
        if let Some(loading) = &mut self.loading {
            loading.rewound = Some(loading.rewound.map_or(sequence, |first| first.min(sequence)));
            loading.evicted = Some(Timestamp::default());
        }
    }

    /// The attempt did not happen: the delivery goes back to where it was.
    pub fn give_back(&mut self, sequence: u64) {
        if let Some(UnderWay { delivery, .. }) = self.in_flight.remove(&sequence) {
            self.finishes(&delivery);
            self.enqueue(delivery);
        }
    }

    /// The attempt has an outcome; `delivery` is what it became. It is being written: [`Lane::stored`] must
    /// follow.
    pub fn settle(&mut self, delivery: Delivery) {
        if self.in_flight.remove(&delivery.sequence).is_some() {
            self.finishes(&delivery);
        }
        self.begin_write(delivery.sequence);
        if delivery.state.has_ended() {
            self.ends(&delivery);
        } else {
            self.enqueue(delivery);
        }
    }

    /// Keeps loads from bringing a delivery while somebody else decides about it. [`Lane::release`] or
    /// [`Lane::unread`] must follow.
    pub fn reserve(&mut self, sequence: u64) {
        self.reserved.insert(sequence);
        self.begin_write(sequence);
    }

    /// It is decided: the delivery was adopted, or there is nothing to do for it.
    pub fn release(&mut self, sequence: u64) {
        self.reserved.remove(&sequence);
        self.end_write(sequence);
    }

    /// A delivery's state was written.
    pub fn stored(&mut self, sequence: u64) {
        if self.end_write(sequence) {
            if self.is_ordered() {
                self.written(sequence);
            } else if !self.in_flight.contains_key(&sequence) {
                self.open.remove(&sequence);
            }
        }
        self.trim();
    }

    fn begin_write(&mut self, sequence: u64) {
        *self.settling.entry(sequence).or_default() += 1;
    }

    /// Whether it was the last one under way.
    fn end_write(&mut self, sequence: u64) -> bool {
        let Some(writes) = self.settling.get_mut(&sequence) else { return false };
        *writes -= 1;
        if *writes > 0 {
            return false;
        }
        self.settling.remove(&sequence);
        if let Some(loading) = &mut self.loading {
            loading.written.insert(sequence);
        }
        true
    }

    /// Where a restart must begin to look.
    #[must_use]
    pub fn low_water(&self) -> LowWater {
        let firsts = [self.open.first(), self.reserved.first()];
        let number = firsts.into_iter().flatten().fold(self.next, |low, first| low.min(*first));
        LowWater { number, covers_waiting: self.is_ordered() }
    }

    /// Whether the lane has nothing at all in memory, under way or known to be in the store.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.fresh.is_empty()
            && self.waiting.is_empty()
            && self.behind.is_empty()
            && self.in_flight.is_empty()
            && self.settling.is_empty()
            && self.loading.is_none()
            && self.due_beyond.is_none()
            && self.next == self.end
    }

    fn taken(&mut self, delivery: Delivery, begun: Moment) {
        self.in_flight.insert(delivery.sequence, UnderWay { delivery, begun });
        self.begins(&delivery);
    }

    fn first_due(&self, now: Timestamp) -> Option<(Timestamp, u64)> {
        self.waiting.keys().next().copied().filter(|(due, sequence)| *due <= now && self.may_go(*sequence))
    }

    fn first_fresh(&self) -> Option<u64> {
        let first = self.resume_below.unwrap_or(0);
        self.fresh
            .range(first..)
            .next()
            .map(|(sequence, _)| *sequence)
            .filter(|sequence| self.may_go(*sequence))
    }

    /// After a restart an agent may still be at work on what came before it; and an ordered lane must know all that comes before.
    fn may_go(&self, sequence: u64) -> bool {
        self.resume_below.is_none_or(|end| sequence >= end) && (!self.is_ordered() || sequence < self.next)
    }
}

#[cfg(test)]
mod tests;

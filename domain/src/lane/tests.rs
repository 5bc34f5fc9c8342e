//! A lane against a model: a store whose reads and writes take their time, a world that does random things,
//! and restarts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::id::EventKey;

const LIMITS: Limits = Limits { window: 4, look_ahead: 9, max_in_flight: 3 };

#[derive(Clone, Debug)]
enum Step {
    Accept { offered: bool },
    Take,
    Succeed(usize),
    Fail(usize, u64),
    GiveBack(usize),
    Write,
    BeginLoad,
    EndLoad,
    FailLoad,
    Pass(u64),
    Hold(bool),
    Cancel(u64),
    Retry(u64),
    Cap(usize),
    Order(Order),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<bool>().prop_map(|offered| Step::Accept { offered }),
        10 => Just(Step::Take),
        5 => (0_usize..4).prop_map(Step::Succeed),
        5 => (0_usize..4, 1_u64..20).prop_map(|(which, delay)| Step::Fail(which, delay)),
        1 => (0_usize..4).prop_map(Step::GiveBack),
        8 => Just(Step::Write),
        6 => Just(Step::BeginLoad),
        6 => Just(Step::EndLoad),
        1 => Just(Step::FailLoad),
        4 => (1_u64..15).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Hold),
        1 => (1_u64..30).prop_map(Step::Cancel),
        1 => (1_u64..30).prop_map(Step::Retry),
        1 => (1_usize..5).prop_map(Step::Cap),
        1 => order().prop_map(Step::Order),
        1 => Just(Step::Restart),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop::sample::select(vec![Order::None, Order::PerKey, Order::Strict])
}

/// The rows as the store has them; writes and reads are applied when the world says so.
struct World {
    lane: Lane,
    now: Timestamp,
    rows: BTreeMap<u64, Delivery>,
    low_water: LowWater,
    order: Order,
    /// The first number that was accepted since the order is this.
    in_order_from: u64,
    writes: VecDeque<Delivery>,
    load: Option<(Load, Vec<Delivery>, u64, bool)>,
    in_flight: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    cap: usize,
}

impl World {
    fn new() -> Self {
        Self {
            lane: Lane::empty(LIMITS),
            now: Timestamp::from_millis(1_000),
            rows: BTreeMap::new(),
            low_water: LowWater::default(),
            order: Order::None,
            in_order_from: 1,
            writes: VecDeque::new(),
            load: None,
            in_flight: BTreeSet::new(),
            ended: BTreeSet::new(),
            cap: LIMITS.max_in_flight,
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Accept { offered } => self.accept(offered),
            Step::Take => self.take(),
            Step::Succeed(which) => self.end_attempt(which, None),
            Step::Fail(which, delay) => self.end_attempt(which, Some(delay)),
            Step::GiveBack(which) => {
                if let Some(sequence) = self.in_flight.iter().copied().nth(which) {
                    self.in_flight.remove(&sequence);
                    self.lane.give_back(sequence);
                }
            }
            Step::Write => self.write(),
            Step::BeginLoad => self.begin_load(),
            Step::EndLoad => self.end_load(),
            Step::FailLoad => {
                if self.load.take().is_some() {
                    self.lane.load_failed();
                }
            }
            Step::Pass(seconds) => self.now = self.now + Duration::from_secs(seconds),
            Step::Hold(held) => self.lane.hold(held),
            Step::Cancel(sequence) => self.cancel(sequence),
            Step::Cap(cap) => {
                self.cap = cap;
                self.lane.set_max_in_flight(cap);
            }
            Step::Retry(sequence) => self.retry(sequence),
            Step::Order(order) => self.set_order(order),
            Step::Restart => self.restart(),
        }
    }

    fn accept(&mut self, offered: bool) {
        let sequence = self.rows.len() as u64 + 1;
        let delivery = Delivery::new(sequence, EventKey::new(self.now, u128::from(sequence)));
        // Two keys, and none.
        let delivery = delivery.ordered_by(NonZeroU64::new(sequence % 3));
        self.rows.insert(sequence, delivery);
        if offered {
            self.lane.accepted(delivery);
        } else {
            // Another arrived first: the lane learns the number only.
            self.lane.end = self.lane.end.max(sequence + 1);
        }
    }

    fn take(&mut self) {
        let ready = self.lane.is_ready(self.now);
        let before = self.lane.in_flight_count();
        let taken = self.lane.take(self.now);
        assert_eq!(ready, taken.is_some());
        let Some(delivery) = taken else { return };
        assert!(before < self.cap, "above the cap");
        assert!(!self.ended.contains(&delivery.sequence), "{} had ended", delivery.sequence);
        assert!(self.in_flight.insert(delivery.sequence), "{} handed out twice", delivery.sequence);
        assert!(delivery.state.due().is_none_or(|due| due <= self.now), "before its time");
        self.check_order(&delivery);
    }

    fn check_order(&self, taken: &Delivery) {
        let Some(queue) = self.order.queue(taken) else { return };
        for (before, row) in self.rows.range(self.in_order_from.min(taken.sequence)..taken.sequence) {
            let follows = self.order.queue(row) == Some(queue);
            assert!(!follows || self.ended.contains(before), "{} before {before}", taken.sequence);
            // Only a success may still be lost in a crash: the receiver has it.
            let cancelled = self
                .writes
                .iter()
                .any(|write| write.sequence == *before && matches!(write.state, State::Cancelled(_)));
            assert!(!follows || !cancelled, "{} before the end of {before} is written", taken.sequence);
        }
    }

    fn set_order(&mut self, order: Order) {
        self.order = order;
        self.in_order_from = self.rows.len() as u64 + 1;
        self.lane.set_order(order);
    }

    fn end_attempt(&mut self, which: usize, retry_in: Option<u64>) {
        let Some(sequence) = self.in_flight.iter().copied().nth(which) else { return };
        self.in_flight.remove(&sequence);
        let mut delivery = *self.lane.in_flight(sequence).expect("the lane knows what it handed out");
        delivery.attempts += 1;
        delivery.state = match retry_in {
            Some(seconds) => State::Waiting(self.now + Duration::from_secs(seconds)),
            None => State::Delivered(self.now),
        };
        if delivery.state.has_ended() {
            self.ended.insert(sequence);
        }
        self.lane.settle(delivery);
        self.writes.push_back(delivery);
    }

    fn cancel(&mut self, sequence: u64) {
        match self.lane.claim(sequence) {
            Place::Taken(delivery) => self.settle_cancelled(delivery),
            Place::Elsewhere => {
                let row = self.rows.get(&sequence).copied().filter(|row| !row.state.has_ended());
                if let Some(row) = row {
                    self.lane.adopt(row);
                    self.settle_cancelled(row);
                }
            }
            Place::InFlight | Place::Settling => {}
        }
    }

    /// Somebody wants a delivery that has ended delivered again.
    fn retry(&mut self, sequence: u64) {
        let row = self.rows.get(&sequence).copied().filter(|row| row.state.has_ended());
        let Some(row) = row else { return };
        let row = match self.lane.claim(sequence) {
            Place::Taken(delivery) => delivery,
            Place::Elsewhere => {
                self.lane.adopt(row);
                row
            }
            Place::InFlight | Place::Settling => return,
        };
        let again = row.retried(self.now);
        self.ended.remove(&sequence);
        self.lane.settle(again);
        self.writes.push_back(again);
    }

    fn settle_cancelled(&mut self, delivery: Delivery) {
        let cancelled = delivery.cancelled(self.now);
        self.ended.insert(delivery.sequence);
        self.lane.settle(cancelled);
        self.writes.push_back(cancelled);
    }

    fn write(&mut self) {
        if let Some(delivery) = self.writes.pop_front() {
            self.rows.insert(delivery.sequence, delivery);
            self.lane.stored(delivery.sequence);
            self.low_water = self.lane.low_water();
        }
    }

    fn begin_load(&mut self) {
        let Some(load) = self.lane.wants(self.now) else { return };
        let (rows, next, complete) = self.read(load);
        self.load = Some((load, rows, next, complete));
    }

    fn read(&self, load: Load) -> (Vec<Delivery>, u64, bool) {
        match load {
            Load::Fresh { from, limit } | Load::Open { from, limit } => {
                let all = matches!(load, Load::Open { .. });
                let wanted = |row: &Delivery| row.state == State::Pending || all && !row.state.has_ended();
                let rows: Vec<_> =
                    self.rows.range(from..).map(|(_, row)| *row).filter(wanted).take(limit).collect();
                let last = self.rows.keys().next_back().copied().unwrap_or(0);
                let next = if rows.len() < limit { last } else { rows[limit - 1].sequence } + 1;
                (rows, next, true)
            }
            Load::Due { limit } => {
                let mut due: Vec<_> =
                    self.rows.values().filter(|row| row.state.due().is_some()).copied().collect();
                due.sort_by_key(|row| (row.state.due(), row.sequence));
                let complete = due.len() <= limit;
                due.truncate(limit);
                (due, 0, complete)
            }
        }
    }

    fn end_load(&mut self) {
        match self.load.take() {
            Some((Load::Fresh { .. } | Load::Open { .. }, rows, next, _)) => {
                self.lane.loaded_fresh(rows, next)
            }
            Some((Load::Due { .. }, rows, _, complete)) => self.lane.loaded_due(rows, complete),
            None => {}
        }
    }

    /// A graceful one: attempts end and writes are applied first. Everything else is lost.
    fn restart(&mut self) {
        while !self.in_flight.is_empty() {
            self.end_attempt(0, Some(1));
        }
        while !self.writes.is_empty() {
            self.write();
        }
        self.load = None;
        let end = self.rows.len() as u64 + 1;
        let limits = Limits { max_in_flight: self.cap, ..LIMITS };
        self.lane = Lane::new(limits, self.low_water.first_for(self.order), end).ordered(self.order);
    }

    fn settle_everything(&mut self) {
        self.lane.hold(false);
        for _ in 0..20_000 {
            self.begin_load();
            self.end_load();
            self.take();
            self.end_attempt(0, None);
            self.write();
            if let Some(wakes) = self.lane.wakes(self.now).filter(|_| !self.lane.is_ready(self.now)) {
                self.now = wakes;
            }
            if self.ended.len() == self.rows.len() && self.writes.is_empty() {
                return;
            }
        }
        let left: Vec<_> = self.rows.keys().filter(|sequence| !self.ended.contains(sequence)).collect();
        panic!("never handed out: {left:?}; {:?}", self.lane);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_repeated_or_above_the_cap(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
            let ordered = world.lane.is_ordered();
            let open = |row: &Delivery| row.state == State::Pending || ordered && !row.state.has_ended();
            let lowest = world.rows.iter().find(|(_, row)| open(row));
            if let Some((lowest, _)) = lowest {
                prop_assert!(world.lane.low_water().number <= *lowest, "a restart would not look at {lowest}");
            }
            prop_assert!(world.lane.fresh.len() <= 2 * LIMITS.window + LIMITS.max_in_flight);
            let unwritten = world.lane.settling.len();
            prop_assert!(world.lane.waiting.len() <= 3 * LIMITS.window + unwritten + LIMITS.max_in_flight);
            let ahead = LIMITS.look_ahead + 2 * LIMITS.window + unwritten + LIMITS.max_in_flight;
            prop_assert!(!ordered || world.lane.queued() <= ahead);
        }
        world.settle_everything();
    }
}

#[test]
fn fresh_and_waiting_deliveries_take_turns() {
    let mut world = World::new();
    for _ in 0..4 {
        world.accept(true);
    }
    for _ in 0..2 {
        world.take();
        world.end_attempt(0, Some(1));
        world.write();
    }
    world.now = world.now + Duration::from_secs(5);
    world.cap = 4;
    world.lane.set_max_in_flight(4);
    let order: Vec<u32> = (0..4).map(|_| world.lane.take(world.now).unwrap().attempts).collect();
    assert_eq!(order.iter().filter(|attempts| **attempts == 0).count(), 2);
    assert_ne!(order[0], order[1]);
    assert_ne!(order[2], order[3]);
}

#[test]
fn a_key_that_is_stuck_holds_up_itself_alone() {
    let limits = Limits { window: 8, look_ahead: 100, max_in_flight: 8 };
    let mut lane = Lane::empty(limits).ordered(Order::PerKey);
    let now = Timestamp::from_millis(1_000);
    let delivery = |sequence: u64, key: u64| {
        Delivery::new(sequence, EventKey::first_at(now)).ordered_by(NonZeroU64::new(key))
    };
    lane.accepted(delivery(1, 1));
    let stuck = lane.take(now).unwrap();
    let rows: Vec<_> =
        (2..=60).map(|sequence| delivery(sequence, if sequence < 60 { 1 } else { 2 })).collect();
    rows.iter().for_each(|row| lane.accepted(*row));
    let taken = std::iter::from_fn(|| {
        lane.take(now).inspect(|taken| lane.settle(Delivery { state: State::Delivered(now), ..*taken }))
    });
    assert_eq!(taken.map(|taken| taken.sequence).collect::<Vec<_>>(), [60]);
    lane.settle(Delivery { state: State::Delivered(now), ..stuck });
    assert_eq!(lane.take(now).map(|taken| taken.sequence), Some(2));
    assert!(lane.take(now).is_none());
}

#[test]
fn a_long_queue_costs_a_window() {
    let limits = Limits { window: 128, look_ahead: 2_048, max_in_flight: 64 };
    let mut lane = Lane::empty(limits);
    for sequence in 1..=1_000_000 {
        lane.accepted(Delivery::new(sequence, EventKey::first_at(Timestamp::default())));
    }
    assert_eq!(lane.fresh.len(), 128);
    assert_eq!(lane.open.len(), 128);
    assert_eq!(lane.wants(Timestamp::default()), None);
}

//! Connections that break with many attempts under way: for the endpoint that is one failure, not many in a row.

use postrider_domain::lane::Breaker;
use postrider_domain::lane::health::State as Health;

use super::*;

const MANY: usize = 64;

/// A lane with much to do and an agent with room for all of it.
struct Busy {
    scheduler: Scheduler,
    holder: HolderId,
    now: Timestamp,
    under_way: VecDeque<JobKey>,
    reported: u64,
    turns: Vec<Breaker>,
}

impl Busy {
    fn new(in_flight: usize) -> Self {
        let (mut scheduler, now) = (Scheduler::new(1), start());
        scheduler.changed(LaneSettings { max_in_flight: in_flight, ..settings(0) }, now);
        let holder = scheduler.connected(hello("a", "1", 1_000, Vec::new()), now);
        let mut busy =
            Self { scheduler, holder, now, under_way: VecDeque::new(), reported: 0, turns: Vec::new() };
        busy.owe(1, 100);
        busy
    }

    fn owe(&mut self, first: u64, count: u64) {
        for sequence in first..first + count {
            let delivery = Delivery::new(sequence, EventKey::new(self.now, u128::from(sequence)));
            self.scheduler.accepted(&[(lane(0), delivery)], self.now);
        }
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.scheduler.effects(self.now) {
            match effect {
                Effect::Dispatch { jobs, .. } => self.under_way.extend(jobs.iter().map(|job| job.key)),
                Effect::Settle { settle, .. } => self.scheduler.stored(&[settle.id], self.now),
                Effect::Breaker(_, turned) => self.turns.push(turned),
                _ => {}
            }
        }
    }

    /// The oldest attempt ends, and what is due then goes out.
    fn ends(&mut self, outcome: Outcome) {
        let key = self.under_way.pop_front().expect("something is under way");
        self.reported += 1;
        let reported = Reported { holder: self.holder, sequence: self.reported };
        self.scheduler.reported(reported, key, Report::Made(Box::new(outcome)), 0.5, self.now);
        self.carry_out();
    }

    /// The same, and one delivery more is owed.
    fn goes_on(&mut self, outcome: Outcome) {
        self.owe(101 + self.reported, 1);
        self.ends(outcome);
    }

    fn health(&self) -> postrider_domain::lane::health::View {
        self.scheduler.health(lane(0), self.now).expect("there is such a lane")
    }
}

fn cut() -> Outcome {
    Outcome { request_sent: true, ..Outcome::failure(Class::Protocol, "the connection was closed") }
}

#[test]
fn a_connection_cut_with_many_under_way_is_one_failure_and_the_next_delivery_goes_out_at_once() {
    for outcome in [cut(), response(500), Outcome::failure(Class::Connect, "")] {
        let mut busy = Busy::new(MANY);
        assert_eq!(busy.under_way.len(), MANY);
        let later = busy.under_way.len();
        (0..later).for_each(|_| busy.ends(outcome.clone()));
        assert_eq!(busy.turns, [], "{outcome:?}");
        assert_eq!((busy.health().state, busy.health().failures), (Health::Failing, 1), "{outcome:?}");
        assert_eq!(busy.under_way.len(), 100 - MANY, "what waits goes out at once");
        busy.owe(101, MANY as u64);
        assert_eq!(busy.under_way.len(), MANY, "as many at once as before");
    }
}

#[test]
fn failures_that_each_begin_after_the_one_before_still_open_the_breaker() {
    let mut busy = Busy::new(1);
    (0..9).for_each(|_| busy.ends(response(500)));
    assert_eq!(busy.turns, []);
    busy.ends(response(500));
    assert_eq!(busy.turns, [Breaker::Open]);
    assert_eq!(busy.health().failures, 10);
}

/// Each restart cuts the connections of HTTP/1.1, one attempt each, within some milliseconds; the next ones find it well.
#[test]
fn a_rolling_restart_of_a_receiver_opens_no_breaker() {
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut busy = Busy::new(MANY);
        for _ in 0..12 {
            let (before, cuts) = (rng.random_range(0..40), rng.random_range(10..=MANY));
            (0..before).for_each(|_| busy.goes_on(response(204)));
            let well_between = rng.random_range(2..30);
            for number in 0..cuts {
                busy.goes_on(if number % well_between == 1 { response(204) } else { cut() });
                busy.now = busy.now + Duration::from_millis(rng.random_range(0..2));
            }
            assert_eq!(busy.turns, [], "seed {seed}");
            busy.goes_on(response(204));
        }
        assert!(busy.health().failures <= 1, "seed {seed}: {:?}", busy.health());
    }
}

#[test]
fn a_failure_that_began_before_the_latest_success_is_no_trouble() {
    let mut busy = Busy::new(MANY);
    busy.ends(response(204));
    (0..MANY - 1).for_each(|_| busy.ends(cut()));
    assert_eq!((busy.health().state, busy.health().failures), (Health::Healthy, 0));
    assert!(busy.health().last_failure.is_some(), "it is shown all the same");
}

/// An agent comes back after a restart of the control plane and reports what had failed meanwhile.
#[test]
fn failures_reported_after_a_restart_are_one_failure() {
    let (mut scheduler, now) = (Scheduler::new(2), start());
    scheduler.await_agents(
        std::iter::once(("a".parse().expect("an id"), 1)).collect(),
        now + Duration::from_secs(3),
    );
    let row = LaneRow { low_water: LowWater::default(), end: 41, waiting: false, trouble: None };
    scheduler.restore(LaneSettings { max_in_flight: MANY, ..settings(0) }, row, now);
    let key =
        |sequence| JobKey { delivery: DeliveryId { subscription: lane(0), sequence }, attempt: 1, epoch: 1 };
    let holder = scheduler.connected(hello("a", "1", 1_000, (1..=40).map(key).collect()), now);
    for sequence in 1..=40 {
        let report = Report::Made(Box::new(cut()));
        scheduler.reported(Reported { holder, sequence }, key(sequence), report, 0.5, now);
    }
    let mut turns = 0;
    for _ in 0..5 {
        for effect in scheduler.effects(now) {
            match effect {
                Effect::Read { id, why } => {
                    let delivery = Delivery::new(id.sequence, EventKey::new(now, 1));
                    scheduler.row(id, *why, Ok(Some(DeliveryRow { id, delivery, last: None })), now);
                }
                Effect::Settle { settle, .. } => scheduler.stored(&[settle.id], now),
                Effect::Breaker(..) => turns += 1,
                _ => {}
            }
        }
    }
    let health = scheduler.health(lane(0), now).expect("there is such a lane");
    assert_eq!((turns, health.failures), (0, 1), "{health:?}");
}

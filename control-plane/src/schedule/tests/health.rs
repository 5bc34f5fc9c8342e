//! Endpoints that fail continuously for days, in simulated time: which events are emitted, how rarely they are probed,
//! and what happens to their waiting deliveries.

use postrider_domain::lane::Breaker;
use postrider_domain::lane::health::State as Condition;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

impl World {
    /// An event every so often until then, with everybody at work.
    fn live_until(&mut self, number: u64, end: Timestamp, every: Duration) {
        while self.now < end {
            self.owe(number, 1);
            self.run_until((self.now + every).min(end));
        }
    }

    fn told_of(&self, number: u64) -> Vec<(Duration, Turn)> {
        let of_lane = self.told.iter().filter(|(_, id, _)| *id == lane(number));
        of_lane.map(|(at, _, turn)| (at.since(start()), *turn)).collect()
    }

    fn state_of(&self, number: u64) -> Condition {
        self.scheduler.health(lane(number), self.now).expect("there is such a lane").state
    }
}

#[test]
fn five_days_of_failure_are_told_step_by_step_then_probed_hourly_and_nothing_held_is_lost() {
    for seed in 0..2 {
        let mut world = World::new(seed);
        world.connect(0);
        world.failing.insert(lane(0));
        world.live_until(0, start() + 5 * DAY + HOUR, HOUR / 6);
        let told = world.told_of(0);
        let steps: Vec<Turn> = told.iter().map(|(_, turn)| *turn).collect();
        let expected = [Turn::Failing(HOUR), Turn::Failing(DAY), Turn::Failing(3 * DAY), Turn::GivenUp];
        assert_eq!(steps, expected, "seed {seed}: {told:?}");
        for ((at, _), due) in told.iter().zip([HOUR, DAY, 3 * DAY, 5 * DAY]) {
            let late = at.checked_sub(due).expect("not before its time");
            assert!(late <= Duration::from_secs(420), "seed {seed}: {late:?} after {due:?}");
        }
        // Two days disabled: one probe an hour, and what comes meanwhile waits.
        let disabled = world.now;
        let exhausted = |world: &World| world.rows.values().filter(|row| row.state.has_ended()).count();
        let given_up = exhausted(&world);
        world.live_until(0, disabled + 2 * DAY, 30 * Duration::from_secs(60));
        let probes = world.posts_since(disabled);
        assert!((38..=62).contains(&probes.len()), "seed {seed}: {} probes", probes.len());
        assert!(probes.windows(2).all(|pair| pair[1].since(pair[0]) >= 47 * Duration::from_secs(60)));
        assert_eq!(exhausted(&world), given_up, "seed {seed}: a probe has given something up");
        let id = DeliveryId { subscription: lane(0), sequence: world.rows.len() as u64 };
        assert_eq!(world.scheduler.condition(id, world.now), super::Condition::Held);
        assert_eq!(world.state_of(0), Condition::CircuitOpen);
        // It is repaired: the next probe enables it, and what was held drains with a ramp.
        world.failing.clear();
        let repaired = world.now;
        world.run_until(repaired + 3 * HOUR);
        let drain = world.posts_since(repaired);
        assert!(drain[0].since(repaired) <= 73 * Duration::from_secs(60), "seed {seed}: found out in time");
        assert!(drain[1] > drain[0], "seed {seed}: after the probe one at a time");
        assert_eq!(
            exhausted(&world),
            world.rows.len(),
            "seed {seed}: {:?}",
            world.scheduler.lanes[&lane(0)].lane
        );
        let turns: Vec<Turn> = world.told_of(0)[4..].iter().map(|(_, turn)| *turn).collect();
        assert_eq!(turns, [Turn::Recovering, Turn::Recovered], "seed {seed}");
        assert_eq!(world.settings[&lane(0)].probed_every, None);
        assert_eq!(world.state_of(0), Condition::Healthy);
        assert_eq!(world.troubles.get(&lane(0)), None, "seed {seed}");
    }
}

#[test]
fn restarts_neither_stretch_nor_repeat_what_is_told() {
    let mut world = World::new(7);
    world.connect(0);
    world.failing.insert(lane(0));
    let mut day = Duration::ZERO;
    while day < 8 * DAY {
        day += DAY / 3;
        world.live_until(0, start() + day, HOUR);
        world.kill_control_plane();
    }
    let told = world.told_of(0);
    let steps: Vec<Turn> = told.iter().map(|(_, turn)| *turn).collect();
    assert_eq!(
        steps,
        [Turn::Failing(HOUR), Turn::Failing(DAY), Turn::Failing(3 * DAY), Turn::GivenUp],
        "{told:?}"
    );
    let disabled = start() + told[3].0;
    let probes = world.posts_since(disabled + HOUR).len();
    let hours = usize::try_from(world.now.since(disabled).as_secs() / 3_600).unwrap();
    assert!(probes <= hours + 12, "{probes} probes in {hours} hours, with restarts");
    world.failing.clear();
    world.run_until(world.now + 3 * HOUR);
    assert_eq!(world.told.last().map(|(_, _, turn)| *turn), Some(Turn::Recovered));
}

#[test]
fn resumed_by_hand_it_is_tried_at_once_and_its_time_begins_anew() {
    let mut world = World::new(5);
    world.connect(0);
    let policy = FailurePolicy { disable_after: Some(10 * HOUR), ..FailurePolicy::default() };
    world.change(lane(0), |settings| settings.failure = policy);
    world.failing.insert(lane(0));
    world.live_until(0, start() + 12 * HOUR, HOUR / 4);
    assert_eq!(world.told.last().map(|(_, _, turn)| *turn), Some(Turn::GivenUp));
    let resumed = world.now;
    world.change(lane(0), |settings| settings.probed_every = None);
    world.live_until(0, resumed + 9 * HOUR, HOUR / 4);
    let tries = world.posts_since(resumed);
    assert!(tries[0].since(resumed) <= Duration::from_secs(4), "at once");
    assert!(tries.len() > 90, "an open breaker's probes, not one an hour: {}", tries.len());
    assert_eq!(world.told.last().map(|(_, _, turn)| *turn), Some(Turn::Failing(HOUR)), "told anew");
    world.live_until(0, resumed + 11 * HOUR, HOUR / 4);
    assert_eq!(world.told.last().map(|(_, _, turn)| *turn), Some(Turn::GivenUp));
}

#[test]
fn never_means_never_and_no_other_lane_is_concerned() {
    let mut world = World::new(9);
    world.connect(0);
    world.change(lane(0), |settings| settings.failure.disable_after = None);
    world.failing.insert(lane(0));
    for _ in 0..20 {
        world.owe(1, 3);
        world.live_until(0, world.now + 12 * HOUR, 4 * HOUR);
    }
    assert!(world.told_of(0).iter().all(|(_, turn)| matches!(turn, Turn::Failing(_))), "{:?}", world.told);
    assert_eq!((world.told_of(0).len(), world.told_of(1)), (3, Vec::new()));
    assert_eq!(world.state_of(1), Condition::Healthy);
}

#[test]
fn a_pool_without_agents_is_no_trouble_of_the_endpoint_and_shows_in_the_survey() {
    let mut world = World::new(2);
    for day in 0..10 {
        world.now = start() + day * DAY;
        world.owe(0, 2);
        world.carry_out();
    }
    assert_eq!(world.told, []);
    assert_eq!(world.state_of(0), Condition::Unknown);
    let survey = world.scheduler.survey();
    assert_eq!(survey.stranded.into_iter().collect::<Vec<_>>(), [(PoolName::default_pool(), 20)]);
    assert_eq!(survey.lanes[0].1.oldest, Some(start()));
    world.change(lane(0), |settings| settings.held = true);
    assert_eq!(world.scheduler.survey(), Survey::default(), "what is held by hand is nobody's surprise");
}

#[test]
fn a_410_while_it_is_probed_ends_the_probes() {
    let now = start();
    let mut scheduler = Scheduler::new(1);
    scheduler.changed(LaneSettings { probed_every: Some(HOUR), ..settings(0) }, now);
    scheduler.accepted(&[(lane(0), Delivery::new(1, EventKey::new(now, 1)))], now);
    let station = Station { agent: "a".parse().unwrap(), instance: "1".into(), stream: 0 };
    let hello = Connected {
        station,
        pool: PoolName::default_pool(),
        max_in_flight: 9,
        in_flight: vec![],
        drained: false,
    };
    let holder = scheduler.connected(hello, now);
    let probe = now + 2 * HOUR;
    scheduler.tick(probe);
    let key = JobKey { delivery: DeliveryId { subscription: lane(0), sequence: 1 }, attempt: 1, epoch: 1 };
    let jobs = scheduler.effects(probe);
    assert!(jobs.iter().any(|effect| matches!(effect, Effect::Dispatch { .. })), "{jobs:?}");
    let gone = Report::Made(Box::new(response(410)));
    scheduler.reported(Reported { holder, sequence: 1 }, key, gone, 0.5, probe);
    let effects = scheduler.effects(probe);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Disable(_))), "{effects:?}");
    assert_eq!(scheduler.lanes[&lane(0)].lane.breaker(), Breaker::Open);
    scheduler.tick(probe + 9 * HOUR);
    let later = scheduler.effects(probe + 9 * HOUR);
    assert!(!later.iter().any(|effect| matches!(effect, Effect::Dispatch { .. })), "{later:?}");
}

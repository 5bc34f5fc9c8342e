//! The sums over all lanes, against a walk through all lanes.

use super::*;
use crate::schedule::levels::Share;

impl World {
    /// What is summed up is what there is. How long something is due may be known later than it is true, never earlier:
    /// time alone changes nothing about a lane that is at its cap.
    pub(super) fn check_levels(&self) {
        let levels = self.scheduler.levels();
        let (mut waiting, mut breakers, mut at_destinations) = (0, 0, 0);
        for slot in self.scheduler.lanes.values() {
            let share = slot.share(self.now);
            let counts = |share: Share| (share.waiting, share.breaker_open);
            assert_eq!(counts(share), counts(slot.share), "seed {}", self.seed);
            if let Some(said) = slot.share.since {
                let seed = self.seed;
                assert!(share.since.is_some_and(|since| since <= said), "seed {seed}: {share:?}, {said:?}");
            }
            waiting += share.waiting;
            breakers += usize::from(share.breaker_open);
            at_destinations += usize::from(slot.waits_for.is_some());
        }
        assert_eq!(levels.at_destinations, at_destinations, "seed {}", self.seed);
        let level = &levels.pools[&PoolName::default_pool()];
        assert_eq!((level.waiting, levels.breakers_open), (waiting, breakers), "seed {}", self.seed);
        let oldest = self.scheduler.lanes.values().filter_map(|slot| slot.share.since).min();
        assert_eq!(level.oldest, oldest, "seed {}", self.seed);
        let connected = self.agents.iter().filter(|agent| agent.holder.is_some()).count();
        let places = (connected + usize::from(self.liar.is_some())) * AGENT_CREDIT;
        assert!(level.credit <= places, "seed {}: {level:?}", self.seed);
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

/// A schedule with these lanes, each in a pool, each owed one delivery that was accepted so many seconds after the start.
fn owed(lanes: &[(u64, &str, u64)]) -> Scheduler {
    let mut scheduler = Scheduler::new(1);
    for (number, name, accepted) in lanes {
        let at = start() + seconds(*accepted);
        scheduler.pool_changed(&pool(name), open_to_all(None), at);
        scheduler.changed(LaneSettings { pool: pool(name), ..settings(*number) }, at);
        scheduler.accepted(&[(lane(*number), Delivery::new(1, EventKey::new(at, u128::from(*number))))], at);
    }
    scheduler
}

fn of(scheduler: &Scheduler, name: &str) -> Level {
    scheduler.levels().pools.get(&pool(name)).cloned().unwrap_or_default()
}

#[test]
fn a_pool_knows_what_waits_and_for_how_long() {
    let scheduler = owed(&[(0, "edge", 7), (1, "edge", 5), (2, "far", 9)]);
    let edge = Level { waiting: 2, oldest: Some(start() + seconds(5)), ..Level::default() };
    assert_eq!(of(&scheduler, "edge"), edge);
    assert_eq!(of(&scheduler, "far").oldest, Some(start() + seconds(9)));
}

#[test]
fn what_is_given_to_an_agent_waits_no_more_and_takes_a_place() {
    let mut scheduler = owed(&[(0, "edge", 5), (1, "edge", 7)]);
    let now = start() + seconds(10);
    let station = Station { agent: "a".parse().unwrap(), instance: "1".into(), stream: 0 };
    let hello =
        Connected { station, pool: pool("edge"), max_in_flight: 8, in_flight: Vec::new(), drained: false };
    let holder = scheduler.connected(hello, now);
    assert_eq!(scheduler.effects(now).len(), 1);
    assert_eq!(of(&scheduler, "edge"), Level { waiting: 0, oldest: None, in_flight: 2, credit: 6 });
    scheduler.set_drained(holder, true, now);
    assert_eq!(of(&scheduler, "edge"), Level { waiting: 0, oldest: None, in_flight: 2, credit: 0 });
    scheduler.disconnected(holder, now);
    scheduler.tick(now + seconds(60));
    let edge = of(&scheduler, "edge");
    assert_eq!((edge.in_flight, edge.waiting), (0, 2), "they were lost, and wait again");
}

#[test]
fn what_is_held_or_rests_is_not_due_and_what_is_gone_counts_nowhere() {
    let mut scheduler = owed(&[(0, "edge", 5), (1, "edge", 7)]);
    let now = start() + seconds(10);
    let edge = || LaneSettings { pool: pool("edge"), ..settings(0) };
    scheduler.changed(LaneSettings { held: true, ..edge() }, now);
    assert_eq!(of(&scheduler, "edge").oldest, Some(start() + seconds(7)), "the first is paused");
    assert_eq!(of(&scheduler, "edge").waiting, 1);
    scheduler.changed(LaneSettings { probed_every: Some(seconds(3600)), ..edge() }, now);
    assert_eq!(of(&scheduler, "edge").oldest, Some(start() + seconds(7)), "the first is probed now and then");
    assert_eq!((of(&scheduler, "edge").waiting, scheduler.levels().breakers_open), (2, 1));
    scheduler.pool_changed(&pool("far"), open_to_all(None), now);
    scheduler.changed(LaneSettings { pool: pool("far"), ..settings(0) }, now);
    assert_eq!((of(&scheduler, "edge").waiting, of(&scheduler, "far").waiting), (1, 1), "it has moved");
    scheduler.deleted(lane(0));
    scheduler.deleted(lane(1));
    assert_eq!(scheduler.levels(), Levels::default());
}

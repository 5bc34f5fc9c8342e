//! Endpoints that fail for long, ask to be left alone, or bear only so much, in simulated time.

use super::*;

impl World {
    /// Everybody works, without delay, until this time.
    pub(super) fn run_until(&mut self, end: Timestamp) {
        while self.now < end {
            for _ in 0..100 {
                self.carry_out();
                self.arrive();
                self.end_read();
                self.write();
                self.run_agents();
            }
            let next = self.agents.iter().flat_map(|agent| agent.running.iter().map(|(_, end)| *end)).min();
            let tick = self.scheduler.next_tick(self.now);
            self.now =
                next.map_or(tick, |next| next.min(tick)).max(self.now + Duration::from_millis(1)).min(end);
        }
    }

    pub(super) fn owe(&mut self, number: u64, count: u64) {
        let first = self.rows.keys().filter(|id| id.subscription == lane(number)).count() as u64 + 1;
        for sequence in first..first + count {
            let delivery = Delivery::new(sequence, EventKey::new(self.now, u128::from(sequence)));
            self.rows.insert(DeliveryId { subscription: lane(number), sequence }, delivery);
            self.scheduler.accepted(&[(lane(number), delivery)], self.now);
        }
    }

    pub(super) fn posts_since(&self, from: Timestamp) -> Vec<Timestamp> {
        self.log.iter().map(|(at, _)| *at).filter(|at| *at >= from).collect()
    }

    fn all_delivered(&self) -> bool {
        self.rows.values().all(|row| matches!(row.state, State::Delivered(_)))
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn an_hour_of_failure_is_probed_and_then_the_backlog_drains_with_a_ramp() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.connect(0);
        world.failing.insert(lane(0));
        world.owe(0, 30);
        world.run_until(start() + seconds(60));
        let id = DeliveryId { subscription: lane(0), sequence: 1 };
        assert_eq!(
            world.scheduler.condition(id, world.now),
            Condition::Resting(postrider_domain::lane::Rest::Breaker)
        );
        // Ten in a row, what is under way beside them in the first two rounds, and probes.
        assert!(world.log.len() <= 10 + 2 * CAP + 6, "seed {seed}: {} attempts in a minute", world.log.len());
        // More comes all the time; each probe is one attempt, and none overlaps another.
        for minute in 2..=60 {
            world.owe(0, 10);
            world.run_until(start() + seconds(60 * minute));
        }
        let probes = world.posts_since(start() + seconds(60));
        assert!((10..=25).contains(&probes.len()), "seed {seed}: {} probes", probes.len());
        assert!(
            probes.windows(2).all(|pair| pair[1].since(pair[0]) >= seconds(15)),
            "seed {seed}: {probes:?}"
        );
        assert!(world.rows.values().all(|row| !row.state.has_ended()), "nothing is given up");
        world.failing.clear();
        let healed = world.now;
        world.run_until(healed + seconds(3_600));
        assert!(world.all_delivered(), "seed {seed}: {:?}", world.scheduler.lanes[&lane(0)].lane);
        let drain = world.posts_since(healed);
        assert!(drain[0].since(healed) <= seconds(360), "the next probe comes within its bound");
        let begins_slowly = drain[1] > drain[0] && drain[4].since(drain[0]) <= seconds(30);
        assert!(begins_slowly, "seed {seed}: {:?}", &drain[..5]);
        assert!(drain.last().unwrap().since(drain[0]) <= seconds(1_200), "seed {seed}: it drains at its cap");
        assert_eq!(world.extra_posts(), 0, "seed {seed}");
    }
}

#[test]
fn retry_after_holds_the_whole_lane_to_the_second_and_at_most_a_day() {
    let table =
        [("30", 30), ("315360000", 86_400), ("Mon, 02 Feb 2026 10:31:10 GMT", 60), ("-5", 0), ("x", 0)];
    for (status, (value, held)) in [429, 503].into_iter().flat_map(|status| table.map(|row| (status, row))) {
        let mut scheduler = Scheduler::new(1);
        let now = start() + seconds(10);
        scheduler.changed(LaneSettings { max_in_flight: 1, ..settings(0) }, now);
        let deliveries: Vec<_> =
            (1..=5).map(|sequence| (lane(0), Delivery::new(sequence, EventKey::new(now, 1)))).collect();
        scheduler.accepted(&deliveries, now);
        let station = Station { agent: "a".parse().unwrap(), instance: "1".into(), stream: 0 };
        let hello = Connected {
            station,
            pool: PoolName::default_pool(),
            max_in_flight: 9,
            in_flight: vec![],
            drained: false,
        };
        let holder = scheduler.connected(hello, now);
        let given = |effects: Vec<Effect>| {
            effects.into_iter().find_map(|effect| match effect {
                Effect::Dispatch { jobs, .. } => Some(jobs[0].key),
                _ => None,
            })
        };
        let key = given(scheduler.effects(now)).expect("it is due");
        let mut outcome = response(status);
        outcome.response.as_mut().unwrap().headers = vec![("retry-after".into(), value.into())];
        scheduler.reported(Reported { holder, sequence: 1 }, key, Report::Made(Box::new(outcome)), 0.5, now);
        let next = given(scheduler.effects(now));
        if held == 0 {
            assert!(next.is_some(), "{status} {value}: garbage holds nothing");
            continue;
        }
        assert_eq!(next, None, "{status} {value}");
        let end = now + seconds(held);
        let before = end - Duration::from_millis(1);
        scheduler.tick(before);
        assert_eq!(given(scheduler.effects(before)), None, "{status} {value}: too early");
        let timer = scheduler.timers.iter().any(|(at, _)| *at == end);
        assert!(timer, "{status} {value}: it is woken at that time");
        scheduler.tick(end);
        assert!(given(scheduler.effects(end)).is_some(), "{status} {value}: too late");
    }
}

#[test]
fn a_rate_limit_holds_over_retries_faults_and_restarts() {
    for seed in 0..40 {
        let (rate, burst) = [(0.5, 1), (2.0, 5), (7.3, 3)][usize::try_from(seed % 3).unwrap()];
        let limit = RateLimit { per_second: rate, burst };
        let mut world = World::new(seed);
        for number in 0..4 {
            world.settings.insert(lane(number), LaneSettings { rate_limit: Some(limit), ..settings(number) });
            world.scheduler.changed(world.settings[&lane(number)].clone(), world.now);
        }
        (0..AGENTS).for_each(|which| world.connect(which));
        (0..2_000).for_each(|_| world.step(true));
        world.heal();
        world.check();
        for number in 0..4 {
            let times: Vec<_> = world
                .handed
                .iter()
                .filter(|(_, key)| key.delivery.subscription == lane(number))
                .map(|(at, _)| *at)
                .collect();
            for (first, begin) in times.iter().enumerate() {
                for (last, end) in times.iter().enumerate().skip(first) {
                    let share = f64::from(burst) + end.since(*begin).as_secs_f64() * rate;
                    let count = (last - first + 1) as f64;
                    assert!(count <= share + 1e-6, "seed {seed}: {count} where {share} are allowed");
                }
            }
            assert!(times.len() > 20, "seed {seed}: too little was done");
        }
    }
}

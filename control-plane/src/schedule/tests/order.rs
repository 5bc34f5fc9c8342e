//! Order, whatever happens: retries, restarts, lost agents, a slow store.

use super::*;

impl World {
    fn ordered(seed: u64, order: Order) -> Self {
        let mut world = Self::new(seed);
        for settings in world.settings.values_mut() {
            settings.order = order;
        }
        for settings in world.settings.values().cloned().collect::<Vec<_>>() {
            world.scheduler.changed(settings, world.now);
        }
        world
    }

    /// At a POST: all that it had to wait for have been received.
    pub(super) fn check_order(&self, id: DeliveryId) {
        let order = self.settings[&id.subscription].order;
        let Some(queue) = order.queue(&self.rows[&id]) else { return };
        let first = DeliveryId { subscription: id.subscription, sequence: 0 };
        for (before, delivery) in self.rows.range(first..id) {
            let follows = order.queue(delivery) == Some(queue);
            assert!(!follows || self.succeeded.contains(before), "seed {}: {id} before {before}", self.seed);
        }
    }
}

#[test]
fn order_is_kept_over_retries_restarts_and_lost_agents() {
    for seed in 0..120 {
        let order = if seed % 2 == 0 { Order::PerKey } else { Order::Strict };
        let mut world = World::ordered(seed, order);
        (0..AGENTS).for_each(|which| world.connect(which));
        (0..3_000).for_each(|_| world.step(true));
        world.heal();
        world.check();
        assert!(world.rows.len() > 200, "seed {seed}: too little was done");
        let (extra, unknown) = (world.extra_posts(), world.unknown);
        assert!(extra <= unknown, "seed {seed}: {extra} repeats of {unknown} unknown outcomes");
    }
}

#[test]
fn without_faults_an_ordered_lane_repeats_nothing() {
    for seed in 0..40 {
        let mut world = World::ordered(seed, Order::PerKey);
        (0..AGENTS).for_each(|which| world.connect(which));
        for step in 0..3_000 {
            world.step(false);
            if step % 251 == 250 {
                world.kill_control_plane();
            }
        }
        world.heal();
        world.check();
        assert_eq!(world.extra_posts(), 0, "seed {seed}");
    }
}

#[test]
fn those_behind_one_that_is_blocked_wait_and_go_on_when_it_is_cancelled() {
    let mut scheduler = Scheduler::new(1);
    let mut now = start();
    let endless = retry::Policy { window: Duration::ZERO, endless: true, ..retry::Policy::default() };
    scheduler.changed(LaneSettings { order: Order::Strict, retry: endless, ..settings(0) }, now);
    let station = Station { agent: "a".parse().unwrap(), instance: "1".into(), stream: 0 };
    let hello = Connected {
        station,
        pool: PoolName::default_pool(),
        max_in_flight: 8,
        in_flight: Vec::new(),
        drained: false,
    };
    let holder = scheduler.connected(hello, now);
    let deliveries = [1, 2].map(|sequence| (lane(0), Delivery::new(sequence, EventKey::new(now, 1))));
    scheduler.accepted(&deliveries, now);
    let id = |sequence| DeliveryId { subscription: lane(0), sequence };
    for sequence in 1..=20 {
        let key = dispatched(&scheduler.effects(now)).expect("the first one, again and again");
        assert_eq!(key.delivery, id(1));
        let reported = Reported { holder, sequence };
        scheduler.reported(reported, key, Report::Made(Box::new(response(400))), 0.5, now);
        scheduler.stored(&[id(1)], now);
        now = now + Duration::from_secs(86_400);
        scheduler.tick(now);
    }
    let key = dispatched(&scheduler.effects(now)).unwrap();
    scheduler.reported(
        Reported { holder, sequence: 21 },
        key,
        Report::Made(Box::new(response(400))),
        0.5,
        now,
    );
    scheduler.stored(&[id(1)], now);
    scheduler.cancel(id(1), 1, now);
    assert_eq!(dispatched(&scheduler.effects(now)), None, "its end is not written yet");
    scheduler.stored(&[id(1)], now);
    assert_eq!(dispatched(&scheduler.effects(now)).map(|key| key.delivery), Some(id(2)));
}

fn dispatched(effects: &[Effect]) -> Option<JobKey> {
    effects.iter().find_map(|effect| match effect {
        Effect::Dispatch { jobs, .. } => jobs.first().map(|job| job.key),
        _ => None,
    })
}

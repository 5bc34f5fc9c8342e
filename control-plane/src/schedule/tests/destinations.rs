//! A destination is called as often as it may be, whoever's subscriptions call it.

use postrider_domain::pace::Meter;

use super::*;

const LIMIT: (u32, u32) = (20, 20);

fn elapsed(now: Timestamp) -> Duration {
    now.since(Timestamp::default())
}

/// Whether attempts, in their order, keep to a limit.
fn keep_to(limit: Pace, attempts: impl Iterator<Item = Timestamp>) -> bool {
    let mut meter = Meter::default();
    attempts.into_iter().all(|at| limit.take(&mut meter, elapsed(at)).is_ok())
}

impl World {
    /// In some seeds there is a limit, and in most there is none.
    fn destination_limit(&self) -> Option<Pace> {
        (self.seed % 5 == 3).then(|| pace(20, 5))
    }

    pub(super) fn limit_destinations(&mut self) {
        if let Some(limit) = self.destination_limit() {
            self.scheduler.limit_destinations(limit, self.now);
        }
    }

    /// No destination was called too often, restarts of the control plane included.
    pub(super) fn check_destinations(&self) {
        let Some(limit) = self.destination_limit() else { return };
        for number in 0..2 {
            let calls = |key: &JobKey| self.settings[&key.delivery.subscription].destination == host(number);
            let attempts = self.handed.iter().filter(|(_, key)| calls(key)).map(|(at, _)| *at);
            assert!(keep_to(limit, attempts), "seed {}: host {number} was called too often", self.seed);
        }
        assert_eq!(self.scheduler.levels().at_destinations, 0, "seed {}", self.seed);
    }
}

/// Agents that answer at once, unless they hang.
struct Hosts {
    scheduler: Scheduler,
    now: Timestamp,
    answer: Option<u16>,
    given: Vec<(Timestamp, JobKey)>,
    reports: u64,
    accepted: HashMap<u64, u64>,
}

impl Hosts {
    /// After a quiet time, so that every burst may be used.
    fn new((per_second, burst): (u32, u32)) -> Self {
        let mut scheduler = Scheduler::new(1);
        scheduler.limit_destinations(pace(per_second, burst), start());
        let now = start() + Duration::from_secs(60);
        let (given, accepted) = (Vec::new(), HashMap::new());
        Self { scheduler, now, answer: Some(204), given, reports: 0, accepted }
    }

    fn with_agent(limit: (u32, u32)) -> Self {
        let mut hosts = Self::new(limit);
        hosts.agent("a", &PoolName::default_pool(), 1_000);
        hosts
    }

    fn agent(&mut self, name: &str, pool: &PoolName, credit: usize) -> HolderId {
        self.scheduler.pool_changed(pool, open_to_all(None), self.now);
        let hello = Connected { pool: pool.clone(), ..hello(name, "1", credit, Vec::new()) };
        self.scheduler.connected(hello, self.now)
    }

    fn subscribe(&mut self, settings: LaneSettings, number: u64, events: u64) {
        self.scheduler.changed(settings, self.now);
        self.owe(number, events);
    }

    fn owe(&mut self, number: u64, events: u64) {
        let before = self.accepted.entry(number).or_default();
        for sequence in *before + 1..=*before + events {
            let delivery = Delivery::new(sequence, EventKey::new(self.now, 1));
            self.scheduler.accepted(&[(lane(number), delivery)], self.now);
        }
        *before += events;
    }

    fn carry_out(&mut self) {
        self.scheduler.tick(self.now);
        loop {
            let effects = self.scheduler.effects(self.now);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Dispatch { holder, jobs } => {
                        jobs.iter().for_each(|job| self.take(holder, job.key))
                    }
                    Effect::Settle { settle, .. } => self.scheduler.stored(&[settle.id], self.now),
                    _ => {}
                }
            }
        }
    }

    fn take(&mut self, holder: HolderId, key: JobKey) {
        self.given.push((self.now, key));
        if let Some(status) = self.answer {
            self.reports += 1;
            let reported = Reported { holder, sequence: self.reports };
            self.scheduler.reported(reported, key, Report::Made(Box::new(response(status))), 0.5, self.now);
        }
    }

    /// Lives through a time, woken as the schedule wishes.
    fn live(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            self.carry_out();
            let next = self.scheduler.next_tick(self.now);
            if next > end {
                break;
            }
            let opens = self.scheduler.destination_opens(self.now);
            assert!(opens.is_none_or(|opens| opens > self.now), "it would be woken at once, again and again");
            self.now = next.max(self.now + Duration::from_millis(1));
        }
        self.now = end;
        self.carry_out();
    }

    fn given(&self, number: u64) -> usize {
        self.given.iter().filter(|(_, key)| key.delivery.subscription == lane(number)).count()
    }

    fn condition(&self, number: u64, sequence: u64) -> Condition {
        self.scheduler.condition(DeliveryId { subscription: lane(number), sequence }, self.now)
    }
}

fn of(tenant: &str, number: u64) -> LaneSettings {
    LaneSettings { tenant: tenant.parse().unwrap(), destination: host(0), ..settings(number) }
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

#[test]
fn one_event_to_many_subscriptions_of_one_host_goes_there_at_its_rate() {
    let mut hosts = Hosts::with_agent(LIMIT);
    (0..40).for_each(|number| hosts.subscribe(of("acme", number), number, 1));
    hosts.subscribe(LaneSettings { destination: host(1), ..of("acme", 90) }, 90, 20);
    hosts.live(0);
    assert_eq!((hosts.given.len(), hosts.given(90)), (40, 20), "the burst, and the other host is not slowed");
    assert_eq!(hosts.scheduler.levels().at_destinations, 20);
    let waiting = (0..40).find(|number| hosts.given(*number) == 0).unwrap();
    assert_eq!(hosts.condition(waiting, 1), Condition::Destination);
    hosts.live(500);
    assert_eq!(hosts.given.len(), 50);
    hosts.live(500);
    assert_eq!(hosts.given.len(), 60, "all have arrived");
    assert_eq!(hosts.scheduler.levels().at_destinations, 0);
}

#[test]
fn without_a_limit_nothing_waits() {
    let mut hosts = Hosts::with_agent(LIMIT);
    hosts.scheduler.destinations = None;
    (0..100).for_each(|number| hosts.subscribe(of("acme", number), number, 10));
    hosts.live(0);
    assert_eq!(hosts.given.len(), 1_000);
}

/// Both deliver to one host, such as a provider's that many customers use.
#[test]
fn a_flood_of_one_tenant_leaves_another_its_share_of_a_host() {
    let mut hosts = Hosts::with_agent(LIMIT);
    (100..200).for_each(|number| hosts.subscribe(of("evil", number), number, 100));
    hosts.live(3_000);
    hosts.subscribe(of("acme", 1), 1, 15);
    hosts.subscribe(of("other", 2), 2, 3);
    hosts.live(1_000);
    assert_eq!(hosts.given(2), 3, "who wants little gets it at once");
    assert!((7..=9).contains(&hosts.given(1)), "{}", hosts.given(1));
    hosts.live(1_000);
    assert_eq!(hosts.given(1), 15);
    assert!(keep_to(pace(20, 20), hosts.given.iter().map(|(at, _)| *at)));
}

#[test]
fn tenants_of_several_pools_share_a_host_as_well() {
    let mut hosts = Hosts::new(LIMIT);
    for name in ["one", "two", "three"] {
        hosts.agent(name, &pool(name), 100);
    }
    for number in 100..160 {
        let name = ["one", "two"][number as usize % 2];
        hosts.subscribe(LaneSettings { pool: pool(name), ..of("evil", number) }, number, 100);
    }
    hosts.live(2_000);
    hosts.subscribe(LaneSettings { pool: pool("three"), ..of("acme", 1) }, 1, 100);
    hosts.live(2_000);
    assert!((18..=22).contains(&hosts.given(1)), "{}", hosts.given(1));
}

#[test]
fn retries_count() {
    let mut hosts = Hosts::with_agent((2, 1));
    hosts.answer = Some(500);
    (0..10).for_each(|number| hosts.subscribe(of("acme", number), number, 1));
    hosts.live(120_000);
    let retried = hosts.given.iter().filter(|(_, key)| key.attempt > 1).count();
    assert!(retried >= 30, "{retried}");
    assert!(keep_to(pace(2, 1), hosts.given.iter().map(|(at, _)| *at)));
}

#[test]
fn an_ordered_lane_keeps_its_order() {
    let mut hosts = Hosts::with_agent(LIMIT);
    hosts.subscribe(LaneSettings { order: Order::Strict, ..of("acme", 1) }, 1, 60);
    (100..110).for_each(|number| hosts.subscribe(of("acme", number), number, 10));
    hosts.live(10_000);
    let of_lane = hosts.given.iter().filter(|(_, key)| key.delivery.subscription == lane(1));
    assert!(of_lane.map(|(_, key)| key.delivery.sequence).eq(1..=60));
}

/// What waits for a place at an agent takes nothing of the destination's rate.
#[test]
fn a_pool_that_is_full_or_without_agents_holds_up_no_other_at_the_host() {
    let mut hosts = Hosts::new(LIMIT);
    let few = hosts.agent("few", &pool("few"), 2);
    for number in 100..140 {
        hosts.subscribe(LaneSettings { pool: pool("few"), ..of("evil", number) }, number, 10);
    }
    hosts.answer = None;
    hosts.live(30_000);
    let stuck = hosts.given.len();
    assert_eq!(stuck, 2, "as many as the agent takes");
    hosts.answer = Some(204);
    hosts.agent("many", &pool("many"), 1_000);
    hosts.subscribe(LaneSettings { pool: pool("many"), ..of("acme", 1) }, 1, 60);
    hosts.live(1_000);
    assert!(hosts.given(1) >= 38, "{}", hosts.given(1));
    hosts.scheduler.disconnected(few, hosts.now);
    hosts.live(2_000);
    assert_eq!(hosts.given(1), 60);
}

#[test]
fn lanes_that_wait_go_back_to_a_pool_that_loses_its_agents() {
    let mut hosts = Hosts::new((1, 1));
    let agent = hosts.agent("a", &PoolName::default_pool(), 100);
    (0..5).for_each(|number| hosts.subscribe(of("acme", number), number, 1));
    hosts.live(0);
    assert_eq!((hosts.given.len(), hosts.scheduler.levels().at_destinations), (1, 4));
    hosts.scheduler.disconnected(agent, hosts.now);
    assert_eq!(hosts.scheduler.levels().at_destinations, 0);
    assert_eq!(hosts.condition(4, 1), Condition::NoAgent);
    assert_eq!(hosts.scheduler.pools(hosts.now)[&PoolName::default_pool()].held_lanes, 4);
    hosts.live(20_000);
    hosts.agent("b", &PoolName::default_pool(), 100);
    hosts.live(10_000);
    assert_eq!(hosts.given.len(), 5);
    assert!(keep_to(pace(1, 1), hosts.given.iter().map(|(at, _)| *at)));
}

#[test]
fn a_lane_that_waits_can_be_paused_moved_and_deleted() {
    let mut hosts = Hosts::with_agent((1, 1));
    (0..5).for_each(|number| hosts.subscribe(of("acme", number), number, 2));
    hosts.live(0);
    assert_eq!((hosts.given.len(), hosts.scheduler.levels().at_destinations), (1, 5));
    hosts.scheduler.changed(LaneSettings { held: true, ..of("acme", 1) }, hosts.now);
    hosts.scheduler.changed(LaneSettings { destination: host(7), ..of("acme", 2) }, hosts.now);
    hosts.scheduler.deleted(lane(3));
    hosts.live(0);
    assert_eq!(hosts.given(2), 1, "it has another host now");
    assert_eq!(hosts.condition(1, 1), Condition::Held);
    hosts.live(60_000);
    assert_eq!([0, 1, 2, 3, 4].map(|number| hosts.given(number)), [2, 0, 2, 0, 2]);
    hosts.scheduler.changed(of("acme", 1), hosts.now);
    hosts.live(10_000);
    assert_eq!(hosts.given(1), 2);
    assert_eq!(hosts.scheduler.levels().at_destinations, 0);
}

#[test]
fn after_a_restart_no_burst_is_used_twice() {
    let mut hosts = Hosts::with_agent(LIMIT);
    hosts.scheduler = Scheduler::new(2);
    hosts.scheduler.limit_destinations(pace(20, 20), hosts.now);
    hosts.agent("a", &PoolName::default_pool(), 1_000);
    (0..40).for_each(|number| hosts.subscribe(of("acme", number), number, 1));
    hosts.live(0);
    assert_eq!(hosts.given.len(), 0);
    hosts.live(1_000);
    assert_eq!(hosts.given.len(), 20);
}

/// What is kept of destinations is what was called lately, however many there are.
#[test]
fn destinations_are_forgotten() {
    let mut hosts = Hosts::with_agent(LIMIT);
    for number in 0..500 {
        hosts.subscribe(LaneSettings { destination: host(number), ..of("evil", number) }, number, 1);
    }
    hosts.live(0);
    assert_eq!(hosts.given.len(), 500);
    hosts.live(5_000);
    hosts.owe(0, 1);
    hosts.live(2_000);
    let known = hosts.scheduler.destinations.as_ref().map(Destinations::known);
    assert!(known.is_some_and(|known| known <= 1), "{known:?}");
}

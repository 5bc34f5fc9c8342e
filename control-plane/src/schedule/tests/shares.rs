//! Places and credit are shared: no pool and no tenant stops the deliveries of another.

use super::*;

fn of(tenant: &str, pool: &str, number: u64) -> LaneSettings {
    LaneSettings {
        tenant: tenant.parse().unwrap(),
        pool: pool.parse().unwrap(),
        max_in_flight: 1_000,
        ..settings(number)
    }
}

struct Shared {
    scheduler: Scheduler,
    now: Timestamp,
    owed: HashMap<u64, u64>,
    given: HashMap<SubscriptionId, usize>,
}

impl Shared {
    fn new() -> Self {
        Self { scheduler: Scheduler::new(1), now: start(), owed: HashMap::new(), given: HashMap::new() }
    }

    fn agent(&mut self, name: &str, pool: &str, credit: usize) -> HolderId {
        let hello = Connected { pool: pool.parse().unwrap(), ..hello(name, "1", credit, Vec::new()) };
        self.scheduler.connected(hello, self.now)
    }

    /// A lane, and deliveries that it owes.
    fn lane(&mut self, settings: LaneSettings, number: u64, owes: u64) {
        let terms = PoolTerms { tenants: Tenants::Every, fallback: None };
        self.scheduler.pool_changed(&settings.pool, terms, self.now);
        self.scheduler.changed(settings, self.now);
        self.owe(number, owes);
    }

    fn owe(&mut self, number: u64, owes: u64) {
        let before = self.owed.entry(number).or_default();
        for sequence in *before + 1..=*before + owes {
            let delivery = Delivery::new(sequence, EventKey::new(self.now, 1));
            self.scheduler.accepted(&[(lane(number), delivery)], self.now);
        }
        *before += owes;
    }

    /// Hands out what can be; the lanes load what they have not in memory.
    fn hand_out(&mut self) {
        loop {
            let mut loads = Vec::new();
            for effect in self.scheduler.effects(self.now) {
                match effect {
                    Effect::Dispatch { jobs, .. } => {
                        for job in jobs {
                            *self.given.entry(job.key.delivery.subscription).or_default() += 1;
                        }
                    }
                    Effect::Load { lane: id, load: Load::Fresh { from, limit } } => {
                        loads.push((id, from, limit))
                    }
                    _ => {}
                }
            }
            if loads.is_empty() {
                return;
            }
            for (id, from, limit) in loads {
                let number = self.owed.keys().copied().find(|number| lane(*number) == id).unwrap();
                let end = self.owed[&number] + 1;
                let next = end.min(from + limit as u64);
                let row = |sequence| Delivery::new(sequence, EventKey::new(start(), 1));
                let rows = FreshRows { rows: (from..next).map(row).collect(), next };
                self.scheduler.loaded_fresh(id, Some(rows), self.now);
            }
        }
    }

    fn given(&self, number: u64) -> usize {
        self.given.get(&lane(number)).copied().unwrap_or(0)
    }
}

/// Its agents claim any credit, take what they get, and never report.
#[test]
fn a_pool_that_takes_all_it_can_get_leaves_places_for_others() {
    let mut world = Shared::new();
    for number in 0..8 {
        world.agent(&format!("hoarder-{number}"), "evil", 8_192);
    }
    for number in 100..140 {
        world.lane(of("evil", "evil", number), number, 1_000);
    }
    world.hand_out();
    let hoarded: usize = (100..140).map(|number| world.given(number)).sum();
    assert!((16_000..MAX_UNSETTLED * 3 / 4).contains(&hoarded), "{hoarded}");
    world.agent("a", "acme", 512);
    world.lane(of("acme", "acme", 1), 1, 400);
    world.hand_out();
    assert_eq!(world.given(1), 400);
}

/// Its endpoints hang, in a pool that it shares with others.
#[test]
fn a_tenant_whose_endpoints_hang_leaves_credit_of_its_pool_for_others() {
    let mut world = Shared::new();
    world.agent("a", "shared", 512);
    world.lane(of("acme", "shared", 1), 1, 0);
    for number in 100..140 {
        world.lane(of("evil", "shared", number), number, 100);
    }
    world.hand_out();
    let hoarded: usize = (100..140).map(|number| world.given(number)).sum();
    assert!((300..400).contains(&hoarded), "{hoarded}");
    world.owe(1, 60);
    world.hand_out();
    assert_eq!(world.given(1), 60);
}

/// Each comes after the other and takes what it can get.
#[test]
fn many_greedy_tenants_leave_a_few_places_for_the_next_one() {
    let mut world = Shared::new();
    for number in 0..8 {
        world.agent(&format!("a-{number}"), "shared", 8_192);
    }
    for number in 0..12 {
        for lane in 0..20 {
            let number = 1_000 + 100 * number + lane;
            world.lane(of(&format!("evil-{}", number / 100), "shared", number), number, 1_000);
        }
        world.hand_out();
    }
    world.lane(of("acme", "shared", 1), 1, 10);
    world.hand_out();
    assert_eq!(world.given(1), 10);
}

#[test]
fn jobs_of_a_lost_agent_take_no_credit_of_the_others() {
    let mut world = Shared::new();
    let lost = world.agent("a", "shared", 400);
    world.lane(of("acme", "shared", 1), 1, 300);
    world.lane(of("other", "shared", 2), 2, 300);
    world.hand_out();
    assert!(world.given(1) + world.given(2) >= 290);
    world.scheduler.disconnected(lost, world.now);
    let (one, two) = (world.given(1), world.given(2));
    world.agent("b", "shared", 40);
    world.hand_out();
    let given = world.given(1) + world.given(2) - one - two;
    assert!((30..=40).contains(&given), "{given}");
}

#[test]
fn a_tenant_alone_in_its_pool_has_all_its_agents_credit() {
    let mut world = Shared::new();
    world.agent("a", "edge", 100);
    world.lane(of("acme", "edge", 1), 1, 500);
    world.lane(of("other", "elsewhere", 2), 2, 500);
    world.hand_out();
    assert_eq!(world.given(1), 100);
}

#[test]
fn tenants_take_turns_however_many_lanes_each_has() {
    let mut world = Shared::new();
    for number in 100..150 {
        world.lane(of("crowd", "shared", number), number, 50);
    }
    world.lane(of("acme", "shared", 1), 1, 50);
    world.agent("a", "shared", 64);
    world.hand_out();
    assert!(world.given(1) >= 20, "{}", world.given(1));
}

#[test]
fn a_stuck_pool_of_a_tenant_does_not_stop_its_other_pool() {
    let mut world = Shared::new();
    for number in 0..8 {
        world.agent(&format!("hoarder-{number}"), "stuck", 8_192);
    }
    for number in 100..140 {
        world.lane(of("acme", "stuck", number), number, 1_000);
    }
    world.hand_out();
    world.agent("a", "good", 512);
    world.lane(of("acme", "good", 1), 1, 50);
    world.hand_out();
    assert_eq!(world.given(1), 50);
}

//! Pools: who may use them, who delivers when a pool has no agent, who is drained, and which agent a lane stays with.

use super::*;

const AFTER: Duration = Duration::from_secs(30);

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

/// A pool `edge` that falls back on `spare`, and one lane of it.
struct Small {
    scheduler: Scheduler,
    now: Timestamp,
    accepted: u64,
}

impl Small {
    fn new(allow_fallback: bool) -> Self {
        let now = start();
        let mut scheduler = Scheduler::new(1);
        let fallback = Some(Fallback { pool: pool("spare"), after: AFTER });
        scheduler.pool_changed(&pool("edge"), open_to_all(fallback), now);
        scheduler.pool_changed(&pool("spare"), open_to_all(None), now);
        scheduler.changed(LaneSettings { pool: pool("edge"), allow_fallback, ..settings(0) }, now);
        Self { scheduler, now, accepted: 0 }
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now = self.now + time;
        self.scheduler.tick(self.now);
        self.effects()
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.scheduler.effects(self.now)
    }

    fn accept(&mut self) -> DeliveryId {
        self.accepted += 1;
        let delivery = Delivery::new(self.accepted, EventKey::new(self.now, 1));
        self.scheduler.accepted(&[(lane(0), delivery)], self.now);
        DeliveryId { subscription: lane(0), sequence: self.accepted }
    }

    fn connect(&mut self, agent: &str, of: &str, in_flight: Vec<JobKey>) -> HolderId {
        let station = Station { agent: agent.parse().unwrap(), instance: "1".into(), stream: 0 };
        let hello = Connected { station, pool: pool(of), max_in_flight: 32, in_flight, drained: false };
        self.scheduler.connected(hello, self.now)
    }

    /// Hands out what can be, and says to whom how much went.
    fn handed(&mut self) -> Vec<(HolderId, usize)> {
        handed(&self.effects())
    }
}

fn handed(effects: &[Effect]) -> Vec<(HolderId, usize)> {
    let to = |effect: &Effect| match effect {
        Effect::Dispatch { holder, jobs } => Some((*holder, jobs.len())),
        _ => None,
    };
    effects.iter().filter_map(to).collect()
}

fn key(delivery: DeliveryId) -> JobKey {
    JobKey { delivery, attempt: 1, epoch: 1 }
}

fn foreign_reports(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::ForeignReport { .. })).count()
}

#[test]
fn a_fallback_takes_over_after_its_time_and_gives_back_at_once() {
    let mut world = Small::new(true);
    let spare = world.connect("s", "spare", Vec::new());
    let id = world.accept();
    assert!(world.handed().is_empty());
    assert_eq!(world.scheduler.condition(id, world.now), Condition::NoAgent);
    assert!(world.scheduler.next_tick(world.now) <= world.now + AFTER);
    assert!(handed(&world.pass(AFTER - Duration::from_millis(1))).is_empty(), "it is too early");
    assert_eq!(world.scheduler.pools(world.now)[&pool("edge")].held_lanes, 1);
    let effects = world.pass(Duration::from_millis(1));
    assert_eq!(handed(&effects), [(spare, 1)]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Fallback { taken_over_by: Some(_), .. })));
    let view = &world.scheduler.pools(world.now)[&pool("edge")];
    assert_eq!((view.held_lanes, view.taken_over_by.clone()), (0, Some(pool("spare"))));
    world.accept();
    assert_eq!(world.handed(), [(spare, 1)]);
    let edge = world.connect("e", "edge", Vec::new());
    world.accept();
    assert_eq!(world.handed(), [(edge, 1)], "its own agent is back");
    // What the fallback's agent has, it settles.
    world.scheduler.reported(
        Reported { holder: spare, sequence: 1 },
        key(id),
        Report::Made(Box::new(response(200))),
        0.5,
        world.now,
    );
    let effects = world.effects();
    assert_eq!(foreign_reports(&effects), 0);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Settle { .. })));
}

#[test]
fn without_its_permission_a_subscription_waits() {
    let mut world = Small::new(false);
    let spare = world.connect("s", "spare", Vec::new());
    let id = world.accept();
    assert!(handed(&world.pass(AFTER * 2)).is_empty());
    assert_eq!(world.scheduler.condition(id, world.now), Condition::NoAgent);
    assert_eq!(world.scheduler.unserved(&[lane(0)]).len(), 1);
    // It is allowed later: then it goes at once.
    let settings = LaneSettings { pool: pool("edge"), allow_fallback: true, ..settings(0) };
    world.scheduler.changed(settings.clone(), world.now);
    assert_eq!(world.handed(), [(spare, 1)]);
    assert!(world.scheduler.unserved(&[lane(0)]).is_empty());
    // And forbidden again: what waits goes back, what is under way may be settled.
    world.scheduler.changed(LaneSettings { allow_fallback: false, ..settings }, world.now);
    world.accept();
    assert!(world.handed().is_empty());
    let report = Report::Made(Box::new(response(200)));
    world.scheduler.reported(Reported { holder: spare, sequence: 1 }, key(id), report, 0.5, world.now);
    assert_eq!(foreign_reports(&world.effects()), 0);
}

/// A subscription may have left its pool since its job was given out, and its former agents may not be trusted any more.
#[test]
fn what_agents_say_of_a_subscription_that_has_left_their_pool_counts_for_nothing() {
    for (of, allow, foreign) in
        [("edge", false, false), ("spare", true, false), ("spare", false, true), ("elsewhere", true, true)]
    {
        let mut world = Small::new(allow);
        let id = world.accept();
        // After a restart of the control plane: it knows of no job.
        let holder = world.connect("a", of, vec![key(id)]);
        let forgotten = |effect: &Effect| matches!(effect, Effect::Forget { keys, .. } if *keys == [key(id)]);
        let effects = world.effects();
        assert_eq!(effects.iter().any(forgotten), foreign, "{of} {allow}");
        let report = Report::Made(Box::new(response(200)));
        world.scheduler.reported(Reported { holder, sequence: 1 }, key(id), report, 0.5, world.now);
        let effects = world.effects();
        let settles = effects.iter().any(|effect| matches!(effect, Effect::Settle { .. }));
        assert_eq!((settles, foreign_reports(&effects)), (!foreign, 0), "{of} {allow}");
    }
    // The other way round it is no fallback.
    let mut world = Small::new(true);
    world
        .scheduler
        .changed(LaneSettings { pool: pool("spare"), allow_fallback: true, ..settings(0) }, world.now);
    let id = world.accept();
    world.connect("e", "edge", vec![key(id)]);
    assert!(world.effects().iter().any(|effect| matches!(effect, Effect::Forget { .. })));
}

#[test]
fn an_agent_that_reconnects_keeps_its_jobs_when_the_fallback_was_changed() {
    let mut world = Small::new(true);
    let first = world.connect("s", "spare", Vec::new());
    let id = world.accept();
    assert_eq!(handed(&world.pass(AFTER)), [(first, 1)]);
    world.scheduler.pool_changed(&pool("edge"), open_to_all(None), world.now);
    world.connect("s", "spare", vec![key(id)]);
    let effects = world.effects();
    assert_eq!(foreign_reports(&effects), 0, "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Forget { .. })));
    assert_eq!(world.scheduler.condition(id, world.now), Condition::Attempting);
}

#[test]
fn lanes_move_to_and_fro_without_getting_a_second_turn() {
    let mut world = Small::new(true);
    for _ in 0..3 {
        world.accept();
        world.pass(AFTER);
        let edge = world.connect("e", "edge", Vec::new());
        world.scheduler.set_drained(edge, true, world.now);
        world.pass(AFTER);
        world.scheduler.disconnected(edge, world.now);
    }
    let standing: usize = world
        .scheduler
        .pools
        .values()
        .map(|pool| pool.ready.iter().filter(|id| **id == lane(0)).count())
        .sum();
    assert_eq!(standing, 1, "it stands in one queue, once");
}

#[test]
fn a_drained_agent_finishes_and_gets_nothing_until_it_is_undrained() {
    let mut world = Small::new(false);
    let edge = world.connect("e", "edge", Vec::new());
    let id = world.accept();
    assert_eq!(world.handed(), [(edge, 1)]);
    world.scheduler.set_drained(edge, true, world.now);
    let second = world.accept();
    assert!(world.handed().is_empty());
    assert_eq!(world.scheduler.condition(second, world.now), Condition::NoAgent);
    assert_eq!(world.scheduler.pools(world.now)[&pool("edge")].max_in_flight, 0);
    let report = Report::Made(Box::new(response(200)));
    world.scheduler.reported(Reported { holder: edge, sequence: 1 }, key(id), report, 0.5, world.now);
    assert_eq!((foreign_reports(&world.effects()), world.scheduler.jobs_held(edge)), (0, 0));
    world.scheduler.set_drained(edge, false, world.now);
    assert_eq!(world.handed(), [(edge, 1)]);
}

#[test]
fn a_lane_stays_with_its_agent_and_both_get_their_share() {
    let mut world = Small::new(false);
    let (one, other) = (world.connect("a", "edge", Vec::new()), world.connect("b", "edge", Vec::new()));
    let mut had = HashMap::new();
    for sequence in 1..=40 {
        let id = world.accept();
        for (holder, jobs) in world.handed() {
            *had.entry(holder).or_insert(0) += jobs;
            let report = Report::Made(Box::new(response(200)));
            world.scheduler.reported(Reported { holder, sequence }, key(id), report, 0.5, world.now);
        }
        world.scheduler.stored(&[id], world.now);
    }
    assert_eq!(had.len(), 1, "one at a time, a lane needs one connection: {had:?}");
    // Many at once are shared out.
    for number in 1..=12 {
        world.scheduler.changed(LaneSettings { pool: pool("edge"), ..settings(number) }, world.now);
        let deliveries: Vec<_> = (1..=4)
            .map(|sequence| (lane(number), Delivery::new(sequence, EventKey::new(world.now, 1))))
            .collect();
        world.scheduler.accepted(&deliveries, world.now);
    }
    world.handed();
    let held = [one, other].map(|holder| world.scheduler.jobs_held(holder));
    assert!(held[0].abs_diff(held[1]) <= 4 && held[0] + held[1] == 48, "{held:?}");
}

/// A pool of these tenants, without a fallback.
fn only(tenants: &[&str]) -> PoolTerms {
    PoolTerms {
        tenants: Tenants::Only(tenants.iter().map(|name| name.parse().unwrap()).collect()),
        fallback: None,
    }
}

impl Small {
    /// The terms of `edge`, for these tenants.
    fn edge(&mut self, tenants: &[&str]) {
        let fallback = Some(Fallback { pool: pool("spare"), after: AFTER });
        self.scheduler.pool_changed(&pool("edge"), PoolTerms { fallback, ..only(tenants) }, self.now);
    }

    fn spare(&mut self, tenants: &[&str]) {
        self.scheduler.pool_changed(&pool("spare"), only(tenants), self.now);
    }

    fn report(&mut self, holder: HolderId, id: DeliveryId) -> Vec<Effect> {
        let report = Report::Made(Box::new(response(200)));
        self.scheduler.reported(Reported { holder, sequence: 1 }, key(id), report, 0.5, self.now);
        self.effects()
    }
}

#[test]
fn a_lane_whose_pool_does_not_allow_its_tenant_hands_nothing_out_until_it_does() {
    for (unknown, before) in [(true, &[][..]), (false, &[]), (false, &["globex"]), (false, &["acm", "acme2"])]
    {
        let mut world = Small::new(false);
        if unknown {
            world.scheduler = Scheduler::new(1);
            world.scheduler.changed(LaneSettings { pool: pool("edge"), ..settings(0) }, world.now);
        } else {
            world.edge(before);
        }
        let edge = world.connect("e", "edge", Vec::new());
        let id = world.accept();
        assert!(world.handed().is_empty(), "{before:?}");
        assert!(handed(&world.pass(AFTER * 100)).is_empty());
        assert_eq!(world.scheduler.condition(id, world.now), Condition::PoolNotAllowed);
        assert!(world.scheduler.survey().lanes.is_empty(), "it is no backlog of the endpoint's");
        assert_eq!(world.scheduler.levels().pools[&pool("edge")].waiting, 0, "nor of the pool's");
        assert!(world.scheduler.unserved(&[lane(0)]).is_empty(), "how the pool is, is not told");
        world.edge(&["globex", "acme"]);
        assert_eq!(world.handed(), [(edge, 1)], "at once");
    }
}

#[test]
fn a_lane_that_is_barred_waits_and_what_is_in_flight_finishes() {
    let mut world = Small::new(false);
    let edge = world.connect("e", "edge", Vec::new());
    let first = world.accept();
    assert_eq!(world.handed(), [(edge, 1)]);
    world.edge(&["globex"]);
    let second = world.accept();
    assert!(world.handed().is_empty());
    assert_eq!(world.scheduler.condition(first, world.now), Condition::Attempting);
    assert_eq!(world.scheduler.condition(second, world.now), Condition::PoolNotAllowed);
    let effects = world.report(edge, first);
    assert_eq!((foreign_reports(&effects), handed(&effects).len()), (0, 0));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Settle { .. })), "its outcome counts");
    world.edge(&["acme"]);
    assert_eq!(world.handed(), [(edge, 1)]);
    let ready: usize = world.scheduler.pools.values().map(|pool| pool.ready.iter().count()).sum();
    assert_eq!(ready, 0, "it stands in no queue twice");
}

#[test]
fn a_barred_lane_stands_once_in_its_queue_when_it_is_free_again() {
    let mut world = Small::new(true);
    world.accept();
    for _ in 0..3 {
        world.edge(&[]);
        world.pass(AFTER);
        world.edge(&["acme"]);
        world.pass(AFTER);
    }
    let queues = world.scheduler.pools.values();
    let standing: usize = queues.map(|pool| pool.ready.iter().filter(|id| **id == lane(0)).count()).sum();
    assert_eq!(standing, 1);
}

#[test]
fn a_fallback_delivers_for_the_tenants_that_it_allows_alone() {
    let mut world = Small::new(true);
    world.spare(&["globex"]);
    let spare = world.connect("s", "spare", Vec::new());
    let id = world.accept();
    assert!(handed(&world.pass(AFTER * 2)).is_empty());
    assert_eq!(world.scheduler.condition(id, world.now), Condition::NoAgent);
    assert_eq!(world.scheduler.unserved(&[lane(0)]).len(), 1);
    world.spare(&["globex", "acme"]);
    assert_eq!(world.handed(), [(spare, 1)], "at once, since the pool has fallen already");
    world.spare(&[]);
    let second = world.accept();
    assert!(world.handed().is_empty());
    assert_eq!(foreign_reports(&world.report(spare, id)), 0, "what is in flight finishes");
    // Its own pool must allow the tenant too.
    world.spare(&["acme"]);
    world.edge(&["globex"]);
    assert!(handed(&world.pass(AFTER * 2)).is_empty());
    assert_eq!(world.scheduler.condition(second, world.now), Condition::PoolNotAllowed);
}

#[test]
fn nobody_has_a_delivery_of_a_barred_lane_attempted_again() {
    let mut world = Small::new(false);
    let id = world.accept();
    world.edge(&[]);
    world.scheduler.retry(id, 1, world.now);
    let refused = |effect: &Effect| matches!(effect, Effect::Answer(1, Err(Refusal::PoolNotAllowed)));
    assert!(world.effects().iter().any(refused));
    world.scheduler.cancel(id, 2, world.now);
    assert!(world.effects().iter().any(|effect| matches!(effect, Effect::Settle { .. })), "but cancelled");
}

#[test]
fn a_pause_and_a_bar_hold_a_lane_each_by_itself() {
    let mut world = Small::new(false);
    let edge = world.connect("e", "edge", Vec::new());
    let with = |held| LaneSettings { pool: pool("edge"), held, ..settings(0) };
    world.scheduler.changed(with(true), world.now);
    world.edge(&[]);
    world.accept();
    world.edge(&["acme"]);
    assert!(world.handed().is_empty(), "it is still paused");
    world.edge(&[]);
    world.scheduler.changed(with(false), world.now);
    assert!(world.handed().is_empty(), "it is still barred");
    let other = LaneSettings { pool: PoolName::default_pool(), ..with(false) };
    world.scheduler.changed(other, world.now);
    let default = world.connect("d", "default", Vec::new());
    let id = DeliveryId { subscription: lane(0), sequence: 1 };
    assert_eq!(world.handed(), [(default, 1)], "another pool may have it");
    world.report(default, id);
    world.scheduler.changed(with(false), world.now);
    world.accept();
    assert!(world.handed().is_empty(), "and gone back, it is barred again");
    world.edge(&["acme"]);
    assert_eq!(world.handed(), [(edge, 1)]);
}

#[test]
fn a_restored_lane_is_barred_and_a_deleted_one_is_not_freed() {
    let mut world = Small::new(false);
    world.edge(&[]);
    let edge = world.connect("e", "edge", Vec::new());
    let row = LaneRow { low_water: LowWater::default(), end: 2, waiting: false, trouble: None };
    let restored = LaneSettings { pool: pool("edge"), ..settings(7) };
    world.scheduler.restore(restored, row, world.now);
    let loads =
        |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Load { .. })).count();
    assert_eq!(loads(&world.effects()), 0, "it loads nothing");
    world.edge(&["acme"]);
    assert_eq!(loads(&world.effects()), 1);
    world.accept();
    assert_eq!(world.handed(), [(edge, 1)]);
    world.scheduler.deleted(lane(0));
    world.accept();
    world.edge(&[]);
    world.edge(&["acme"]);
    assert!(world.handed().is_empty());
}

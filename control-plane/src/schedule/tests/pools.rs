//! Pools: who delivers when a pool has no agent, who is drained, and who is warm.

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
        scheduler.pool_changed(&pool("edge"), fallback, now);
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

fn trespasses(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Trespass { .. })).count()
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
    assert_eq!(trespasses(&effects), 0);
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
    assert_eq!(trespasses(&world.effects()), 0);
}

#[test]
fn only_the_fallback_that_is_set_may_speak_of_a_pools_jobs() {
    for (of, allow, foreign) in
        [("edge", false, 0), ("spare", true, 0), ("spare", false, 1), ("elsewhere", true, 1)]
    {
        let mut world = Small::new(allow);
        let id = world.accept();
        // After a restart of the control plane: it knows of no job.
        world.connect("a", of, vec![key(id)]);
        assert_eq!(trespasses(&world.effects()), foreign, "{of} {allow}");
    }
    // The other way round it is no fallback.
    let mut world = Small::new(true);
    world
        .scheduler
        .changed(LaneSettings { pool: pool("spare"), allow_fallback: true, ..settings(0) }, world.now);
    let id = world.accept();
    world.connect("e", "edge", vec![key(id)]);
    assert_eq!(trespasses(&world.effects()), 1);
}

#[test]
fn an_agent_that_reconnects_keeps_its_jobs_when_the_fallback_was_changed() {
    let mut world = Small::new(true);
    let first = world.connect("s", "spare", Vec::new());
    let id = world.accept();
    assert_eq!(handed(&world.pass(AFTER)), [(first, 1)]);
    world.scheduler.pool_changed(&pool("edge"), None, world.now);
    world.connect("s", "spare", vec![key(id)]);
    let effects = world.effects();
    assert_eq!(trespasses(&effects), 0, "{effects:?}");
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
    assert_eq!((trespasses(&world.effects()), world.scheduler.jobs_held(edge)), (0, 0));
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

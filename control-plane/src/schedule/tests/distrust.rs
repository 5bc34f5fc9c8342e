//! Agents that speak of jobs that they were not given, say too much, or say nothing.

use super::*;

const OVERDUE: Duration = TIMEOUT.saturating_add(super::super::agents::OVERDUE_MARGIN);

/// A schedule with one lane, one delivery of it, and an agent that has its first attempt.
struct Given {
    scheduler: Scheduler,
    now: Timestamp,
    holder: HolderId,
    key: JobKey,
}

fn key(sequence: u64, attempt: u32) -> JobKey {
    JobKey { delivery: DeliveryId { subscription: lane(0), sequence }, attempt, epoch: 1 }
}

fn accepted(scheduler: &mut Scheduler, deliveries: u64, now: Timestamp) {
    for sequence in 1..=deliveries {
        scheduler.accepted(&[(lane(0), Delivery::new(sequence, EventKey::new(now, 1)))], now);
    }
}

fn jobs(effects: &[Effect]) -> Vec<JobKey> {
    let jobs = effects.iter().filter_map(|effect| match effect {
        Effect::Dispatch { jobs, .. } => Some(jobs),
        _ => None,
    });
    jobs.flatten().map(|job| job.key).collect()
}

fn settled(effects: &[Effect]) -> Vec<(DeliveryId, State, u32)> {
    let settled = |effect: &Effect| match effect {
        Effect::Settle { settle, .. } => Some((settle.id, settle.delivery.state, settle.delivery.attempts)),
        _ => None,
    };
    effects.iter().filter_map(settled).collect()
}

fn foreign_reports(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::ForeignReport { .. })).count()
}

fn acknowledged(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Acknowledge(_))).count()
}

impl Given {
    fn new() -> Self {
        let (mut scheduler, now) = (Scheduler::new(1), start());
        scheduler.changed(settings(0), now);
        accepted(&mut scheduler, 1, now);
        let holder = scheduler.connected(hello("a", "1", 8, Vec::new()), now);
        assert_eq!(jobs(&scheduler.effects(now)), [key(1, 1)]);
        Self { scheduler, now, holder, key: key(1, 1) }
    }

    fn report(&mut self, holder: HolderId, sequence: u64, key: JobKey, status: u16) -> Vec<Effect> {
        let report = Report::Made(Box::new(response(status)));
        self.scheduler.reported(Reported { holder, sequence }, key, report, 0.5, self.now);
        self.scheduler.effects(self.now)
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now = self.now + time;
        self.scheduler.tick(self.now);
        self.scheduler.effects(self.now)
    }

    /// Writes what is to be written.
    fn stored(&mut self, effects: &[Effect]) {
        let ids: Vec<_> = settled(effects).into_iter().map(|(id, ..)| id).collect();
        self.scheduler.stored(&ids, self.now);
    }
}

#[test]
fn only_the_agent_that_was_given_an_attempt_settles_it_and_only_that_attempt() {
    let mut world = Given::new();
    accepted(&mut world.scheduler, 3, world.now);
    let other = world.scheduler.connected(hello("b", "1", 8, Vec::new()), world.now);
    world.scheduler.effects(world.now);
    let waiting = key(77, 1);
    let own = world.key;
    let lies = [
        (other, own),
        (other, waiting),
        (other, JobKey { attempt: u32::MAX, ..own }),
        (world.holder, JobKey { attempt: 2, ..own }),
        (world.holder, JobKey { attempt: 0, ..own }),
        (world.holder, JobKey { epoch: 2, ..own }),
        (world.holder, waiting),
    ];
    for status in [200, 410, 500] {
        for (holder, lie) in lies {
            let effects = world.report(holder, 1, lie, status);
            assert_eq!((settled(&effects), foreign_reports(&effects)), (vec![], 1), "{lie:?} {status}");
            assert!(!effects.iter().any(|effect| matches!(effect, Effect::Disable(_) | Effect::Read { .. })));
        }
    }
    let effects = world.report(world.holder, 1, own, 200);
    assert_eq!(settled(&effects), [(own.delivery, State::Delivered(world.now), 1)]);
}

#[test]
fn a_job_is_reported_once() {
    let mut world = Given::new();
    let effects = world.report(world.holder, 1, world.key, 500);
    assert_eq!(settled(&effects).len(), 1);
    let again = world.report(world.holder, 2, world.key, 200);
    assert_eq!((settled(&again), foreign_reports(&again)), (vec![], 1));
}

/// Its delivery was ended, by hand or by others, while the agent had the job, or believed so.
#[test]
fn no_report_changes_a_delivery_that_has_ended() {
    let now = start();
    let ends = [State::Cancelled(now), State::Exhausted(now), State::Delivered(now)];
    for (state, status) in ends.into_iter().flat_map(|state| [(state, 200), (state, 410), (state, 500)]) {
        let mut scheduler = Scheduler::new(2);
        scheduler.changed(settings(0), now);
        let key = key(1, 1);
        let holder = scheduler.connected(hello("a", "1", 8, vec![key]), now);
        let delivery = Delivery { state, ..Delivery::new(1, EventKey::new(now, 1)) };
        let report = Report::Made(Box::new(response(status)));
        scheduler.reported(Reported { holder, sequence: 1 }, key, report, 0.5, now);
        let mut effects = scheduler.effects(now);
        while let Some(at) = effects.iter().position(|effect| matches!(effect, Effect::Read { .. })) {
            let Effect::Read { id, why } = effects.swap_remove(at) else { unreachable!("it is a read") };
            scheduler.row(id, *why, Ok(Some(DeliveryRow { id, delivery, last: None })), now);
            effects.extend(scheduler.effects(now));
        }
        assert_eq!(
            (settled(&effects), acknowledged(&effects)),
            (vec![], 1),
            "{state:?} {status}: {effects:?}"
        );
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Disable(_))), "{state:?} {status}");
        assert!(scheduler.is_quiet());
    }
}

#[test]
fn a_cancelled_delivery_stays_cancelled_when_its_agent_reports_late() {
    let mut world = Given::new();
    // The agent is lost for longer than its job's time, and the delivery is cancelled meanwhile.
    world.scheduler.disconnected(world.holder, world.now);
    let lost = world.pass(TIMEOUT + Duration::from_secs(3));
    world.stored(&lost);
    world.scheduler.cancel(world.key.delivery, 7, world.now);
    let cancelled = world.scheduler.effects(world.now);
    assert!(matches!(settled(&cancelled)[..], [(_, State::Cancelled(_), 1)]), "{cancelled:?}");
    let back = world.scheduler.connected(hello("a", "1", 8, vec![world.key]), world.now);
    let late = world.report(back, 1, world.key, 200);
    assert_eq!(settled(&late), [], "it is acknowledged when the end is stored");
    world.stored(&cancelled);
    assert_eq!(acknowledged(&world.scheduler.effects(world.now)), 1);
}

#[test]
fn numbers_of_attempts_never_wrap_around() {
    let now = start();
    let spent =
        Delivery { attempts: u32::MAX, failures: u32::MAX, ..Delivery::new(1, EventKey::new(now, 1)) };
    assert_eq!(spent.next_attempt(), u32::MAX);
    let (failed, _) = spent.settle(&response(500), &retry::Policy::default(), now, now, 0.5);
    assert_eq!((failed.attempts, failed.failures), (u32::MAX, u32::MAX));
    assert_eq!(spent.delivered_late(u32::MAX, now).attempts, u32::MAX);
}

/// The counters of places are what there is, whatever is reported and written in whatever order.
#[test]
fn places_are_given_back_whatever_is_said_to_be_written() {
    let mut world = Given::new();
    let effects = world.report(world.holder, 1, world.key, 500);
    let occupied = |jobs, writes| Occupied { jobs, writes, places: jobs + writes };
    assert_eq!(world.scheduler.occupied(), occupied(0, 1));
    world.scheduler.stored(&[key(99, 1).delivery], world.now);
    assert_eq!(world.scheduler.occupied(), occupied(0, 1), "nobody waits for that one");
    world.stored(&effects);
    world.stored(&effects);
    assert_eq!(world.scheduler.occupied(), occupied(0, 0));
    assert!(world.scheduler.is_quiet());
}

/// It only sends heartbeats.
#[test]
fn a_job_is_taken_back_from_a_connected_agent_that_does_not_report() {
    let mut world = Given::new();
    assert!(settled(&world.pass(OVERDUE - Duration::from_millis(1))).is_empty(), "it may still report");
    let effects = world.pass(Duration::from_secs(2));
    assert!(matches!(settled(&effects)[..], [(_, State::Waiting(_), 1)]), "{effects:?}");
    let withdrawn = |effect: &Effect| matches!(effect, Effect::Withdraw { key, .. } if *key == world.key);
    assert!(effects.iter().any(withdrawn));
    world.stored(&effects);
    // The next attempt goes to another agent, although the first one has room for seven more.
    let other = world.scheduler.connected(hello("b", "1", 8, Vec::new()), world.now);
    let effects = world.pass(Duration::from_secs(5));
    assert_eq!(jobs(&effects), [key(1, 2)]);
    // The late success settles it all the same: the receiver has the event.
    let late = world.report(world.holder, 1, world.key, 200);
    assert!(matches!(settled(&late)[..], [(_, State::Delivered(_), _)]), "{late:?}");
    assert_eq!(world.scheduler.jobs_held(other), 0);
}

#[test]
fn an_agent_that_never_reports_gets_no_more_than_its_credit() {
    let (mut scheduler, mut now) = (Scheduler::new(1), start());
    scheduler.changed(LaneSettings { max_in_flight: 64, ..settings(0) }, now);
    scheduler.connected(hello("hoarder", "1", 8, Vec::new()), now);
    accepted(&mut scheduler, 100, now);
    let mut given = 0;
    for _ in 0..600 {
        scheduler.tick(now);
        let effects = scheduler.effects(now);
        given += jobs(&effects).len();
        let ids: Vec<_> = settled(&effects).into_iter().map(|(id, ..)| id).collect();
        scheduler.stored(&ids, now);
        now = now + Duration::from_secs(1);
    }
    assert_eq!(given, 8);
    assert_eq!(scheduler.occupied().places, 0, "what it was given is taken back, and holds no place");
}

/// The store is away: outcomes wait at agents, which are not to blame.
#[test]
fn nothing_is_taken_back_while_the_store_does_not_write() {
    let mut world = Given::new();
    accepted(&mut world.scheduler, 2, world.now);
    assert_eq!(jobs(&world.scheduler.effects(world.now)), [key(2, 1)]);
    let writing = world.report(world.holder, 1, world.key, 200);
    for _ in 0..300 {
        assert!(settled(&world.pass(Duration::from_secs(1))).is_empty());
    }
    world.stored(&writing);
    assert!(settled(&world.pass(Duration::from_secs(5))).is_empty(), "now it may report");
    let effects = world.report(world.holder, 2, key(2, 1), 200);
    assert_eq!(settled(&effects).len(), 1);
}

#[test]
fn an_agent_that_comes_back_has_time_to_report() {
    let mut world = Given::new();
    world.pass(Duration::from_secs(10));
    world.scheduler.disconnected(world.holder, world.now);
    world.pass(Duration::from_secs(10));
    let back = world.scheduler.connected(hello("a", "1", 8, vec![world.key]), world.now);
    assert!(settled(&world.pass(Duration::from_secs(40))).is_empty());
    assert_eq!(settled(&world.report(back, 1, world.key, 200)).len(), 1);
}

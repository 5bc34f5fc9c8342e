//! An agent's process that is killed and started again: what the dead one had is free as soon as the new one is there.

use super::*;

const MANY: u64 = 64;

/// What the effects come to.
#[derive(Default)]
struct Seen {
    given: Vec<(HolderId, JobKey)>,
    lost: Vec<DeliveryId>,
    replaced: Vec<(HolderId, bool)>,
}

fn carry_out(scheduler: &mut Scheduler, now: Timestamp) -> Seen {
    let mut seen = Seen::default();
    scheduler.tick(now);
    for effect in scheduler.effects(now) {
        match effect {
            Effect::Dispatch { holder, jobs } => {
                seen.given.extend(jobs.iter().map(|job| (holder, job.key)));
            }
            Effect::Settle { settle, .. } => {
                let class = settle.attempt.as_ref().map(|attempt| attempt.outcome.class);
                assert_eq!(class, Some(Class::AgentLost), "{settle:?}");
                seen.lost.push(settle.id);
                scheduler.stored(&[settle.id], now);
            }
            Effect::Replace { holder, by_another_process } => {
                seen.replaced.push((holder, by_another_process));
            }
            _ => {}
        }
    }
    seen
}

/// A lane with more to do than its cap, all of which the agent's first process has under way.
fn full() -> (Scheduler, HolderId, Timestamp) {
    let (mut scheduler, now) = (Scheduler::new(1), start());
    scheduler.changed(LaneSettings { max_in_flight: 64, ..settings(0) }, now);
    let holder = scheduler.connected(hello("a", "1", 64, Vec::new()), now);
    for sequence in 1..=MANY + 40 {
        scheduler.accepted(&[(lane(0), Delivery::new(sequence, EventKey::new(now, 1)))], now);
    }
    assert_eq!(carry_out(&mut scheduler, now).given.len(), 64);
    (scheduler, holder, now)
}

#[test]
fn the_attempts_of_a_killed_process_are_free_when_the_agent_is_back_and_its_lane_goes_on() {
    for cut_was_noticed in [true, false] {
        let (mut scheduler, dead, killed) = full();
        if cut_was_noticed {
            scheduler.disconnected(dead, killed);
        }
        let back = killed + Duration::from_millis(200);
        let alive = scheduler.connected(hello("a", "2", 64, Vec::new()), back);
        let seen = carry_out(&mut scheduler, back);
        assert_eq!(seen.lost.len(), 64, "each is given up once");
        let replaced = if cut_was_noticed { vec![] } else { vec![(dead, true)] };
        assert_eq!(seen.replaced, replaced);
        // `Settle` frees the place when it is decided: what waits goes out in the same moment or the next.
        let mut given = seen.given;
        given.extend(carry_out(&mut scheduler, back).given);
        assert_eq!(given.len(), 40, "what waits goes out at once");
        assert!(given.iter().all(|(holder, key)| *holder == alive && key.attempt == 1));
        for (sequence, (holder, key)) in (1..).zip(given) {
            let report = Report::Made(Box::new(response(204)));
            scheduler.reported(Reported { holder, sequence }, key, report, 0.5, back);
        }
        let _delivered = scheduler.effects(back);
        let soon = back + Duration::from_secs(2);
        let again = carry_out(&mut scheduler, soon).given;
        assert_eq!(again.len(), 64, "what was lost is repeated within two seconds");
        assert!(again.iter().all(|(_, key)| key.attempt == 2));
        assert!(carry_out(&mut scheduler, soon + TIMEOUT * 2).lost.is_empty(), "nothing is given up twice");
    }
}

#[test]
fn another_agent_or_another_stream_of_the_same_process_frees_nothing() {
    let (mut scheduler, first, now) = full();
    scheduler.disconnected(first, now);
    scheduler.connected(hello("b", "2", 64, Vec::new()), now);
    let mut second = hello("a", "1", 64, Vec::new());
    second.station.stream = 1;
    scheduler.connected(second, now);
    let seen = carry_out(&mut scheduler, now);
    assert_eq!((seen.lost.len(), seen.replaced), (0, vec![]));
    let expired = now + TIMEOUT + Duration::from_secs(3);
    assert_eq!(carry_out(&mut scheduler, expired).lost.len(), 64, "they run out their time");
}

/// The process was not dead but cut off: what it reports through a connection that was still open counts as late.
#[test]
fn a_success_of_a_replaced_process_still_settles_its_delivery() {
    let (mut scheduler, first, now) = full();
    scheduler.connected(hello("a", "2", 64, Vec::new()), now);
    carry_out(&mut scheduler, now);
    let id = DeliveryId { subscription: lane(0), sequence: 1 };
    let key = JobKey { delivery: id, attempt: 1, epoch: 1 };
    let report = Report::Made(Box::new(response(204)));
    scheduler.reported(Reported { holder: first, sequence: 1 }, key, report, 0.5, now);
    let effects = scheduler.effects(now);
    let delivered = |effect: &Effect| {
        matches!(effect, Effect::Settle { settle, .. }
            if settle.id == id && matches!(settle.delivery.state, State::Delivered(_)))
    };
    assert!(effects.iter().any(delivered), "{effects:?}");
}

/// A process that dies over and over costs at most what it had under way each time.
#[test]
fn an_agent_killed_again_and_again_repeats_at_most_what_was_under_way() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        (0..AGENTS).for_each(|which| world.connect(which));
        for step in 0..2_500 {
            world.step(false);
            if step % 83 == 82 {
                let which = world.rng.random_range(0..AGENTS);
                world.kill_agent(which);
                world.connect(which);
            }
        }
        // Lost attempts are told as unknown outcomes too; here each is counted once, at the kill.
        let killed = world.unknown;
        world.heal();
        world.check();
        let extra = world.extra_posts();
        assert!(extra <= killed, "seed {seed}: {extra} repeats of {killed} unknown outcomes");
    }
}

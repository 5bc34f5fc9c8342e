//! Rules that need no simulated world: a few steps show them.

use super::*;

#[test]
fn lanes_take_turns_and_one_dead_endpoint_holds_nobody_up() {
    let mut scheduler = Scheduler::new(1);
    let now = start();
    for number in 0..3 {
        scheduler.changed(settings(number), now);
        let deliveries: Vec<_> =
            (1..=50).map(|sequence| (lane(number), Delivery::new(sequence, EventKey::new(now, 1)))).collect();
        scheduler.accepted(&deliveries, now);
    }
    let station = Station { agent: "a".parse().unwrap(), instance: "1".into(), stream: 0 };
    let hello = Connected {
        station,
        pool: PoolName::default_pool(),
        max_in_flight: 100,
        in_flight: Vec::new(),
        drained: false,
    };
    scheduler.connected(hello, now);
    let effects = scheduler.effects(now);
    let jobs = effects.iter().find_map(|effect| match effect {
        Effect::Dispatch { jobs, .. } => Some(jobs),
        _ => None,
    });
    let order: Vec<_> = jobs.unwrap().iter().map(|job| job.key.delivery.subscription).collect();
    assert_eq!(order.len(), 3 * CAP, "each lane up to its cap, though the agent could hold more");
    for turn in order.chunks(3) {
        assert_eq!(turn.iter().collect::<HashSet<_>>().len(), 3, "a lane was passed over: {order:?}");
    }
}

#[test]
fn after_a_restart_every_stream_is_awaited_however_often_another_comes_back() {
    let now = start();
    let mut scheduler = Scheduler::new(2);
    let agent: AgentId = "a".parse().unwrap();
    scheduler.await_agents(std::iter::once((agent.clone(), 2)).collect(), now + Duration::from_secs(3));
    let hello = |stream| Connected {
        station: Station { agent: agent.clone(), instance: "1".into(), stream },
        pool: PoolName::default_pool(),
        max_in_flight: 1,
        in_flight: Vec::new(),
        drained: false,
    };
    for (stream, still_awaited) in [(0, true), (0, true), (1, false)] {
        scheduler.connected(hello(stream), now);
        assert_eq!(scheduler.resume_until().is_some(), still_awaited, "after stream {stream}");
    }
}

/// What an agent still runs takes a place there, whether or not anything comes of it.
#[test]
fn two_attempts_of_one_delivery_at_one_agent_take_two_places() {
    let now = start();
    let mut scheduler = Scheduler::new(2);
    scheduler.changed(settings(0), now);
    scheduler.accepted(&[(lane(0), Delivery::new(1, EventKey::new(now, 1)))], now);
    let key =
        |epoch| JobKey { delivery: DeliveryId { subscription: lane(0), sequence: 1 }, attempt: 1, epoch };
    let hello = |in_flight| Connected {
        station: Station { agent: "a".parse().unwrap(), instance: "1".into(), stream: 0 },
        pool: PoolName::default_pool(),
        max_in_flight: 2,
        in_flight,
        drained: false,
    };
    let jobs = |effects: Vec<Effect>| -> Vec<JobKey> {
        let jobs = effects.into_iter().filter_map(|effect| match effect {
            Effect::Dispatch { jobs, .. } => Some(jobs),
            _ => None,
        });
        jobs.flatten().map(|job| job.key).collect()
    };
    scheduler.connected(hello(Vec::new()), now);
    assert_eq!(jobs(scheduler.effects(now)), [key(2)]);

    let holder = scheduler.connected(hello(vec![key(1), key(2)]), now);
    scheduler.accepted(&[(lane(0), Delivery::new(2, EventKey::new(now, 2)))], now);
    let effects = scheduler.effects(now);
    let forgotten = |effect: &Effect| matches!(effect, Effect::Forget { keys, .. } if *keys == [key(1)]);
    assert!(effects.iter().any(forgotten), "{effects:?}");
    assert!(jobs(effects).is_empty(), "it has no place left");

    let stale = Reported { holder, sequence: 1 };
    scheduler.reported(stale, key(1), Report::Made(Box::new(response(500))), 0.5, now);
    assert_eq!(jobs(scheduler.effects(now)).len(), 1, "one place is free again");
}

/// After a restore from a backup numbers are given out again, and an agent may still have a job of the number's former owner.
#[test]
fn what_was_handed_out_before_a_restore_counts_for_nothing() {
    let now = start();
    let mut scheduler = Scheduler::new(11);
    scheduler.fence(10);
    scheduler.changed(settings(0), now);
    scheduler.accepted(&[(lane(0), Delivery::new(1, EventKey::new(now, 1)))], now);
    let former =
        JobKey { delivery: DeliveryId { subscription: lane(0), sequence: 1 }, attempt: 1, epoch: 10 };
    let hello = Connected {
        station: Station { agent: "a".parse().unwrap(), instance: "1".into(), stream: 0 },
        pool: PoolName::default_pool(),
        max_in_flight: 8,
        in_flight: vec![former],
        drained: false,
    };
    let holder = scheduler.connected(hello, now);
    let effects = scheduler.effects(now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Forget { keys, .. } if *keys == [former])));
    let given = |effect: &Effect| matches!(effect, Effect::Dispatch { jobs, .. } if jobs[0].key.epoch == 11);
    assert!(effects.iter().any(given), "the number's owner of now is attempted all the same: {effects:?}");
    let report = Report::Made(Box::new(response(200)));
    scheduler.reported(Reported { holder, sequence: 1 }, former, report, 0.5, now);
    let effects = scheduler.effects(now);
    assert!(matches!(effects.as_slice(), [Effect::Acknowledge(Reported { sequence: 1, .. })]), "{effects:?}");
}

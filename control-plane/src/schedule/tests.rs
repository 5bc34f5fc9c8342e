//! The schedule in a simulated world: agents that come, go and lose messages, a store that is slow, endpoints that
//! fail, and a control plane that is killed. Seeded: a failing seed is printed, and becomes a test.

mod cuts;
mod destinations;
mod distrust;
mod health;
mod levels;
mod liar;
mod order;
mod outage;
mod pools;
mod replaced;
mod rules;
mod shares;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use ahash::{HashMap, HashSet};
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::egress::EndpointUrl;
use postrider_domain::id::{AgentId, DeliveryId, EventKey, SubscriptionId};
use postrider_domain::lane::{FailurePolicy, Load, RateLimit};
use postrider_domain::order::Order;
use postrider_domain::outcome::{Class, Outcome, Response};
use postrider_domain::pace::Pace;
use postrider_domain::pool::Tenants;
use postrider_domain::retry;
use postrider_domain::time::Timestamp;
use postrider_proto::session::{JobKey, Report};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use self::world::World;
use super::*;
use crate::store::{DeliveryRow, DueRows, FreshRows};

const TIMEOUT: Duration = Duration::from_secs(15);
const CAP: usize = 5;
const AGENTS: usize = 3;
const AGENT_CREDIT: usize = 8;

fn start() -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000)
}

fn lane(number: u64) -> SubscriptionId {
    SubscriptionId::new(start(), u128::from(number))
}

fn host(number: u64) -> Destination {
    let url = format!("https://host-{number}.example/in");
    Destination::of(&EndpointUrl::parse(&url).expect("it is a valid URL"))
}

fn pace(per_second: u32, burst: u32) -> Pace {
    let number = |number| NonZeroU32::new(number).expect("it is not 0");
    Pace::new(number(per_second), number(burst))
}

fn settings(number: u64) -> LaneSettings {
    LaneSettings {
        id: lane(number),
        tenant: "acme".parse().expect("it is a tenant's id"),
        pool: PoolName::default_pool(),
        destination: host(number % 2),
        allow_fallback: false,
        retry: retry::Policy::default(),
        max_in_flight: CAP,
        rate_limit: None,
        order: Order::None,
        failure: FailurePolicy::default(),
        held: false,
        probed_every: None,
        timeout: TIMEOUT,
    }
}

/// A pool that every tenant may use.
fn open_to_all(fallback: Option<Fallback>) -> PoolTerms {
    PoolTerms { tenants: Tenants::Every, fallback }
}

fn hello(agent: &str, instance: &str, max_in_flight: usize, in_flight: Vec<JobKey>) -> Connected {
    Connected {
        station: Station {
            agent: agent.parse().expect("it is a valid agent id"),
            instance: instance.to_owned(),
            stream: 0,
        },
        pool: PoolName::default_pool(),
        max_in_flight,
        in_flight,
        drained: false,
    }
}

fn response(status: u16) -> Outcome {
    let response = Response { status, ..Response::default() };
    Outcome { response: Some(response), request_sent: true, ..Outcome::failure(Class::of_status(status), "") }
}

#[test]
fn without_faults_nothing_is_repeated() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        (0..AGENTS).for_each(|which| world.connect(which));
        (0..2_000).for_each(|_| world.step(false));
        world.heal();
        world.check();
        assert_eq!(world.extra_posts(), 0, "seed {seed}");
    }
}

#[test]
fn under_faults_nothing_is_lost_and_repeats_are_bounded() {
    for seed in 0..200 {
        let mut world = World::new(seed);
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
fn a_control_plane_that_is_killed_repeats_nothing_while_agents_live() {
    for seed in 0..60 {
        let mut world = World::new(seed);
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

/// The mission's promise, in simulated time: a day of failure, attempt by attempt.
#[test]
fn an_endpoint_that_fails_for_a_day_is_tried_by_the_schedule_and_then_given_up() {
    let mut world = World::new(1);
    world.connect(0);
    world.failing.insert(lane(0));
    let (id, first) =
        (DeliveryId { subscription: lane(0), sequence: 1 }, Delivery::new(1, EventKey::new(start(), 1)));
    world.rows.insert(id, first);
    world.scheduler.accepted(&[(lane(0), first)], world.now);
    let mut times = Vec::new();
    while !world.rows[&id].state.has_ended() {
        let before = world.posts.get(&id).copied().unwrap_or(0);
        world.carry_out();
        world.arrive();
        if world.posts.get(&id).copied().unwrap_or(0) > before {
            times.push(world.now.since(start()).as_secs());
            let end = world.agents[0].running[0].1;
            world.now = world.now.max(end);
        }
        world.run_agents();
        world.carry_out();
        world.write();
        if world.to_agent.is_empty() && world.agents[0].running.is_empty() {
            world.now = world.scheduler.next_tick(world.now).max(world.now + Duration::from_millis(1));
        }
        assert!(world.now < start() + Duration::from_secs(90_000), "{times:?}");
    }
    assert!(matches!(world.rows[&id].state, State::Exhausted(_)));
    assert_eq!(times.len(), 16, "{times:?}");
    let planned =
        [0, 5, 20, 65, 200, 605, 1820, 5465, 16265, 27065, 37865, 48665, 59465, 70265, 81065, 86400];
    for (number, (time, planned)) in times.iter().zip(planned).enumerate() {
        // Each attempt before it took up to 3 seconds.
        let slack = 3 * number as u64;
        assert!((planned..=planned + slack).contains(time), "{times:?}");
    }
}

#[test]
fn without_an_agent_deliveries_are_held_and_no_attempt_is_spent() {
    let mut world = World::new(3);
    (0..500).for_each(|_| world.step(false));
    let week = world.now + Duration::from_secs(7 * 86_400);
    world.now = week;
    world.carry_out();
    assert!(world.rows.values().all(|delivery| delivery.attempts == 0 && !delivery.state.has_ended()));
    let id = *world.rows.keys().next().unwrap();
    assert_eq!(world.scheduler.condition(id, world.now), Condition::NoAgent);
    world.heal();
    world.check();
    assert_eq!(world.extra_posts(), 0);
}

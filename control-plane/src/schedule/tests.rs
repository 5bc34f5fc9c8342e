//! The schedule in a simulated world: agents that come, go and lose messages, a store that is slow, endpoints that
//! fail, and a control plane that is killed. Seeded: a failing seed is printed, and becomes a test.

mod health;
mod levels;
mod order;
mod outage;
mod pools;
mod rules;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::num::NonZeroU64;
use std::time::Duration;

use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{AgentId, DeliveryId, EventKey, SubscriptionId};
use postrider_domain::lane::Load;
use postrider_domain::outcome::{Class, Outcome, Response};
use postrider_domain::retry;
use postrider_domain::time::Timestamp;
use postrider_proto::session::{JobKey, Report};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

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

fn settings(number: u64) -> LaneSettings {
    LaneSettings {
        id: lane(number),
        pool: PoolName::default_pool(),
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

fn response(status: u16) -> Outcome {
    let response = Response { status, ..Response::default() };
    Outcome { response: Some(response), request_sent: true, ..Outcome::failure(Class::of_status(status), "") }
}

/// One process of an agent: its jobs and its outcomes outlive its connection.
#[derive(Default)]
struct SimAgent {
    instance: u32,
    holder: Option<HolderId>,
    running: Vec<(JobKey, Timestamp)>,
    /// Outcomes that are not acknowledged, by sequence.
    outbox: BTreeMap<u64, (JobKey, Outcome)>,
    /// Up to which of them this connection has sent.
    sent: u64,
    next: u64,
}

struct World {
    seed: u64,
    rng: StdRng,
    now: Timestamp,
    scheduler: Scheduler,
    epoch: u64,
    agents: Vec<SimAgent>,
    /// The store: what is durable.
    rows: BTreeMap<DeliveryId, Delivery>,
    low_water: HashMap<SubscriptionId, LowWater>,
    troubles: HashMap<SubscriptionId, Trouble>,
    /// What people were told, and what was to be done about subscriptions, in order.
    told: Vec<(Timestamp, SubscriptionId, Turn)>,
    /// Writes and reads that are under way.
    writes: VecDeque<(Delivery, DeliveryId, Option<Reported>)>,
    loads: Vec<(SubscriptionId, Load, Loaded)>,
    reads: Vec<(DeliveryId, Box<Why>, Option<DeliveryRow>)>,
    to_agent: Vec<(HolderId, JobKey)>,
    /// POSTs that endpoints saw, and those that succeeded.
    posts: HashMap<DeliveryId, u32>,
    succeeded: HashSet<DeliveryId>,
    failing: HashSet<SubscriptionId>,
    /// Outcomes that nobody can know: of jobs that were running or unreported when an agent was killed, given up,
    /// or cut off while the control plane was killed. As many POSTs may be repeated.
    unknown: u32,
    failures: u32,
    /// POSTs, and jobs given out, as they came.
    log: Vec<(Timestamp, JobKey)>,
    handed: Vec<(Timestamp, JobKey)>,
    settings: HashMap<SubscriptionId, LaneSettings>,
}

enum Loaded {
    Fresh(FreshRows),
    Due(DueRows),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            now: start(),
            scheduler: Scheduler::new(1),
            epoch: 1,
            agents: (0..AGENTS).map(|_| SimAgent { next: 1, ..SimAgent::default() }).collect(),
            rows: BTreeMap::new(),
            low_water: HashMap::new(),
            troubles: HashMap::new(),
            told: Vec::new(),
            writes: VecDeque::new(),
            loads: Vec::new(),
            reads: Vec::new(),
            to_agent: Vec::new(),
            posts: HashMap::new(),
            succeeded: HashSet::new(),
            failing: HashSet::new(),
            unknown: 0,
            failures: 0,
            log: Vec::new(),
            handed: Vec::new(),
            settings: (0..4).map(|number| (lane(number), settings(number))).collect(),
        };
        for number in 0..4 {
            world.scheduler.changed(settings(number), world.now);
        }
        world
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_ratio(1, one_in)
    }

    fn accept(&mut self) {
        let id = lane(self.rng.random_range(0..4));
        let sequence = self
            .rows
            .range(DeliveryId { subscription: id, sequence: 0 }..)
            .take_while(|(row, _)| row.subscription == id)
            .count() as u64
            + 1;
        let delivery = Delivery::new(sequence, EventKey::new(self.now, self.rng.random()))
            .ordered_by(NonZeroU64::new(self.rng.random_range(0..4)));
        self.rows.insert(DeliveryId { subscription: id, sequence }, delivery);
        self.scheduler.accepted(&[(id, delivery)], self.now);
    }

    fn connect(&mut self, which: usize) {
        let agent = &self.agents[which];
        let mut in_flight: Vec<JobKey> = agent.running.iter().map(|(key, _)| *key).collect();
        in_flight.extend(agent.outbox.values().map(|(key, _)| *key));
        let station = Station {
            agent: format!("agent-{which}").parse().unwrap(),
            instance: agent.instance.to_string(),
            stream: 0,
        };
        let hello = Connected {
            station,
            pool: PoolName::default_pool(),
            max_in_flight: AGENT_CREDIT,
            in_flight,
            drained: false,
        };
        let holder = self.scheduler.connected(hello, self.now);
        let first = self.agents[which].outbox.keys().next().copied().unwrap_or(self.agents[which].next);
        self.agents[which].holder = Some(holder);
        self.agents[which].sent = first - 1;
    }

    /// The connection breaks. What was on its way to the agent is lost.
    fn disconnect(&mut self, which: usize) {
        if let Some(holder) = self.agents[which].holder.take() {
            self.to_agent.retain(|(to, _)| *to != holder);
            self.scheduler.disconnected(holder, self.now);
        }
    }

    fn kill_agent(&mut self, which: usize) {
        self.disconnect(which);
        let agent = &mut self.agents[which];
        self.unknown += u32::try_from(agent.running.len() + agent.outbox.len()).unwrap();
        *agent = SimAgent { instance: agent.instance + 1, next: 1, ..SimAgent::default() };
    }

    /// The control plane is killed: memory, queued writes and reads are gone; what is durable, and the agents, stay.
    fn kill_control_plane(&mut self) {
        self.writes.clear();
        self.loads.clear();
        self.reads.clear();
        self.to_agent.clear();
        self.epoch += 1;
        // Nobody awaits agents that were cut off already.
        let cut_off = self.agents.iter().filter(|agent| agent.holder.is_none());
        let unknown: usize = cut_off.map(|agent| agent.running.len() + agent.outbox.len()).sum();
        self.unknown += u32::try_from(unknown).unwrap();
        self.scheduler = Scheduler::new(self.epoch);
        let open = |agent: &&SimAgent| agent.holder.is_some();
        let back: HashMap<_, _> = (0..AGENTS)
            .filter(|which| self.agents.get(*which).as_ref().is_some_and(open))
            .map(|which| (format!("agent-{which}").parse().unwrap(), 1))
            .collect();
        self.scheduler.await_agents(back, self.now + Duration::from_secs(3));
        for number in 0..4 {
            let of_lane = || self.rows.iter().filter(|(id, _)| id.subscription == lane(number));
            let row = LaneRow {
                low_water: self.low_water.get(&lane(number)).copied().unwrap_or_default(),
                end: of_lane().count() as u64 + 1,
                waiting: of_lane().any(|(_, delivery)| delivery.state.due().is_some()),
                trouble: self.troubles.get(&lane(number)).copied(),
            };
            self.scheduler.restore(self.settings[&lane(number)].clone(), row, self.now);
        }
        // They come back within the window.
        for which in 0..AGENTS {
            if self.agents[which].holder.take().is_some() {
                self.connect(which);
            }
        }
    }

    fn carry_out(&mut self) {
        self.scheduler.tick(self.now);
        for effect in self.scheduler.effects(self.now) {
            match effect {
                Effect::Dispatch { holder, jobs } => {
                    self.handed.extend(jobs.iter().map(|job| (self.now, job.key)));
                    self.to_agent.extend(jobs.iter().map(|job| (holder, job.key)));
                }
                Effect::Load { lane, load } => {
                    let loaded = self.load(lane, load);
                    self.loads.push((lane, load, loaded));
                }
                Effect::Read { id, why } => {
                    let row = self.rows.get(&id).map(|delivery| DeliveryRow {
                        id,
                        delivery: *delivery,
                        last: None,
                    });
                    self.reads.push((id, why, row));
                }
                Effect::Settle { settle, acknowledge, .. } => {
                    let class = settle.attempt.as_ref().map(|attempt| attempt.outcome.class);
                    self.unknown += u32::from(class == Some(Class::AgentLost));
                    self.writes.push_back((settle.delivery, settle.id, acknowledge));
                }
                Effect::Acknowledge(reported) => self.acknowledge(reported),
                Effect::Withdraw { .. }
                | Effect::Forget { .. }
                | Effect::Answer(..)
                | Effect::Fallback { .. }
                | Effect::Breaker(..) => {}
                Effect::Turned { id, turn, .. } => self.turned(id, turn),
                Effect::Enable(id) => self.change(id, |settings| settings.probed_every = None),
                Effect::Trouble(lane, Some(trouble)) => drop(self.troubles.insert(lane, trouble)),
                Effect::Trouble(lane, None) => drop(self.troubles.remove(&lane)),
                Effect::Replace { holder, .. } => self.to_agent.retain(|(to, _)| *to != holder),
                Effect::Disable(_) | Effect::Trespass { .. } => panic!("nobody gives cause for it"),
                Effect::LowWater(lane, number) => {
                    // Written behind what is queued: a crash loses both or neither.
                    if self.writes.is_empty() {
                        self.low_water.insert(lane, number);
                    }
                }
            }
        }
    }

    /// As the disabler does it: what is given up is disabled, and that is written down.
    fn turned(&mut self, id: SubscriptionId, turn: Turn) {
        self.told.push((self.now, id, turn));
        if turn == Turn::GivenUp {
            self.change(id, |settings| settings.probed_every = Some(settings.failure.probe_every()));
        }
    }

    fn change(&mut self, id: SubscriptionId, change: impl FnOnce(&mut LaneSettings)) {
        let settings = self.settings.get_mut(&id).expect("there is such a subscription");
        change(settings);
        self.scheduler.changed(settings.clone(), self.now);
    }

    fn load(&self, lane: SubscriptionId, load: Load) -> Loaded {
        let of_lane =
            || self.rows.iter().filter(|(id, _)| id.subscription == lane).map(|(_, delivery)| *delivery);
        match load {
            Load::Fresh { from, limit } | Load::Open { from, limit } => {
                let all = matches!(load, Load::Open { .. });
                let wanted = |state: State| state == State::Pending || all && state.due().is_some();
                let rows: Vec<_> =
                    of_lane().filter(|row| row.sequence >= from && wanted(row.state)).take(limit).collect();
                let end = of_lane().count() as u64 + 1;
                let next = if rows.len() < limit { end } else { rows[limit - 1].sequence + 1 };
                Loaded::Fresh(FreshRows { rows, next })
            }
            Load::Due { limit } => {
                let mut rows: Vec<_> = of_lane().filter(|row| row.state.due().is_some()).collect();
                rows.sort_by_key(|row| (row.state.due(), row.sequence));
                let complete = rows.len() <= limit;
                rows.truncate(limit);
                Loaded::Due(DueRows { rows, complete })
            }
        }
    }

    fn acknowledge(&mut self, reported: Reported) {
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.holder == Some(reported.holder)) {
            agent.outbox.remove(&reported.sequence);
        }
    }

    fn write(&mut self) {
        let Some((delivery, id, acknowledge)) = self.writes.pop_front() else { return };
        self.rows.insert(id, delivery);
        self.scheduler.stored(&[id], self.now);
        if let Some(reported) = acknowledge {
            self.acknowledge(reported);
        }
    }

    fn end_read(&mut self) {
        if !self.loads.is_empty() {
            let (lane, _, loaded) = self.loads.swap_remove(self.rng.random_range(0..self.loads.len()));
            let lost = self.chance(20);
            match loaded {
                Loaded::Fresh(rows) => self.scheduler.loaded_fresh(lane, (!lost).then_some(rows), self.now),
                Loaded::Due(rows) => self.scheduler.loaded_due(lane, (!lost).then_some(rows), self.now),
            }
        }
        if !self.reads.is_empty() {
            let (id, why, row) = self.reads.swap_remove(self.rng.random_range(0..self.reads.len()));
            let row = if self.chance(20) { Err(()) } else { Ok(row) };
            self.scheduler.row(id, *why, row, self.now);
        }
    }

    /// A job arrives at its agent, which POSTs at once.
    fn arrive(&mut self) {
        if self.to_agent.is_empty() {
            return;
        }
        let (holder, key) = self.to_agent.remove(0);
        self.check_order(key.delivery);
        let Some(agent) = self.agents.iter_mut().find(|agent| agent.holder == Some(holder)) else { return };
        self.log.push((self.now, key));
        *self.posts.entry(key.delivery).or_default() += 1;
        let takes = Duration::from_millis(self.rng.random_range(1..3_000));
        agent.running.push((key, self.now + takes));
        assert!(
            agent.running.len() + agent.outbox.len() <= 4 * AGENT_CREDIT + 64,
            "seed {}: no credit",
            self.seed
        );
        assert!(agent.running.len() <= AGENT_CREDIT, "seed {}: more jobs than credit", self.seed);
    }

    /// What agents have done, and what they report.
    fn run_agents(&mut self) {
        for which in 0..AGENTS {
            let now = self.now;
            let done: Vec<JobKey> = {
                let agent = &mut self.agents[which];
                let (done, running) =
                    std::mem::take(&mut agent.running).into_iter().partition(|(_, end)| *end <= now);
                agent.running = running;
                let done: Vec<(JobKey, Timestamp)> = done;
                done.into_iter().map(|(key, _)| key).collect()
            };
            for key in done {
                let fails = self.failing.contains(&key.delivery.subscription);
                if !fails {
                    self.succeeded.insert(key.delivery);
                }
                let outcome = response(if fails { 500 } else { 204 });
                self.failures += u32::from(fails);
                let agent = &mut self.agents[which];
                agent.outbox.insert(agent.next, (key, outcome));
                agent.next += 1;
            }
            self.report(which);
        }
    }

    fn report(&mut self, which: usize) {
        let Some(holder) = self.agents[which].holder else { return };
        let unsent: Vec<(u64, JobKey, Outcome)> = self.agents[which]
            .outbox
            .range(self.agents[which].sent + 1..)
            .map(|(sequence, (key, outcome))| (*sequence, *key, outcome.clone()))
            .collect();
        for (sequence, key, outcome) in unsent {
            self.agents[which].sent = sequence;
            let reported = Reported { holder, sequence };
            self.scheduler.reported(reported, key, Report::Made(Box::new(outcome)), 0.5, self.now);
        }
    }

    fn step(&mut self, faults: bool) {
        match self.rng.random_range(0..100) {
            0..15 => self.accept(),
            15..30 => self.write(),
            30..45 => self.end_read(),
            45..65 => self.arrive(),
            65..90 => {
                let passes = self.rng.random_range(1..800);
                self.now = self.now + Duration::from_millis(passes);
                self.run_agents();
            }
            90..94 => self.toggle_endpoint(),
            _ if faults => self.fault(),
            _ => {}
        }
        self.carry_out();
        self.check_levels();
    }

    fn toggle_endpoint(&mut self) {
        let id = lane(self.rng.random_range(0..4));
        if !self.failing.remove(&id) && self.chance(3) {
            self.failing.insert(id);
        }
    }

    fn fault(&mut self) {
        let which = self.rng.random_range(0..AGENTS);
        match self.rng.random_range(0..10) {
            0..4 if self.agents[which].holder.is_some() => self.disconnect(which),
            0..8 if self.agents[which].holder.is_none() => self.connect(which),
            8 => self.kill_agent(which),
            9 => self.kill_control_plane(),
            _ => {}
        }
    }

    /// No more faults: everything must end, within the retry window.
    fn heal(&mut self) {
        self.failing.clear();
        for which in 0..AGENTS {
            if self.agents[which].holder.is_none() {
                self.connect(which);
            }
        }
        for _ in 0..200_000 {
            self.carry_out();
            self.arrive();
            self.end_read();
            self.write();
            self.run_agents();
            let idle = self.to_agent.is_empty()
                && self.loads.is_empty()
                && self.reads.is_empty()
                && self.writes.is_empty();
            if idle && self.rows.values().all(|delivery| delivery.state.has_ended()) {
                return;
            }
            let next = self.agents.iter().flat_map(|agent| agent.running.iter().map(|(_, end)| *end)).min();
            let tick = self.scheduler.next_tick(self.now);
            if idle {
                self.now = next.map_or(tick, |next| next.min(tick)).max(self.now + Duration::from_millis(1));
            }
        }
        let open: Vec<_> =
            self.rows.iter().filter(|(_, delivery)| !delivery.state.has_ended()).take(5).collect();
        let assigned: Vec<_> = open.iter().map(|(id, _)| self.scheduler.assigned.get(id)).collect();
        let lanes: Vec<_> = open.iter().map(|(id, _)| &self.scheduler.lanes[&id.subscription].lane).collect();
        panic!("seed {}: never ended: {open:?}; assigned to {assigned:?}; in {lanes:?}", self.seed);
    }

    fn extra_posts(&self) -> u32 {
        let posts: u32 = self.posts.values().sum();
        posts - u32::try_from(self.posts.len()).unwrap() - self.failures
    }

    fn check(&self) {
        for (id, delivery) in &self.rows {
            let delivered = matches!(delivery.state, State::Delivered(_));
            assert!(delivered, "seed {}: {id} is {:?}", self.seed, delivery.state);
            assert!(self.succeeded.contains(id), "seed {}: {id} was never received", self.seed);
        }
        assert!(self.scheduler.is_quiet(), "seed {}: something is left", self.seed);
    }
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

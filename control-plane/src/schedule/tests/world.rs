//! The simulated world: agents that come, go and lose messages, a store that is slow, endpoints that fail, and a control
//! plane that is killed.

use super::liar::Liar;
use super::*;

/// One process of an agent: its jobs and its outcomes outlive its connection.
#[derive(Default)]
pub(super) struct SimAgent {
    pub(super) instance: u32,
    pub(super) holder: Option<HolderId>,
    pub(super) running: Vec<(JobKey, Timestamp)>,
    /// Outcomes that are not acknowledged, by sequence.
    pub(super) outbox: BTreeMap<u64, (JobKey, Outcome)>,
    /// Up to which of them this connection has sent.
    pub(super) sent: u64,
    pub(super) next: u64,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: StdRng,
    pub(super) now: Timestamp,
    pub(super) scheduler: Scheduler,
    pub(super) epoch: u64,
    pub(super) agents: Vec<SimAgent>,
    /// The store: what is durable.
    pub(super) rows: BTreeMap<DeliveryId, Delivery>,
    pub(super) low_water: HashMap<SubscriptionId, LowWater>,
    pub(super) troubles: HashMap<SubscriptionId, Trouble>,
    /// What people were told, and what was to be done about subscriptions, in order.
    pub(super) told: Vec<(Timestamp, SubscriptionId, Turn)>,
    /// Writes and reads that are under way.
    pub(super) writes: VecDeque<(Delivery, DeliveryId, Option<Reported>)>,
    pub(super) loads: Vec<(SubscriptionId, Load, Loaded)>,
    pub(super) reads: Vec<(DeliveryId, Box<Why>, Option<DeliveryRow>)>,
    pub(super) to_agent: Vec<(HolderId, JobKey)>,
    /// POSTs that endpoints saw, and those that succeeded.
    pub(super) posts: HashMap<DeliveryId, u32>,
    pub(super) succeeded: HashSet<DeliveryId>,
    pub(super) failing: HashSet<SubscriptionId>,
    /// Outcomes that nobody can know: of jobs that were running or unreported when an agent was killed, given up,
    /// or cut off while the control plane was killed. As many POSTs may be repeated.
    pub(super) unknown: u32,
    pub(super) failures: u32,
    /// POSTs, and jobs given out, as they came.
    pub(super) log: Vec<(Timestamp, JobKey)>,
    pub(super) handed: Vec<(Timestamp, JobKey)>,
    pub(super) settings: HashMap<SubscriptionId, LaneSettings>,
    /// An agent that does not do what it should, if there is one.
    pub(super) liar: Option<Liar>,
}

pub(super) enum Loaded {
    Fresh(FreshRows),
    Due(DueRows),
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
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
            liar: None,
        };
        world.limit_destinations();
        for number in 0..4 {
            world.scheduler.changed(settings(number), world.now);
        }
        world
    }

    pub(super) fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_ratio(1, one_in)
    }

    pub(super) fn accept(&mut self) {
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

    pub(super) fn connect(&mut self, which: usize) {
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
    pub(super) fn disconnect(&mut self, which: usize) {
        if let Some(holder) = self.agents[which].holder.take() {
            self.to_agent.retain(|(to, _)| *to != holder);
            self.scheduler.disconnected(holder, self.now);
        }
    }

    pub(super) fn kill_agent(&mut self, which: usize) {
        self.disconnect(which);
        let agent = &mut self.agents[which];
        self.unknown += u32::try_from(agent.running.len() + agent.outbox.len()).unwrap();
        *agent = SimAgent { instance: agent.instance + 1, next: 1, ..SimAgent::default() };
    }

    /// The control plane is killed: memory, queued writes and reads are gone; what is durable, and the agents, stay.
    pub(super) fn kill_control_plane(&mut self) {
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
        self.limit_destinations();
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
        self.liar_restarts();
        // They come back within the window.
        for which in 0..AGENTS {
            if self.agents[which].holder.take().is_some() {
                self.connect(which);
            }
        }
    }

    pub(super) fn carry_out(&mut self) {
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
                Effect::ForeignReport { holder, .. } => self.caught(holder),
                Effect::Disable(_) => panic!("nobody gives cause for it"),
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
    pub(super) fn turned(&mut self, id: SubscriptionId, turn: Turn) {
        self.told.push((self.now, id, turn));
        if turn == Turn::GivenUp {
            self.change(id, |settings| settings.probed_every = Some(settings.failure.probe_every()));
        }
    }

    pub(super) fn change(&mut self, id: SubscriptionId, change: impl FnOnce(&mut LaneSettings)) {
        let settings = self.settings.get_mut(&id).expect("there is such a subscription");
        change(settings);
        self.scheduler.changed(settings.clone(), self.now);
    }

    pub(super) fn load(&self, lane: SubscriptionId, load: Load) -> Loaded {
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

    pub(super) fn acknowledge(&mut self, reported: Reported) {
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.holder == Some(reported.holder)) {
            agent.outbox.remove(&reported.sequence);
        }
    }

    pub(super) fn write(&mut self) {
        let Some((delivery, id, acknowledge)) = self.writes.pop_front() else { return };
        self.rows.insert(id, delivery);
        self.scheduler.stored(&[id], self.now);
        if let Some(reported) = acknowledge {
            self.acknowledge(reported);
        }
    }

    pub(super) fn end_read(&mut self) {
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
    pub(super) fn arrive(&mut self) {
        if self.to_agent.is_empty() {
            return;
        }
        let (holder, key) = self.to_agent.remove(0);
        self.check_order(key.delivery);
        if self.takes_as_liar(holder, key) {
            return;
        }
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
    pub(super) fn run_agents(&mut self) {
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

    pub(super) fn report(&mut self, which: usize) {
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

    pub(super) fn step(&mut self, faults: bool) {
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

    pub(super) fn toggle_endpoint(&mut self) {
        let id = lane(self.rng.random_range(0..4));
        if !self.failing.remove(&id) && self.chance(3) {
            self.failing.insert(id);
        }
    }

    pub(super) fn fault(&mut self) {
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
    pub(super) fn heal(&mut self) {
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
        let assigned: Vec<_> = open.iter().map(|(id, _)| self.scheduler.places.holder(**id)).collect();
        let lanes: Vec<_> = open.iter().map(|(id, _)| &self.scheduler.lanes[&id.subscription].lane).collect();
        panic!("seed {}: never ended: {open:?}; assigned to {assigned:?}; in {lanes:?}", self.seed);
    }

    pub(super) fn extra_posts(&self) -> u32 {
        let posts: u32 = self.posts.values().sum();
        posts - u32::try_from(self.posts.len()).unwrap() - self.failures
    }

    pub(super) fn check(&self) {
        for (id, delivery) in &self.rows {
            let delivered = matches!(delivery.state, State::Delivered(_));
            assert!(delivered, "seed {}: {id} is {:?}", self.seed, delivery.state);
            assert!(self.succeeded.contains(id), "seed {}: {id} was never received", self.seed);
        }
        assert!(self.scheduler.is_quiet(), "seed {}: something is left", self.seed);
        self.check_destinations();
    }
}

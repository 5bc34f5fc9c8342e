//! Whatever agents say, in whatever order, to the real schedule: they settle only what they were given, what has ended stays
//! as it ended, and no place or job is lost or counted twice.

#![no_main]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use postrider_control_plane::job_tags::JobTags;
use postrider_control_plane::link::hello::{false_claim, judge};
use postrider_control_plane::schedule::{Effect, HolderId, LaneSettings, Reported, Scheduler, Why};
use postrider_control_plane::store::{DeliveryRow, DueRows, FreshRows};
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::destination::Destination;
use postrider_domain::egress::EndpointUrl;
use postrider_domain::id::{AgentId, DeliveryId, EventKey, SubscriptionId};
use postrider_domain::lane::{FailurePolicy, Load};
use postrider_domain::order::Order;
use postrider_domain::outcome::{Class, Outcome, Response};
use postrider_domain::retry;
use postrider_domain::time::Timestamp;
use postrider_proto::agent;
use postrider_proto::session::{JobKey, Report};

const AGENTS: usize = 3;
const LANES: u64 = 3;
const TIMEOUT: Duration = Duration::from_secs(15);

/// One thing that happens. Numbers choose among what there is.
#[derive(Arbitrary, Debug)]
enum Step {
    Accept {
        lane: u8,
    },
    /// An agent says Hello: it names jobs that it was given, and perhaps one that it was not.
    Hello {
        agent: u8,
        process: bool,
        named: Vec<u8>,
        stolen: Option<u8>,
        credit: u8,
    },
    Report {
        agent: u8,
        job: u8,
        attempt: u32,
        epoch: u8,
        status: Status,
    },
    Leave {
        agent: u8,
    },
    Drain {
        agent: u8,
    },
    Cancel {
        lane: u8,
        number: u8,
    },
    Retry {
        lane: u8,
        number: u8,
    },
    Write {
        count: u8,
    },
    Read {
        fails: bool,
    },
    Pass {
        seconds: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Status {
    Delivered,
    Gone,
    Failed,
    NotStarted,
}

struct World {
    scheduler: Scheduler,
    tags: JobTags,
    now: Timestamp,
    rows: BTreeMap<DeliveryId, Delivery>,
    writes: Vec<(DeliveryId, Delivery)>,
    loads: Vec<(SubscriptionId, Load)>,
    reads: Vec<(DeliveryId, Box<Why>)>,
    connected: [Option<HolderId>; AGENTS],
    processes: [u32; AGENTS],
    owners: HashMap<HolderId, usize>,
    /// To whom each attempt was given.
    given: HashMap<JobKey, usize>,
    order: Vec<JobKey>,
    tickets: u64,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps.into_iter().take(300) {
        world.take(step);
        world.carry_out();
        world.check();
    }
    world.end();
});

fn lane(number: u8) -> SubscriptionId {
    SubscriptionId::new(Timestamp::default(), u128::from(u64::from(number) % LANES))
}

fn agent(which: usize) -> AgentId {
    format!("agent-{which}").parse().expect("it is a valid agent id")
}

fn settings(number: u8) -> LaneSettings {
    LaneSettings {
        id: lane(number),
        tenant: format!("tenant-{}", u64::from(number) % 2).parse().expect("it is a valid name"),
        pool: "default".parse().expect("it is a valid name"),
        destination: Destination::of(
            &EndpointUrl::parse("https://example.com/in").expect("it is a valid URL"),
        ),
        allow_fallback: false,
        retry: retry::Policy::default(),
        max_in_flight: 4,
        rate_limit: None,
        order: if number == 2 { Order::Strict } else { Order::None },
        failure: FailurePolicy::default(),
        held: false,
        probed_every: None,
        timeout: TIMEOUT,
    }
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from_millis(1_770_028_200_000);
        let mut scheduler = Scheduler::new(1);
        (0..LANES).for_each(|number| scheduler.changed(settings(number as u8), now));
        Self {
            scheduler,
            tags: JobTags::new(&[7; 32], 0),
            now,
            rows: BTreeMap::new(),
            writes: Vec::new(),
            loads: Vec::new(),
            reads: Vec::new(),
            connected: [None; AGENTS],
            processes: [0; AGENTS],
            owners: HashMap::new(),
            given: HashMap::new(),
            order: Vec::new(),
            tickets: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Accept { lane: number } => {
                let id = lane(number);
                let sequence = self.rows.keys().filter(|row| row.subscription == id).count() as u64 + 1;
                let delivery = Delivery::new(sequence, EventKey::new(self.now, 1));
                self.rows.insert(DeliveryId { subscription: id, sequence }, delivery);
                self.scheduler.accepted(&[(id, delivery)], self.now);
            }
            Step::Hello { agent, process, named, stolen, credit } => {
                self.hello(usize::from(agent) % AGENTS, process, &named, stolen, credit);
            }
            Step::Report { agent, job, attempt, epoch, status } => {
                self.report(usize::from(agent) % AGENTS, job, attempt, epoch, status);
            }
            Step::Leave { agent } => self.leave(usize::from(agent) % AGENTS),
            Step::Drain { agent } => {
                if let Some(holder) = self.connected[usize::from(agent) % AGENTS] {
                    self.scheduler.agent_draining(holder, self.now);
                }
            }
            Step::Cancel { lane: number, number: sequence } => {
                let id = DeliveryId { subscription: lane(number), sequence: u64::from(sequence) };
                self.tickets += 1;
                self.scheduler.cancel(id, self.tickets, self.now);
            }
            Step::Retry { lane: number, number: sequence } => {
                let id = DeliveryId { subscription: lane(number), sequence: u64::from(sequence) };
                self.tickets += 1;
                self.scheduler.retry(id, self.tickets, self.now);
            }
            Step::Write { count } => self.write(usize::from(count)),
            Step::Read { fails } => self.read(fails),
            Step::Pass { seconds } => self.now = self.now + Duration::from_secs(seconds.into()),
        }
    }

    /// As a link does it: Hello is judged, then the tags of what it names.
    fn hello(&mut self, which: usize, process: bool, named: &[u8], stolen: Option<u8>, credit: u8) {
        self.processes[which] += u32::from(process);
        let pick = |number: &u8| self.order.get(usize::from(*number)).copied();
        let own = |key: &JobKey| self.given.get(key) == Some(&which);
        let mut keys: Vec<agent::JobKey> = named
            .iter()
            .filter_map(pick)
            .filter(own)
            .collect::<HashSet<_>>()
            .into_iter()
            .map(|key| self.tags.write(key, &agent(which)))
            .collect();
        let stolen = stolen.and_then(|number| pick(&number)).filter(|key| !own(key));
        keys.extend(stolen.map(|key| self.tags.write(key, &agent(self.given[&key]))));
        let hello = agent::Hello {
            protocol_min: 1,
            protocol_max: 1,
            agent_id: agent(which).to_string(),
            pool: "default".to_owned(),
            instance_id: self.processes[which].to_string(),
            max_in_flight: u32::from(credit).max(1),
            in_flight: keys,
            next_outcome_sequence: 1,
            ..agent::Hello::default()
        };
        let Ok(accepted) = judge(hello, self.now) else { panic!("it is a good Hello") };
        assert_eq!(false_claim(&accepted, &self.tags), stolen, "only what is not its own is refused");
        if stolen.is_some() {
            return;
        }
        let holder = self.scheduler.connected(accepted.connected, self.now);
        self.owners.insert(holder, which);
        self.connected[which] = Some(holder);
    }

    fn report(&mut self, which: usize, job: u8, attempt: u32, epoch: u8, status: Status) {
        let (Some(holder), Some(key)) = (self.connected[which], self.order.get(usize::from(job))) else {
            return;
        };
        let attempt = if attempt % 4 == 0 { attempt } else { key.attempt };
        let key = JobKey { attempt, epoch: key.epoch + u64::from(epoch % 8 == 7), ..*key };
        let outcome = |status: u16| {
            let response = Response { status, ..Response::default() };
            Outcome { response: Some(response), ..Outcome::failure(Class::of_status(status), "") }
        };
        let report = match status {
            Status::Delivered => Report::Made(Box::new(outcome(200))),
            Status::Gone => Report::Made(Box::new(outcome(410))),
            Status::Failed => Report::Made(Box::new(outcome(500))),
            Status::NotStarted => Report::NotStarted,
        };
        self.scheduler.reported(Reported { holder, sequence: 1 }, key, report, 0.5, self.now);
    }

    fn leave(&mut self, which: usize) {
        if let Some(holder) = self.connected[which].take() {
            self.scheduler.disconnected(holder, self.now);
        }
    }

    fn write(&mut self, count: usize) {
        let count = count.min(self.writes.len());
        let written: Vec<_> = self.writes.drain(..count).collect();
        for (id, delivery) in &written {
            self.rows.insert(*id, *delivery);
        }
        let ids: Vec<_> = written.into_iter().map(|(id, _)| id).collect();
        self.scheduler.stored(&ids, self.now);
    }

    fn read(&mut self, fails: bool) {
        if let Some((id, why)) = self.reads.pop() {
            let row = self.rows.get(&id).map(|delivery| DeliveryRow { id, delivery: *delivery, last: None });
            self.scheduler.row(id, *why, if fails { Err(()) } else { Ok(row) }, self.now);
        }
        let Some((id, load)) = self.loads.pop() else { return };
        let of_lane: Vec<_> = self
            .rows
            .iter()
            .filter(|(row, _)| row.subscription == id)
            .map(|(_, delivery)| *delivery)
            .collect();
        match load {
            Load::Fresh { from, limit } | Load::Open { from, limit } => {
                let all = matches!(load, Load::Open { .. });
                let wanted = |state: State| state == State::Pending || all && state.due().is_some();
                let rows: Vec<_> = of_lane
                    .iter()
                    .filter(|row| row.sequence >= from && wanted(row.state))
                    .take(limit)
                    .copied()
                    .collect();
                let end = of_lane.len() as u64 + 1;
                let next = if rows.len() < limit { end } else { rows[limit - 1].sequence + 1 };
                self.scheduler.loaded_fresh(id, (!fails).then_some(FreshRows { rows, next }), self.now);
            }
            Load::Due { limit } => {
                let mut rows: Vec<_> = of_lane.into_iter().filter(|row| row.state.due().is_some()).collect();
                rows.sort_by_key(|row| (row.state.due(), row.sequence));
                let complete = rows.len() <= limit;
                rows.truncate(limit);
                self.scheduler.loaded_due(id, (!fails).then_some(DueRows { rows, complete }), self.now);
            }
        }
    }

    fn carry_out(&mut self) {
        self.scheduler.tick(self.now);
        for effect in self.scheduler.effects(self.now) {
            match effect {
                Effect::Dispatch { holder, jobs } => {
                    let owner = self.owners[&holder];
                    for job in jobs {
                        if self.given.insert(job.key, owner).is_none() {
                            self.order.push(job.key);
                        }
                    }
                }
                Effect::Settle { settle, acknowledge, answer } => {
                    let before = self.latest(settle.id);
                    if answer.is_none() {
                        assert!(!before.is_some_and(|before| before.state.has_ended()), "{settle:?}");
                    }
                    if let (Some(attempt), Some(reported)) = (&settle.attempt, acknowledge) {
                        let reporter = self.owners[&reported.holder];
                        let given = |(key, owner): (&JobKey, &usize)| {
                            *owner == reporter && key.delivery == settle.id && key.attempt == attempt.number
                        };
                        assert!(self.given.iter().any(given), "{attempt:?} was not its to settle");
                    }
                    assert!(settle.delivery.attempts < 1_000_000, "{settle:?}");
                    self.writes.push((settle.id, settle.delivery));
                }
                Effect::Load { lane, load } => self.loads.push((lane, load)),
                Effect::Read { id, why } => self.reads.push((id, why)),
                Effect::ForeignReport { holder, .. } | Effect::Replace { holder, .. } => {
                    let which = self.owners[&holder];
                    if self.connected[which] == Some(holder) {
                        self.leave(which);
                    } else {
                        self.scheduler.disconnected(holder, self.now);
                    }
                }
                _ => {}
            }
        }
    }

    /// A delivery as it was decided last.
    fn latest(&self, id: DeliveryId) -> Option<Delivery> {
        let writing = self.writes.iter().rev().find(|(writing, _)| *writing == id);
        writing.map(|(_, delivery)| *delivery).or_else(|| self.rows.get(&id).copied())
    }

    fn check(&self) {
        let occupied = self.scheduler.occupied();
        assert_eq!(occupied.places, occupied.jobs + occupied.writes);
        assert_eq!(occupied.writes, self.writes.len());
        let held: usize = self.owners.keys().map(|holder| self.scheduler.jobs_held(*holder)).sum();
        assert_eq!(occupied.jobs, held, "a job without a holder, or the other way round");
    }

    /// Everybody leaves, and everything is written: nothing stays behind.
    fn end(&mut self) {
        (0..AGENTS).for_each(|which| self.leave(which));
        self.carry_out();
        for _ in 0..100 {
            self.now = self.now + Duration::from_secs(60);
            self.carry_out();
            self.write(usize::MAX);
            while !self.reads.is_empty() {
                self.read(false);
                self.carry_out();
                self.write(usize::MAX);
            }
            if self.scheduler.is_quiet() {
                break;
            }
        }
        self.check();
        assert!(self.scheduler.is_quiet(), "{:?}", self.scheduler.occupied());
    }
}

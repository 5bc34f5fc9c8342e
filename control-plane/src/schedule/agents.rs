//! Agents come, go, and come back.

use std::time::Duration;

use ahash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use postrider_domain::affinity;
use postrider_domain::id::{AgentId, DeliveryId, PoolName};
use postrider_domain::lane::Place;
use postrider_domain::outcome::{Class, Outcome};
use postrider_domain::time::Timestamp;
use postrider_proto::session::JobKey;

use super::places::Account;
use super::{Effect, Scheduler, Why};

/// After a link is lost, its jobs are given away when their timeout and this have passed: the agent may have been
/// cut off just after it began.
const LOST_MARGIN: Duration = Duration::from_secs(3);

/// A connected agent's job is taken back when its timeout and this have passed: it may wait for room at the agent's link,
/// start 20 seconds after it was signed, and its outcome must come back.
pub(super) const OVERDUE_MARGIN: Duration = Duration::from_secs(30);
/// How often it is looked for such jobs, at the most.
const OVERDUE_INTERVAL: Duration = Duration::from_secs(1);
/// The store is slow when it has written nothing for so long.
const STALL: Duration = Duration::from_secs(1);

/// One stream of one run of one agent, as long as its jobs may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderId(pub u64);

/// How a holder is known again when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Station {
    /// Which agent.
    pub agent: AgentId,
    /// Which run of its process.
    pub instance: String,
    /// Which of its streams.
    pub stream: u32,
}

/// A stream that has said Hello.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Who.
    pub station: Station,
    /// The pool it serves.
    pub pool: PoolName,
    /// How many jobs it can hold.
    pub max_in_flight: usize,
    /// The jobs it still has. Each was given to this agent: it has shown the tag.
    pub in_flight: Vec<JobKey>,
    /// Whether it gets no jobs until it is undrained.
    pub drained: bool,
}

pub(super) struct Holder {
    pub(super) station: Station,
    pub(super) pool: PoolName,
    pub(super) max_in_flight: usize,
    pub(super) jobs: HashMap<DeliveryId, Held>,
    /// Jobs that it has named, or was given, and that are not its to settle (yet): they take room all the same, until it
    /// reports them, once.
    pub(super) others: HashSet<JobKey>,
    connected: bool,
    /// The agent is stopping.
    draining: bool,
    /// Somebody wants it to get no jobs.
    drained: bool,
    lost_at: Option<Timestamp>,
}

/// A job that a holder has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) key: JobKey,
    pub(super) started: Timestamp,
    /// From when on its agent could report: since it began, or since the agent is back.
    awaited: Timestamp,
    timeout: Duration,
}

impl Holder {
    pub(super) fn give(&mut self, key: JobKey, now: Timestamp, timeout: Duration) {
        self.others.remove(&key);
        self.jobs.insert(key.delivery, Held { key, started: now, awaited: now, timeout });
    }

    /// Whether it takes jobs, when it has credit.
    pub(super) fn serves(&self) -> bool {
        self.connected && !self.draining && !self.drained
    }

    /// Whether it takes no jobs and has some.
    pub(super) fn is_stranded(&self) -> bool {
        !self.serves() && !self.jobs.is_empty()
    }

    pub(super) fn has_credit(&self) -> bool {
        self.serves() && self.load().jobs < self.max_in_flight
    }

    /// How full it is.
    pub(super) fn load(&self) -> affinity::Load {
        affinity::Load { jobs: self.jobs.len() + self.others.len(), most: self.max_in_flight }
    }

    fn keys(&self) -> impl Iterator<Item = JobKey> + '_ {
        self.jobs.values().map(|held| held.key)
    }

    fn expiry(&self, held: &Held) -> Option<Timestamp> {
        self.lost_at.map(|lost| lost + held.timeout + LOST_MARGIN)
    }
}

/// What a holder that was replaced by another process may still report.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) station: Station,
    pub(super) jobs: HashSet<JobKey>,
}

/// After a restart: until when, and for whom, deliveries accepted before it wait.
pub(super) struct Resume {
    until: Timestamp,
    /// By agent.
    expected: HashMap<AgentId, Missing>,
}

/// The streams of an agent that are not back yet.
struct Missing {
    /// How many were open before.
    streams: usize,
    /// The numbers of those that are back.
    back: HashSet<u32>,
}

impl Scheduler {
    /// Lets deliveries accepted before now wait until these agents are back with as many streams, so that what
    /// they still hold is recognised, or until `until`. Called before lanes are restored.
    pub fn await_agents(&mut self, expected: HashMap<AgentId, u32>, until: Timestamp) {
        let missing = |streams: u32| Missing { streams: streams as usize, back: HashSet::new() };
        let expected: HashMap<_, _> =
            expected.into_iter().map(|(agent, streams)| (agent, missing(streams))).collect();
        if !expected.is_empty() {
            self.resume = Some(Resume { until, expected });
        }
    }

    /// The store was restored from a backup after this epoch: what was handed out until then says nothing of the deliveries of now,
    /// which may have the same numbers and be of other events. Called before agents come.
    pub fn fence(&mut self, epoch: u64) {
        self.fence = epoch;
    }

    /// Whether a job was handed out before the store was restored.
    pub(super) fn is_of_another_life(&self, key: JobKey) -> bool {
        key.epoch <= self.fence
    }

    /// A stream said Hello.
    pub fn connected(&mut self, hello: Connected, now: Timestamp) -> HolderId {
        self.replace_other_processes(&hello.station, now);
        let id = match self.stations.get(&hello.station).copied() {
            Some(id) => self.reattach(id, &hello, now),
            None => self.attach(&hello, now),
        };
        let mut forget = Vec::new();
        for key in hello.in_flight {
            if self.has(id, key) {
                continue;
            }
            // It is under way, whatever becomes of it, and takes its room until it is reported.
            if let Some(holder) = self.holders.get_mut(&id) {
                holder.others.insert(key);
            }
            // It may have another attempt of the same delivery, and that is the one that counts.
            let other_attempt = self.places.holder(key.delivery) == Some(id);
            let counts_for_nothing = self.is_of_another_life(key) || self.is_foreign(id, key);
            if counts_for_nothing || other_attempt || !self.recognise(id, key, now) {
                forget.push(key);
            }
        }
        if !forget.is_empty() {
            self.effects.push(Effect::Forget { holder: id, keys: forget });
        }
        self.count_back(&hello.station, now);
        self.look_at_pool(&hello.pool, now);
        id
    }

    /// Whether a holder has exactly this job.
    pub(super) fn has(&self, id: HolderId, key: JobKey) -> bool {
        let held = self.holders.get(&id).and_then(|holder| holder.jobs.get(&key.delivery));
        held.is_some_and(|held| held.key == key)
    }

    /// Whether a job is of a subscription that has left the holder's pool since: by the settings of now the pool is neither
    /// the subscription's, nor the one that may stand in for it. What its agents still say of it counts for nothing.
    pub(super) fn is_foreign(&self, id: HolderId, key: JobKey) -> bool {
        let holder = self.holders.get(&id);
        let slot = self.lanes.get(&key.delivery.subscription);
        holder.zip(slot).is_some_and(|(holder, slot)| !self.may_serve(&holder.pool, &slot.settings))
    }

    /// A stream ended. Its jobs may still be under way.
    pub fn disconnected(&mut self, id: HolderId, now: Timestamp) {
        self.replaced.remove(&id);
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.connected = false;
        holder.lost_at = Some(now);
        let pool = holder.pool.clone();
        self.drop_if_done(id);
        self.look_at_pool(&pool, now);
    }

    /// An agent wants no more jobs.
    pub fn agent_draining(&mut self, id: HolderId, now: Timestamp) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.draining = true;
        let pool = holder.pool.clone();
        self.look_at_pool(&pool, now);
    }

    /// Somebody wants an agent to get no more jobs, or to get some again.
    pub fn set_drained(&mut self, id: HolderId, drained: bool, now: Timestamp) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.drained = drained;
        let pool = holder.pool.clone();
        self.look_at_pool(&pool, now);
    }

    /// How many jobs a holder has.
    #[must_use]
    pub fn jobs_held(&self, id: HolderId) -> usize {
        self.holders.get(&id).map_or(0, |holder| holder.jobs.len())
    }

    fn attach(&mut self, hello: &Connected, now: Timestamp) -> HolderId {
        self.next_holder += 1;
        let id = HolderId(self.next_holder);
        let holder = Holder {
            station: hello.station.clone(),
            pool: hello.pool.clone(),
            max_in_flight: hello.max_in_flight,
            jobs: HashMap::new(),
            others: HashSet::new(),
            connected: true,
            draining: false,
            drained: hello.drained,
            lost_at: None,
        };
        self.holders.insert(id, holder);
        self.stations.insert(hello.station.clone(), id);
        self.pool_or_new(&hello.pool, now).holders.push(id);
        id
    }

    /// The same process is back: it keeps the jobs that it names; those it does not name never reached it. The
    /// holder gets a new id, so that what its old connection still says is known to be old.
    fn reattach(&mut self, old: HolderId, hello: &Connected, now: Timestamp) -> HolderId {
        self.effects.push(Effect::Replace { holder: old, by_another_process: false });
        let jobs =
            self.holders.get_mut(&old).map(|holder| std::mem::take(&mut holder.jobs)).unwrap_or_default();
        self.remove_holder(old);
        let id = self.attach(hello, now);
        let named: HashSet<JobKey> = hello.in_flight.iter().copied().collect();
        let mut free = Vec::new();
        for (delivery, held) in jobs {
            if named.contains(&held.key) {
                self.places.move_to(delivery, id);
                if let Some(holder) = self.holders.get_mut(&id) {
                    holder.jobs.insert(delivery, Held { awaited: now, ..held });
                }
            } else {
                free.push(delivery);
            }
        }
        for delivery in free {
            self.give_back(delivery, now);
        }
        id
    }

    /// Finds out whether a job that an agent names is still its: after a restart of ours, or when we had given
    /// it up. `false` when it is not.
    pub(super) fn recognise(&mut self, id: HolderId, key: JobKey, now: Timestamp) -> bool {
        let Some(why) = self.while_reading(key.delivery, Why::Recognise(id, key)) else { return true };
        let Some(slot) = self.lanes.get_mut(&key.delivery.subscription) else { return false };
        match slot.lane.claim(key.delivery.sequence) {
            Place::Taken(delivery) if delivery.next_attempt() == key.attempt => {
                self.assign(id, key, now);
                self.recount(key.delivery.subscription, now);
                true
            }
            Place::Taken(_) => {
                self.give_back(key.delivery, now);
                false
            }
            Place::InFlight | Place::Settling => false,
            Place::Elsewhere => {
                self.read(key.delivery, why);
                true
            }
        }
    }

    pub(super) fn assign(&mut self, id: HolderId, key: JobKey, now: Timestamp) {
        let slot = self.lanes.get(&key.delivery.subscription);
        let (timeout, account) =
            slot.map_or_else(Default::default, |slot| (slot.settings.timeout, slot.account));
        match self.holders.get_mut(&id) {
            Some(holder) => {
                holder.give(key, now, timeout);
                let pool = self.places.pool(&holder.pool);
                self.places.assign(key.delivery, id, Account { pool, ..account });
            }
            // It left while we were looking.
            None => self.give_back(key.delivery, now),
        }
    }

    /// A job was not started: its delivery is as it was before.
    pub(super) fn give_back(&mut self, delivery: DeliveryId, now: Timestamp) {
        self.places.unassign(delivery);
        if let Some(slot) = self.lanes.get_mut(&delivery.subscription) {
            slot.lane.give_back(delivery.sequence);
        }
        self.touch(delivery.subscription, now);
        self.sweep_deleted(delivery.subscription);
    }

    /// Another process uses the agent's id: the newer one wins. Streams of the older one end, and its jobs are free at
    /// once: it was killed, or may report nothing any more. How they ended, nobody will know.
    fn replace_other_processes(&mut self, station: &Station, now: Timestamp) {
        let is_other = |holder: &Holder| {
            holder.station.agent == station.agent && holder.station.instance != station.instance
        };
        let mut others: Vec<HolderId> =
            self.holders.iter().filter(|(_, holder)| is_other(holder)).map(|(id, _)| *id).collect();
        others.sort_unstable();
        for id in others {
            let mut jobs: Vec<JobKey> = self.holders.get(&id).into_iter().flat_map(Holder::keys).collect();
            if let Some(holder) = self.holders.get(&id).filter(|holder| holder.connected) {
                let owed = jobs.iter().chain(&holder.others).copied().collect();
                let replaced = Replaced { station: holder.station.clone(), jobs: owed };
                self.effects.push(Effect::Replace { holder: id, by_another_process: true });
                self.disconnected(id, now);
                self.replaced.insert(id, replaced);
            }
            jobs.sort_unstable_by_key(|key| key.delivery);
            for key in jobs {
                let detail = "the agent's process was replaced; the endpoint may have seen the request";
                self.lose(id, key, detail, now);
            }
        }
    }

    /// Jobs of lost agents whose time is up: whether the endpoint saw them, nobody knows.
    pub(super) fn expire_lost(&mut self, now: Timestamp) {
        let expired: Vec<(HolderId, Held)> = self
            .holders
            .iter()
            .filter(|(_, holder)| holder.lost_at.is_some())
            .flat_map(|(id, holder)| holder.jobs.values().map(move |held| (*id, holder.expiry(held), *held)))
            .filter(|(_, expiry, _)| expiry.is_some_and(|expiry| expiry <= now))
            .map(|(id, _, held)| (id, held))
            .collect();
        for (id, held) in expired {
            let detail = "the agent was lost; the endpoint may have seen the request";
            self.lose(id, held.key, detail, now);
        }
    }

    /// Gives a job up whose outcome nobody will know.
    fn lose(&mut self, id: HolderId, key: JobKey, detail: &str, now: Timestamp) {
        let outcome = Outcome { request_sent: true, ..Outcome::failure(Class::AgentLost, detail) };
        self.conclude(id, key, &outcome, None, 0.5, now);
    }

    /// Takes jobs back whose agent is connected and should have reported them long ago. It still owes their outcomes, and
    /// has no credit for other jobs in their place.
    pub(super) fn take_back_overdue(&mut self, now: Timestamp) {
        if self.places.is_writing() && now.since(self.wrote_at) > STALL {
            self.stalled(now);
        }
        if !self.places.has_jobs() || now < self.overdue_at {
            return;
        }
        let excused_until = self.stalled_at.map(|stalled| stalled + OVERDUE_MARGIN);
        let due = |held: &Held| {
            (held.awaited + held.timeout + OVERDUE_MARGIN).max(excused_until.unwrap_or_default())
        };
        let connected = self.holders.iter().filter(|(_, holder)| holder.lost_at.is_none());
        let jobs = connected.flat_map(|(id, holder)| holder.jobs.values().map(move |held| (*id, held)));
        let (mut overdue, mut next) = (Vec::new(), now + OVERDUE_MARGIN);
        for (id, held) in jobs {
            match due(held) {
                due if due <= now => overdue.push((id, held.key)),
                due => next = next.min(due),
            }
        }
        // Not for each job at its own moment: that would be a walk through all jobs for each.
        self.overdue_at = next.max(now + OVERDUE_INTERVAL);
        overdue.sort_unstable_by_key(|(_, key)| key.delivery);
        for (id, key) in overdue {
            if let Some(holder) = self.holders.get_mut(&id) {
                holder.others.insert(key);
            }
            let detail = "the agent did not report in time; the endpoint may have seen the request";
            self.lose(id, key, detail, now);
            self.effects.push(Effect::Withdraw { holder: id, key });
        }
    }

    /// Outcomes are late for a reason of ours: the store does not write, or the process was suspended.
    pub fn stalled(&mut self, now: Timestamp) {
        self.stalled_at = Some(now);
    }

    pub(super) fn first_lost(&self) -> Option<Timestamp> {
        let lost = self.holders.values().filter(|holder| holder.lost_at.is_some());
        lost.flat_map(|holder| holder.jobs.values().filter_map(|held| holder.expiry(held))).min()
    }

    /// A holder without connection and without jobs is done.
    pub(super) fn drop_if_done(&mut self, id: HolderId) {
        if self.holders.get(&id).is_some_and(|holder| !holder.connected && holder.jobs.is_empty()) {
            self.remove_holder(id);
        }
    }

    fn remove_holder(&mut self, id: HolderId) {
        let Some(holder) = self.holders.remove(&id) else { return };
        if self.stations.get(&holder.station) == Some(&id) {
            self.stations.remove(&holder.station);
        }
        if let Some(pool) = self.pools.get_mut(&holder.pool) {
            pool.holders.retain(|other| *other != id);
            let mut others = pool.holders.iter().filter_map(|id| self.holders.get(id));
            pool.stranded = others.any(Holder::is_stranded);
        }
    }

    fn count_back(&mut self, station: &Station, now: Timestamp) {
        let Some(resume) = &mut self.resume else { return };
        if let Some(missing) = resume.expected.get_mut(&station.agent) {
            missing.back.insert(station.stream);
            if missing.back.len() >= missing.streams {
                resume.expected.remove(&station.agent);
            }
        }
        self.end_resume(now);
    }

    pub(super) fn end_resume(&mut self, now: Timestamp) {
        if self.resume.as_ref().is_some_and(|resume| resume.expected.is_empty() || resume.until <= now) {
            self.resume = None;
            let lanes: Vec<_> = self.lanes.keys().copied().collect();
            for id in lanes {
                if let Some(slot) = self.lanes.get_mut(&id) {
                    slot.lane.resume_below(None);
                }
                self.touch(id, now);
            }
        }
    }

    pub(super) fn resume_until(&self) -> Option<Timestamp> {
        self.resume.as_ref().map(|resume| resume.until)
    }
}

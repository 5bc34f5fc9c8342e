//! The schedule: every lane, every pool of agents, and who holds which job. It decides; it does no I/O.
//!
//! Dramatis personae. A **lane** ([`postrider_domain::lane`]) is the queue of one subscription. A **holder** is one
//! stream of one run of one agent, with a credit of jobs; it outlives its connection for as long as its jobs may
//! still be under way. A **pool** has lanes that are ready and holders that have credit; ready lanes take turns,
//! one delivery a turn.
//!
//! Each method is one thing that happened, at a time that is given, and leaves [`Effect`]s to be carried out.
//! Only this decides about deliveries that have not ended, so nothing else may write their state.

mod admin;
mod agents;
mod destinations;
mod hand_out;
mod health;
mod levels;
mod places;
mod pools;
mod ready;
mod reports;
mod settings;
mod written;

use std::collections::BTreeSet;
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use postrider_domain::delivery::Delivery;
use postrider_domain::destination::{Destination, Destinations};
use postrider_domain::id::{DeliveryId, PoolName, SubscriptionId};
use postrider_domain::lane::health::{Health, Trouble, Turn, View};
use postrider_domain::lane::{Breaker, Lane, Limits, Load, LowWater};
use postrider_domain::time::Timestamp;
use postrider_proto::session::JobKey;

pub use self::admin::{Answer, Condition, Refusal, Ticket, Why};
pub use self::agents::{Connected, HolderId, Station};
use self::agents::{Holder, Replaced};
pub use self::health::Survey;
pub use self::levels::{Level, Levels};
use self::levels::{Share, Tally};
pub use self::places::Occupied;
use self::places::{Account, Places};
use self::pools::Pool;
pub use self::pools::{Fallback, PoolTerms, PoolView};
pub use self::reports::Reported;
pub use self::settings::LaneSettings;
use crate::store::{DueRows, FreshRows, LaneRow, Settle};

/// Deliveries of either kind that a lane keeps in memory.
const WINDOW: usize = 128;
/// Deliveries that a lane ordered by key looks through, if many of them stand behind keys that are stuck.
const LOOK_AHEAD: usize = 2_048;
/// Jobs at agents and outcomes that wait for the store, together. Beyond it nothing more is handed out.
pub const MAX_UNSETTLED: usize = 32_768;
/// How often what lanes have settled is written down.
const LOW_WATER_INTERVAL: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Give these jobs to the holder.
    Dispatch {
        /// To whom.
        holder: HolderId,
        /// In this order.
        jobs: Vec<Assignment>,
    },
    /// Read the store for a lane.
    Load {
        /// Which.
        lane: SubscriptionId,
        /// What.
        load: Load,
    },
    /// Read one delivery and come back with [`Scheduler::row`].
    Read {
        /// Which.
        id: DeliveryId,
        /// What for.
        why: Box<Why>,
    },
    /// Write a new state and come back with [`Scheduler::stored`].
    Settle {
        /// The state.
        settle: Box<Settle>,
        /// The holder's outcome that may be acknowledged then.
        acknowledge: Option<Reported>,
        /// Who waits for it.
        answer: Option<Ticket>,
    },
    /// Acknowledge an outcome that changes nothing.
    Acknowledge(Reported),
    /// Tell a holder that a job's outcome is not needed any more.
    Withdraw {
        /// Who has it.
        holder: HolderId,
        /// Which.
        key: JobKey,
    },
    /// Tell a holder which of its jobs to forget.
    Forget {
        /// Who has them.
        holder: HolderId,
        /// Which.
        keys: Vec<JobKey>,
    },
    /// End a holder's connection: another one takes its place.
    Replace {
        /// Whose.
        holder: HolderId,
        /// Whether another process took it, which is an error of the agent's owner.
        by_another_process: bool,
    },
    /// A holder reports of a job that it neither was given nor has named in its Hello: end its connection, and put it on
    /// record.
    ForeignReport {
        /// Who.
        holder: HolderId,
        /// The job.
        key: JobKey,
    },
    /// The endpoint says it is gone: disable the subscription.
    Disable(SubscriptionId),
    /// The endpoint of a subscription that is disabled for its failures answers again: enable it.
    Enable(SubscriptionId),
    /// There is something of a subscription's endpoint that people want to know.
    Turned {
        /// Whose.
        id: SubscriptionId,
        /// What.
        turn: Turn,
        /// How it does.
        view: Box<View>,
        /// Whether the subscription was disabled until now.
        was_disabled: bool,
    },
    /// Write what is to be remembered of an endpoint's trouble; nothing when it is over.
    Trouble(SubscriptionId, Option<Trouble>),
    /// A subscription's breaker has turned: its endpoint fails, answers again, or is well.
    Breaker(SubscriptionId, Breaker),
    /// A pool's fallback has taken over, or does no longer.
    Fallback {
        /// Whose.
        pool: PoolName,
        /// Who, while it does.
        taken_over_by: Option<PoolName>,
    },
    /// Write how far a lane is settled.
    LowWater(SubscriptionId, LowWater),
    /// Answer who asked.
    Answer(Ticket, Answer),
}

/// A delivery handed to a holder.
#[derive(Clone, Copy, Debug)]
pub struct Assignment {
    /// The job's identity.
    pub key: JobKey,
    /// What is owed.
    pub delivery: Delivery,
}

/// Every lane, every pool, and who holds which job.
pub struct Scheduler {
    epoch: u64,
    /// Jobs of epochs up to this one are of another life of the store.
    fence: u64,
    lanes: HashMap<SubscriptionId, Slot>,
    pools: HashMap<PoolName, Pool>,
    holders: HashMap<HolderId, Holder>,
    stations: HashMap<Station, HolderId>,
    next_holder: u64,
    /// Holders whose connection was open when another process took the agent's place, until it is seen to end: the jobs
    /// that they may still report.
    replaced: HashMap<HolderId, Replaced>,
    /// Who has which job, and the share of each pool and tenant.
    places: Places,
    /// When it is looked for jobs that are overdue.
    overdue_at: Timestamp,
    /// When the store last wrote outcomes, or had none to write.
    wrote_at: Timestamp,
    /// When outcomes last were late for a reason of ours: agents are not to blame for those.
    stalled_at: Option<Timestamp>,
    timers: BTreeSet<(Timestamp, SubscriptionId)>,
    /// How often each destination is called, unless there is no limit.
    destinations: Option<Destinations<SubscriptionId>>,
    /// Deliveries whose rows are being read, and what else was asked about them meanwhile.
    reading: HashMap<DeliveryId, Vec<Why>>,
    /// Outcomes that were reported again while the first report was being written.
    repeated: HashMap<DeliveryId, Vec<Reported>>,
    /// Lanes whose low water may have changed since it was written.
    settled: HashSet<SubscriptionId>,
    low_water_due: Timestamp,
    /// When the next pool falls back, if no agent comes.
    falls_at: Option<Timestamp>,
    resume: Option<agents::Resume>,
    draining: bool,
    /// What waits, all over.
    tally: Tally,
    effects: Vec<Effect>,
}

struct Slot {
    settings: LaneSettings,
    /// Whether the pool does not allow the tenant: nothing is handed out.
    barred: bool,
    /// Of its tenant in its own pool.
    account: Account,
    lane: Lane,
    health: Health,
    /// What is written of its trouble.
    trouble: Option<Trouble>,
    /// The pool in whose queue the lane stands.
    queue: Option<PoolName>,
    /// The destination for which it waits meanwhile, which is at its limit.
    waits_for: Option<Destination>,
    /// Who had its last job, and may have a connection to its endpoint open.
    last_holder: Option<HolderId>,
    timer: Option<Timestamp>,
    low_water: LowWater,
    deleted: bool,
    /// What it counts for in its pool's sums.
    share: Share,
}

impl Scheduler {
    /// A schedule without lanes.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            fence: 0,
            lanes: HashMap::new(),
            pools: HashMap::new(),
            holders: HashMap::new(),
            stations: HashMap::new(),
            next_holder: 0,
            replaced: HashMap::new(),
            places: Places::default(),
            overdue_at: Timestamp::default(),
            wrote_at: Timestamp::default(),
            stalled_at: None,
            timers: BTreeSet::new(),
            destinations: None,
            reading: HashMap::new(),
            repeated: HashMap::new(),
            settled: HashSet::new(),
            low_water_due: Timestamp::default(),
            falls_at: None,
            resume: None,
            draining: false,
            tally: Tally::default(),
            effects: Vec::new(),
        }
    }

    /// Restores a lane as the store has it.
    pub fn restore(&mut self, settings: LaneSettings, row: LaneRow, now: Timestamp) {
        let first = row.low_water.first_for(settings.order);
        let lane = if row.waiting { Lane::new } else { Lane::without_waiting };
        let mut lane = lane(limits(&settings), first, row.end).ordered(settings.order);
        if self.resume.is_some() {
            lane.resume_below(Some(row.end));
        }
        let id = settings.id;
        self.insert(settings, lane, row.low_water, now);
        if let Some(slot) = self.lanes.get_mut(&id) {
            slot.lane.spend_burst(now);
            slot.health = Health::restored(row.trouble, slot.settings.probed_every.is_some());
            slot.trouble = row.trouble;
        }
        self.touch(id, now);
    }

    /// A subscription was created or changed.
    pub fn changed(&mut self, settings: LaneSettings, now: Timestamp) {
        let id = settings.id;
        let Some(slot) = self.lanes.get_mut(&id) else {
            let lane = Lane::empty(limits(&settings)).ordered(settings.order);
            self.insert(settings, lane, LowWater::default(), now);
            return;
        };
        slot.lane.set_max_in_flight(settings.max_in_flight);
        slot.lane.set_rate(settings.rate_limit, now);
        slot.lane.set_order(settings.order);
        slot.follow_state(&settings, pools::bars(&self.pools, &settings), now);
        self.tally.leave(&slot.settings.pool, id, slot.account.tenant, std::mem::take(&mut slot.share));
        slot.account = self.places.account(&settings.pool, &settings.tenant);
        self.tally.enter(&settings.pool, slot.account.tenant);
        slot.settings = settings;
        self.settled.insert(id);
        self.leave_queue(id);
        self.touch(id, now);
    }

    /// A subscription was deleted. What is under way finishes.
    pub fn deleted(&mut self, id: SubscriptionId) {
        if let Some(slot) = self.lanes.get_mut(&id) {
            slot.deleted = true;
            slot.lane.hold(true);
            self.tally.change(&slot.settings.pool, id, std::mem::take(&mut slot.share), Share::default());
        }
        self.sweep_deleted(id);
    }

    /// Deliveries were accepted.
    pub fn accepted(&mut self, deliveries: &[(SubscriptionId, Delivery)], now: Timestamp) {
        for (id, delivery) in deliveries {
            if let Some(slot) = self.lanes.get_mut(id) {
                slot.lane.accepted(*delivery);
                self.touch(*id, now);
            }
        }
    }

    /// A lane's load of pending deliveries is done; `None` when the store could not be read.
    pub fn loaded_fresh(&mut self, id: SubscriptionId, rows: Option<FreshRows>, now: Timestamp) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        match rows {
            Some(FreshRows { rows, next }) => slot.lane.loaded_fresh(rows, next),
            None => slot.lane.load_failed(),
        }
        self.touch(id, now);
    }

    /// A lane's load of waiting deliveries is done; `None` when the store could not be read.
    pub fn loaded_due(&mut self, id: SubscriptionId, rows: Option<DueRows>, now: Timestamp) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        match rows {
            Some(DueRows { rows, complete }) => slot.lane.loaded_due(rows, complete),
            None => slot.lane.load_failed(),
        }
        self.touch(id, now);
    }

    /// New states were written.
    pub fn stored(&mut self, ids: &[DeliveryId], now: Timestamp) {
        self.wrote_at = now;
        for id in ids {
            self.places.end_write(*id);
            let repeated = self.repeated.remove(id).unwrap_or_default();
            self.effects.extend(repeated.into_iter().map(Effect::Acknowledge));
            if let Some(slot) = self.lanes.get_mut(&id.subscription) {
                slot.lane.stored(id.sequence);
                self.settled.insert(id.subscription);
                self.touch(id.subscription, now);
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Timestamp) {
        while let Some((due, id)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, id));
            if let Some(slot) = self.lanes.get_mut(&id) {
                slot.timer = None;
            }
            self.touch(id, now);
        }
        self.expire_lost(now);
        self.take_back_overdue(now);
        self.end_resume(now);
        self.fall_back(now);
        if self.low_water_due <= now {
            self.low_water_due = now + LOW_WATER_INTERVAL;
            self.write_low_waters();
            self.forget_destinations(now);
        }
    }

    /// When [`Scheduler::tick`] must be called next, at the latest.
    #[must_use]
    pub fn next_tick(&self, now: Timestamp) -> Timestamp {
        let timer = self.timers.first().map(|(due, _)| *due);
        let overdue = self.places.has_jobs().then_some(self.overdue_at);
        let others =
            [self.first_lost(), overdue, self.resume_until(), self.falls_at, self.destination_opens(now)];
        let low_water = (!self.settled.is_empty()).then_some(self.low_water_due);
        timer
            .into_iter()
            .chain(others.into_iter().flatten())
            .chain(low_water)
            .min()
            .unwrap_or(now + LOW_WATER_INTERVAL)
    }

    /// Hands nothing out any more.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether no job is under way and nothing waits for the store.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.places.has_jobs() && !self.places.is_writing()
    }

    /// Hands out what may be handed out, and gives the effects of all that has happened.
    pub fn effects(&mut self, now: Timestamp) -> Vec<Effect> {
        if !self.draining {
            self.hand_out(now);
        }
        std::mem::take(&mut self.effects)
    }

    fn insert(&mut self, settings: LaneSettings, mut lane: Lane, low_water: LowWater, now: Timestamp) {
        let id = settings.id;
        lane.set_rate(settings.rate_limit, now);
        let barred = pools::bars(&self.pools, &settings);
        lane.hold(settings.held || barred);
        let every = settings.probed_every;
        let account = self.places.account(&settings.pool, &settings.tenant);
        let mut slot = Slot {
            settings,
            barred,
            account,
            lane,
            health: Health::default(),
            trouble: None,
            queue: None,
            waits_for: None,
            last_holder: None,
            timer: None,
            low_water,
            deleted: false,
            share: Share::default(),
        };
        slot.doze(every, now);
        self.tally.enter(&slot.settings.pool, account.tenant);
        self.lanes.insert(id, slot);
        self.touch(id, now);
    }

    /// Something about a lane has changed: queue it, load for it, and set its timer, as it needs.
    fn touch(&mut self, id: SubscriptionId, now: Timestamp) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        if let Some(load) = slot.lane.wants(now) {
            self.effects.push(Effect::Load { lane: id, load });
        }
        if slot.queue.is_none() && slot.lane.is_ready(now) {
            let pool = pools::serving(&self.pools, &slot.settings).clone();
            slot.queue = Some(pool.clone());
            let ready = &mut self.pools.entry(pool.clone()).or_insert_with(|| Pool::new(&pool, now)).ready;
            ready.push(slot.account.tenant, id);
        }
        let timer = slot.lane.wakes(now);
        if slot.timer != timer {
            if let Some(old) = slot.timer {
                self.timers.remove(&(old, id));
            }
            if let Some(new) = timer {
                self.timers.insert((new, id));
            }
            slot.timer = timer;
        }
        self.recount(id, now);
    }

    fn settle(
        &mut self,
        settle: Settle,
        acknowledge: Option<Reported>,
        answer: Option<Ticket>,
        now: Timestamp,
    ) {
        let id = settle.id;
        if !self.places.is_writing() {
            self.wrote_at = now;
        }
        let mut account = Account::default();
        if let Some(slot) = self.lanes.get_mut(&id.subscription) {
            slot.lane.settle(settle.delivery);
            account = slot.account;
        }
        self.places.begin_write(id, account);
        self.effects.push(Effect::Settle { settle: Box::new(settle), acknowledge, answer });
        self.touch(id.subscription, now);
        self.sweep_deleted(id.subscription);
    }

    fn sweep_deleted(&mut self, id: SubscriptionId) {
        let done = self.lanes.get(&id).is_some_and(|slot| slot.deleted && slot.lane.in_flight_count() == 0);
        let Some(slot) = done.then(|| self.lanes.remove(&id)).flatten() else { return };
        self.tally.leave(&slot.settings.pool, id, slot.account.tenant, slot.share);
        if let Some(timer) = slot.timer {
            self.timers.remove(&(timer, id));
        }
    }
}

fn limits(settings: &LaneSettings) -> Limits {
    Limits { window: WINDOW, look_ahead: LOOK_AHEAD, max_in_flight: settings.max_in_flight }
}

#[cfg(test)]
mod tests;

//! Pools: which tenants they allow, whose turn it is to deliver, who stands in when a pool has no agent, and how pools are
//! now.
//!
//! A lane stands in the queue of one pool: its subscription's, or that pool's fallback, when the subscription allows it and
//! the pool has had no agent that takes jobs for long enough. It goes back with the first agent that comes; what the
//! fallback's agents have by then, they finish. A pool delivers for the tenants that it allows, as a fallback too: lanes of
//! others are barred, and wait.

use std::time::Duration;

use ahash::{HashMap, HashSet};
use postrider_domain::affinity;
use postrider_domain::id::{PoolName, SubscriptionId, TenantId};
use postrider_domain::pool::Tenants;
use postrider_domain::time::Timestamp;

use super::agents::{Holder, HolderId};
use super::ready::Ready;
use super::{Effect, LaneSettings, Scheduler};

/// Who stands in for a pool, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The other pool.
    pub pool: PoolName,
    /// How long the pool must have had no agent.
    pub after: Duration,
}

/// The settings of a pool that the schedule needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTerms {
    /// The tenants whose lanes it serves.
    pub tenants: Tenants,
    /// Who stands in for it.
    pub fallback: Option<Fallback>,
}

impl PoolTerms {
    /// The terms of a pool without settings.
    #[must_use]
    pub fn of_uncreated(name: &PoolName) -> Self {
        Self { tenants: Tenants::of_uncreated(name), fallback: None }
    }
}

/// How a pool is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// Jobs that its agents hold.
    pub in_flight: usize,
    /// Jobs that the agents that take some can hold.
    pub max_in_flight: usize,
    /// Since when no agent takes jobs.
    pub no_agent_since: Option<Timestamp>,
    /// Lanes that have deliveries for it, and nobody who takes them.
    pub held_lanes: usize,
    /// Who stands in for it.
    pub taken_over_by: Option<PoolName>,
}

/// Agents with the same reach, and the lanes that wait for them.
pub(super) struct Pool {
    /// Lanes that are ready, as they come, so that each gets its turn.
    pub(super) ready: Ready,
    pub(super) holders: Vec<HolderId>,
    /// How many jobs the holders that serve can have together.
    pub(super) credit: usize,
    /// Whether holders that do not serve have jobs: then who holds how much of the credit is not known.
    pub(super) stranded: bool,
    turn: usize,
    terms: PoolTerms,
    /// Since when no agent takes jobs.
    unserved_since: Option<Timestamp>,
    /// Whether the fallback has taken over.
    fallen: bool,
}

impl Pool {
    /// A pool without agents and without settings.
    pub(super) fn new(name: &PoolName, now: Timestamp) -> Self {
        Self {
            ready: Ready::default(),
            holders: Vec::new(),
            credit: 0,
            stranded: false,
            turn: 0,
            terms: PoolTerms::of_uncreated(name),
            unserved_since: Some(now),
            fallen: false,
        }
    }

    /// Whether some holder can take a job.
    pub(super) fn has_credit(&self, holders: &HashMap<HolderId, Holder>) -> bool {
        self.holders.iter().any(|id| holders.get(id).is_some_and(Holder::has_credit))
    }

    /// A holder that can take a job, each in its turn.
    pub(super) fn next_with_credit(&mut self, holders: &HashMap<HolderId, Holder>) -> Option<HolderId> {
        for _ in 0..self.holders.len() {
            self.turn = (self.turn + 1) % self.holders.len();
            let id = self.holders[self.turn];
            if holders.get(&id).is_some_and(Holder::has_credit) {
                return Some(id);
            }
        }
        None
    }

    /// When its fallback takes over, unless an agent comes before.
    fn falls_at(&self) -> Option<Timestamp> {
        let fallback = self.terms.fallback.as_ref().filter(|_| !self.fallen)?;
        self.unserved_since.map(|since| since + fallback.after)
    }

    fn stands_in(&self) -> Option<&PoolName> {
        self.terms.fallback.as_ref().filter(|_| self.fallen).map(|fallback| &fallback.pool)
    }
}

/// Whether a pool allows a tenant.
fn allows(pools: &HashMap<PoolName, Pool>, name: &PoolName, tenant: &TenantId) -> bool {
    match pools.get(name) {
        Some(pool) => pool.terms.tenants.allow(tenant),
        None => Tenants::of_uncreated(name).allow(tenant),
    }
}

/// Whether a lane's pool does not allow its tenant.
pub(super) fn bars(pools: &HashMap<PoolName, Pool>, settings: &LaneSettings) -> bool {
    !allows(pools, &settings.pool, &settings.tenant)
}

/// The pool whose agents deliver now by these settings.
pub(super) fn serving<'a>(pools: &'a HashMap<PoolName, Pool>, settings: &'a LaneSettings) -> &'a PoolName {
    let stands_in = pools.get(&settings.pool).and_then(Pool::stands_in);
    let may = |pool: &&PoolName| settings.allow_fallback && allows(pools, pool, &settings.tenant);
    stands_in.filter(may).unwrap_or(&settings.pool)
}

/// Who gets a lane's next job: the holder that had its last one, if that is still of the pool and hardly fuller than the one
/// whose turn it is.
pub(super) fn with_affinity(
    last: Option<HolderId>,
    turn: HolderId,
    pool: &PoolName,
    holders: &HashMap<HolderId, Holder>,
) -> HolderId {
    let (Some(id), Some(other)) = (last, holders.get(&turn)) else { return turn };
    let usable = holders.get(&id).filter(|holder| holder.pool == *pool && holder.has_credit());
    if usable.is_some_and(|holder| affinity::stays(holder.load(), other.load())) { id } else { turn }
}

impl Scheduler {
    /// A pool was created, changed or deleted; as after a start.
    pub fn pool_changed(&mut self, name: &PoolName, terms: PoolTerms, now: Timestamp) {
        let pool = self.pool_or_new(name, now);
        let other_tenants = pool.terms.tenants != terms.tenants;
        let other_fallback = pool.terms.fallback != terms.fallback;
        pool.terms = terms;
        if other_fallback && std::mem::take(&mut pool.fallen) {
            // Judged anew: it may be another one, at once.
            self.effects.push(Effect::Fallback { pool: name.clone(), taken_over_by: None });
            self.requeue(name, now);
        }
        if other_tenants {
            self.judge_lanes(name, now);
        }
        self.look_at_pool(name, now);
        self.fall_back(now);
    }

    /// How every pool is now that has agents or lanes, or had.
    #[must_use]
    pub fn pools(&self, now: Timestamp) -> HashMap<PoolName, PoolView> {
        let waits = |id: &&SubscriptionId| self.lanes.get(*id).is_some_and(|slot| slot.lane.is_ready(now));
        let view = |pool: &Pool| {
            let holders = || pool.holders.iter().filter_map(|id| self.holders.get(id));
            PoolView {
                in_flight: holders().map(|holder| holder.jobs.len()).sum(),
                max_in_flight: holders()
                    .filter(|holder| holder.serves())
                    .map(|holder| holder.max_in_flight)
                    .sum(),
                no_agent_since: pool.unserved_since,
                held_lanes: match pool.unserved_since {
                    Some(_) => pool.ready.iter().filter(waits).count(),
                    None => 0,
                },
                taken_over_by: pool.stands_in().cloned(),
            }
        };
        self.pools.iter().map(|(name, pool)| (name.clone(), view(pool))).collect()
    }

    /// Whether an agent takes jobs of a subscription with these settings.
    #[must_use]
    pub fn is_served(&self, settings: &LaneSettings) -> bool {
        let pool = self.pools.get(serving(&self.pools, settings));
        pool.is_some_and(|pool| pool.unserved_since.is_none())
    }

    /// Which of these subscriptions have no agent that takes jobs. Those that are barred are not among them: how a pool is
    /// that a tenant may not use is not the tenant's to know.
    #[must_use]
    pub fn unserved(&self, lanes: &[SubscriptionId]) -> HashSet<SubscriptionId> {
        let unserved = |id: &&SubscriptionId| {
            self.lanes.get(*id).is_some_and(|slot| !slot.barred && !self.is_served(&slot.settings))
        };
        lanes.iter().filter(unserved).copied().collect()
    }

    /// Whether agents of a pool may have jobs of a subscription with these settings. What its own pool's agents got before
    /// the pool barred it, they may finish.
    pub(super) fn may_serve(&self, pool: &PoolName, settings: &LaneSettings) -> bool {
        if settings.pool == *pool {
            return true;
        }
        let fallback = self.pools.get(&settings.pool).and_then(|own| own.terms.fallback.as_ref());
        settings.allow_fallback
            && fallback.is_some_and(|fallback| fallback.pool == *pool)
            && allows(&self.pools, pool, &settings.tenant)
    }

    pub(super) fn pool_or_new(&mut self, name: &PoolName, now: Timestamp) -> &mut Pool {
        self.pools.entry(name.clone()).or_insert_with(|| Pool::new(name, now))
    }

    /// Agents of a pool have come, gone, or changed whether they take jobs.
    pub(super) fn look_at_pool(&mut self, name: &PoolName, now: Timestamp) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        let holders = || pool.holders.iter().filter_map(|id| self.holders.get(id));
        let served = holders().any(Holder::serves);
        let credit = holders().filter(|holder| holder.serves()).map(|holder| holder.max_in_flight).sum();
        let stranded = holders().any(Holder::is_stranded);
        pool.credit = credit;
        pool.stranded = stranded;
        if served {
            pool.unserved_since = None;
            if std::mem::take(&mut pool.fallen) {
                self.effects.push(Effect::Fallback { pool: name.clone(), taken_over_by: None });
                self.requeue(name, now);
            }
        } else if pool.unserved_since.is_none() {
            pool.unserved_since = Some(now);
            self.wait_for_agents(name);
        }
        self.falls_at = self.pools.values().filter_map(Pool::falls_at).min();
    }

    /// Fallbacks take over whose time has come.
    pub(super) fn fall_back(&mut self, now: Timestamp) {
        if self.falls_at.is_none_or(|falls_at| falls_at > now) {
            return;
        }
        let due = |pool: &Pool| pool.falls_at().is_some_and(|falls_at| falls_at <= now);
        let falling: Vec<PoolName> =
            self.pools.iter().filter(|(_, pool)| due(pool)).map(|(name, _)| name.clone()).collect();
        for name in falling {
            if let Some(pool) = self.pools.get_mut(&name) {
                pool.fallen = true;
                let taken_over_by = pool.stands_in().cloned();
                self.effects.push(Effect::Fallback { pool: name.clone(), taken_over_by });
                self.requeue(&name, now);
            }
        }
        self.falls_at = self.pools.values().filter_map(Pool::falls_at).min();
    }

    /// A lane stands in no queue any more.
    pub(super) fn leave_queue(&mut self, id: SubscriptionId) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        let queue = slot.queue.take();
        if let Some(destination) = slot.waits_for.take() {
            self.leave_destination(&destination, id);
            return;
        }
        if let Some(pool) = queue.and_then(|name| self.pools.get_mut(&name)) {
            pool.ready.remove(id);
        }
    }

    /// A pool allows other tenants than before: bars and frees its lanes, and has those that fall back on it queue where they
    /// belong now.
    fn judge_lanes(&mut self, name: &PoolName, now: Timestamp) {
        let judge = |(id, slot): (&SubscriptionId, &super::Slot)| {
            let barred = bars(&self.pools, &slot.settings);
            (slot.settings.pool == *name && slot.barred != barred).then_some((*id, barred))
        };
        let judged: HashMap<SubscriptionId, bool> = self.lanes.iter().filter_map(judge).collect();
        for pool in self.pools.values_mut() {
            pool.ready.retain(|id| !judged.contains_key(&id));
        }
        self.leave_destinations(|_, id, _| judged.contains_key(&id));
        for (id, barred) in judged {
            if let Some(slot) = self.lanes.get_mut(&id) {
                slot.queue = None;
                slot.bar(barred, now);
                self.settled.insert(id);
            }
            self.touch(id, now);
        }
        let falls_on = |pool: &Pool| pool.stands_in() == Some(name);
        let fallen = self.pools.iter().filter(|(_, pool)| falls_on(pool));
        let fallen: Vec<PoolName> = fallen.map(|(fallen, _)| fallen.clone()).collect();
        for fallen in fallen {
            self.requeue(&fallen, now);
        }
    }

    /// Puts a pool's lanes that may be served by another into the queue where they belong now, in the order in which they
    /// stood.
    fn requeue(&mut self, name: &PoolName, now: Timestamp) {
        let moves = |id: &SubscriptionId, lanes: &HashMap<SubscriptionId, super::Slot>| {
            lanes.get(id).is_some_and(|slot| slot.settings.pool == *name && slot.settings.allow_fallback)
        };
        let mut moved = self.leave_destinations(|_, id, lanes| moves(&id, lanes));
        for pool in self.pools.values_mut() {
            moved.extend(pool.ready.extract(|id| moves(&id, &self.lanes)));
        }
        for id in moved {
            if let Some(slot) = self.lanes.get_mut(&id) {
                slot.queue = None;
            }
            self.touch(id, now);
        }
    }
}

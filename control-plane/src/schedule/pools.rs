//! Pools: whose turn it is to deliver, who stands in when a pool has no agent, and how pools are now.
//!
//! A lane stands in the queue of one pool: its subscription's, or that pool's fallback, when the subscription allows it and
//! the pool has had no agent that takes jobs for long enough. It goes back with the first agent that comes; what the
//! fallback's agents have by then, they finish.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use postrider_domain::id::{PoolName, SubscriptionId};
use postrider_domain::time::Timestamp;
use postrider_domain::warm;

use super::agents::{Holder, HolderId};
use super::{Effect, LaneSettings, Scheduler};

/// Who stands in for a pool, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The other pool.
    pub pool: PoolName,
    /// How long the pool must have had no agent.
    pub after: Duration,
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
    /// Lanes that are ready, as they come: a queue, so that each gets its turn.
    pub(super) ready: VecDeque<SubscriptionId>,
    pub(super) holders: Vec<HolderId>,
    turn: usize,
    fallback: Option<Fallback>,
    /// Since when no agent takes jobs.
    unserved_since: Option<Timestamp>,
    /// Whether the fallback has taken over.
    fallen: bool,
}

impl Pool {
    /// A pool without agents.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            ready: VecDeque::new(),
            holders: Vec::new(),
            turn: 0,
            fallback: None,
            unserved_since: Some(now),
            fallen: false,
        }
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
        let fallback = self.fallback.as_ref().filter(|_| !self.fallen)?;
        self.unserved_since.map(|since| since + fallback.after)
    }

    fn stands_in(&self) -> Option<&PoolName> {
        self.fallback.as_ref().filter(|_| self.fallen).map(|fallback| &fallback.pool)
    }
}

/// The pool whose agents deliver now by these settings.
pub(super) fn serving<'a>(pools: &'a HashMap<PoolName, Pool>, settings: &'a LaneSettings) -> &'a PoolName {
    let stands_in = pools.get(&settings.pool).and_then(Pool::stands_in);
    stands_in.filter(|_| settings.allow_fallback).unwrap_or(&settings.pool)
}

/// Who gets a lane's next job: the holder that had its last one, if that is still of the pool and hardly fuller than the one
/// whose turn it is.
pub(super) fn warm_or(
    warm: Option<HolderId>,
    turn: HolderId,
    pool: &PoolName,
    holders: &HashMap<HolderId, Holder>,
) -> HolderId {
    let (Some(id), Some(other)) = (warm, holders.get(&turn)) else { return turn };
    let usable = holders.get(&id).filter(|holder| holder.pool == *pool && holder.has_credit());
    if usable.is_some_and(|holder| warm::stays(holder.load(), other.load())) { id } else { turn }
}

impl Scheduler {
    /// A pool was created, changed or deleted; as after a start.
    pub fn pool_changed(&mut self, name: &PoolName, fallback: Option<Fallback>, now: Timestamp) {
        let pool = self.pool_or_new(name, now);
        pool.fallback = fallback;
        let fallen = std::mem::take(&mut pool.fallen);
        if fallen {
            // Judged anew: it may be another one, at once.
            self.effects.push(Effect::Fallback { pool: name.clone(), taken_over_by: None });
            self.requeue(name, now);
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

    /// Which of these subscriptions have no agent that takes jobs.
    #[must_use]
    pub fn unserved(&self, lanes: &[SubscriptionId]) -> HashSet<SubscriptionId> {
        let unserved =
            |id: &&SubscriptionId| self.lanes.get(*id).is_some_and(|slot| !self.is_served(&slot.settings));
        lanes.iter().filter(unserved).copied().collect()
    }

    /// Whether agents of a pool may have jobs of a subscription with these settings.
    pub(super) fn may_serve(&self, pool: &PoolName, settings: &LaneSettings) -> bool {
        if settings.pool == *pool {
            return true;
        }
        let fallback = self.pools.get(&settings.pool).and_then(|own| own.fallback.as_ref());
        settings.allow_fallback && fallback.is_some_and(|fallback| fallback.pool == *pool)
    }

    pub(super) fn pool_or_new(&mut self, name: &PoolName, now: Timestamp) -> &mut Pool {
        self.pools.entry(name.clone()).or_insert_with(|| Pool::new(now))
    }

    /// Agents of a pool have come, gone, or changed whether they take jobs.
    pub(super) fn look_at_pool(&mut self, name: &PoolName, now: Timestamp) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        let served = pool.holders.iter().any(|id| self.holders.get(id).is_some_and(Holder::serves));
        if served {
            pool.unserved_since = None;
            if std::mem::take(&mut pool.fallen) {
                self.effects.push(Effect::Fallback { pool: name.clone(), taken_over_by: None });
                self.requeue(name, now);
            }
        } else {
            pool.unserved_since.get_or_insert(now);
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
        let queue = self.lanes.get_mut(&id).and_then(|slot| slot.queue.take());
        if let Some(pool) = queue.and_then(|name| self.pools.get_mut(&name)) {
            pool.ready.retain(|other| *other != id);
        }
    }

    /// Puts a pool's lanes that may be served by another into the queue where they belong now, in the order in which they
    /// stood.
    fn requeue(&mut self, name: &PoolName, now: Timestamp) {
        let moves = |id: &SubscriptionId, lanes: &HashMap<SubscriptionId, super::Slot>| {
            lanes.get(id).is_some_and(|slot| slot.settings.pool == *name && slot.settings.allow_fallback)
        };
        let mut moved = Vec::new();
        for pool in self.pools.values_mut() {
            let (leave, stay): (Vec<_>, Vec<_>) = pool.ready.drain(..).partition(|id| moves(id, &self.lanes));
            pool.ready.extend(stay);
            moved.extend(leave);
        }
        for id in moved {
            if let Some(slot) = self.lanes.get_mut(&id) {
                slot.queue = None;
            }
            self.touch(id, now);
        }
    }
}

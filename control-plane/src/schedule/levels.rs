//! How much waits, all over: sums that are kept up as lanes change, so that nobody has to walk through all lanes to know.
//!
//! Each lane has a share in its pool's sums. The share is looked at again whenever something about the lane has changed,
//! which is when the lane is looked at anyway.

use std::collections::{BTreeMap, BTreeSet};

use ahash::HashMap;
use postrider_domain::destination::Destinations;
use postrider_domain::id::{PoolName, SubscriptionId};
use postrider_domain::lane::Breaker;
use postrider_domain::time::Timestamp;

use super::places::Number;
use super::{Scheduler, Slot};

/// How things are now, all over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Every pool that has subscriptions or agents.
    pub pools: BTreeMap<PoolName, Level>,
    /// Lanes whose breaker is open.
    pub breakers_open: usize,
    /// Lanes that wait for a destination, which is at its limit.
    pub at_destinations: usize,
}

/// How a pool is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Deliveries of its subscriptions that have not ended and are not under way, as far as lanes know; those of lanes that
    /// are held are left out.
    pub waiting: u64,
    /// Since when the one is due that is due for longest, of those that an agent could be given.
    pub oldest: Option<Timestamp>,
    /// Jobs that its agents hold.
    pub in_flight: usize,
    /// Jobs that they could take besides.
    pub credit: usize,
}

/// What a lane counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) waiting: u64,
    /// Since when its longest-waiting delivery is due.
    pub(super) since: Option<Timestamp>,
    pub(super) breaker_open: bool,
}

/// The sums.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pools: HashMap<PoolName, Sum>,
    breakers_open: usize,
}

#[derive(Debug, Default)]
struct Sum {
    /// How many lanes each tenant has.
    lanes: HashMap<Number, usize>,
    waiting: u64,
    since: BTreeSet<(Timestamp, SubscriptionId)>,
}

impl Tally {
    /// A lane is new in a pool.
    pub(super) fn enter(&mut self, pool: &PoolName, tenant: Number) {
        *self.pools.entry(pool.clone()).or_default().lanes.entry(tenant).or_default() += 1;
    }

    /// A lane of a pool is gone, or goes to another.
    pub(super) fn leave(&mut self, pool: &PoolName, id: SubscriptionId, tenant: Number, share: Share) {
        self.change(pool, id, share, Share::default());
        let Some(sum) = self.pools.get_mut(pool) else { return };
        if let Some(lanes) = sum.lanes.get_mut(&tenant) {
            *lanes -= 1;
            if *lanes == 0 {
                sum.lanes.remove(&tenant);
            }
        }
        if sum.lanes.is_empty() {
            self.pools.remove(pool);
        }
    }

    /// Whether several tenants have lanes in a pool.
    pub(super) fn is_shared(&self, pool: &PoolName) -> bool {
        self.pools.get(pool).is_some_and(|sum| sum.lanes.len() > 1)
    }

    /// A lane's share is another one.
    pub(super) fn change(&mut self, pool: &PoolName, id: SubscriptionId, from: Share, to: Share) {
        self.breakers_open =
            self.breakers_open - usize::from(from.breaker_open) + usize::from(to.breaker_open);
        let Some(sum) = self.pools.get_mut(pool) else { return };
        sum.waiting = sum.waiting - from.waiting + to.waiting;
        if from.since != to.since {
            from.since.map(|since| sum.since.remove(&(since, id)));
            to.since.map(|since| sum.since.insert((since, id)));
        }
    }
}

impl Slot {
    /// What the lane counts for now.
    pub(super) fn share(&self, now: Timestamp) -> Share {
        if self.is_out_of_use() {
            return Share::default();
        }
        let breaker_open = self.lane.breaker() == Breaker::Open;
        Share { waiting: self.lane.waiting(), since: self.lane.due_since(now), breaker_open }
    }
}

impl Scheduler {
    /// How things are now, without a look at the lanes.
    #[must_use]
    pub fn levels(&self) -> Levels {
        let at_destinations = self.destinations.as_ref().map_or(0, Destinations::waiting);
        let breakers_open = self.tally.breakers_open;
        let mut levels = Levels { breakers_open, at_destinations, pools: BTreeMap::new() };
        for (name, sum) in &self.tally.pools {
            let oldest = sum.since.first().map(|(since, _)| *since);
            let level = Level { waiting: sum.waiting, oldest, ..Level::default() };
            levels.pools.insert(name.clone(), level);
        }
        for holder in self.holders.values() {
            let level = levels.pools.entry(holder.pool.clone()).or_default();
            level.in_flight += holder.jobs.len();
            if holder.serves() {
                let load = holder.load();
                level.credit += load.most.saturating_sub(load.jobs);
            }
        }
        levels
    }

    /// A lane may count for something else now.
    pub(super) fn recount(&mut self, id: SubscriptionId, now: Timestamp) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        let share = slot.share(now);
        if share != slot.share {
            self.tally.change(&slot.settings.pool, id, slot.share, share);
            slot.share = share;
        }
    }
}

//! Lanes that wait for their destination, which gets as many attempts as it may.
//!
//! A lane comes here when it is its turn in its pool's queue and its destination is at its limit. It stays in that queue as
//! far as others can see, and is handed out from here. A pool without agents has none here: its lanes wait for agents first.

use ahash::{HashMap, HashSet};
use postrider_domain::destination::{Destination, Destinations, Party};
use postrider_domain::id::{PoolName, SubscriptionId};
use postrider_domain::pace::Pace;
use postrider_domain::time::Timestamp;

use super::hand_out::{Batches, Turn, admits};
use super::places::{Account, Number};
use super::pools::Pool;
use super::{Scheduler, Slot};

/// Where lanes wait for their destinations.
pub(super) type Waiting = Destinations<SubscriptionId>;

impl Scheduler {
    /// Calls no destination more often than this. Nobody knows what was used before a restart, so bursts count as used.
    pub fn limit_destinations(&mut self, pace: Pace, now: Timestamp) {
        let mut destinations = Destinations::new(pace);
        destinations.spend_bursts(now);
        self.destinations = Some(destinations);
    }

    /// Hands out what waits for destinations that admit an attempt, before what comes after it.
    pub(super) fn hand_out_waiting(
        &mut self,
        waiting: &mut Waiting,
        pools: &mut HashMap<PoolName, Pool>,
        batches: &mut Batches,
        now: Timestamp,
    ) {
        let open = waiting.open(now);
        if open.is_empty() {
            return;
        }
        let has_credit =
            |(name, pool): (&PoolName, &Pool)| pool.has_credit(&self.holders).then(|| name.clone());
        let names: Vec<PoolName> = pools.iter().filter_map(has_credit).collect();
        let mut with_credit: HashSet<Number> = names.iter().map(|name| self.places.pool(name)).collect();
        for destination in open {
            while self.places.has_room() && !with_credit.is_empty() {
                let Some((party, id)) = waiting.next(&destination, now, |party| {
                    with_credit.contains(&party.pool) && self.can_go_on(pools, party)
                }) else {
                    break;
                };
                let Some(name) = self.places.pool_name(party.pool).cloned() else { continue };
                let Some(pool) = pools.get_mut(&name) else { continue };
                let Some(holder) = pool.next_with_credit(&self.holders) else { continue };
                let turn = Turn { pool: &name, number: party.pool, holder };
                if let Some(given) = self.give(id, turn, batches, now) {
                    waiting.took(&destination, now);
                    if given.is_ready {
                        self.wait_for_destination(waiting, id, party.pool);
                    }
                }
                if !pool.has_credit(&self.holders) {
                    with_credit.remove(&party.pool);
                }
            }
        }
    }

    /// Whether a lane whose turn it is must wait for its destination. Then it waits there from now on.
    pub(super) fn is_held_up(
        &mut self,
        waiting: &mut Waiting,
        id: SubscriptionId,
        pool: Number,
        now: Timestamp,
    ) -> bool {
        let Some(slot) = self.lanes.get(&id) else { return false };
        let held_up = !waiting.admits(&slot.settings.destination, now);
        if held_up {
            self.wait_for_destination(waiting, id, pool);
        }
        held_up
    }

    fn wait_for_destination(&mut self, waiting: &mut Waiting, id: SubscriptionId, pool: Number) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        let destination = slot.settings.destination.clone();
        waiting.wait(&destination, Party { tenant: slot.account.tenant, pool }, id);
        slot.waits_for = Some(destination);
    }

    fn can_go_on(&self, pools: &HashMap<PoolName, Pool>, party: Party) -> bool {
        let Some(name) = self.places.pool_name(party.pool) else { return false };
        let account = Account { pool: party.pool, tenant: party.tenant };
        pools.get(name).is_some_and(|pool| admits(&self.places, pool, self.tally.is_shared(name), account))
    }

    /// The lane waits for the destination no more.
    pub(super) fn leave_destination(&mut self, destination: &Destination, id: SubscriptionId) {
        if let Some(waiting) = &mut self.destinations {
            waiting.leave(destination, |lane| lane == id);
        }
    }

    /// Takes out the lanes for which `leaves` says so, wherever they wait.
    pub(super) fn leave_destinations(
        &mut self,
        leaves: impl Fn(Party, SubscriptionId, &HashMap<SubscriptionId, Slot>) -> bool,
    ) -> Vec<SubscriptionId> {
        let Some(waiting) = &mut self.destinations else { return Vec::new() };
        let left = waiting.extract(|party, id| leaves(party, id, &self.lanes));
        for id in &left {
            if let Some(slot) = self.lanes.get_mut(id) {
                slot.waits_for = None;
            }
        }
        left
    }

    /// A pool's last agent is gone: its lanes go back to its queue, in which they wait for one.
    pub(super) fn wait_for_agents(&mut self, name: &PoolName) {
        let number = self.places.pool(name);
        for id in self.leave_destinations(|party, _, _| party.pool == number) {
            let tenant = self.lanes.get(&id).map(|slot| slot.account.tenant);
            if let (Some(tenant), Some(pool)) = (tenant, self.pools.get_mut(name)) {
                pool.ready.push(tenant, id);
            }
        }
    }

    /// When, after now, lanes that wait for a destination may go on.
    pub(super) fn destination_opens(&self, now: Timestamp) -> Option<Timestamp> {
        self.destinations.as_ref()?.wakes(now)
    }

    /// Forgets destinations that have not been called lately.
    pub(super) fn forget_destinations(&mut self, now: Timestamp) {
        if let Some(waiting) = &mut self.destinations {
            waiting.forget_idle(now);
        }
    }
}

//! Hands deliveries out: whose turn it is, within the shares of pools and tenants, and as fast as destinations are called.

use ahash::HashMap;
use postrider_domain::id::{DeliveryId, PoolName, SubscriptionId};
use postrider_domain::time::Timestamp;
use postrider_proto::session::JobKey;

use super::destinations::Waiting;
use super::places::{Account, Number, Places};
use super::pools::Pool;
use super::{Assignment, Effect, HolderId, Scheduler, pools};

/// What each holder is given.
pub(super) type Batches = HashMap<HolderId, Vec<Assignment>>;

/// Who delivers next.
#[derive(Clone, Copy)]
pub(super) struct Turn<'p> {
    pub(super) pool: &'p PoolName,
    pub(super) number: Number,
    /// The holder whose turn it is in the pool.
    pub(super) holder: HolderId,
}

/// A delivery of a lane is handed out.
pub(super) struct Given {
    /// Whether the lane has another one, and stands in the pool's queue again.
    pub(super) is_ready: bool,
    tenant: Number,
}

impl Scheduler {
    pub(super) fn hand_out(&mut self, now: Timestamp) {
        let mut batches = Batches::default();
        // Nothing below looks at them through the schedule.
        let mut pools = std::mem::take(&mut self.pools);
        let mut waiting = self.destinations.take();
        if let Some(waiting) = &mut waiting {
            self.hand_out_waiting(waiting, &mut pools, &mut batches, now);
        }
        for (name, pool) in &mut pools {
            if !pool.ready.is_empty() {
                self.hand_out_ready(name, pool, waiting.as_mut(), &mut batches, now);
            }
        }
        (self.pools, self.destinations) = (pools, waiting);
        for (holder, jobs) in batches {
            for job in &jobs {
                self.touch(job.key.delivery.subscription, now);
            }
            self.effects.push(Effect::Dispatch { holder, jobs });
        }
    }

    fn hand_out_ready(
        &mut self,
        name: &PoolName,
        pool: &mut Pool,
        mut waiting: Option<&mut Waiting>,
        batches: &mut Batches,
        now: Timestamp,
    ) {
        let number = self.places.pool(name);
        let is_shared = self.tally.is_shared(name);
        while self.places.has_room() {
            let Some(holder) = pool.next_with_credit(&self.holders) else { break };
            let may = |tenant| admits(&self.places, pool, is_shared, Account { pool: number, tenant });
            let Some(turn_of) = pool.ready.next(may) else { break };
            let Some(id) = pool.ready.take(turn_of) else { break };
            if let Some(waiting) = &mut waiting
                && self.stands_in(id, name)
                && self.is_held_up(waiting, id, number, now)
            {
                continue;
            }
            let Some(given) = self.give(id, Turn { pool: name, number, holder }, batches, now) else {
                continue;
            };
            if given.is_ready {
                pool.ready.push(given.tenant, id);
            }
            if let (Some(waiting), Some(slot)) = (&mut waiting, self.lanes.get(&id)) {
                waiting.took(&slot.settings.destination, now);
            }
        }
    }

    fn stands_in(&self, id: SubscriptionId, pool: &PoolName) -> bool {
        self.lanes.get(&id).is_some_and(|slot| slot.queue.as_ref() == Some(pool))
    }

    /// Gives a lane's next delivery to an agent, if it stands in the pool's queue and still has one that may go.
    pub(super) fn give(
        &mut self,
        id: SubscriptionId,
        turn: Turn<'_>,
        batches: &mut Batches,
        now: Timestamp,
    ) -> Option<Given> {
        let slot = self.lanes.get_mut(&id).filter(|slot| slot.queue.as_ref() == Some(turn.pool))?;
        (slot.queue, slot.waits_for) = (None, None);
        let delivery = slot.lane.take(now)?;
        let given = Given { is_ready: slot.lane.is_ready(now), tenant: slot.account.tenant };
        if given.is_ready {
            slot.queue = Some(turn.pool.clone());
        }
        let holder = pools::with_affinity(slot.last_holder, turn.holder, turn.pool, &self.holders);
        slot.last_holder = Some(holder);
        let id = DeliveryId { subscription: id, sequence: delivery.sequence };
        let key = JobKey { delivery: id, attempt: delivery.next_attempt(), epoch: self.epoch };
        if let Some(holder) = self.holders.get_mut(&holder) {
            holder.give(key, now, slot.settings.timeout);
        }
        self.places.assign(id, holder, Account { pool: turn.number, tenant: given.tenant });
        batches.entry(holder).or_default().push(Assignment { key, delivery });
        Some(given)
    }
}

/// Whether a tenant may have one more job of a pool's agents, by the shares of all places and of the pool's credit.
pub(super) fn admits(places: &Places, pool: &Pool, is_shared: bool, account: Account) -> bool {
    let alone = pool.stranded || !is_shared && !pool.ready.has_others_than(account.tenant);
    places.admits(account) && (alone || places.credits(account, pool.credit))
}

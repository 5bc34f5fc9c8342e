//! Places: how many jobs and unwritten outcomes there may be at once, and who has them.
//!
//! Every job at an agent has a place, and so has every outcome until it is written. There are
//! [`MAX_UNSETTLED`] of them. Pools and tenants share them fairly ([`postrider_domain::shares`]), so
//! that neither an agent that never reports nor endpoints that hang stop the deliveries of others.
//! Within a pool that several tenants use, they share its agents' credit in the same way.

use std::hash::Hash;

use ahash::HashMap;
use postrider_domain::id::{DeliveryId, PoolName, TenantId};
use postrider_domain::shares::Shares;

use super::agents::HolderId;
use super::{MAX_UNSETTLED, Scheduler};

/// How all places are shared.
const PLACES: Shares = Shares { capacity: MAX_UNSETTLED, reserve: MAX_UNSETTLED / 4, few: 64 };

/// How a pool's tenants share the credit of its agents.
pub(super) fn of_credit(credit: usize) -> Shares {
    Shares { capacity: credit, reserve: credit / 8, few: 16 }
}

/// Numbers a pool or a tenant, for as long as the process runs.
pub(super) type Number = u32;

/// On whose account a place is: a tenant's jobs in one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Account {
    pub(super) pool: Number,
    pub(super) tenant: Number,
}

/// A job that a holder has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assigned {
    pub(super) holder: HolderId,
    account: Account,
}

/// Outcomes of one delivery that are being written.
#[derive(Debug)]
struct Unsettled {
    writes: usize,
    account: Account,
}

/// Who has how many places.
#[derive(Debug, Default)]
pub(super) struct Places {
    assigned: HashMap<DeliveryId, Assigned>,
    unsettled: HashMap<DeliveryId, Unsettled>,
    used: usize,
    pools: Uses<PoolName>,
    tenants: Uses<TenantId>,
    accounts: HashMap<Account, Use>,
    /// Jobs at the agents of each pool.
    held: Vec<usize>,
}

/// What an account uses.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    jobs: usize,
    writes: usize,
}

#[derive(Debug)]
struct Uses<K> {
    numbers: HashMap<K, Number>,
    names: Vec<K>,
    used: Vec<usize>,
}

impl<K> Default for Uses<K> {
    fn default() -> Self {
        Self { numbers: HashMap::default(), names: Vec::new(), used: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash> Uses<K> {
    fn number(&mut self, name: &K) -> Number {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = Number::try_from(self.used.len()).expect("there are fewer pools and tenants than that");
        self.numbers.insert(name.clone(), number);
        self.names.push(name.clone());
        self.used.push(0);
        number
    }
}

impl<K> Uses<K> {
    fn of(&self, number: Number) -> usize {
        self.used.get(number as usize).copied().unwrap_or(0)
    }

    fn change(&mut self, number: Number, change: impl FnOnce(usize) -> usize) {
        if let Some(used) = self.used.get_mut(number as usize) {
            *used = change(*used);
        }
    }
}

impl Places {
    /// The account of a tenant in a pool.
    pub(super) fn account(&mut self, pool: &PoolName, tenant: &TenantId) -> Account {
        Account { pool: self.pools.number(pool), tenant: self.tenants.number(tenant) }
    }

    /// The number of a pool.
    pub(super) fn pool(&mut self, pool: &PoolName) -> Number {
        self.pools.number(pool)
    }

    /// The pool with a number.
    pub(super) fn pool_name(&self, number: Number) -> Option<&PoolName> {
        self.pools.names.get(number as usize)
    }

    /// Whether there is any place left.
    pub(super) fn has_room(&self) -> bool {
        self.used < MAX_UNSETTLED
    }

    /// Whether one more job may be assigned on this account.
    pub(super) fn admits(&self, account: Account) -> bool {
        let own = self.accounts.get(&account).copied().unwrap_or_default();
        let parties = [self.pools.of(account.pool), self.tenants.of(account.tenant)];
        PLACES.admits(self.used, own.jobs + own.writes, &parties)
    }

    /// Whether a tenant may have one more job of its pool's agents, which can hold so many.
    pub(super) fn credits(&self, account: Account, credit: usize) -> bool {
        let own = self.accounts.get(&account).map_or(0, |own| own.jobs);
        let held = self.held.get(account.pool as usize).copied().unwrap_or(0);
        of_credit(credit).admits(held, own, &[own])
    }

    pub(super) fn holder(&self, delivery: DeliveryId) -> Option<HolderId> {
        self.assigned.get(&delivery).map(|assigned| assigned.holder)
    }

    pub(super) fn assign(&mut self, delivery: DeliveryId, holder: HolderId, account: Account) {
        self.unassign(delivery);
        self.assigned.insert(delivery, Assigned { holder, account });
        self.take(account);
        self.accounts.entry(account).or_default().jobs += 1;
        let pool = account.pool as usize;
        if self.held.len() <= pool {
            self.held.resize(pool + 1, 0);
        }
        self.held[pool] += 1;
    }

    /// The job of a delivery goes with its agent's stream to another holder.
    pub(super) fn move_to(&mut self, delivery: DeliveryId, holder: HolderId) {
        if let Some(assigned) = self.assigned.get_mut(&delivery) {
            assigned.holder = holder;
        }
    }

    /// A job has ended, or will never begin; whose it was.
    pub(super) fn unassign(&mut self, delivery: DeliveryId) -> Option<HolderId> {
        let Assigned { holder, account } = self.assigned.remove(&delivery)?;
        if let Some(own) = self.accounts.get_mut(&account) {
            own.jobs -= 1;
        }
        if let Some(held) = self.held.get_mut(account.pool as usize) {
            *held -= 1;
        }
        self.give_back(account);
        Some(holder)
    }

    /// A new state is about to be written.
    pub(super) fn begin_write(&mut self, delivery: DeliveryId, account: Account) {
        let unsettled = self.unsettled.entry(delivery).or_insert(Unsettled { writes: 0, account });
        unsettled.writes += 1;
        let account = unsettled.account;
        self.take(account);
        self.accounts.entry(account).or_default().writes += 1;
    }

    /// It is written. What nobody knows of changes nothing.
    pub(super) fn end_write(&mut self, delivery: DeliveryId) {
        let Some(unsettled) = self.unsettled.get_mut(&delivery) else { return };
        unsettled.writes -= 1;
        let account = unsettled.account;
        if unsettled.writes == 0 {
            self.unsettled.remove(&delivery);
        }
        if let Some(own) = self.accounts.get_mut(&account) {
            own.writes -= 1;
        }
        self.give_back(account);
    }

    pub(super) fn is_writing(&self) -> bool {
        !self.unsettled.is_empty()
    }

    pub(super) fn has_jobs(&self) -> bool {
        !self.assigned.is_empty()
    }

    fn take(&mut self, account: Account) {
        self.used += 1;
        self.pools.change(account.pool, |used| used + 1);
        self.tenants.change(account.tenant, |used| used + 1);
    }

    fn give_back(&mut self, account: Account) {
        self.used -= 1;
        self.pools.change(account.pool, |used| used - 1);
        self.tenants.change(account.tenant, |used| used - 1);
        if self.accounts.get(&account).is_some_and(|own| own.jobs + own.writes == 0) {
            self.accounts.remove(&account);
        }
    }
}

/// What the schedule's counters say, for tests that compare it with what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// Jobs that agents have.
    pub jobs: usize,
    /// Outcomes that are being written.
    pub writes: usize,
    /// Places in use, as counted.
    pub places: usize,
}

impl Scheduler {
    /// How many places are in use.
    #[must_use]
    pub fn occupied(&self) -> Occupied {
        let writes = self.places.unsettled.values().map(|unsettled| unsettled.writes).sum();
        Occupied { jobs: self.places.assigned.len(), writes, places: self.places.used }
    }
}

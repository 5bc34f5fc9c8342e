//! The lanes that wait for one destination. Tenants take turns, and so do the pools and the lanes of each.

use std::collections::{HashMap, VecDeque};

use super::Party;

/// See the module.
#[derive(Debug)]
pub(super) struct Line<L> {
    tenants: HashMap<u32, Pools<L>>,
    /// Tenants that have lanes here, the next first.
    turns: VecDeque<u32>,
}

/// The lanes of one tenant by the pool that delivers for them, the next first. Tenants use few pools.
type Pools<L> = VecDeque<(u32, VecDeque<L>)>;

impl<L> Default for Line<L> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<L: Copy> Line<L> {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn push(&mut self, party: Party, lane: L) {
        let pools = self.tenants.entry(party.tenant).or_default();
        if pools.is_empty() {
            self.turns.push_back(party.tenant);
        }
        match pools.iter_mut().find(|(pool, _)| *pool == party.pool) {
            Some((_, lanes)) => lanes.push_back(lane),
            None => pools.push_back((party.pool, VecDeque::from([lane]))),
        }
    }

    /// Takes out the lane whose turn it is, of those parties that can go on. Others keep their turn.
    pub(super) fn take(&mut self, can_go_on: impl Fn(Party) -> bool) -> Option<(Party, L)> {
        let ready = |tenant: u32| {
            let mut pools = self.tenants.get(&tenant)?.iter();
            pools.position(|(pool, _)| can_go_on(Party { tenant, pool: *pool }))
        };
        let (turn, pool) =
            self.turns.iter().enumerate().find_map(|(turn, tenant)| Some((turn, ready(*tenant)?)))?;
        let tenant = self.turns.remove(turn)?;
        let pools = self.tenants.get_mut(&tenant)?;
        let (number, mut lanes) = pools.remove(pool)?;
        let lane = lanes.pop_front();
        if !lanes.is_empty() {
            pools.push_back((number, lanes));
        }
        if pools.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some((Party { tenant, pool: number }, lane?))
    }

    /// Takes out the lanes for which `leaves` says so.
    pub(super) fn extract(&mut self, leaves: &impl Fn(Party, L) -> bool) -> Vec<L> {
        let mut left = Vec::new();
        for tenant in &self.turns {
            let Some(pools) = self.tenants.get_mut(tenant) else { continue };
            for (pool, lanes) in pools.iter_mut() {
                let party = Party { tenant: *tenant, pool: *pool };
                left.extend(lanes.iter().copied().filter(|lane| leaves(party, *lane)));
                lanes.retain(|lane| !leaves(party, *lane));
            }
            pools.retain(|(_, lanes)| !lanes.is_empty());
        }
        self.tenants.retain(|_, pools| !pools.is_empty());
        self.turns.retain(|tenant| self.tenants.contains_key(tenant));
        left
    }
}

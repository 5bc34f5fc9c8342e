//! The lanes of one pool that are ready. Tenants take turns, and so do the lanes of each.

use std::collections::VecDeque;

use ahash::HashMap;
use postrider_domain::id::SubscriptionId;

use super::places::Number;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ready {
    lanes: HashMap<Number, VecDeque<SubscriptionId>>,
    /// Tenants that have lanes here, the next first.
    turns: VecDeque<Number>,
}

impl Ready {
    pub(super) fn push(&mut self, tenant: Number, lane: SubscriptionId) {
        let lanes = self.lanes.entry(tenant).or_default();
        if lanes.is_empty() {
            self.turns.push_back(tenant);
        }
        lanes.push_back(lane);
    }

    /// The tenant whose turn it is, of those that are admitted.
    pub(super) fn next(&self, admits: impl Fn(Number) -> bool) -> Option<usize> {
        self.turns.iter().position(|tenant| admits(*tenant))
    }

    /// The next lane of the tenant at this turn, which comes again after all others.
    pub(super) fn take(&mut self, turn: usize) -> Option<SubscriptionId> {
        let tenant = self.turns.remove(turn)?;
        let lanes = self.lanes.get_mut(&tenant)?;
        let lane = lanes.pop_front();
        if lanes.is_empty() {
            self.lanes.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        lane
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a tenant other than this one has a lane here, or several have.
    pub(super) fn has_others_than(&self, tenant: Number) -> bool {
        self.turns.iter().any(|other| *other != tenant)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SubscriptionId> {
        self.turns.iter().filter_map(|tenant| self.lanes.get(tenant)).flatten()
    }

    pub(super) fn remove(&mut self, lane: SubscriptionId) {
        self.retain(|other| other != lane);
    }

    /// Takes out the lanes for which `leaves` says so, in the order in which they stand.
    pub(super) fn extract(&mut self, leaves: impl Fn(SubscriptionId) -> bool) -> Vec<SubscriptionId> {
        let left = self.iter().copied().filter(|lane| leaves(*lane)).collect();
        self.retain(|lane| !leaves(lane));
        left
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(SubscriptionId) -> bool) {
        self.lanes.values_mut().for_each(|lanes| lanes.retain(|lane| keeps(*lane)));
        self.lanes.retain(|_, lanes| !lanes.is_empty());
        self.turns.retain(|tenant| self.lanes.contains_key(tenant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::time::Timestamp;

    fn lane(number: u64) -> SubscriptionId {
        SubscriptionId::new(Timestamp::default(), u128::from(number))
    }

    fn ready(lanes: &[(Number, u64)]) -> Ready {
        let mut ready = Ready::default();
        lanes.iter().for_each(|(tenant, number)| ready.push(*tenant, lane(*number)));
        ready
    }

    fn all(ready: &mut Ready, admits: impl Fn(Number) -> bool) -> Vec<SubscriptionId> {
        std::iter::from_fn(|| ready.next(&admits).and_then(|turn| ready.take(turn))).collect()
    }

    #[test]
    fn a_tenant_with_many_lanes_gets_no_more_turns_than_one_with_few() {
        let mut crowd = ready(&[(1, 10), (1, 11), (1, 12), (1, 13), (2, 20), (3, 30), (2, 21)]);
        assert_eq!(all(&mut crowd, |_| true), [10, 20, 30, 11, 21, 12, 13].map(lane));
        assert!(crowd.is_empty());
    }

    #[test]
    fn who_is_not_admitted_keeps_its_place_and_holds_up_nobody() {
        let mut ready = ready(&[(1, 10), (2, 20), (1, 11), (2, 21)]);
        assert_eq!(all(&mut ready, |tenant| tenant == 2), [20, 21].map(lane));
        assert!(!ready.is_empty() && ready.has_others_than(2) && !ready.has_others_than(1));
        assert_eq!(all(&mut ready, |_| true), [10, 11].map(lane));
    }

    #[test]
    fn lanes_leave_out_of_turn() {
        let mut ready = ready(&[(1, 10), (2, 20), (1, 11), (3, 30)]);
        ready.remove(lane(20));
        assert_eq!(ready.extract(|id| id == lane(10) || id == lane(30)), [10, 30].map(lane));
        assert_eq!(all(&mut ready, |_| true), [lane(11)]);
        assert!(ready.iter().next().is_none());
    }
}

//! Who holds the places of a port, and who makes room for a newcomer when all are taken.
//!
//! The result is max-min fair: parties have equal shares of the places, and within a party its members have. Whoever holds
//! fewer than an equal share never makes room for one who holds more. A place that is not in use goes first, so that room is
//! made by work under way only where somebody holds more than the newcomer will.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// The holders of numbered places. A greater number is a newer place.
#[derive(Debug)]
pub struct Holders<P, M> {
    parties: HashMap<P, Party<M>>,
    places: HashMap<u64, (P, M)>,
}

#[derive(Debug)]
struct Party<M> {
    count: usize,
    members: HashMap<M, BTreeSet<u64>>,
}

impl<P, M> Default for Holders<P, M> {
    fn default() -> Self {
        Self { parties: HashMap::new(), places: HashMap::new() }
    }
}

impl<P: Clone + Eq + Hash, M: Clone + Eq + Hash> Holders<P, M> {
    /// A member of a party holds a place.
    pub fn add(&mut self, number: u64, party: &P, member: &M) {
        if self.places.insert(number, (party.clone(), member.clone())).is_some() {
            return;
        }
        let empty = || Party { count: 0, members: HashMap::new() };
        let held = self.parties.entry(party.clone()).or_insert_with(empty);
        held.count += 1;
        held.members.entry(member.clone()).or_default().insert(number);
    }

    /// A place is not held any more; whether it was.
    pub fn remove(&mut self, number: u64) -> bool {
        let Some((party, member)) = self.places.remove(&number) else { return false };
        let Some(held) = self.parties.get_mut(&party) else { return true };
        held.count -= 1;
        if let Some(places) = held.members.get_mut(&member) {
            places.remove(&number);
            if places.is_empty() {
                held.members.remove(&member);
            }
        }
        if held.count == 0 {
            self.parties.remove(&party);
        }
        true
    }

    /// How many places are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no place is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The place that makes room for a newcomer, if any does.
    #[must_use]
    pub fn who_makes_room(&self, party: &P, member: &M, is_idle: impl Fn(u64) -> bool) -> Option<u64> {
        let own = self.parties.get(party);
        let will_hold = own.map_or(0, |own| own.count) + 1;
        let most = self.parties.values().map(|party| party.count).max().unwrap_or(0);
        let mut greedy = self.parties.values().filter(|party| party.count == most && most >= will_hold);
        if most > will_hold {
            return greedy.next().and_then(|greedy| greedy.gives(0, &is_idle));
        }
        let others_idle = || greedy.find_map(|greedy| greedy.idle(&is_idle));
        own.and_then(|own| own.gives(own.of(member) + 1, &is_idle)).or_else(others_idle)
    }
}

impl<M: Eq + Hash> Party<M> {
    fn of(&self, member: &M) -> usize {
        self.members.get(member).map_or(0, BTreeSet::len)
    }

    /// The place of the member with the most that makes room for one who will hold so many.
    fn gives(&self, will_hold: usize, is_idle: impl Fn(u64) -> bool) -> Option<u64> {
        let has_idle = |places: &BTreeSet<u64>| places.iter().any(|number| is_idle(*number));
        let greedy = self.members.values().max_by_key(|places| (places.len(), has_idle(places)))?;
        let idle = || greedy.iter().copied().find(|number| is_idle(*number));
        match greedy.len() {
            held if held > will_hold => idle().or_else(|| greedy.last().copied()),
            held if held + 1 >= will_hold => idle(),
            _ => None,
        }
    }

    fn idle(&self, is_idle: impl Fn(u64) -> bool) -> Option<u64> {
        self.members.values().flatten().copied().filter(|number| is_idle(*number)).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(places: &[(u8, u8)]) -> Holders<u8, u8> {
        let mut holders = Holders::default();
        for (number, (party, member)) in (1..).zip(places) {
            holders.add(number, party, member);
        }
        holders
    }

    #[test]
    fn who_makes_room_for_whom() {
        const ALL: &[u64] = &[1, 2, 3, 4, 5];
        type Case = (&'static str, &'static [(u8, u8)], &'static [u64], (u8, u8), Option<u64>);
        let table: [Case; 12] = [
            ("nobody is there", &[], ALL, (1, 1), None),
            (
                "the greediest gives an idle place, its oldest",
                &[(1, 1), (1, 1), (1, 1)],
                &[2, 3],
                (2, 1),
                Some(2),
            ),
            ("the greediest gives its newest", &[(1, 1), (1, 1), (1, 1)], &[], (2, 1), Some(3)),
            ("of a party's members the greediest", &[(1, 1), (1, 2), (1, 2)], ALL, (2, 1), Some(2)),
            ("equal parties, in use", &[(1, 1), (2, 1), (3, 1)], &[], (4, 1), None),
            ("equal parties, one idle", &[(1, 1), (2, 1), (3, 1)], &[2], (4, 1), Some(2)),
            ("one with fewer gives nothing", &[(1, 1), (2, 1), (2, 1)], &[1], (2, 1), None),
            ("it replaces its own idle one", &[(1, 1), (2, 1), (2, 1)], &[1, 3], (2, 1), Some(3)),
            ("a member with more gives to one with fewer", &[(2, 1), (2, 1), (2, 1)], &[], (2, 2), Some(3)),
            ("many members are one party", &[(1, 1), (1, 2), (1, 3), (2, 1)], &[3], (2, 1), Some(3)),
            ("a party with many members gets no more", &[(1, 1), (1, 2), (2, 1), (2, 1)], &[], (1, 3), None),
            (
                "its own are left alone while it holds few",
                &[(2, 1), (1, 1), (1, 1), (1, 1)],
                ALL,
                (2, 1),
                Some(2),
            ),
        ];
        for (case, places, idle, (party, member), expected) in table {
            let found = held(places).who_makes_room(&party, &member, |number| idle.contains(&number));
            assert_eq!(found, expected, "{case}");
        }
    }

    proptest! {
        /// However parties come and go, a newcomer gets a place from one that holds at least as many as it will then, and
        /// all who want as many as they can get end up with equal shares.
        #[test]
        fn shares_are_equal_among_those_who_want_more(
            capacity in 1_usize..40, steps in prop::collection::vec((0_u8..5, 0_u8..3, any::<bool>()), 1..300),
        ) {
            let (mut holders, mut next) = (Holders::default(), 0);
            let mut idle = std::collections::HashSet::new();
            let mut come = |holders: &mut Holders<u8, u8>, party: u8, member: u8, is_idle: bool| -> Result<(), TestCaseError> {
                if holders.len() == capacity {
                    let will_hold = holders.parties.get(&party).map_or(0, |party| party.count) + 1;
                    let Some(number) = holders.who_makes_room(&party, &member, |number| idle.contains(&number)) else {
                        return Ok(());
                    };
                    let (from, _) = holders.places[&number];
                    let held = holders.parties[&from].count;
                    prop_assert!(from == party || held > will_hold || (held == will_hold && idle.contains(&number)));
                    prop_assert!(holders.remove(number));
                }
                next += 1;
                holders.add(next, &party, &member);
                if is_idle {
                    idle.insert(next);
                }
                let sum: usize = holders.parties.values().map(|party| party.count).sum();
                prop_assert_eq!(sum, holders.len());
                prop_assert!(sum <= capacity);
                Ok(())
            };
            for (party, member, is_idle) in steps {
                come(&mut holders, party, member, is_idle)?;
            }
            for _ in 0..2 * capacity {
                for party in 0..5 {
                    come(&mut holders, party, 0, false)?;
                }
            }
            let counts: Vec<usize> = (0..5).map(|party| holders.parties.get(&party).map_or(0, |party| party.count)).collect();
            prop_assert!(counts.iter().all(|count| *count >= capacity / 5), "{counts:?} of {capacity}");
        }
    }
}

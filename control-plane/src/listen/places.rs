//! The places of one port: how many connections there may be, and which of them makes room for a new one.
//!
//! Whoever has not shown yet who it is, by an agent's certificate or by a call that was let in, is a *stranger*. There are
//! few places for strangers, and the oldest of them makes room for the next: connections that say nothing keep nobody
//! out who comes to say something, wherever they come from. On the API's port some places are for strangers alone, so
//! that a newcomer always gets to say who it is. The others are shared by those who have ([`postrider_domain::holders`]):
//! when all are taken, the greediest makes room for whoever holds fewer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::HashMap;
use postrider_domain::holders::Holders;
use postrider_domain::id::AgentId;
use postrider_telemetry::metrics::{Counters, IntGauge};
use tokio_util::sync::CancellationToken;

use super::usage::RECEIVING;

/// Strangers of one port at once.
pub(super) const MAX_STRANGERS: usize = 512;
/// The share of a port's places that is for strangers alone, where some are.
const FOR_STRANGERS: usize = 8;
/// Connections of one agent at once: twice the streams that it may have, for it opens the new one before it closes the
/// old, and some to renew by.
pub(super) const MAX_OF_AGENT: usize = 40;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    /// Places that those who have shown who they are may take.
    most_known: usize,
    taken: Mutex<Taken>,
    /// Bytes that all connections have received of messages that are not whole.
    receiving: AtomicUsize,
    shown: Option<Shown>,
}

/// Where it is shown how places are taken and given.
#[derive(Clone)]
pub struct Shown {
    /// How many are taken.
    pub connections: IntGauge,
    /// Who had to make room, or found none.
    pub decisions: Counters,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shown").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Taken {
    /// Oldest first.
    strangers: BTreeMap<u64, CancellationToken>,
    known: Holders<Arc<str>, Arc<str>>,
    /// Of those who are known.
    seats: HashMap<u64, Known>,
    /// Of those that are known, the agents'.
    agents: HashMap<AgentId, usize>,
    next: u64,
}

/// A place of one who is known.
#[derive(Debug)]
struct Known {
    lost: CancellationToken,
    /// Calls under way.
    open: Arc<AtomicUsize>,
}

/// Who holds a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Whose share it is of.
    pub party: Arc<str>,
    /// Whose share of that.
    pub member: Arc<str>,
}

impl Holder {
    /// One that is a party of its own.
    #[must_use]
    pub fn alone(name: Arc<str>) -> Self {
        Self { party: name.clone(), member: name }
    }
}

/// Whether a connection may have one.
#[derive(Debug)]
pub(super) enum Taking {
    /// It may.
    Free(Place),
    /// It may, and a stranger has lost its own.
    PushedOut(Place),
    /// All are taken by those who are known.
    None,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    seat: Arc<Seat>,
    agent: Option<AgentId>,
}

/// What can be done about a place by those who do not hold it.
#[derive(Debug)]
pub(super) struct Seat {
    places: Arc<Places>,
    number: u64,
    known: AtomicBool,
    /// Calls under way.
    open: Arc<AtomicUsize>,
    lost: CancellationToken,
}

impl Places {
    /// So many for all, where whoever is known keeps its place.
    pub(super) fn counted(most: usize, shown: Option<Shown>) -> Arc<Self> {
        Self::new(most, most, shown)
    }

    /// So many for all, some of them for strangers alone and the others shared by those who are known.
    pub(super) fn shared(most: usize, shown: Option<Shown>) -> Arc<Self> {
        let for_strangers = (most / FOR_STRANGERS).clamp(1, MAX_STRANGERS);
        Self::new(most, most.saturating_sub(for_strangers).max(1), shown)
    }

    fn new(most: usize, most_known: usize, shown: Option<Shown>) -> Arc<Self> {
        let receiving = AtomicUsize::new(0);
        Arc::new(Self { most, most_known, taken: Mutex::default(), receiving, shown })
    }

    /// Takes one.
    pub(super) fn take(self: &Arc<Self>) -> Taking {
        let mut taken = self.lock();
        let full =
            taken.strangers.len() >= MAX_STRANGERS || taken.strangers.len() + taken.known.len() >= self.most;
        if full && !taken.push_out() {
            self.decided("refused");
            return Taking::None;
        }
        taken.next += 1;
        let (number, lost) = (taken.next, CancellationToken::new());
        taken.strangers.insert(number, lost.clone());
        drop(taken);
        let (known, open) = (AtomicBool::new(false), Arc::default());
        let seat = Seat { places: self.clone(), number, known, open, lost };
        let place = Place { seat: Arc::new(seat), agent: None };
        self.shown.iter().for_each(|shown| shown.connections.inc());
        if full {
            self.decided("stranger_made_room");
            return Taking::PushedOut(place);
        }
        Taking::Free(place)
    }

    /// Takes the oldest stranger's place away: there is not enough of something else.
    pub(super) fn push_out(&self) {
        self.lock().push_out();
    }

    fn decided(&self, decision: &str) {
        self.shown.iter().for_each(|shown| shown.decisions.inc(decision));
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn push_out(&mut self) -> bool {
        let oldest = self.strangers.pop_first();
        if let Some((_, lost)) = &oldest {
            lost.cancel();
        }
        oldest.is_some()
    }

    /// Takes a place away from whoever is to make room for this one; whether anybody is.
    fn make_room(&mut self, holder: &Holder) -> bool {
        let is_idle =
            |number| self.seats.get(&number).is_none_or(|seat| seat.open.load(Ordering::Relaxed) == 0);
        let found = self.known.who_makes_room(&holder.party, &holder.member, is_idle);
        let Some(number) = found else { return false };
        self.known.remove(number);
        if let Some(seat) = self.seats.remove(&number) {
            seat.lost.cancel();
        }
        true
    }
}

impl Place {
    /// For those who learn who is there.
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// It is this agent that has the place; `false` when it has too many.
    pub(super) fn belongs_to(&mut self, agent: &AgentId) -> bool {
        {
            let mut taken = self.seat.places.lock();
            let has = taken.agents.entry(agent.clone()).or_default();
            if *has >= MAX_OF_AGENT {
                return false;
            }
            *has += 1;
        }
        self.agent = Some(agent.clone());
        self.seat.is_of(&Holder::alone(agent.as_str().into()))
    }
}

impl Seat {
    /// Whether it is known who has it.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Who has it has shown who it is; `false` when there is no room for it among those who have. It stays a stranger then.
    pub(super) fn is_of(&self, holder: &Holder) -> bool {
        if self.is_known() {
            return true;
        }
        let mut taken = self.places.lock();
        if !taken.strangers.contains_key(&self.number) {
            // It has lost the place a moment ago, or got it.
            return self.is_known();
        }
        if taken.known.len() >= self.places.most_known {
            if !taken.make_room(holder) {
                self.places.decided("refused");
                return false;
            }
            self.places.decided("holder_made_room");
        }
        taken.strangers.remove(&self.number);
        taken.known.add(self.number, &holder.party, &holder.member);
        let seat = Known { lost: self.lost.clone(), open: self.open.clone() };
        taken.seats.insert(self.number, seat);
        self.known.store(true, Ordering::Relaxed);
        true
    }

    /// A call begins on the connection.
    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// A call has ended.
    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts bytes received of messages that are not whole, if there is room and what is left is enough.
    pub(super) fn receive(&self, bytes: usize, enough: impl FnOnce(usize) -> bool) -> bool {
        let receiving = self.places.receiving.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = RECEIVING.checked_sub(receiving).is_some_and(enough);
        if !fits {
            self.received(bytes);
        }
        fits
    }

    /// Such bytes are not to be counted any more.
    pub(super) fn received(&self, bytes: usize) {
        self.places.receiving.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes the place away.
    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// Cancelled when the place is lost.
    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat.places.shown.iter().for_each(|shown| shown.connections.dec());
        let number = self.seat.number;
        let mut taken = self.seat.places.lock();
        taken.strangers.remove(&number);
        taken.known.remove(number);
        taken.seats.remove(&number);
        let Some(agent) = &self.agent else { return };
        if let Some(has) = taken.agents.get_mut(agent) {
            *has -= 1;
            if *has == 0 {
                taken.agents.remove(agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(places: &Arc<Places>) -> Option<Place> {
        match places.take() {
            Taking::Free(place) | Taking::PushedOut(place) => Some(place),
            Taking::None => None,
        }
    }

    fn has_lost(place: &Place) -> bool {
        place.seat.lost.is_cancelled()
    }

    fn holder(party: &str, member: &str) -> Holder {
        Holder { party: party.into(), member: member.into() }
    }

    fn know(place: &Place) -> bool {
        place.seat.is_of(&holder("somebody", "somebody"))
    }

    #[test]
    fn the_oldest_stranger_makes_room_and_nobody_who_is_known() {
        let places = Places::counted(3, None);
        let [first, second, third] = [(); 3].map(|()| take(&places).unwrap());
        assert!(know(&first));
        let fourth = take(&places).unwrap();
        assert!(!has_lost(&first) && has_lost(&second) && !has_lost(&third));
        // Whoever has lost its place does not get it back by saying who it is.
        assert!(!know(&second));
        assert!(!second.seat.is_known());
        drop(second);
        assert!(know(&third));
        assert!(know(&fourth));
        assert!(matches!(places.take(), Taking::None));
        drop(first);
        assert!(matches!(places.take(), Taking::Free(_)));
    }

    #[test]
    fn strangers_are_few_however_many_places_there_are() {
        let places = Places::counted(100_000, None);
        let strangers: Vec<_> = (0..2 * MAX_STRANGERS).filter_map(|_| take(&places)).collect();
        assert_eq!(strangers.iter().filter(|place| has_lost(place)).count(), MAX_STRANGERS);
        assert!(strangers[..MAX_STRANGERS].iter().all(has_lost));
    }

    #[test]
    fn one_agent_has_not_all_places() {
        let places = Places::counted(1000, None);
        let (one, other): (AgentId, AgentId) = ("a-1".parse().unwrap(), "a-2".parse().unwrap());
        let of = |agent: &AgentId| {
            let mut place = take(&places).unwrap();
            place.belongs_to(agent).then_some(place)
        };
        let mut held: Vec<_> = (0..MAX_OF_AGENT).map(|_| of(&one).unwrap()).collect();
        assert!(of(&one).is_none());
        assert!(of(&other).is_some());
        held.pop();
        held.push(of(&one).unwrap());
        assert!(of(&one).is_none());
        drop(held);
        let taken = places.lock();
        assert!(taken.agents.is_empty() && taken.known.is_empty() && taken.strangers.is_empty());
    }

    /// Takes a place and calls with this token.
    fn call(places: &Arc<Places>, party: &str, token: &str) -> Option<Place> {
        let place = take(places)?;
        place.seat.is_of(&holder(party, token)).then_some(place)
    }

    #[test]
    fn one_token_does_not_keep_others_out_however_many_connections_it_has() {
        for busy in [false, true] {
            let places = Places::shared(60, None);
            let mut held = Vec::new();
            for _ in 0..500 {
                let Some(place) = call(&places, "evil", "viewer") else { continue };
                if busy {
                    place.seat.begin();
                }
                held.push(place);
                held.retain(|place| !has_lost(place));
            }
            assert!(held.len() <= 53, "{}", held.len());
            let acme = call(&places, "acme", "emitter").expect("a neighbour is let in");
            // The attacker goes on.
            let more: Vec<_> = (0..500).filter_map(|_| call(&places, "evil", "viewer")).collect();
            assert!(!has_lost(&acme), "{}", more.len());
            let again: Vec<_> =
                (0..20).map(|_| call(&places, "acme", "emitter").expect("its share")).collect();
            assert!(!again.iter().any(has_lost));
            // Another token of the attacker's has no more, and one of a third tenant's finds room as well.
            let sibling: Vec<_> = (0..500).filter_map(|_| call(&places, "evil", "another")).collect();
            assert!(!again.iter().any(has_lost) && !has_lost(&acme), "{}", sibling.len());
            assert!(call(&places, "third", "viewer").is_some());
        }
    }

    #[test]
    fn a_token_that_is_alone_replaces_its_own_idle_connections_and_keeps_those_in_use() {
        let places = Places::shared(5, None);
        let held: Vec<_> = (0..4).map(|_| call(&places, "acme", "one").unwrap()).collect();
        held[0].seat.begin();
        held[2].seat.begin();
        assert!(call(&places, "acme", "one").is_some() && has_lost(&held[1]));
        held[3].seat.begin();
        let last = call(&places, "acme", "one").unwrap();
        last.seat.begin();
        assert!(call(&places, "acme", "one").is_none(), "all are in use");
        held[2].seat.end();
        assert!(call(&places, "acme", "one").is_some() && has_lost(&held[2]) && !has_lost(&held[0]));
    }

    #[test]
    fn a_port_with_one_place_serves_somebody() {
        for most in 1..20 {
            let places = Places::shared(most, None);
            assert!(call(&places, "acme", "one").is_some(), "{most}");
        }
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_there_may_be(most in 1_usize..20, steps in prop::collection::vec((0_u8..3, any::<prop::sample::Index>()), 1..200)) {
            let places = Places::counted(most, None);
            let mut held = Vec::new();
            for (step, which) in steps {
                match step {
                    0 => held.extend(take(&places)),
                    _ if held.is_empty() => {}
                    1 => {
                        let _fits = know(&held[which.index(held.len())]);
                    }
                    _ => drop(held.swap_remove(which.index(held.len()))),
                }
                held.retain(|place| !has_lost(place));
                let taken = places.lock();
                prop_assert_eq!(taken.known.len() + taken.strangers.len(), held.len());
                prop_assert!(held.len() <= most && taken.seats.len() == taken.known.len());
                prop_assert_eq!(held.iter().filter(|place| place.seat.is_known()).count(), taken.known.len());
            }
        }
    }
}

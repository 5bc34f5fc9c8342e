//! The places of one port: how many connections there may be, and which of them makes room for a new one.
//!
//! Whoever has not shown yet who it is, by an agent's certificate or by a call that was let in, is a *stranger*. There are
//! few places for strangers, and the oldest of them makes room for the next: connections that say nothing keep nobody
//! out who comes to say something, wherever they come from. Whoever is known keeps its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrider_domain::id::AgentId;
use postrider_telemetry::metrics::IntGauge;
use tokio_util::sync::CancellationToken;

use super::usage::RECEIVING;

/// Strangers of one port at once.
pub(super) const MAX_STRANGERS: usize = 512;
/// Connections of one agent at once: twice the streams that it may have, for it opens the new one before it closes the
/// old, and some to renew by.
pub(super) const MAX_OF_AGENT: usize = 40;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
    /// Bytes that all connections have received of messages that are not whole.
    receiving: AtomicUsize,
    /// Shows how many there are.
    gauge: Option<IntGauge>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Oldest first.
    strangers: BTreeMap<u64, CancellationToken>,
    known: usize,
    /// Of those that are known, the agents'.
    agents: HashMap<AgentId, usize>,
    next: u64,
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
    lost: CancellationToken,
}

impl Places {
    /// So many for all, and a gauge that shows how many are taken.
    pub(super) fn counted(most: usize, gauge: Option<IntGauge>) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default(), receiving: AtomicUsize::new(0), gauge })
    }

    /// Takes one.
    pub(super) fn take(self: &Arc<Self>) -> Taking {
        let mut taken = self.lock();
        let full = taken.strangers.len() >= MAX_STRANGERS || taken.strangers.len() + taken.known >= self.most;
        if full && !taken.push_out() {
            return Taking::None;
        }
        taken.next += 1;
        let (number, lost) = (taken.next, CancellationToken::new());
        taken.strangers.insert(number, lost.clone());
        let seat = Seat { places: self.clone(), number, known: AtomicBool::new(false), lost };
        let place = Place { seat: Arc::new(seat), agent: None };
        self.gauge.iter().for_each(IntGauge::inc);
        if full { Taking::PushedOut(place) } else { Taking::Free(place) }
    }

    /// Takes the oldest stranger's place away: there is not enough of something else.
    pub(super) fn push_out(&self) {
        self.lock().push_out();
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
        self.seat.is_of_somebody_known();
        true
    }
}

impl Seat {
    /// Whether it is known who has it.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Who has it has shown who it is.
    pub(super) fn is_of_somebody_known(&self) {
        if self.is_known() {
            return;
        }
        let mut taken = self.places.lock();
        // It may have lost the place a moment ago.
        if taken.strangers.remove(&self.number).is_some() {
            taken.known += 1;
            self.known.store(true, Ordering::Relaxed);
        }
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

    /// Cancelled when a stranger has lost it.
    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat.places.gauge.iter().for_each(IntGauge::dec);
        let mut taken = self.seat.places.lock();
        if self.seat.is_known() {
            taken.known -= 1;
        } else {
            taken.strangers.remove(&self.seat.number);
        }
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

    #[test]
    fn the_oldest_stranger_makes_room_and_nobody_who_is_known() {
        let places = Places::counted(3, None);
        let [first, second, third] = [(); 3].map(|()| take(&places).unwrap());
        first.seat.is_of_somebody_known();
        let fourth = take(&places).unwrap();
        assert!(!has_lost(&first) && has_lost(&second) && !has_lost(&third));
        // Whoever has lost its place does not get it back by saying who it is.
        second.seat.is_of_somebody_known();
        assert!(!second.seat.is_known());
        drop(second);
        third.seat.is_of_somebody_known();
        fourth.seat.is_of_somebody_known();
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
        assert!(taken.agents.is_empty() && taken.known == 0 && taken.strangers.is_empty());
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
                    1 => held[which.index(held.len())].seat.is_of_somebody_known(),
                    _ => drop(held.swap_remove(which.index(held.len()))),
                }
                held.retain(|place| !has_lost(place));
                let taken = places.lock();
                prop_assert_eq!(taken.known + taken.strangers.len(), held.len());
                prop_assert!(held.len() <= most);
                prop_assert_eq!(held.iter().filter(|place| place.seat.is_known()).count(), taken.known);
            }
        }
    }
}

//! The connection slots of one port: how many connections there may be, and which of them is closed for a new one.
//!
//! A client is *unauthenticated* until it has shown who it is, by an agent's certificate or by a call that was let in.
//! Unauthenticated clients have few slots, and the oldest of them is evicted for the next: connections that send nothing
//! keep nobody out who comes to send something, wherever they come from. On the API's port some slots are for
//! unauthenticated clients alone, so a newcomer can always authenticate. The others are shared by authenticated clients
//! ([`postrider_domain::holders`]): when all are taken, the holder with the most loses one to a holder with fewer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::HashMap;
use postrider_domain::holders::Holders;
use postrider_domain::id::AgentId;
use postrider_telemetry::metrics::{Counters, IntGauge};
use tokio_util::sync::CancellationToken;

use super::usage::RECEIVING;

/// Unauthenticated connections of one port at once.
pub(super) const MAX_UNAUTHENTICATED: usize = 512;
/// The share of a port's slots that is for unauthenticated clients alone, where some are.
const UNAUTHENTICATED_SHARE: usize = 8;
/// Connections of one agent at once: twice the streams that it may have, for it opens the new one before it closes the
/// old, and some to renew by.
pub(super) const MAX_OF_AGENT: usize = 40;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    most: usize,
    /// ConnectionSlots that those who have shown who they are may take.
    most_authenticated: usize,
    taken: Mutex<Taken>,
    /// Bytes that all connections have received of messages that are not whole.
    receiving: AtomicUsize,
    shown: Option<SlotMetrics>,
}

/// Where it is shown how slots are taken and given.
#[derive(Clone)]
pub struct SlotMetrics {
    /// How many are taken.
    pub connections: IntGauge,
    /// Who had to make room, or found none.
    pub decisions: Counters,
}

impl std::fmt::Debug for SlotMetrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SlotMetrics").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Taken {
    /// Oldest first.
    unauthenticated: BTreeMap<u64, CancellationToken>,
    known: Holders<Arc<str>, Arc<str>>,
    /// Of those who are known.
    authenticated: HashMap<u64, Authenticated>,
    /// Of those that are known, the agents'.
    agents: HashMap<AgentId, usize>,
    next: u64,
}

/// A slot of one who is known.
#[derive(Debug)]
struct Authenticated {
    lost: CancellationToken,
    /// Calls under way.
    open: Arc<AtomicUsize>,
}

/// Who holds a slot.
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
pub(super) enum SlotGrant {
    /// It may.
    Free(ConnectionSlot),
    /// It may, and an unauthenticated client has lost its own.
    Evicted(ConnectionSlot),
    /// All are taken by those who are known.
    Refused,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    handle: Arc<SlotHandle>,
    agent: Option<AgentId>,
}

/// What can be done about a slot by those who do not hold it.
#[derive(Debug)]
pub(super) struct SlotHandle {
    slots: Arc<ConnectionSlots>,
    number: u64,
    known: AtomicBool,
    /// Calls under way.
    open: Arc<AtomicUsize>,
    lost: CancellationToken,
}

impl ConnectionSlots {
    /// `most` slots; authenticated clients keep theirs.
    pub(super) fn counted(most: usize, shown: Option<SlotMetrics>) -> Arc<Self> {
        Self::new(most, most, shown)
    }

    /// `most` slots, some of them for unauthenticated clients alone and the others shared by authenticated ones.
    pub(super) fn shared(most: usize, shown: Option<SlotMetrics>) -> Arc<Self> {
        let for_unauthenticated = (most / UNAUTHENTICATED_SHARE).clamp(1, MAX_UNAUTHENTICATED);
        Self::new(most, most.saturating_sub(for_unauthenticated).max(1), shown)
    }

    fn new(most: usize, most_authenticated: usize, shown: Option<SlotMetrics>) -> Arc<Self> {
        let receiving = AtomicUsize::new(0);
        Arc::new(Self { most, most_authenticated, taken: Mutex::default(), receiving, shown })
    }

    /// Takes one.
    pub(super) fn take(self: &Arc<Self>) -> SlotGrant {
        let mut taken = self.lock();
        let full = taken.unauthenticated.len() >= MAX_UNAUTHENTICATED
            || taken.unauthenticated.len() + taken.known.len() >= self.most;
        if full && !taken.evict_oldest() {
            self.decided("refused");
            return SlotGrant::Refused;
        }
        taken.next += 1;
        let (number, lost) = (taken.next, CancellationToken::new());
        taken.unauthenticated.insert(number, lost.clone());
        drop(taken);
        let (known, open) = (AtomicBool::new(false), Arc::default());
        let handle = SlotHandle { slots: self.clone(), number, known, open, lost };
        let slot = ConnectionSlot { handle: Arc::new(handle), agent: None };
        self.shown.iter().for_each(|shown| shown.connections.inc());
        if full {
            self.decided("unauthenticated_evicted");
            return SlotGrant::Evicted(slot);
        }
        SlotGrant::Free(slot)
    }

    /// Takes the oldest unauthenticated client's slot away: there is not enough of something else.
    pub(super) fn evict_oldest(&self) {
        self.lock().evict_oldest();
    }

    fn decided(&self, decision: &str) {
        self.shown.iter().for_each(|shown| shown.decisions.inc(decision));
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn evict_oldest(&mut self) -> bool {
        let oldest = self.unauthenticated.pop_first();
        if let Some((_, lost)) = &oldest {
            lost.cancel();
        }
        oldest.is_some()
    }

    /// Evicts the connection that must yield its slot to this holder, and returns whether there was one.
    fn make_room(&mut self, holder: &Holder) -> bool {
        let is_idle = |number| {
            self.authenticated.get(&number).is_none_or(|handle| handle.open.load(Ordering::Relaxed) == 0)
        };
        let found = self.known.who_makes_room(&holder.party, &holder.member, is_idle);
        let Some(number) = found else { return false };
        self.known.remove(number);
        if let Some(handle) = self.authenticated.remove(&number) {
            handle.lost.cancel();
        }
        true
    }
}

impl ConnectionSlot {
    /// For those who learn who is there.
    pub(super) fn handle(&self) -> &Arc<SlotHandle> {
        &self.handle
    }

    /// It is this agent that has the slot; `false` when it has too many.
    pub(super) fn belongs_to(&mut self, agent: &AgentId) -> bool {
        {
            let mut taken = self.handle.slots.lock();
            let has = taken.agents.entry(agent.clone()).or_default();
            if *has >= MAX_OF_AGENT {
                return false;
            }
            *has += 1;
        }
        self.agent = Some(agent.clone());
        self.handle.authenticate(&Holder::alone(agent.as_str().into()))
    }
}

impl SlotHandle {
    /// Whether it is known who has it.
    pub(super) fn is_authenticated(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// The client has shown who it is; `false` when there is no room for another authenticated one. It stays
    /// unauthenticated then.
    pub(super) fn authenticate(&self, holder: &Holder) -> bool {
        if self.is_authenticated() {
            return true;
        }
        let mut taken = self.slots.lock();
        if !taken.unauthenticated.contains_key(&self.number) {
            // It has lost the slot a moment ago, or got it.
            return self.is_authenticated();
        }
        if taken.known.len() >= self.slots.most_authenticated {
            if !taken.make_room(holder) {
                self.slots.decided("refused");
                return false;
            }
            self.slots.decided("holder_evicted");
        }
        taken.unauthenticated.remove(&self.number);
        taken.known.add(self.number, &holder.party, &holder.member);
        let handle = Authenticated { lost: self.lost.clone(), open: self.open.clone() };
        taken.authenticated.insert(self.number, handle);
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
        let receiving = self.slots.receiving.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = RECEIVING.checked_sub(receiving).is_some_and(enough);
        if !fits {
            self.received(bytes);
        }
        fits
    }

    /// Such bytes are not to be counted any more.
    pub(super) fn received(&self, bytes: usize) {
        self.slots.receiving.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes the slot away.
    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// Cancelled when the slot is lost.
    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.handle.slots.shown.iter().for_each(|shown| shown.connections.dec());
        let number = self.handle.number;
        let mut taken = self.handle.slots.lock();
        taken.unauthenticated.remove(&number);
        taken.known.remove(number);
        taken.authenticated.remove(&number);
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

    fn take(slots: &Arc<ConnectionSlots>) -> Option<ConnectionSlot> {
        match slots.take() {
            SlotGrant::Free(slot) | SlotGrant::Evicted(slot) => Some(slot),
            SlotGrant::Refused => None,
        }
    }

    fn has_lost(slot: &ConnectionSlot) -> bool {
        slot.handle.lost.is_cancelled()
    }

    fn holder(party: &str, member: &str) -> Holder {
        Holder { party: party.into(), member: member.into() }
    }

    fn know(slot: &ConnectionSlot) -> bool {
        slot.handle.authenticate(&holder("somebody", "somebody"))
    }

    #[test]
    fn the_oldest_unauthenticated_client_makes_room_and_nobody_who_is_known() {
        let slots = ConnectionSlots::counted(3, None);
        let [first, second, third] = [(); 3].map(|()| take(&slots).unwrap());
        assert!(know(&first));
        let fourth = take(&slots).unwrap();
        assert!(!has_lost(&first) && has_lost(&second) && !has_lost(&third));
        // Whoever has lost its slot does not get it back by saying who it is.
        assert!(!know(&second));
        assert!(!second.handle.is_authenticated());
        drop(second);
        assert!(know(&third));
        assert!(know(&fourth));
        assert!(matches!(slots.take(), SlotGrant::Refused));
        drop(first);
        assert!(matches!(slots.take(), SlotGrant::Free(_)));
    }

    #[test]
    fn unauthenticated_clients_are_few_however_many_slots_there_are() {
        let slots = ConnectionSlots::counted(100_000, None);
        let newcomers: Vec<_> = (0..2 * MAX_UNAUTHENTICATED).filter_map(|_| take(&slots)).collect();
        assert_eq!(newcomers.iter().filter(|slot| has_lost(slot)).count(), MAX_UNAUTHENTICATED);
        assert!(newcomers[..MAX_UNAUTHENTICATED].iter().all(has_lost));
    }

    #[test]
    fn one_agent_has_not_all_slots() {
        let slots = ConnectionSlots::counted(1000, None);
        let (one, other): (AgentId, AgentId) = ("a-1".parse().unwrap(), "a-2".parse().unwrap());
        let of = |agent: &AgentId| {
            let mut slot = take(&slots).unwrap();
            slot.belongs_to(agent).then_some(slot)
        };
        let mut held: Vec<_> = (0..MAX_OF_AGENT).map(|_| of(&one).unwrap()).collect();
        assert!(of(&one).is_none());
        assert!(of(&other).is_some());
        held.pop();
        held.push(of(&one).unwrap());
        assert!(of(&one).is_none());
        drop(held);
        let taken = slots.lock();
        assert!(taken.agents.is_empty() && taken.known.is_empty() && taken.unauthenticated.is_empty());
    }

    /// Takes a slot and calls with this token.
    fn call(slots: &Arc<ConnectionSlots>, party: &str, token: &str) -> Option<ConnectionSlot> {
        let slot = take(slots)?;
        slot.handle.authenticate(&holder(party, token)).then_some(slot)
    }

    #[test]
    fn one_token_does_not_keep_others_out_however_many_connections_it_has() {
        for busy in [false, true] {
            let slots = ConnectionSlots::shared(60, None);
            let mut held = Vec::new();
            for _ in 0..500 {
                let Some(slot) = call(&slots, "evil", "viewer") else { continue };
                if busy {
                    slot.handle.begin();
                }
                held.push(slot);
                held.retain(|slot| !has_lost(slot));
            }
            assert!(held.len() <= 53, "{}", held.len());
            let acme = call(&slots, "acme", "emitter").expect("a neighbour is let in");
            // The attacker goes on.
            let more: Vec<_> = (0..500).filter_map(|_| call(&slots, "evil", "viewer")).collect();
            assert!(!has_lost(&acme), "{}", more.len());
            let again: Vec<_> =
                (0..20).map(|_| call(&slots, "acme", "emitter").expect("its share")).collect();
            assert!(!again.iter().any(has_lost));
            // Another token of the attacker's has no more, and one of a third tenant's finds room as well.
            let sibling: Vec<_> = (0..500).filter_map(|_| call(&slots, "evil", "another")).collect();
            assert!(!again.iter().any(has_lost) && !has_lost(&acme), "{}", sibling.len());
            assert!(call(&slots, "third", "viewer").is_some());
        }
    }

    #[test]
    fn a_token_that_is_alone_replaces_its_own_idle_connections_and_keeps_those_in_use() {
        let slots = ConnectionSlots::shared(5, None);
        let held: Vec<_> = (0..4).map(|_| call(&slots, "acme", "one").unwrap()).collect();
        held[0].handle.begin();
        held[2].handle.begin();
        assert!(call(&slots, "acme", "one").is_some() && has_lost(&held[1]));
        held[3].handle.begin();
        let last = call(&slots, "acme", "one").unwrap();
        last.handle.begin();
        assert!(call(&slots, "acme", "one").is_none(), "all are in use");
        held[2].handle.end();
        assert!(call(&slots, "acme", "one").is_some() && has_lost(&held[2]) && !has_lost(&held[0]));
    }

    #[test]
    fn a_port_with_one_slot_serves_somebody() {
        for most in 1..20 {
            let slots = ConnectionSlots::shared(most, None);
            assert!(call(&slots, "acme", "one").is_some(), "{most}");
        }
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_there_may_be(most in 1_usize..20, steps in prop::collection::vec((0_u8..3, any::<prop::sample::Index>()), 1..200)) {
            let slots = ConnectionSlots::counted(most, None);
            let mut held = Vec::new();
            for (step, which) in steps {
                match step {
                    0 => held.extend(take(&slots)),
                    _ if held.is_empty() => {}
                    1 => {
                        let _fits = know(&held[which.index(held.len())]);
                    }
                    _ => drop(held.swap_remove(which.index(held.len()))),
                }
                held.retain(|slot| !has_lost(slot));
                let taken = slots.lock();
                prop_assert_eq!(taken.known.len() + taken.unauthenticated.len(), held.len());
                prop_assert!(held.len() <= most && taken.authenticated.len() == taken.known.len());
                prop_assert_eq!(held.iter().filter(|slot| slot.handle.is_authenticated()).count(), taken.known.len());
            }
        }
    }
}

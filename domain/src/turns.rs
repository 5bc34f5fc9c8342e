//! Turns at a few places that many callers want at once: who is served next, and who is refused.
//!
//! A caller is a member (such as a token) of a party (such as a tenant). The next turn goes to the
//! party with the fewest turns under way, and within it to the member with the fewest; among equals
//! to the one that was served longest ago. So a light caller never waits behind the backlog of a
//! heavy one, however long that is, and many members of one party are served no better than one. A
//! party never takes the last place: another one finds it free.
//!
//! What is answered takes memory until its caller has taken it. Each turn reserves the bytes of the
//! largest answer, then keeps those that its answer really has. A party's share of these bytes
//! follows
//! [`crate::shares`]: a caller that does not take its answers gets no more turns, and others do.
//!
//! Queues are bounded. When the queue of all is full, the longest queue of a party gives up its
//! newest call to a party that waits with fewer.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::shares::Shares;

/// How much there is of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Turns under way at once.
    pub places: usize,
    /// Bytes of answers that are reserved, or not yet taken by their callers.
    pub bytes: usize,
    /// Bytes that each turn reserves.
    pub each: usize,
    /// Calls of all that wait.
    pub queue: usize,
    /// Calls of one party that wait.
    pub party_queue: usize,
    /// Calls of one member that wait.
    pub member_queue: usize,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who<K> {
    /// Whose share it uses.
    pub party: K,
    /// Who it is in its party.
    pub member: K,
}

/// Names a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A call was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its ticket.
    pub ticket: Ticket,
    /// The call that is refused for it.
    pub displaced: Option<Ticket>,
}

/// Why a call is not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many calls of the member wait.
    Member,
    /// Too many calls of the party wait.
    Party,
    /// Too many calls of all wait.
    All,
}

/// Who waits, and who is served. See the [module](self).
#[derive(Debug)]
pub struct Turns<K> {
    limits: Limits,
    shares: Shares,
    parties: HashMap<K, Party<K>>,
    all: Load,
    tickets: u64,
}

#[derive(Debug)]
struct Party<K> {
    members: HashMap<K, Member>,
    load: Load,
}

#[derive(Debug, Default)]
struct Member {
    queue: VecDeque<Ticket>,
    load: Load,
}

/// What a member, a party or all of them have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    waiting: usize,
    under_way: usize,
    bytes: usize,
    /// The ticket that was served last.
    served: u64,
}

impl Load {
    fn is_nothing(&self) -> bool {
        self.waiting == 0 && self.under_way == 0 && self.bytes == 0
    }

    /// Who has the lower rank is served first.
    fn rank(&self) -> (usize, u64) {
        (self.under_way, self.served)
    }
}

impl<K> Default for Party<K> {
    fn default() -> Self {
        Self { members: HashMap::new(), load: Load::default() }
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Nobody waits yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let shares = Shares { capacity: limits.bytes, reserve: limits.bytes / 8, few: limits.each };
        Self { limits, shares, parties: HashMap::new(), all: Load::default(), tickets: 0 }
    }

    /// Queues a call.
    ///
    /// # Errors
    /// Why not.
    pub fn ask(&mut self, who: &Who<K>) -> Result<Queued, Refused> {
        let party = self.parties.get(&who.party);
        let of_party = party.map_or(0, |party| party.load.waiting);
        let member = party.and_then(|party| party.members.get(&who.member));
        if member.map_or(0, |member| member.load.waiting) >= self.limits.member_queue {
            return Err(Refused::Member);
        }
        if of_party >= self.limits.party_queue {
            return Err(Refused::Party);
        }
        let full = self.all.waiting >= self.limits.queue;
        let displaced = if full { Some(self.displace(of_party)?) } else { None };
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.of(who, |load| load.waiting += 1);
        if let Some(member) = self.member(who) {
            member.queue.push_back(ticket);
        }
        Ok(Queued { ticket, displaced })
    }

    /// Starts the next turn, if there is a place and somebody waits for one.
    pub fn start(&mut self) -> Option<(Who<K>, Ticket)> {
        if self.all.under_way >= self.limits.places {
            return None;
        }
        let who = self.next()?;
        let ticket = self.member(&who)?.queue.pop_front()?;
        self.tickets += 1;
        let (served, each) = (self.tickets, self.limits.each);
        self.of(&who, |load| {
            load.waiting -= 1;
            load.under_way += 1;
            load.bytes += each;
            load.served = served;
        });
        Some((who, ticket))
    }

    /// Ends a turn. So many bytes of its answer are not taken yet.
    pub fn end(&mut self, who: &Who<K>, answer: usize) {
        let each = self.limits.each;
        self.of(who, |load| {
            load.under_way = load.under_way.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(each) + answer;
        });
        self.forget(who);
    }

    /// So many bytes of an answer are taken.
    pub fn taken(&mut self, who: &Who<K>, bytes: usize) {
        self.of(who, |load| load.bytes = load.bytes.saturating_sub(bytes));
        self.forget(who);
    }

    /// A call that waits is given up; whether it waited.
    pub fn give_up(&mut self, who: &Who<K>, ticket: Ticket) -> bool {
        let Some(member) = self.member(who) else { return false };
        let Some(at) = member.queue.iter().position(|queued| *queued == ticket) else { return false };
        member.queue.remove(at);
        self.of(who, |load| load.waiting -= 1);
        self.forget(who);
        true
    }

    /// Calls that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.all.waiting
    }

    /// Turns under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.all.under_way
    }

    /// Bytes of answers that are reserved or not taken yet.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.all.bytes
    }

    fn next(&self) -> Option<Who<K>> {
        let most = self.limits.places.saturating_sub(1).max(1);
        let mut first: Option<((usize, u64), Who<K>)> = None;
        for (name, party) in &self.parties {
            let rank = party.load.rank();
            let waits = party.load.waiting > 0 && party.load.under_way < most;
            if !waits || first.as_ref().is_some_and(|(before, _)| *before <= rank) {
                continue;
            }
            let has_room = |member: &Member| {
                let own = member.load.bytes;
                self.shares.admits(self.all.bytes, own, &[own, party.load.bytes])
            };
            let members = party.members.iter().filter(|(_, member)| member.load.waiting > 0);
            let member =
                members.filter(|(_, member)| has_room(member)).min_by_key(|(_, one)| one.load.rank());
            if let Some((member, _)) = member {
                first = Some((rank, Who { party: name.clone(), member: member.clone() }));
            }
        }
        first.map(|(_, who)| who)
    }

    /// Takes the newest call from the longest queue, for a party that has so many in its own.
    fn displace(&mut self, of_party: usize) -> Result<Ticket, Refused> {
        let longest = self.parties.iter().max_by_key(|(_, party)| party.load.waiting);
        let (name, party) =
            longest.filter(|(_, party)| party.load.waiting > of_party + 1).ok_or(Refused::All)?;
        let member = party.members.iter().max_by_key(|(_, member)| member.load.waiting);
        let (member, queue) = member.map(|(name, member)| (name, &member.queue)).ok_or(Refused::All)?;
        let (newest, who) = (queue.back().copied(), Who { party: name.clone(), member: member.clone() });
        let newest = newest.ok_or(Refused::All)?;
        self.give_up(&who, newest);
        Ok(newest)
    }

    fn member(&mut self, who: &Who<K>) -> Option<&mut Member> {
        self.parties.get_mut(&who.party)?.members.get_mut(&who.member)
    }

    /// Changes what a caller has, and with it what its party and all have.
    fn of(&mut self, who: &Who<K>, change: impl Fn(&mut Load)) {
        let party = self.parties.entry(who.party.clone()).or_default();
        change(&mut party.members.entry(who.member.clone()).or_default().load);
        change(&mut party.load);
        change(&mut self.all);
    }

    /// Forgets a caller that has nothing any more.
    fn forget(&mut self, who: &Who<K>) {
        let Some(party) = self.parties.get_mut(&who.party) else { return };
        if party.members.get(&who.member).is_some_and(|member| member.load.is_nothing()) {
            party.members.remove(&who.member);
        }
        if party.members.is_empty() {
            self.parties.remove(&who.party);
        }
    }
}

#[cfg(test)]
mod tests;

//! Selects the next piece of work. Each tenant has its own queue, and the tenant that has used the least thread time is
//! served first: a tenant with little work never waits behind another's backlog.
//!
//! Two more rules keep threads and processor free for others. A tenant never has all threads at once. And while other
//! tenants have work too, a tenant gets no more than a share of the time, averaged over seconds; alone, it gets what there is.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};

/// How much time a tenant may have had beyond its share, while others have work.
const BURST: Duration = Duration::from_secs(1);
/// A thread's time, divided by this, is a tenant's share for each thread.
const SHARE: u32 = 8;
/// How long a tenant's work counts after it was done, as work that others have.
const RECENT: Duration = Duration::from_secs(1);
/// What a turn is taken to need until it has ended.
const TURN: Duration = Duration::from_millis(1);
/// Tenants that are remembered before those that have rested are forgotten.
const REMEMBERED: usize = 1024;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Pieces of work of one tenant.
    pub(super) tasks: usize,
    /// Bytes that one tenant's work holds; a tenant with nothing may bring in one piece of any size.
    pub(super) bytes: usize,
    /// Bytes that all work holds.
    pub(super) all_bytes: usize,
}

/// What waits and what runs.
#[derive(Debug)]
pub(super) struct Turns<K, T> {
    threads: u32,
    limits: Limits,
    parties: HashMap<K, Party<T>>,
    bytes: usize,
    running: u32,
    waiting: usize,
    /// What whoever was served last had had before: who comes new begins there.
    level: Duration,
}

#[derive(Debug)]
struct Party<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    running: u32,
    /// The time that it had, and what it was taken to have had while it was away.
    served: Duration,
    /// The time that it had beyond its share while others had work.
    debt: Duration,
    /// When the debt was reckoned.
    reckoned: Duration,
    /// When it last had work.
    active: Duration,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<K, T> {
    /// This, of this tenant, with so many bytes.
    Work(K, T, usize),
    /// Nothing for so long, unless something comes.
    Later(Duration),
    /// Nothing until something comes, or ends.
    Nothing,
}

impl<K: Clone + Eq + Hash, T> Turns<K, T> {
    /// Nothing yet, for so many threads.
    pub(super) fn new(threads: u32, limits: Limits) -> Self {
        Self {
            threads: threads.max(1),
            limits,
            parties: HashMap::new(),
            bytes: 0,
            running: 0,
            waiting: 0,
            level: Duration::ZERO,
        }
    }

    /// Pieces of work that wait, and that run.
    pub(super) fn counts(&self) -> (usize, u32) {
        (self.waiting, self.running)
    }

    /// Whether a piece of work with so many bytes may wait.
    pub(super) fn admits(&self, key: &K, bytes: usize) -> bool {
        let Some(party) = self.parties.get(key).filter(|party| party.bytes > 0) else {
            return self.bytes == 0 || self.bytes + bytes <= self.limits.all_bytes;
        };
        party.waiting.len() < self.limits.tasks
            && party.bytes + bytes <= self.limits.bytes
            && self.bytes + bytes <= self.limits.all_bytes
    }

    /// Drops a tenant's waiting work that nobody wants any more.
    pub(super) fn forget(&mut self, key: &K, wanted: impl Fn(&T) -> bool) {
        let Some(party) = self.parties.get_mut(key) else { return };
        let before = (party.waiting.len(), party.waiting.iter().map(|(_, bytes)| bytes).sum::<usize>());
        party.waiting.retain(|(task, _)| wanted(task));
        let after = (party.waiting.len(), party.waiting.iter().map(|(_, bytes)| bytes).sum::<usize>());
        self.waiting -= before.0 - after.0;
        self.bytes -= before.1 - after.1;
        party.bytes -= before.1 - after.1;
    }

    /// Takes in a piece of work.
    pub(super) fn push(&mut self, key: &K, task: T, bytes: usize, now: Duration) {
        // What holds nothing counts too, so that it is bounded.
        let bytes = bytes.max(1);
        if self.parties.len() >= REMEMBERED && !self.parties.contains_key(key) {
            let share = self.share();
            self.parties.retain(|_, party| party.bytes > 0 || party.owes(now, share) > Duration::ZERO);
        }
        let level = self.level;
        let party = self.parties.entry(key.clone()).or_insert_with(|| Party::new(now));
        if party.bytes == 0 {
            party.served = party.served.max(level);
        }
        party.waiting.push_back((task, bytes));
        party.bytes += bytes;
        party.active = now;
        self.bytes += bytes;
        self.waiting += 1;
    }

    /// What is to be done next.
    pub(super) fn take(&mut self, now: Duration) -> Next<K, T> {
        let share = self.share();
        let most = self.threads.div_ceil(2).min(self.threads.saturating_sub(1).max(1));
        let mut later: Option<Duration> = None;
        let mut next: Option<(Duration, &K)> = None;
        for (key, party) in &self.parties {
            if party.waiting.is_empty() || party.running >= most {
                continue;
            }
            let over = party.owes(now, share).saturating_sub(BURST);
            if over > Duration::ZERO && self.others_have_work(key, now) {
                let wait = over.mul_f64(1.0 / share);
                later = Some(later.map_or(wait, |later| later.min(wait)));
            } else if next.is_none_or(|(served, _)| party.served < served) {
                next = Some((party.served, key));
            }
        }
        let Some((served, key)) = next else { return later.map_or(Next::Nothing, Next::Later) };
        let key = key.clone();
        self.level = self.level.max(served);
        let Some(party) = self.parties.get_mut(&key) else { return Next::Nothing };
        let Some((task, bytes)) = party.waiting.pop_front() else { return Next::Nothing };
        party.running += 1;
        party.served += TURN;
        self.running += 1;
        self.waiting -= 1;
        Next::Work(key, task, bytes)
    }

    /// A turn has ended that had so much time; `rest` is what remains to be done of it.
    pub(super) fn ended(&mut self, key: &K, bytes: usize, had: Duration, now: Duration, rest: Option<T>) {
        let share = self.share();
        let counts = self.others_have_work(key, now);
        self.running -= 1;
        let Some(party) = self.parties.get_mut(key) else { return };
        party.running -= 1;
        party.served = (party.served + had).saturating_sub(TURN);
        // What nobody else wanted is nobody's loss.
        let had = if counts { had } else { Duration::ZERO };
        party.debt = (party.owes(now, share) + had).min(2 * BURST);
        party.reckoned = now;
        party.active = now;
        if let Some(rest) = rest {
            party.waiting.push_front((rest, bytes));
            self.waiting += 1;
        } else {
            party.bytes -= bytes;
            self.bytes -= bytes;
        }
    }

    /// A tenant's share of the time, while others have work: in seconds a second.
    fn share(&self) -> f64 {
        f64::from(self.threads) / f64::from(SHARE)
    }

    fn others_have_work(&self, key: &K, now: Duration) -> bool {
        let has = |party: &Party<T>| party.bytes > 0 || now.saturating_sub(party.active) < RECENT;
        self.parties.iter().any(|(other, party)| other != key && has(party))
    }
}

impl<T> Party<T> {
    fn new(now: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            running: 0,
            served: Duration::ZERO,
            debt: Duration::ZERO,
            reckoned: now,
            active: now,
        }
    }

    /// What it had beyond its share, by now.
    fn owes(&self, now: Duration, share: f64) -> Duration {
        self.debt.saturating_sub(now.saturating_sub(self.reckoned).mul_f64(share))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { tasks: 100, bytes: 10_000, all_bytes: 20_000 };
    const STEP: Duration = Duration::from_millis(2);

    /// A number of a tenant's work, and how much time it needs.
    type Numbers = Turns<usize, (usize, Duration)>;

    /// One thread works until nothing is left or the time is over; when which work ended.
    fn work(turns: &mut Numbers, now: &mut Duration, end: Duration) -> Vec<(usize, usize, Duration)> {
        let mut ended = Vec::new();
        while *now < end {
            match turns.take(*now) {
                Next::Work(key, (number, needs), bytes) => {
                    let had = needs.min(STEP);
                    *now += had;
                    let rest = needs.saturating_sub(had);
                    let rest = (rest > Duration::ZERO).then_some((number, rest));
                    if rest.is_none() {
                        ended.push((key, number, *now));
                    }
                    turns.ended(&key, bytes, had, *now, rest);
                }
                Next::Later(wait) => *now += wait.max(Duration::from_micros(1)),
                Next::Nothing => break,
            }
        }
        ended
    }

    #[test]
    fn a_light_tenant_never_waits_behind_a_backlog() {
        let mut turns = Numbers::new(1, LIMITS);
        let mut now = Duration::ZERO;
        for number in 0..50 {
            turns.push(&1, (number, Duration::from_millis(250)), 10, now);
        }
        work(&mut turns, &mut now, Duration::from_millis(100));
        turns.push(&2, (0, Duration::from_millis(1)), 10, now);
        let before = now;
        let ended = work(&mut turns, &mut now, before + Duration::from_millis(10));
        assert!(ended.contains(&(2, 0, before + Duration::from_millis(1))), "{ended:?}");
    }

    #[test]
    fn a_tenant_alone_gets_all_and_beside_another_its_share() {
        let mut turns = Numbers::new(1, LIMITS);
        let mut now = Duration::ZERO;
        turns.push(&1, (0, Duration::from_secs(1000)), 10, now);
        work(&mut turns, &mut now, Duration::from_secs(10));
        assert_eq!(turns.parties[&1].served, Duration::from_secs(10));
        // Another brings a little, time and again.
        let begin = turns.parties[&1].served;
        for round in 0..2000 {
            turns.push(&2, (round, Duration::from_millis(1)), 10, now);
            let end = now + Duration::from_millis(10);
            work(&mut turns, &mut now, end);
            now = now.max(end);
        }
        let had = turns.parties[&1].served - begin;
        assert!(had < Duration::from_secs(5), "in 20 s beside another it had {had:?}");
    }

    #[test]
    fn no_tenant_has_all_threads() {
        for (threads, most) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
            let mut turns = Numbers::new(threads, LIMITS);
            for number in 0..10 {
                turns.push(&1, (number, STEP), 10, Duration::ZERO);
            }
            let taken = (0..10).take_while(|_| matches!(turns.take(Duration::ZERO), Next::Work(..))).count();
            assert_eq!(taken, most, "{threads}");
        }
    }

    #[test]
    fn queues_are_bounded_and_forget_what_nobody_wants() {
        let mut turns = Numbers::new(1, LIMITS);
        let mut pushed = 0;
        while turns.admits(&1, 10) {
            turns.push(&1, (pushed, STEP), 10, Duration::ZERO);
            pushed += 1;
        }
        assert_eq!(pushed, LIMITS.tasks);
        assert!(turns.admits(&2, 15_000) && !turns.admits(&1, 1));
        turns.forget(&1, |(number, _)| *number < 10);
        assert_eq!((turns.counts(), turns.bytes), ((10, 0), 100));
        turns.push(&3, (0, STEP), 19_000, Duration::ZERO);
        assert!(!turns.admits(&2, 1_000) && !turns.admits(&3, 10));
        turns.forget(&3, |_| false);
        turns.forget(&1, |_| false);
        assert_eq!((turns.counts(), turns.bytes), ((0, 0), 0));
        assert!(turns.admits(&2, 1 << 30), "alone, any size comes in");
    }

    proptest! {
        /// Whoever always has work gets as much as every other who has, however large the pieces are.
        #[test]
        fn time_is_shared_evenly(sizes in prop::collection::vec(1_u64..50, 2..6)) {
            let mut turns = Numbers::new(1, LIMITS);
            let mut now = Duration::ZERO;
            let mut had = vec![Duration::ZERO; sizes.len()];
            for (key, size) in sizes.iter().enumerate() {
                for number in 0..100 {
                    turns.push(&key, (number, Duration::from_millis(*size)), 10, now);
                }
            }
            for _ in 0..sizes.len() * 20 {
                if let Next::Work(key, (number, needs), bytes) = turns.take(now) {
                    let step = needs.min(STEP);
                    now += step;
                    had[key] += step;
                    let rest = needs - step;
                    let rest = (rest > Duration::ZERO).then_some((number, rest));
                    turns.ended(&key, bytes, step, now, rest);
                }
            }
            let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
            prop_assert!(*most - *least <= 2 * STEP, "{:?}", had);
        }
    }
}

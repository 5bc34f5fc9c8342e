//! A bounded queue that many share: how much of it each may fill, and who is served next.
//!
//! **Room.** A party may use up to `SHARE_FACTOR` times what is left free. Alone it fills three quarters of the queue; the
//! more others fill it too, the smaller each one's share becomes, and some room always stays for whoever comes next
//! ('dynamic thresholds'). Who has nothing in the queue is let in while there is any room at all.
//!
//! **Turns.** Parties take turns, and in each turn one is served as much in size as another ('deficit round robin'). What
//! is served counts until it is released, since it still takes memory while it is worked on.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// How often what is left free one party may use.
const SHARE_FACTOR: usize = 3;

/// The queue.
#[derive(Debug)]
pub struct Queue<K, T> {
    capacity: usize,
    /// What one turn is worth.
    turn: usize,
    /// The sizes of all that was taken in and is not released.
    used: usize,
    parties: HashMap<K, Party<T>>,
    /// Those that have something queued, the next first.
    turns: VecDeque<K>,
}

#[derive(Debug)]
struct Party<T> {
    queued: VecDeque<(T, usize)>,
    used: usize,
    /// What it may still be served in this turn.
    credit: usize,
}

/// Why something is not taken in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full.
    Full,
    /// The party's share of it is used up.
    ShareUsed,
}

impl<K: Clone + Eq + Hash, T> Queue<K, T> {
    /// An empty queue of this capacity; parties are served this much in a turn.
    #[must_use]
    pub fn new(capacity: usize, turn: usize) -> Self {
        Self { capacity, turn: turn.max(1), used: 0, parties: HashMap::new(), turns: VecDeque::new() }
    }

    /// Whether something of this size may be taken in now.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, key: &K, size: usize) -> Result<(), Refused> {
        let own = self.parties.get(key).map_or(0, |party| party.used);
        let free = self.capacity.saturating_sub(self.used);
        if self.used == 0 {
            // Whatever its size: it must come in some time.
            Ok(())
        } else if size > free {
            Err(Refused::Full)
        } else if own > 0 && own + size > SHARE_FACTOR * (free - size) {
            Err(Refused::ShareUsed)
        } else {
            Ok(())
        }
    }

    /// Takes something in that [`Queue::admits`] has let in.
    pub fn push(&mut self, key: &K, item: T, size: usize) {
        self.used += size;
        if let Some(party) = self.parties.get_mut(key) {
            if party.queued.is_empty() {
                self.turns.push_back(key.clone());
            }
            party.used += size;
            party.queued.push_back((item, size));
            return;
        }
        let party = Party { queued: VecDeque::from([(item, size)]), used: size, credit: 0 };
        self.parties.insert(key.clone(), party);
        self.turns.push_back(key.clone());
    }

    /// Whoever's turn it is: its oldest item. It counts until [`Queue::release`].
    pub fn take(&mut self) -> Option<T> {
        self.take_if(|_| true)
    }

    /// As [`Queue::take`], if whoever takes it wants it. What is not wanted stays the next.
    pub fn take_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        loop {
            let party = self.parties.get_mut(self.turns.front()?)?;
            let size = party.queued.front().map_or(0, |(_, size)| *size);
            if size > party.credit {
                party.credit += self.turn;
                self.turns.rotate_left(1);
                continue;
            }
            let (taken, _) = party.queued.pop_front_if(|(item, _)| wanted(item))?;
            party.credit -= size;
            if party.queued.is_empty() {
                // What it did not use is not kept: who was away has no claim on more than others.
                party.credit = 0;
                self.turns.pop_front();
            }
            return Some(taken);
        }
    }

    /// Frees the room of something that was taken.
    pub fn release(&mut self, key: &K, size: usize) {
        self.used = self.used.saturating_sub(size);
        if let Some(party) = self.parties.get_mut(key) {
            party.used = party.used.saturating_sub(size);
            if party.used == 0 && party.queued.is_empty() {
                self.parties.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: usize = 64_000;
    const TURN: usize = 64;

    type Numbers = Queue<usize, (usize, usize)>;

    /// Takes in as many items of this size as are admitted; how many.
    fn fill(queue: &mut Numbers, key: usize, size: usize) -> usize {
        let mut count = 0;
        while queue.admits(&key, size).is_ok() {
            queue.push(&key, (key, size), size);
            count += 1;
        }
        count
    }

    #[test]
    fn one_party_alone_gets_three_quarters_and_leaves_room_for_another() {
        let mut queue = Numbers::new(CAPACITY, TURN);
        assert_eq!(fill(&mut queue, 1, 100), 480);
        assert_eq!(queue.admits(&1, 100), Err(Refused::ShareUsed));
        assert_eq!(fill(&mut queue, 2, 100), 120);
        assert_eq!(queue.admits(&3, 8_000), Err(Refused::Full));
        let mut empty = Numbers::new(CAPACITY, TURN);
        assert_eq!(empty.admits(&1, 2 * CAPACITY), Ok(()), "it would never come in");
        empty.push(&1, (1, 1), 2 * CAPACITY);
        assert_eq!(empty.admits(&2, 1), Err(Refused::Full));
        assert_eq!(empty.take(), Some((1, 1)));
        empty.release(&1, 2 * CAPACITY);
        assert!(empty.parties.is_empty() && empty.turns.is_empty() && empty.take().is_none());
    }

    #[test]
    fn what_is_not_wanted_stays_the_next() {
        let mut queue = Numbers::new(CAPACITY, TURN);
        for key in [1, 2] {
            queue.push(&key, (key, 0), TURN);
        }
        assert_eq!(queue.take_if(|_| false), None);
        assert_eq!([queue.take(), queue.take_if(|_| true), queue.take()], [Some((1, 0)), Some((2, 0)), None]);
    }

    /// One that comes while another's large items wait is served before the next of those.
    #[test]
    fn a_small_item_is_next_however_large_those_of_others_are() {
        let mut queue = Numbers::new(CAPACITY, TURN);
        (0..40).for_each(|number| queue.push(&1, (1, number), 20 * TURN));
        assert_eq!(queue.take(), Some((1, 0)));
        queue.push(&2, (2, 0), TURN);
        assert_eq!(queue.take(), Some((2, 0)));
    }

    proptest! {
        #[test]
        fn however_many_flood_it_another_finds_room(floods in 1_usize..9, size in 1_usize..200) {
            let mut queue = Numbers::new(CAPACITY, TURN);
            // In turns, as floods come.
            while (0..floods).map(|key| {
                let admitted = queue.admits(&key, size).is_ok();
                if admitted {
                    queue.push(&key, (key, size), size);
                }
                usize::from(admitted)
            }).sum::<usize>() > 0 {}
            let left = CAPACITY / (SHARE_FACTOR * floods + 1);
            prop_assert!(CAPACITY - queue.used + size * floods >= left, "{} of {left}", CAPACITY - queue.used);
            let found = fill(&mut queue, 99, size) * size;
            prop_assert!(found + 2 * size * (floods + 1) >= left / 2, "{found} of {left}");
        }

        #[test]
        fn nothing_is_lost_or_served_twice_and_each_party_keeps_its_order(
            steps in prop::collection::vec((0_usize..5, 1_usize..300, any::<bool>()), 1..400),
        ) {
            let mut queue = Numbers::new(CAPACITY, TURN);
            let mut waiting: HashMap<usize, VecDeque<(usize, usize)>> = HashMap::new();
            for (number, (key, size, take)) in steps.into_iter().enumerate() {
                if take {
                    let taken = queue.take();
                    prop_assert_eq!(taken.is_none(), waiting.values().all(VecDeque::is_empty));
                    if let Some((key, number)) = taken {
                        let (expected, size) = waiting.get_mut(&key).unwrap().pop_front().unwrap();
                        prop_assert_eq!(number, expected);
                        queue.release(&key, size);
                    }
                } else if queue.admits(&key, size).is_ok() {
                    queue.push(&key, (key, number), size);
                    waiting.entry(key).or_default().push_back((number, size));
                }
                let sizes: usize = waiting.values().flatten().map(|(_, size)| size).sum();
                prop_assert_eq!(queue.used, sizes);
                prop_assert!(queue.used <= CAPACITY);
            }
        }

        #[test]
        fn between_two_services_of_one_another_gets_no_more_than_its_turns(
            sizes in prop::collection::vec(1_usize..500, 3),
        ) {
            let mut queue = Numbers::new(CAPACITY, TURN);
            for (key, size) in sizes.iter().enumerate() {
                for _ in 0..60 {
                    queue.push(&key, (key, *size), *size);
                }
            }
            let mut served = [0_usize; 3];
            while queue.turns.len() == sizes.len() {
                let (key, size) = queue.take().unwrap();
                served[key] += size;
                if queue.turns.len() < sizes.len() {
                    break;
                }
                let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
                prop_assert!(most - least <= 2 * TURN + 2 * 500, "{served:?}");
            }
        }
    }
}

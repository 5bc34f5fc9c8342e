//! Which compiled schemas are kept: those used last, within a bound for all and one for each tenant.
//!
//! When all together take too much, whoever takes the most gives something up: a tenant that uses many schemas cannot push
//! out the few of another.

use std::collections::BTreeMap;
use std::hash::Hash;

use ahash::{HashMap, HashMapExt as _};

/// Values by party and key, with their sizes.
#[derive(Debug)]
pub(super) struct Cache<P, K, V> {
    most: usize,
    most_of_party: usize,
    shelves: HashMap<P, Shelf<K, V>>,
    bytes: usize,
    /// Counts uses.
    use_count: u64,
}

#[derive(Debug)]
struct Shelf<K, V> {
    held: HashMap<K, Held<V>>,
    /// Keys by their last use.
    by_use: BTreeMap<u64, K>,
    bytes: usize,
}

#[derive(Debug)]
struct Held<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<P: Clone + Eq + Hash, K: Clone + Eq + Hash, V: Clone> Cache<P, K, V> {
    /// An empty one that holds so many bytes, and of one party so many.
    pub(super) fn new(most: usize, most_of_party: usize) -> Self {
        Self { most, most_of_party, shelves: HashMap::new(), bytes: 0, use_count: 0 }
    }

    /// How many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A value, which is used with that.
    pub(super) fn get(&mut self, party: &P, key: &K) -> Option<V> {
        self.use_count += 1;
        let shelf = self.shelves.get_mut(party)?;
        let held = shelf.held.get_mut(key)?;
        shelf.by_use.remove(&held.used);
        held.used = self.use_count;
        shelf.by_use.insert(held.used, key.clone());
        Some(held.value.clone())
    }

    /// Puts a value in, unless it is larger than what one party may have.
    pub(super) fn put(&mut self, party: &P, key: K, value: V, bytes: usize) {
        self.remove(party, &key);
        if bytes > self.most_of_party.min(self.most) {
            return;
        }
        self.use_count += 1;
        let used = self.use_count;
        let shelf = self.shelves.entry(party.clone()).or_insert_with(Shelf::new);
        shelf.by_use.insert(used, key.clone());
        shelf.held.insert(key, Held { value, bytes, used });
        shelf.bytes += bytes;
        self.bytes += bytes;
        while self.shelves.get(party).is_some_and(|shelf| shelf.bytes > self.most_of_party) {
            self.give_up(&party.clone());
        }
        while self.bytes > self.most {
            let largest = self.shelves.iter().max_by_key(|(_, shelf)| shelf.bytes);
            let Some(largest) = largest.map(|(party, _)| party.clone()) else { return };
            self.give_up(&largest);
        }
    }

    /// Forgets a value.
    pub(super) fn remove(&mut self, party: &P, key: &K) {
        let Some(shelf) = self.shelves.get_mut(party) else { return };
        let Some(held) = shelf.held.remove(key) else { return };
        shelf.by_use.remove(&held.used);
        shelf.bytes -= held.bytes;
        self.bytes -= held.bytes;
        if shelf.held.is_empty() {
            self.shelves.remove(party);
        }
    }

    /// Forgets what a party has.
    pub(super) fn remove_all(&mut self, party: &P) {
        let gone = self.shelves.remove(party);
        self.bytes -= gone.map_or(0, |shelf| shelf.bytes);
    }

    /// Forgets what the party has used longest ago.
    fn give_up(&mut self, party: &P) {
        let oldest = self.shelves.get(party).and_then(|shelf| shelf.by_use.values().next().cloned());
        if let Some(oldest) = oldest {
            self.remove(party, &oldest);
        }
    }
}

impl<K, V> Shelf<K, V> {
    fn new() -> Self {
        Self { held: HashMap::new(), by_use: BTreeMap::new(), bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut cache = Cache::new(100, 30);
        for key in 0..3 {
            cache.put(&"a", key, key, 10);
        }
        assert_eq!(cache.get(&"a", &0), Some(0));
        cache.put(&"a", 3, 3, 10);
        assert_eq!([0, 1, 2, 3].map(|key| cache.get(&"a", &key)), [Some(0), None, Some(2), Some(3)]);
        cache.put(&"a", 4, 4, 31);
        assert_eq!(
            (cache.get(&"a", &4), cache.bytes()),
            (None, 30),
            "it alone is larger than a party's share"
        );
    }

    #[test]
    fn whoever_has_the_most_gives_way() {
        let mut cache = Cache::new(100, 60);
        cache.put(&"light", 0, 0, 10);
        for key in 0..1000 {
            cache.put(&"evil", key, key, 10);
            cache.put(&"worse", key, key, 10);
        }
        assert_eq!(cache.get(&"light", &0), Some(0));
        assert!(cache.bytes() <= 100);
        cache.remove_all(&"evil");
        cache.remove_all(&"worse");
        assert_eq!(cache.bytes(), 10);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_sums_agree(
            steps in prop::collection::vec((0_u8..4, 0_u8..6, 0_usize..40, 0_u8..4), 0..200),
        ) {
            let mut cache = Cache::new(100, 35);
            for (party, key, bytes, what) in steps {
                match what {
                    0 => drop(cache.get(&party, &key)),
                    1 => cache.remove(&party, &key),
                    _ => cache.put(&party, key, (), bytes),
                }
                let sums: Vec<usize> =
                    cache.shelves.values().map(|shelf| shelf.held.values().map(|held| held.bytes).sum()).collect();
                prop_assert_eq!(cache.bytes(), sums.iter().sum::<usize>());
                prop_assert!(cache.bytes() <= 100 && sums.iter().all(|sum| *sum <= 35), "{:?}", sums);
                let orders = cache.shelves.values().all(|shelf| shelf.by_use.len() == shelf.held.len());
                prop_assert!(orders);
            }
        }
    }
}

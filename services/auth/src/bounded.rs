//! A bounded map whose space is shared out over the sources of its entries, with or without an expiry.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::ops::Range;

/// A map of at most `capacity` entries, of which one source has at most `share`. A source that needs more loses its own
/// oldest entries. When all of it is full, the sources with the most entries lose some: a source below the equal share
/// loses none. Without sources (`S = ()`) the oldest entries are removed.
pub struct BoundedMap<K, V, S = ()> {
    capacity: usize,
    share: usize,
    /// The number of the next entry: entries are ordered by age.
    next: u64,
    entries: HashMap<K, Entry<V, S>>,
    /// The keys of each source by age.
    sources: HashMap<S, BTreeMap<u64, K>>,
}

struct Entry<V, S> {
    source: S,
    number: u64,
    value: V,
}

/// A value with the time for which it holds. A clock that is set back before `since` ends it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiring<T, V> {
    valid: (T, T),
    value: V,
}

impl<K, V, S> fmt::Debug for BoundedMap<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedMap")
            .field("len", &self.entries.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl<K: Clone + Eq + Hash, V> BoundedMap<K, V> {
    /// An empty map without sources, which keeps the newest `capacity` entries.
    #[must_use]
    pub fn newest(capacity: usize) -> Self {
        Self::new(capacity, capacity)
    }
}

impl<K: Clone + Eq + Hash, V, S: Clone + Eq + Hash> BoundedMap<K, V, S> {
    /// An empty map.
    #[must_use]
    pub fn new(capacity: usize, share: usize) -> Self {
        Self { capacity, share, next: 0, entries: HashMap::new(), sources: HashMap::new() }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns true if another entry would displace one of another source.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }

    /// Inserts or replaces a value. It is charged to `source`.
    pub fn insert(&mut self, source: S, key: K, value: V) {
        self.remove(&key);
        if self.sources.get(&source).is_some_and(|keys| keys.len() >= self.share) {
            self.remove_oldest(&source);
        }
        if self.is_full() {
            self.make_space();
        }
        let number = self.number();
        self.sources.entry(source.clone()).or_default().insert(number, key.clone());
        self.entries.insert(key, Entry { source, number, value });
    }

    /// Removes a key, and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.unlist(&entry.source, entry.number);
        Some(entry.value)
    }

    /// Makes a key the newest of its source, if it is in the older half of all entries. So a key in use stays.
    pub fn touch(&mut self, key: &K) {
        let half = u64::try_from(self.capacity / 2).unwrap_or(u64::MAX);
        let number = self.next;
        let Some(entry) = self.entries.get_mut(key).filter(|entry| number - entry.number > half) else { return };
        let (source, before) = (entry.source.clone(), std::mem::replace(&mut entry.number, number));
        self.next += 1;
        if let Some(keys) = self.sources.get_mut(&source)
            && let Some(key) = keys.remove(&before)
        {
            keys.insert(number, key);
        }
    }

    /// Keeps the entries for which `keeps` returns true.
    pub fn retain(&mut self, keeps: impl Fn(&V) -> bool) {
        self.entries.retain(|_, entry| keeps(&entry.value));
        let entries = &self.entries;
        self.sources.retain(|_, keys| {
            keys.retain(|_, key| entries.contains_key(key));
            !keys.is_empty()
        });
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn unlist(&mut self, source: &S, number: u64) {
        if let Some(keys) = self.sources.get_mut(source) {
            keys.remove(&number);
            if keys.is_empty() {
                self.sources.remove(source);
            }
        }
    }

    fn remove_oldest(&mut self, source: &S) {
        let Some((&number, key)) = self.sources.get(source).and_then(BTreeMap::first_key_value) else { return };
        self.entries.remove(key);
        self.unlist(source, number);
    }

    /// Lowers the sources with the most entries to one level. With several sources a sixteenth of the whole becomes free,
    /// so that they are seldom compared.
    fn make_space(&mut self) {
        let mut surplus = if self.sources.len() > 1 { (self.capacity / 16).max(1) } else { 1 };
        while surplus > 0 && !self.entries.is_empty() {
            let most = self.sources.values().map(BTreeMap::len).max().unwrap_or(0);
            let largest: Vec<S> = self
                .sources
                .iter()
                .filter(|(_, keys)| keys.len() == most)
                .map(|(source, _)| source.clone())
                .take(surplus)
                .collect();
            surplus -= largest.len();
            largest.iter().for_each(|source| self.remove_oldest(source));
        }
    }
}

impl<K: Clone + Eq + Hash, V, S: Clone + Eq + Hash, T: Copy + PartialOrd> BoundedMap<K, Expiring<T, V>, S> {
    /// Inserts or replaces a value that holds for this time, which begins now. Expired entries leave first.
    pub fn insert_for(&mut self, source: S, key: K, value: V, valid: Range<T>) {
        let now = valid.start;
        if self.is_full() {
            self.retain(|entry| entry.holds(now));
        }
        self.insert(source, key, Expiring { valid: (valid.start, valid.end), value });
    }

    /// The value of a key, if it holds at `now`.
    #[must_use]
    pub fn get_at(&self, key: &K, now: T) -> Option<&V> {
        self.get(key).filter(|entry| entry.holds(now)).map(|entry| &entry.value)
    }
}

impl<T: Copy + PartialOrd, V> Expiring<T, V> {
    /// The value, also if its time is over.
    pub fn value(&self) -> &V {
        &self.value
    }

    fn holds(&self, now: T) -> bool {
        let (since, until) = self.valid;
        since <= now && now < until
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl<K: Clone + Eq + Hash, V, S: Clone + Eq + Hash> BoundedMap<K, V, S> {
        fn check_indexes(&self) {
            let listed: usize = self.sources.values().map(BTreeMap::len).sum();
            assert_eq!(listed, self.entries.len(), "both indexes have the same entries");
            assert!(self.entries.len() <= self.capacity);
            assert!(self.sources.values().all(|keys| (1..=self.share).contains(&keys.len())));
        }
    }

    #[test]
    fn a_source_beyond_its_share_displaces_its_own_entries() {
        let mut map = BoundedMap::new(100, 10);
        map.insert("one", (1, 0), ());
        for number in 0..1000 {
            map.insert("two", (2, number), ());
        }
        assert!(map.get(&(1, 0)).is_some());
        assert_eq!(map.len(), 11);
        assert!(map.get(&(2, 999)).is_some() && map.get(&(2, 989)).is_none(), "the oldest leave");
    }

    #[test]
    fn many_large_sources_take_nothing_from_a_small_one() {
        let mut map = BoundedMap::new(160, 16);
        for number in 0..4 {
            map.insert(0, (0, number), ());
        }
        for round in 0..100 {
            for source in 1..=20 {
                map.insert(source, (source, round), ());
                map.check_indexes();
            }
        }
        assert!((0..4).all(|number| map.get(&(0, number)).is_some()), "4 of 160 are below the equal share");
    }

    #[test]
    fn a_replaced_and_a_removed_entry_leave_nothing_behind() {
        let mut map = BoundedMap::new(4, 4);
        map.insert("one", 1, "old");
        map.insert("two", 1, "new");
        assert_eq!((map.get(&1), map.sources.len()), (Some(&"new"), 1));
        assert_eq!(map.remove(&1), Some("new"));
        assert!(map.is_empty() && map.sources.is_empty());
        (0..4).for_each(|key| map.insert("one", key, "x"));
        assert!(map.is_full());
        map.retain(|_| false);
        assert!(map.is_empty() && map.sources.is_empty());
    }

    #[test]
    fn without_sources_exactly_the_newest_are_kept() {
        let mut map = BoundedMap::newest(100);
        (0..1000).for_each(|number| map.insert((), number, number * 2));
        assert_eq!((map.len(), map.get(&899), map.get(&900), map.get(&999)), (100, None, Some(&1800), Some(&1998)));
        map.insert((), 999, 1);
        assert_eq!((map.len(), map.get(&999)), (100, Some(&1)), "the newest value of a key");
    }

    #[test]
    fn a_key_in_use_outlasts_a_flood() {
        let mut map = BoundedMap::newest(100);
        map.insert((), u64::MAX, ());
        for number in 0..1000 {
            map.insert((), number, ());
            map.touch(&u64::MAX);
            map.check_indexes();
            assert!(map.get(&u64::MAX).is_some(), "after {number}");
        }
    }

    #[test]
    fn an_entry_holds_for_its_time_and_expired_ones_leave_first() {
        let mut map = BoundedMap::new(4, 4);
        map.insert_for("one", 1, "a", 10..20);
        let at = |map: &BoundedMap<_, _, _>, now| map.get_at(&1, now).copied();
        assert_eq!([9, 10, 19, 20].map(|now| at(&map, now)), [None, Some("a"), Some("a"), None]);
        (2..5).for_each(|key| map.insert_for("two", key, "b", 15..30));
        map.insert_for("two", 5, "c", 20..30);
        assert_eq!((map.len(), at(&map, 15)), (4, None), "the expired one made space");
        assert!((2..=5).all(|key| map.get_at(&key, 20).is_some()));
    }

    proptest! {
        /// Whatever is inserted, touched and removed: the bounds hold, and a source below the equal share loses nothing.
        #[test]
        fn bounds_and_equal_shares_hold(ops in prop::collection::vec((0u8..8, 0u16..60, 0u8..6), 1..400)) {
            let mut map = BoundedMap::new(32, 12);
            map.insert(99u8, 999u16, ());
            for (source, key, op) in ops {
                match op {
                    0 => drop(map.remove(&key)),
                    1 => map.touch(&key),
                    _ => {
                        map.insert(source, key, ());
                        prop_assert!(map.get(&key).is_some());
                    }
                }
                map.check_indexes();
                prop_assert!(map.get(&999).is_some(), "one entry is below the equal share");
            }
        }
    }
}

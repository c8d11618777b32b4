//! A bounded map of recent entries.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A map that keeps the newest entries: at least `capacity` of them and at most twice as many. The oldest are dropped
/// half at a time, so that the cost of an insertion does not depend on the size of the map.
pub struct Recent<K, V> {
    capacity: usize,
    entries: Mutex<Halves<K, V>>,
}

struct Halves<K, V> {
    newest: HashMap<K, V>,
    before: HashMap<K, V>,
}

impl<K, V> fmt::Debug for Recent<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    /// An empty map that keeps at least the newest `capacity` entries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let halves = Halves { newest: HashMap::new(), before: HashMap::new() };
        Self { capacity, entries: Mutex::new(halves) }
    }

    /// The value of a key that is still kept.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<V> {
        let entries = self.lock();
        entries.newest.get(key).or_else(|| entries.before.get(key)).cloned()
    }

    /// Returns true if a key is still kept.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Inserts or replaces a value.
    pub fn insert(&self, key: K, value: V) {
        let mut entries = self.lock();
        if entries.newest.len() >= self.capacity && !entries.newest.contains_key(&key) {
            entries.before = std::mem::take(&mut entries.newest);
        }
        entries.newest.insert(key, value);
    }

    fn lock(&self) -> MutexGuard<'_, Halves<K, V>> {
        // Both maps are consistent after every change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_entries_are_kept_and_the_size_is_bounded() {
        let recent = Recent::new(100);
        (0..1000).for_each(|number| recent.insert(number, number * 2));
        let entries = recent.lock();
        assert!(entries.newest.len() + entries.before.len() <= 200);
        drop(entries);
        assert_eq!((recent.get(&0), recent.get(&900), recent.get(&999)), (None, Some(1800), Some(1998)));
        recent.insert(999, 1);
        assert_eq!(recent.get(&999), Some(1), "the newest value of a key");
        assert!(!recent.contains(&1000));
    }
}

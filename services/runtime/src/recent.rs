//! A bounded map of recent entries.

use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gaia_auth::BoundedMap;

/// A shared map that keeps the newest `capacity` entries.
#[derive(Debug)]
pub struct Recent<K, V>(Mutex<BoundedMap<K, V>>);

impl<K: Clone + Hash + Eq, V: Clone> Recent<K, V> {
    /// An empty map.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Mutex::new(BoundedMap::newest(capacity)))
    }

    /// The value of a key that is still kept.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<V> {
        self.lock().get(key).cloned()
    }

    /// Returns true if a key is still kept.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.lock().get(key).is_some()
    }

    /// Inserts or replaces a value.
    pub fn insert(&self, key: K, value: V) {
        self.lock().insert((), key, value);
    }

    fn lock(&self) -> MutexGuard<'_, BoundedMap<K, V>> {
        // The map is consistent after every change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_entries_are_kept_and_the_size_is_bounded() {
        let recent = Recent::new(100);
        (0..1000).for_each(|number| recent.insert(number, number * 2));
        assert_eq!(recent.lock().len(), 100);
        assert_eq!((recent.get(&0), recent.get(&900), recent.get(&999)), (None, Some(1800), Some(1998)));
        recent.insert(999, 1);
        assert_eq!(recent.get(&999), Some(1), "the newest value of a key");
        assert!(!recent.contains(&1000));
    }
}

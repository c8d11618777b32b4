//! A bounded map of recent entries.

use std::hash::Hash;
use std::sync::Mutex;

use gaia_api::sync::lock;
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
        lock(&self.0).get(key).cloned()
    }

    /// Returns true if a key is still kept.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        lock(&self.0).get(key).is_some()
    }

    /// Inserts or replaces a value.
    pub fn insert(&self, key: K, value: V) {
        lock(&self.0).insert((), key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_entries_are_kept_and_the_size_is_bounded() {
        let recent = Recent::new(100);
        (0..1000).for_each(|number| recent.insert(number, number * 2));
        assert_eq!(lock(&recent.0).len(), 100);
        assert_eq!((recent.get(&0), recent.get(&900), recent.get(&999)), (None, Some(1800), Some(1998)));
        recent.insert(999, 1);
        assert_eq!(recent.get(&999), Some(1), "the newest value of a key");
        assert!(!recent.contains(&1000));
    }
}

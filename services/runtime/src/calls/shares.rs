//! A bounded map whose capacity is shared among the sources of its entries.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;

/// The requester that an entry is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An authenticated subject.
    Account(String),
    /// An address, or the network of one site.
    Site(IpAddr),
    /// Unknown; all of these share one part.
    Unknown,
}

/// A map of at most `capacity` entries, of which one source has at most `share`. A source that needs more loses its own
/// oldest entries. When all of it is full, the sources with the most entries lose some: a source below the equal share
/// loses none.
#[derive(Debug)]
pub(crate) struct Shares<K, V> {
    capacity: usize,
    share: usize,
    entries: HashMap<K, (Source, V)>,
    /// The keys of each source, the oldest first.
    sources: HashMap<Source, VecDeque<K>>,
}

impl<K: Clone + Eq + Hash, V> Shares<K, V> {
    /// An empty map.
    #[must_use]
    pub(crate) fn new(capacity: usize, share: usize) -> Self {
        Self { capacity, share, entries: HashMap::new(), sources: HashMap::new() }
    }

    /// The value of a key.
    #[must_use]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Inserts or replaces a value. It is charged to `source`.
    pub(crate) fn insert(&mut self, source: Source, key: K, value: V) {
        self.remove(&key);
        if self.sources.get(&source).is_some_and(|keys| keys.len() >= self.share) {
            self.drop_oldest(&source);
        }
        if self.entries.len() >= self.capacity {
            self.make_room();
        }
        self.sources.entry(source.clone()).or_default().push_back(key.clone());
        self.entries.insert(key, (source, value));
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, key: &K) {
        let Some((source, _)) = self.entries.remove(key) else { return };
        if let Some(keys) = self.sources.get_mut(&source) {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.sources.remove(&source);
            }
        }
    }

    /// Returns true if another entry would displace one of another source.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }

    /// Keeps the entries for which `keeps` returns true.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&V) -> bool) {
        self.entries.retain(|_, (_, value)| keeps(value));
        let entries = &self.entries;
        self.sources.retain(|_, keys| {
            keys.retain(|key| entries.contains_key(key));
            !keys.is_empty()
        });
    }

    fn drop_oldest(&mut self, source: &Source) {
        let Some(keys) = self.sources.get_mut(source) else { return };
        if let Some(oldest) = keys.pop_front() {
            self.entries.remove(&oldest);
        }
        if keys.is_empty() {
            self.sources.remove(source);
        }
    }

    /// Reduces the sources with the most entries to one level, until a sixteenth of the capacity is free.
    fn make_room(&mut self) {
        let mut surplus = (self.capacity / 16).max(1);
        while surplus > 0 && !self.entries.is_empty() {
            let most = self.sources.values().map(VecDeque::len).max().unwrap_or(0);
            let largest: Vec<Source> = self
                .sources
                .iter()
                .filter(|(_, keys)| keys.len() == most)
                .map(|(source, _)| source.clone())
                .take(surplus)
                .collect();
            surplus -= largest.len();
            largest.iter().for_each(|source| self.drop_oldest(source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: u32) -> Source {
        Source::Account(name.to_string())
    }

    #[test]
    fn a_source_that_needs_more_than_its_share_displaces_its_own_entries() {
        let mut shares = Shares::new(100, 10);
        shares.insert(account(1), (1, 0), ());
        for number in 0..1000 {
            shares.insert(account(2), (2, number), ());
        }
        assert!(shares.get(&(1, 0)).is_some());
        assert_eq!(shares.entries.len(), 11);
        assert!(shares.get(&(2, 999)).is_some() && shares.get(&(2, 989)).is_none(), "the oldest leave");
    }

    #[test]
    fn many_greedy_sources_take_nothing_from_a_modest_one() {
        let mut shares = Shares::new(160, 16);
        for number in 0..4 {
            shares.insert(account(0), (0, number), ());
        }
        for round in 0..100 {
            for source in 1..=20 {
                shares.insert(account(source), (source, round), ());
                assert!(shares.entries.len() <= 160);
            }
        }
        assert!((0..4).all(|number| shares.get(&(0, number)).is_some()), "4 of 160 are below the equal share");
        let listed: usize = shares.sources.values().map(VecDeque::len).sum();
        assert_eq!(listed, shares.entries.len(), "both indexes agree");
    }

    #[test]
    fn a_replaced_and_a_removed_entry_leave_nothing_behind() {
        let mut shares = Shares::new(4, 4);
        shares.insert(account(1), 1, "old");
        shares.insert(account(2), 1, "new");
        assert_eq!((shares.get(&1), shares.sources.len()), (Some(&"new"), 1));
        shares.remove(&1);
        assert!(shares.entries.is_empty() && shares.sources.is_empty());
        (0..4).for_each(|key| shares.insert(Source::Unknown, key, "x"));
        assert!(shares.is_full());
        shares.retain(|_| false);
        assert!(shares.entries.is_empty() && shares.sources.is_empty());
    }
}

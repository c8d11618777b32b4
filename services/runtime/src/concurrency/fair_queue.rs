//! A queue that serves the sources of its items in turn.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Items by source. A source with many items delays only its own.
#[derive(Debug)]
pub struct FairQueue<S, T> {
    items: HashMap<S, VecDeque<T>>,
    /// The sources with items, the next one first.
    order: VecDeque<S>,
}

impl<S, T> Default for FairQueue<S, T> {
    fn default() -> Self {
        Self { items: HashMap::new(), order: VecDeque::new() }
    }
}

impl<S: Clone + Eq + Hash, T> FairQueue<S, T> {
    /// The number of items of a source.
    #[must_use]
    pub fn len_of(&self, source: &S) -> usize {
        self.items.get(source).map_or(0, VecDeque::len)
    }

    /// Returns true if no source has items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds an item.
    pub fn push(&mut self, source: &S, item: T) {
        let items = self.items.entry(source.clone()).or_default();
        if items.is_empty() {
            self.order.push_back(source.clone());
        }
        items.push_back(item);
    }

    /// Keeps the items of a source for which `keeps` returns true.
    pub fn retain(&mut self, source: &S, keeps: impl FnMut(&T) -> bool) {
        let Some(items) = self.items.get_mut(source) else { return };
        items.retain(keeps);
        if items.is_empty() {
            self.items.remove(source);
            self.order.retain(|waiting| waiting != source);
        }
    }

    /// Removes the oldest live item of the next source for which `may` returns true, and the items before it. That source
    /// is served last from then on.
    pub fn pop(&mut self, may: impl Fn(&S) -> bool, is_live: impl Fn(&T) -> bool) -> Option<(S, T)> {
        loop {
            let next = self.order.iter().position(&may)?;
            let source = self.order.remove(next)?;
            let items = self.items.get_mut(&source)?;
            let item = std::iter::from_fn(|| items.pop_front()).find(&is_live);
            if items.is_empty() {
                self.items.remove(&source);
            } else {
                self.order.push_back(source.clone());
            }
            if let Some(item) = item {
                return Some((source, item));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_served_in_turn_and_excluded_ones_keep_their_place() {
        let mut queue = FairQueue::default();
        for (source, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)] {
            queue.push(&source, item);
        }
        assert_eq!([queue.len_of(&"a"), queue.len_of(&"d")], [3, 0]);
        assert_eq!(queue.pop(|&source| source != "a", |_| true), Some(("b", 4)));
        let served: Vec<_> = std::iter::from_fn(|| queue.pop(|_| true, |_| true)).collect();
        assert_eq!(served, [("a", 1), ("c", 5), ("a", 2), ("a", 3)]);
        assert!(queue.is_empty() && queue.items.is_empty());
    }

    #[test]
    fn source_without_items_has_no_turn() {
        let mut queue = FairQueue::default();
        queue.push(&"a", 1);
        queue.push(&"b", 2);
        queue.retain(&"a", |_| false);
        queue.retain(&"c", |_| false);
        assert_eq!((queue.pop(|_| true, |_| true), queue.pop(|_| true, |_| true)), (Some(("b", 2)), None));
        assert!(queue.items.is_empty());
    }

    #[test]
    fn items_that_are_not_live_cost_their_source_no_turn() {
        let mut queue = FairQueue::default();
        for (source, item) in [("a", 0), ("a", 0), ("a", 1), ("b", 0), ("c", 2)] {
            queue.push(&source, item);
        }
        let mut served = || queue.pop(|_| true, |&item| item > 0);
        assert_eq!([served(), served(), served()], [Some(("a", 1)), Some(("c", 2)), None]);
        assert!(queue.is_empty() && queue.items.is_empty());
    }
}

//! Number of open connections by the root of the peer's chain.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gaia_api::sync::lock;

/// The open connections of one listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<BTreeMap<String, u64>>>);

/// Guard of one open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    connections: Connections,
    root: String,
}

impl Connections {
    /// Counts a connection under a root's fingerprint.
    pub(crate) fn count(&self, root: String) -> Counted {
        self.add(&root);
        Counted { connections: self.clone(), root }
    }

    /// Returns the non-zero counts.
    pub(crate) fn by_root(&self) -> BTreeMap<String, u64> {
        lock(&self.0).clone()
    }

    fn add(&self, root: &str) {
        *lock(&self.0).entry(root.to_owned()).or_default() += 1;
    }

    fn remove(&self, root: &str) {
        let mut counts = lock(&self.0);
        if let Some(count) = counts.get_mut(root) {
            *count -= 1;
            if *count == 0 {
                counts.remove(root);
            }
        }
    }
}

impl Counted {
    /// Moves the connection to the count of another root.
    pub(crate) fn move_to(&mut self, root: &str) {
        if root != self.root {
            self.connections.add(root);
            self.connections.remove(&self.root);
            root.clone_into(&mut self.root);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.remove(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_under_one_root_for_as_long_as_it_lives() {
        let connections = Connections::default();
        let counts = || connections.by_root().into_iter().collect::<Vec<_>>();
        let mut first = connections.count("old".to_owned());
        let second = connections.count("old".to_owned());
        assert_eq!(counts(), [("old".to_owned(), 2)]);
        first.move_to("new");
        first.move_to("new");
        assert_eq!(counts(), [("new".to_owned(), 1), ("old".to_owned(), 1)]);
        drop(second);
        assert_eq!(counts(), [("new".to_owned(), 1)]);
        drop(first);
        assert!(counts().is_empty());
    }
}

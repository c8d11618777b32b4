//! The current keys of external issuers.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::tokens::KeySet;

/// The key sets of external issuers, by the issuer's short name. Clones share one table, written by the fetching task
/// and read by token verification.
#[derive(Debug, Clone, Default)]
pub struct UserKeys(Arc<ArcSwap<HashMap<String, Arc<KeySet>>>>);

impl UserKeys {
    /// Sets the keys of that issuer for subsequent verifications.
    pub fn set(&self, issuer: &str, keys: &Arc<KeySet>) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.insert(issuer.to_owned(), Arc::clone(keys));
            table
        });
    }

    /// Removes the keys of that issuer: its tokens get a 503.
    pub fn remove(&self, issuer: &str) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.remove(issuer);
            table
        });
    }

    /// Returns the keys of an issuer; none while they are missing or stale.
    #[must_use]
    pub fn get(&self, issuer: &str) -> Option<Arc<KeySet>> {
        self.0.load().get(issuer).cloned()
    }
}

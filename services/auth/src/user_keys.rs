//! The keys of outside issuers, as they are at this moment.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::jwt::KeySet;

/// The key sets of outside issuers, by the issuer's short name. Clones share one table: who fetches the keys writes it,
/// who verifies tokens reads it.
#[derive(Debug, Clone, Default)]
pub struct UserKeys(Arc<ArcSwap<HashMap<String, Arc<KeySet>>>>);

impl UserKeys {
    /// Verifies tokens of that issuer by these keys from now on.
    pub fn set(&self, issuer: &str, keys: &Arc<KeySet>) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.insert(issuer.to_owned(), Arc::clone(keys));
            table
        });
    }

    /// Has no keys of that issuer any more: its tokens get a 503.
    pub fn remove(&self, issuer: &str) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.remove(issuer);
            table
        });
    }

    /// The keys of an issuer; none while there are none, or none that are fresh enough.
    #[must_use]
    pub fn get(&self, issuer: &str) -> Option<Arc<KeySet>> {
        self.0.load().get(issuer).cloned()
    }
}

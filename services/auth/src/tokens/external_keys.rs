//! The current keys of external issuers.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::hash::sha256;
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

    /// Returns the hash of the keys of all issuers: decisions based on them stay valid until it changes.
    #[must_use]
    pub fn context(&self) -> [u8; 32] {
        let table = self.0.load();
        let mut sets: Vec<_> = table.iter().map(|(issuer, keys)| (sha256(issuer.as_bytes()), keys.hash())).collect();
        sets.sort_unstable();
        let hashes: Vec<[u8; 32]> = sets.into_iter().flat_map(|(issuer, keys)| [issuer, keys]).collect();
        sha256(hashes.as_flattened())
    }

    /// Returns the keys of an issuer; none while they are missing or stale.
    #[must_use]
    pub fn get(&self, issuer: &str) -> Option<Arc<KeySet>> {
        self.0.load().get(issuer).cloned()
    }
}

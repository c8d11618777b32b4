//! Units that are shared out over their holders.
//!
//! A holder may use at most as much as is free: one alone gets half of the units, `n` get `1/(n + 1)` each, and the same
//! share stays free for the next one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use gaia_api::sync::lock;

/// The units. Clones share them.
#[derive(Debug)]
pub struct Shares<K>(Arc<Mutex<State<K>>>);

#[derive(Debug)]
struct State<K> {
    free: usize,
    held: HashMap<K, usize>,
}

/// The holder has used its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the holder has used its share")]
pub struct ShareExhausted;

/// Units of one holder until they are dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash + Clone> {
    shares: Shares<K>,
    holder: K,
    units: usize,
}

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// So many units.
    #[must_use]
    pub fn new(units: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: units, held: HashMap::new() })))
    }

    /// Takes units until the result is dropped.
    ///
    /// # Errors
    /// [`ShareExhausted`]
    pub fn hold(&self, holder: K, units: usize) -> Result<Share<K>, ShareExhausted> {
        self.take(&holder, units)?;
        Ok(Share { shares: self.clone(), holder, units })
    }

    /// Takes units that the caller gives back.
    pub(crate) fn take(&self, holder: &K, units: usize) -> Result<(), ShareExhausted> {
        let mut state = lock(&self.0);
        let held = state.held.get(holder).copied().unwrap_or_default();
        if held + units > state.free {
            return Err(ShareExhausted);
        }
        if units > 0 {
            state.free -= units;
            state.held.insert(holder.clone(), held + units);
        }
        Ok(())
    }

    pub(crate) fn give_back(&self, holder: &K, units: usize) {
        let mut state = lock(&self.0);
        let Some(held) = state.held.get_mut(holder) else { return };
        *held -= units;
        if *held == 0 {
            state.held.remove(holder);
        }
        state.free += units;
    }

    /// Returns the number of free units, for tests.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        lock(&self.0).free
    }

    /// Returns the number of held units, for tests.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        lock(&self.0).held.values().sum()
    }

    /// Returns the number of holders, for tests.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        lock(&self.0).held.len()
    }
}

impl<K: Eq + Hash + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        self.shares.give_back(&self.holder, self.units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind: one holder, or fifty, use up what belongs to another.
    #[test]
    fn share_for_the_next_holder_stays_free() {
        for (holders, most) in [(1, 512), (50, 20)] {
            let shares = Shares::new(1024);
            let mut held: Vec<Share<u32>> = Vec::new();
            while let before = held.len()
                && {
                    held.extend((0..holders).filter_map(|holder| shares.hold(holder, 1).ok()));
                    held.len() > before
                }
            {}
            let all = usize::try_from(holders).unwrap();
            assert!((most * all..(most + 1) * all).contains(&held.len()), "{}", held.len());
            assert!(shares.hold(99, most).is_ok(), "the share of another holder");
            drop(held);
            assert_eq!((shares.free(), shares.holders()), (1024, 0));
        }
    }
}

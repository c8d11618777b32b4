//! Custom resources whose status could not be written because their version differs from the known one.

use tokio::time::Instant;

use super::{MINIMUM_WAIT, RETRY, Reconciler};
use crate::cache::lock;
use crate::store::{ObjectRef, Store};

impl<S: Store> Reconciler<S> {
    /// Reads the object and applies it as a watch event; returns the time of the next plan. A broken watch is restarted
    /// after a delay, and without this read each write until then would be refused.
    pub(super) async fn read_again(&self, key: &ObjectRef) -> Instant {
        let seen = lock(&self.executor.world).uid_of(key).map(str::to_owned);
        let found = match self.executor.store.get_resource(key).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%key, %error, "failed to read the object after a conflict on its status");
                return Instant::now() + RETRY;
            }
        };
        let (affected, unreadable) = {
            let mut world = lock(&self.executor.world);
            let affected = world.take_found(key, found, seen.as_deref());
            (affected, world.count_unreadable(key.resource()))
        };
        self.metrics.count_unreadable(key.resource().kind, unreadable);
        self.scheduler.push(&self.executor.world, affected.into_iter().filter(|affected| affected != key));
        Instant::now() + MINIMUM_WAIT
    }
}

#[cfg(test)]
mod tests;

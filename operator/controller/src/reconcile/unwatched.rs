//! Objects that no watch reports: they are read again at each reconcile, or looked up in the background.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gaia_plan::object::ObjectKey;

use super::Reconciler;
use crate::cache::{Place, lock};
use crate::store::error::ExecuteError;
use crate::store::{ObjectRef, Store};

impl<S: Store> Reconciler<S> {
    /// Reads the objects that no watch reports: foreign objects under desired names, rings without their label, a
    /// bring-your-own CA.
    pub(super) async fn look_around(&self, key: &ObjectRef) -> Result<(), ExecuteError> {
        let in_the_way = lock(&self.executor.world).foreign_of(key);
        for object in in_the_way {
            self.executor.look_closer(key, &object).await?;
        }
        if let ObjectRef::Service(namespace, name) = key {
            // The reconcile does not wait for the answer.
            if lock(&self.executor.world).must_look_up_secrets(&(namespace.clone(), name.clone())) {
                self.scheduler.lookups.push(key.clone());
            }
            return Ok(());
        }
        let ObjectRef::TrustDomain(name) = key else { return Ok(()) };
        let Some(domain) = lock(&self.executor.world).trust_domain(name).cloned() else { return Ok(()) };
        for ring in [gaia_api::names::ca_ring(name), gaia_api::names::signing_ring(name)] {
            let ring = {
                let world = lock(&self.executor.world);
                let ring = ObjectKey::secret(world.operator_namespace(), ring);
                world.version(&ring).is_none().then_some(ring)
            };
            if let Some(ring) = ring {
                self.executor.look_closer(key, &ring).await?;
                let world = lock(&self.executor.world);
                if world.version(&ring).is_none() {
                    self.scheduler.decisions.push_all(world.referring_to(name));
                }
            }
        }
        let resting = self.executor.read_written_grants(name).await?;
        self.scheduler.push(&self.executor.world, resting);
        if let Some(secret) = &domain.spec.ca.existing_secret_ref {
            let now = self.executor.clock.now();
            let found = self.executor.read_external_ca(&secret.name, now).await?;
            let facts = found.map(|ca| crate::execute::issue::examine(&ca, &domain.spec.trust_domain, now));
            lock(&self.executor.world).set_external_ca(name, facts);
        }
        Ok(())
    }

    /// Looks up created objects that no watch reports; never ends.
    pub(crate) async fn confirm_created(&self) {
        loop {
            tokio::time::sleep(CONFIRMED_WITHIN).await;
            let due = lock(&self.executor.world).due_unconfirmed(CONFIRMED_WITHIN);
            for object in due {
                match self.executor.look_up(&object).await {
                    Ok(keys) => self.scheduler.push(&self.executor.world, keys),
                    Err(error) => tracing::warn!(%object, %error, "failed to look up an object that no watch reports"),
                }
            }
        }
    }

    /// Looks up the Secrets of users that services name, until the queue is closed.
    pub(crate) async fn look_up_secrets(self: Arc<Self>) {
        while let Some(key) = self.scheduler.lookups.next().await {
            if let ObjectRef::Service(namespace, name) = &key {
                let place = (namespace.clone(), name.clone());
                let is_due = lock(&self.executor.world).must_look_up_secrets(&place);
                if is_due && self.find_missing_secrets(&place).await {
                    self.scheduler.decisions.push(key.clone());
                }
            }
            self.scheduler.lookups.done(key, None);
        }
    }

    /// Finds out which Secrets of users that a service names do not exist; returns whether that is news. Only their
    /// metadata is read. One that cannot be looked up counts as it did before.
    async fn find_missing_secrets(&self, place: &Place) -> bool {
        let (required, known) = {
            let world = lock(&self.executor.world);
            (world.required_secrets(place), world.missing_secrets(place))
        };
        let mut missing = BTreeSet::new();
        for name in &required {
            let secret = ObjectKey::secret(&place.0, name.clone());
            match self.executor.store.get_metadata(&secret).await {
                Ok(Some(_)) => {}
                Ok(None) => drop(missing.insert(name.clone())),
                Err(error) => {
                    tracing::warn!(%secret, %error, "failed to check whether the Secret exists");
                    missing.extend(known.get(name).cloned());
                }
            }
        }
        lock(&self.executor.world).take_missing_secrets(place, required, missing)
    }
}

/// A watch reports an object within a second, unless it is broken.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;

//! Execution of a plan: a refused write delays only the actions that depend on it.

use gaia_api::names;
use gaia_plan::Action;
use gaia_plan::object::{ObjectKey, ObjectKind};
use tokio::time::Instant;

use super::{Planned, Reconciler};
use crate::cache::lock;
use crate::execute::executor::Outcome;
use crate::observability::events::Notice;
use crate::store::error::{ErrorClass, ExecuteError};
use crate::store::{ObjectRef, Store};

impl<S: Store> Reconciler<S> {
    /// Executes all planned actions. A failure does not delay independent actions.
    pub(super) async fn act(&self, key: &ObjectRef, planned: &Planned) -> Result<(), ExecuteError> {
        let mut first_failure = None;
        for action in &planned.actions {
            let started = Instant::now();
            match self.executor.execute(key, action).await {
                Ok(Outcome::Done(keys)) => {
                    self.done(key, action, started);
                    if super::writes_record(key, action) {
                        self.forget_recorded(key, planned);
                    }
                    let mut affected = keys;
                    if let Some(object) = action.object() {
                        affected.extend(lock(&self.executor.world).note_written(key, object));
                    }
                    self.push(key, affected);
                }
                Ok(Outcome::Replan(keys)) => {
                    self.push(key, keys);
                    if !self.was_contended(key, action) {
                        break;
                    }
                }
                Ok(Outcome::Skipped) => {}
                Err(error) if error.class() == ErrorClass::Conflict => {
                    if !self.was_contended(key, action) {
                        break;
                    }
                }
                Err(error) => {
                    self.note_refusal(key, action, &error);
                    if self.is_projection(key, action) {
                        continue;
                    }
                    first_failure = first_failure.or(Some(error));
                    if matches!(action, Action::CreateRing(_)) {
                        break;
                    }
                }
            }
        }
        match first_failure {
            Some(error) => Err(error),
            None => {
                lock(&self.executor.world).failures.remove(key);
                Ok(())
            }
        }
    }

    fn push(&self, key: &ObjectRef, affected: impl IntoIterator<Item = ObjectRef>) {
        self.scheduler.push(&self.executor.world, affected.into_iter().filter(|affected| affected != key));
    }

    /// Returns true if an object in one namespace was changed by another writer first: the other namespaces do not wait
    /// for it.
    fn was_contended(&self, key: &ObjectRef, action: &Action) -> bool {
        let Some(object) = action.object().filter(|_| self.is_projection(key, action)) else { return false };
        let now = self.executor.clock.now();
        if lock(&self.executor.world).note_contention(key, object, now) {
            tracing::warn!(%key, %action, "another writer changes the object before each write");
        }
        true
    }

    /// Records the refusal of a write that a rotation waits for, and reports a new one once.
    fn note_refusal(&self, key: &ObjectRef, action: &Action, error: &ExecuteError) {
        let is_projection = self.is_projection(key, action);
        let is_leaf = matches!(key, ObjectRef::Certificate(..));
        let Some(object) = action.object().filter(|_| is_projection || is_leaf) else { return };
        let (message, now) = (error.to_string(), self.executor.clock.now());
        let (is_known, affected) = {
            let mut world = lock(&self.executor.world);
            let is_known = world.is_refused(object, &message);
            (is_known, world.note_refusal(key, object, message.clone(), error.is_local(), now))
        };
        self.push(key, affected);
        if is_projection {
            tracing::warn!(%key, %action, %error, class = error.class().as_str(), "write refused; retrying");
            if !is_known {
                let reason = gaia_api::crd::reason::WRITE_FAILED;
                self.events.tell(Notice { about: self.reference(key), warning: true, reason, message });
            }
        }
    }

    /// Returns true if an action writes or deletes one object in one namespace on behalf of a TrustDomain.
    fn is_projection(&self, key: &ObjectRef, action: &Action) -> bool {
        let (ObjectRef::TrustDomain(name), Some(object)) = (key, action.object()) else { return false };
        !is_ring(name, object)
    }
}

fn is_ring(domain: &str, object: &ObjectKey) -> bool {
    let rings = [names::ca_ring(domain), names::signing_ring(domain)];
    object.kind == ObjectKind::Secret && rings.contains(&object.name)
}

#[cfg(test)]
mod tests;

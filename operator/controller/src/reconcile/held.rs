//! Custom resources that are on hold because an object cannot be read: no write is made, and their status names the
//! cause.

use std::time::Duration;

use gaia_api::crd::condition::{RECONCILING, STALLED};
use gaia_api::crd::{reason, whole_seconds};
use gaia_plan::object::Version;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{RETRY, Reconciler};
use crate::cache::{Blocked, ClusterCache, lock};
use crate::observability::events::Notice;
use crate::store::error::{ErrorClass, ExecuteError, StoreError};
use crate::store::{ObjectRef, Store};

impl<S: Store> Reconciler<S> {
    /// Reports why the resource is on hold; returns the time of the next check.
    pub(super) async fn report_held(&self, key: &ObjectRef, held: &Blocked) -> Option<Instant> {
        let (version, generation, before) = state(&lock(&self.executor.world), key)?;
        let Some(conditions) = with_condition(&before, held, generation, self.executor.clock.now()) else {
            return Some(Instant::now() + RECHECK);
        };
        let mut status = json!({ "conditions": conditions });
        if held.stalled {
            // The columns show the reason of Stalled.
            (status["reason"], status["message"]) = (json!(held.reason), json!(held.message));
            // Clients that wait for this generation see that it stalled, and need not wait for a time-out.
            if let Some(generation) = generation {
                status["observedGeneration"] = json!(generation);
            }
        }
        match self.executor.store.patch_status(key, &version, status).await {
            // The answer is as unreadable as the object.
            Ok(_) | Err(StoreError::Unreadable { .. }) => {
                let about = self.reference(key);
                self.events.tell(Notice { about, warning: true, reason: held.reason, message: held.message.clone() });
                Some(Instant::now() + RECHECK)
            }
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => Some(self.read_again(key).await),
            Err(error) => {
                tracing::warn!(%key, %error, "failed to report the status");
                Some(Instant::now() + RECHECK)
            }
        }
    }

    /// Reports that an object which no watch reports could not be read. A temporary cause is reported only if it lasts.
    pub(super) async fn report_unread(&self, key: &ObjectRef, error: &ExecuteError) -> Option<Instant> {
        tracing::warn!(%key, %error, "failed to refresh unwatched objects");
        let lasts = {
            let mut unread = self.unread.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let attempts = unread.entry(key.clone()).or_default();
            *attempts = attempts.saturating_add(1);
            *attempts >= ATTEMPTS_BEFORE_A_REPORT
        };
        let is_final = error.class() == ErrorClass::UserInput;
        if is_final || lasts {
            let message = format!("{error}; no change is made until it can be read");
            self.report_held(key, &Blocked { reason: reason::READ_FAILED, message, stalled: is_final }).await?;
        }
        Some(Instant::now() + RETRY)
    }

    pub(super) fn forget_unread(&self, key: &ObjectRef) {
        self.unread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }
}

fn state(world: &ClusterCache, key: &ObjectRef) -> Option<(Version, Option<i64>, Vec<Value>)> {
    if let Some(object) = world.unreadable(key) {
        return Some((object.version.clone(), object.generation, object.conditions.clone()));
    }
    let meta = world.metadata(key)?;
    let version = Version {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    };
    Some((version, meta.generation, world.conditions(key)))
}

/// The conditions including the one that names the cause; none: they include it already. All others, Ready among them,
/// are unchanged.
fn with_condition(
    before: &[Value],
    held: &Blocked,
    generation: Option<i64>,
    now: jiff::Timestamp,
) -> Option<Vec<Value>> {
    let type_ = if held.stalled { STALLED } else { RECONCILING };
    let known = before.iter().find(|condition| condition["type"] == type_);
    let is_same = known.is_some_and(|known| {
        known["status"] == "True" && known["reason"] == held.reason && known["message"] == held.message.as_str()
    });
    if is_same {
        return None;
    }
    let since = known.filter(|known| known["status"] == "True").map(|known| known["lastTransitionTime"].clone());
    let mut condition = json!({
        "type": type_, "status": "True", "reason": held.reason, "message": held.message,
        "lastTransitionTime": since.unwrap_or_else(|| json!(whole_seconds(now))),
    });
    if let Some(generation) = generation {
        condition["observedGeneration"] = json!(generation);
    }
    let mut conditions: Vec<Value> = before.iter().filter(|condition| condition["type"] != type_).cloned().collect();
    conditions.push(condition);
    Some(conditions)
}

/// An event comes as soon as the object changes; this is for a report that was lost.
const RECHECK: Duration = Duration::from_secs(60);
const ATTEMPTS_BEFORE_A_REPORT: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn held(message: &str) -> Blocked {
        Blocked { reason: reason::OBJECT_UNREADABLE, message: message.to_owned(), stalled: true }
    }

    #[test]
    fn the_report_of_an_unreadable_object_leaves_other_conditions_as_they_are() {
        let ready = json!({ "type": "Ready", "status": "True", "reason": "Ready", "extra": 1 });
        let stalled = json!({ "type": "Stalled", "status": "False", "reason": "Settled" });
        let now = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let after = with_condition(&[ready.clone(), stalled], &held("spec.x"), Some(3), now).unwrap();
        let expected = json!([ready, { "type": "Stalled", "status": "True", "reason": "ObjectUnreadable",
            "message": "spec.x", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 3 }]);
        assert_eq!(json!(after), expected);
        assert_eq!(with_condition(&after, &held("spec.x"), Some(3), now), None, "it is reported once");
        let later = "2026-01-02T00:00:00Z".parse().unwrap();
        let other = with_condition(&after, &held("spec.y"), Some(3), later).unwrap();
        assert_eq!(other[1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }
}

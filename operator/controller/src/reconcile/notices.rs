//! Events for completed actions and for the conditions of a status.

use gaia_api::crd::condition::{CA_ROTATING, SIGNING_KEYS_ROTATING};
use gaia_api::crd::reason;
use gaia_plan::Action;
use k8s_openapi::api::core::v1::ObjectReference;

use super::{Planned, Reconciler, report};
use crate::cache::lock;
use crate::observability::events::Notice;
use crate::store::{ObjectRef, Store};

impl<S: Store> Reconciler<S> {
    /// Sends the Events of an action that is done.
    pub(super) fn publish_events(&self, key: &ObjectRef, action: &Action) {
        for event in action.events() {
            self.events.tell(Notice {
                about: self.reference(key),
                warning: event.warning,
                reason: event.reason,
                message: event.message.clone(),
            });
        }
        if let Action::RestartWorkload { target, event, .. } = action {
            // Its owners watch the workload, not the TrustDomain.
            let about = ObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: Some(format!("{:?}", target.kind)),
                namespace: Some(target.namespace.clone()),
                name: Some(target.name.clone()),
                ..Default::default()
            };
            let message = event.message.clone();
            self.events.tell(Notice { about, warning: event.warning, reason: event.reason, message });
        }
    }

    /// Sends an Event for a rotation that has just passed its deadline.
    pub(super) fn publish_overdue(&self, key: &ObjectRef, planned: &Planned) {
        for type_ in [CA_ROTATING, SIGNING_KEYS_ROTATING] {
            let is_late = |status| report::condition(status, type_).filter(|c| c["reason"] == reason::PAST_DEADLINE);
            if let (None, Some(late)) = (is_late(&planned.reported), is_late(&planned.status)) {
                let message = late["message"].as_str().unwrap_or_default().to_owned();
                let about = self.reference(key);
                self.events.tell(Notice { about, warning: true, reason: reason::ROTATION_WAITING, message });
            }
        }
    }

    /// Sends an Event for each problem that the status did not report before.
    pub(super) fn publish_problems(&self, key: &ObjectRef, planned: &Planned) {
        for (reason, message) in report::new_problems(&planned.reported, &planned.status) {
            self.events.tell(Notice { about: self.reference(key), warning: true, reason, message });
        }
    }

    pub(super) fn reference(&self, key: &ObjectRef) -> ObjectReference {
        let (namespace, name) = key.names();
        let world = lock(&self.executor.world);
        let meta = world.metadata(key);
        ObjectReference {
            api_version: Some("gaia.dev/v1alpha1".to_owned()),
            kind: Some(key.kind().to_owned()),
            namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
            name: Some(name.to_owned()),
            uid: meta.and_then(|meta| meta.uid.clone()),
            ..Default::default()
        }
    }
}

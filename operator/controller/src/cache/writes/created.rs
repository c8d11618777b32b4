//! Objects that the operator created and that no watch has reported yet.
//!
//! An object that is created and deleted before a watch restarts with a list is in no list and in no event. The
//! response to its creation would keep it in the snapshot permanently, so it is looked up.

use std::collections::HashMap;
use std::time::Duration;

use gaia_api::names::{MANAGED_BY, MANAGED_BY_LABEL};
use gaia_plan::object::{ObjectKey, ObjectKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::api_server::Resource;
use crate::cache::{ClusterCache, Place};

/// The time since which each of them is known.
#[derive(Default)]
pub(crate) struct Unconfirmed(HashMap<ObjectKey, Instant>);

impl ClusterCache {
    /// A response reports an object. One that is watched and not known yet must still be reported by its watch.
    pub(crate) fn note_answer(&mut self, key: &ObjectKey, meta: &ObjectMeta) {
        let labels = meta.labels.as_ref();
        let is_watched = key.kind == ObjectKind::ServiceCertificate
            || labels.and_then(|labels| labels.get(MANAGED_BY_LABEL)).is_some_and(|value| value == MANAGED_BY);
        if is_watched && self.version(key).is_none_or(|known| Some(&known.uid) != meta.uid.as_ref()) {
            self.unconfirmed.0.insert(key.clone(), Instant::now());
        }
    }

    /// A watch has reported an object, or that it is deleted.
    pub(crate) fn confirm(&mut self, resource: Resource, place: &Place, meta: &ObjectMeta) {
        let kind = match resource {
            Resource::SECRET => ObjectKind::Secret,
            Resource::CONFIG_MAP => ObjectKind::ConfigMap,
            Resource::CERTIFICATE => ObjectKind::ServiceCertificate,
            _ => return,
        };
        let key = ObjectKey { kind, namespace: place.0.clone(), name: place.1.clone() };
        if self.version(&key).is_none_or(|known| Some(&known.uid) == meta.uid.as_ref()) {
            self.unconfirmed.0.remove(&key);
        }
    }

    /// Those that no watch has reported for that long. They are due again after the same time.
    pub(crate) fn due_unconfirmed(&mut self, age: Duration) -> Vec<ObjectKey> {
        let now = Instant::now();
        let mut unconfirmed = std::mem::take(&mut self.unconfirmed.0);
        unconfirmed.retain(|key, _| self.version(key).is_some());
        let due = unconfirmed.iter_mut().filter(|(_, since)| now - **since >= age);
        let due = due.map(|(key, since)| {
            *since = now;
            key.clone()
        });
        let due = due.collect();
        self.unconfirmed.0 = unconfirmed;
        due
    }
}

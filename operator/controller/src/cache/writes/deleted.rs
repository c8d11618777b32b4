//! Recently deleted objects: a late response does not restore them.
//!
//! A watch with a label selector also reports an object as deleted when it lost its label. So a response is late only
//! if its resource version is older than the deletion's.

use std::collections::{HashMap, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The last deletions that were seen: UIDs and the resource versions of their deletion.
#[derive(Default)]
pub(crate) struct Deletions {
    known: HashMap<String, u64>,
    order: VecDeque<String>,
}

impl Deletions {
    pub(crate) fn add(&mut self, meta: &ObjectMeta) {
        let version = meta.resource_version.as_deref().and_then(|version| version.parse().ok());
        let (Some(uid), Some(version)) = (&meta.uid, version) else { return };
        if self.known.insert(uid.clone(), version).is_some() {
            return;
        }
        self.order.push_back(uid.clone());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Returns true if this is a state from before the object's deletion.
    pub(crate) fn is_late(&self, meta: &ObjectMeta) -> bool {
        let version = meta.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok());
        let deleted = meta.uid.as_ref().and_then(|uid| self.known.get(uid));
        matches!((version, deleted), (Some(version), Some(deleted)) if version < *deleted)
    }
}

/// An answer is late by 15 s at most; no API server deletes so many objects in that time.
const REMEMBERED: usize = 16_384;

#[cfg(test)]
mod tests {
    use gaia_api::crd::GaiaService;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;
    use crate::cache::{ClusterCache, Surroundings};
    use crate::store::{ObjectRef, Reported, Stored};

    fn world() -> ClusterCache {
        let [operator_namespace, cluster_domain] = ["gaia-system", "cluster.local"].map(str::to_owned);
        ClusterCache::new(Surroundings { operator_namespace, cluster_domain, watch_namespaces: vec![] })
    }

    fn deletion(uid: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.to_owned()), resource_version: Some("9".to_owned()), ..ObjectMeta::default() }
    }

    fn secret(uid: &str, version: &str) -> Stored {
        let metadata = json!({ "namespace": "shop", "name": "web-tls", "uid": uid, "resourceVersion": version });
        let secret: Secret = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
        Stored::Secret(secret)
    }

    #[test]
    fn an_answer_that_is_late_brings_no_deleted_secret_back() {
        let mut world = world();
        world.note_deleted(&deletion("u1"));
        assert!(world.take_stored(secret("u1", "5")).is_empty());
        assert!(world.secret_places().is_empty());
        let _ = world.take_stored(secret("u2", "5"));
        assert_eq!(world.secret_places().len(), 1, "another UID is another object");
        let mut world = self::world();
        world.note_deleted(&deletion("u1"));
        let _ = world.take_stored(secret("u1", "9"));
        assert_eq!(world.secret_places().len(), 1, "it only lost its label");
    }

    #[test]
    fn an_answer_that_is_late_brings_no_deleted_resource_back() {
        let metadata = json!({ "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": "5" });
        let text = json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService", "metadata": metadata,
            "spec": { "trustDomainRef": { "name": "gaia" } } });
        let service: GaiaService = serde_json::from_value(text).unwrap();
        let mut world = world();
        world.note_deleted(&deletion("u1"));
        assert!(world.take_reported(Reported::Service(Box::new(service))).is_empty());
        assert!(world.metadata(&ObjectRef::Service("shop".to_owned(), "web".to_owned())).is_none());
    }

    #[test]
    fn the_memory_of_deletions_is_bounded() {
        let mut deleted = Deletions::default();
        (0..=REMEMBERED).for_each(|uid| deleted.add(&deletion(&uid.to_string())));
        assert!(!deleted.known.contains_key("0") && deleted.known.contains_key("1"));
        assert_eq!((deleted.known.len(), deleted.order.len()), (REMEMBERED, REMEMBERED));
    }
}

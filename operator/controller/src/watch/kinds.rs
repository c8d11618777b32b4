//! The kinds of watched objects, and their entries in the cluster snapshot.

use std::collections::BTreeSet;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::names::{MANAGED_BY, MANAGED_BY_LABEL};
use gaia_plan::object::{ObjectKey, ObjectKind};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::Watched;
use crate::api_server::{Object, Resource, Unreadable};
use crate::cache::{ClusterCache, NamespaceFacts, Place, SharedCache, facts, lock, place};
use crate::store::ObjectRef;

impl Watched for TrustDomain {
    const RESOURCE: Resource = Resource::TRUST_DOMAIN;
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef> {
        lock(world).apply_trust_domain(self)
    }

    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef> {
        world.apply_unreadable_trust_domain(unreadable)
    }

    fn remove(world: &mut ClusterCache, place: &Place, _: Option<&str>) -> BTreeSet<ObjectRef> {
        world.remove_trust_domain(&place.1)
    }

    fn places(world: &ClusterCache) -> Vec<Place> {
        world.trust_domain_places()
    }
}

impl Watched for ServiceCertificate {
    const RESOURCE: Resource = Resource::CERTIFICATE;
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef> {
        lock(world).apply_certificate(self)
    }

    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef> {
        world.apply_unreadable_certificate(unreadable)
    }

    fn remove(world: &mut ClusterCache, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        world.delete_certificate(place, version)
    }

    fn places(world: &ClusterCache) -> Vec<Place> {
        world.certificate_places()
    }
}

impl Watched for GaiaService {
    const RESOURCE: Resource = Resource::SERVICE;
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef> {
        lock(world).apply_service(self)
    }

    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef> {
        world.apply_unreadable_service(unreadable)
    }

    fn remove(world: &mut ClusterCache, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        world.delete_service(place, version)
    }

    fn places(world: &ClusterCache) -> Vec<Place> {
        world.service_places()
    }
}

/// A Namespace, as far as it matters: its metadata.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NamespaceView {
    metadata: ObjectMeta,
}

impl Object for NamespaceView {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl From<&ObjectMeta> for NamespaceFacts {
    fn from(meta: &ObjectMeta) -> Self {
        Self { terminating: meta.deletion_timestamp.is_some(), labels: meta.labels.clone().unwrap_or_default() }
    }
}

impl Watched for NamespaceView {
    const RESOURCE: Resource = Resource::NAMESPACE;
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef> {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        lock(world).apply_namespace(name, NamespaceFacts::from(&self.metadata))
    }

    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef> {
        world.apply_unreadable_namespace(unreadable)
    }

    fn remove(world: &mut ClusterCache, place: &Place, _: Option<&str>) -> BTreeSet<ObjectRef> {
        world.remove_namespace(&place.1)
    }

    fn places(world: &ClusterCache) -> Vec<Place> {
        world.namespace_places()
    }
}

impl Watched for Secret {
    const RESOURCE: Resource = Resource::SECRET;
    const LABELS: Option<&'static str> = Some(OURS);

    /// Reading a key takes a while, so it is done outside the lock.
    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef> {
        let at = place(&self.metadata);
        let (cas, operator_namespace) = {
            let world = lock(world);
            if world.knows_secret(&at, &self.metadata) {
                return BTreeSet::new();
            }
            (world.known_cas(), world.operator_namespace().to_owned())
        };
        let facts = facts::read_secret(self, &operator_namespace, &cas);
        lock(world).apply_secret(at, facts)
    }

    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef> {
        world.apply_unreadable_secret(unreadable)
    }

    fn remove(world: &mut ClusterCache, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        world.remove_secret(place, version)
    }

    fn places(world: &ClusterCache) -> Vec<Place> {
        world.secret_places()
    }
}

impl Watched for ConfigMap {
    const RESOURCE: Resource = Resource::CONFIG_MAP;
    const LABELS: Option<&'static str> = Some(OURS);

    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef> {
        let (facts, ledger) = (facts::config_map_facts(&self), facts::ledger_record(&self));
        lock(world).apply_config_map(place(&self.metadata), facts, ledger)
    }

    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef> {
        world.apply_unreadable_config_map(unreadable)
    }

    fn remove(world: &mut ClusterCache, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        world.remove_config_map(place, version)
    }

    fn places(world: &ClusterCache) -> Vec<Place> {
        world.config_map_places()
    }
}

impl ClusterCache {
    /// The UID of the known object of a name.
    pub(super) fn uid(&self, resource: Resource, place: &Place) -> Option<String> {
        let key = |kind| ObjectKey { kind, namespace: place.0.clone(), name: place.1.clone() };
        let of_resource = || {
            let key = match resource {
                Resource::TRUST_DOMAIN => ObjectRef::TrustDomain(place.1.clone()),
                Resource::SERVICE => ObjectRef::Service(place.0.clone(), place.1.clone()),
                _ => return None,
            };
            self.metadata(&key)?.uid.clone()
        };
        match resource {
            Resource::SECRET => self.version(&key(ObjectKind::Secret)).map(|version| version.uid),
            Resource::CONFIG_MAP => self.version(&key(ObjectKind::ConfigMap)).map(|version| version.uid),
            Resource::CERTIFICATE => self.version(&key(ObjectKind::ServiceCertificate)).map(|version| version.uid),
            _ => of_resource(),
        }
    }

    /// A deletion of that version is old news where a newer object has the name.
    pub(super) fn delete_certificate(&mut self, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        let is_old = self.is_newer(&ObjectRef::Certificate(place.0.clone(), place.1.clone()), version);
        if is_old { BTreeSet::new() } else { self.remove_certificate(place) }
    }

    pub(super) fn delete_service(&mut self, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        let is_old = self.is_newer(&ObjectRef::Service(place.0.clone(), place.1.clone()), version);
        if is_old { BTreeSet::new() } else { self.remove_service(place) }
    }

    /// Returns true if this version of a Secret is known already: the operator's own write is reported by the watch.
    pub(super) fn knows_secret(&self, place: &Place, meta: &ObjectMeta) -> bool {
        let key = ObjectKey::secret(&place.0, place.1.clone());
        self.version(&key).is_some_and(|known| {
            Some(&known.uid) == meta.uid.as_ref() && Some(&known.resource_version) == meta.resource_version.as_ref()
        })
    }
}

const OURS: &str = "app.kubernetes.io/managed-by=gaia-operator";
const _: () = assert!(OURS.len() == MANAGED_BY_LABEL.len() + 1 + MANAGED_BY.len());

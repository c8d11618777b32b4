//! Objects that cannot be parsed: unknown, never absent.
//!
//! Their metadata keeps them in the index. The last readable state of such an object stays in force for dependent
//! objects. Where there is none, for instance after a restart, its parseable part is indexed, and no decision is based
//! on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain, reason};
use gaia_api::mount::Grants;
use gaia_api::names;
use gaia_plan::gaia_service::UnreadableServices;
use gaia_plan::object::{ObjectKey, Version};
use gaia_plan::trust_domain::KeptGrants;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::Segment;

use super::instances::pods::{PodFacts, partly};
use super::{ClusterCache, NamespaceFacts, Place, place};
use crate::api_server::{Fault, Resource, Unreadable};
use crate::cache::facts::{self, SecretFacts};
use crate::store::ObjectRef;

/// All objects that cannot be read, by kind.
#[derive(Default)]
pub(super) struct UnreadableIndex {
    objects: BTreeMap<(&'static str, Place), UnreadableObject>,
}

/// The reason why a custom resource is on hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// True if a user must act.
    pub(crate) stalled: bool,
}

/// An object that cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnreadableObject {
    pub(crate) version: Version,
    pub(crate) generation: Option<i64>,
    pub(crate) fault: Fault,
    /// Of a custom resource: the conditions that its status has.
    pub(crate) conditions: Vec<Value>,
    /// True if an earlier version of this object could be read. It stays in force for others.
    pub(crate) was_read: bool,
}

impl UnreadableIndex {
    pub(super) fn has(&self, resource: Resource) -> bool {
        self.objects.keys().any(|(kind, _)| *kind == resource.kind)
    }

    pub(super) fn get(&self, resource: Resource, place: &Place) -> Option<&UnreadableObject> {
        if self.objects.is_empty() {
            return None;
        }
        self.objects.get(&(resource.kind, place.clone()))
    }

    /// Records that it can be read now, or is deleted. Returns true if it could not be read before.
    pub(super) fn forget(&mut self, resource: Resource, place: &Place) -> bool {
        !self.objects.is_empty() && self.objects.remove(&(resource.kind, place.clone())).is_some()
    }

    fn put(&mut self, resource: Resource, unreadable: &Unreadable, was_read: bool, conditions: Vec<Value>) {
        let meta = &unreadable.meta;
        let object = UnreadableObject {
            version: version(meta),
            generation: meta.generation,
            fault: unreadable.fault.clone(),
            conditions,
            was_read,
        };
        self.objects.insert((resource.kind, place(meta)), object);
    }
}

impl ClusterCache {
    /// The number of unreadable objects of a kind.
    pub(crate) fn count_unreadable(&self, resource: Resource) -> usize {
        self.unreadable_places(resource).count()
    }

    /// The objects of a kind that cannot be read.
    pub(crate) fn unreadable_places(&self, resource: Resource) -> impl Iterator<Item = &Place> {
        self.unreadable.objects.keys().filter(move |(kind, _)| *kind == resource.kind).map(|(_, place)| place)
    }

    /// Forgets a deleted object.
    pub(crate) fn forget_unreadable(&mut self, resource: Resource, place: &Place) {
        self.unreadable.forget(resource, place);
    }

    /// The reason why an object cannot be read, if it cannot.
    pub(super) fn why_unreadable(&self, resource: Resource, place: &Place) -> Option<String> {
        Some(self.unreadable.get(resource, place)?.fault.to_string())
    }

    /// The reason why a custom resource is on hold: the resource, or an object that decisions about it need, cannot be
    /// read.
    pub(crate) fn held(&self, key: &ObjectRef) -> Option<Blocked> {
        if let Some(object) = self.unreadable(key) {
            let message = format!("{key} cannot be read: {}; no change is made until it can be read", object.fault);
            return Some(Blocked { reason: reason::OBJECT_UNREADABLE, message, stalled: true });
        }
        if let ObjectRef::Service(namespace, name) = key {
            let child = ObjectRef::Certificate(namespace.clone(), name.clone());
            if let Some(object) = self.unreadable(&child) {
                let message =
                    format!("{child} cannot be read: {}; no change is made until it can be read", object.fault);
                return Some(Blocked { reason: reason::OBJECT_UNREADABLE, message, stalled: true });
            }
        }
        let (domain, object) = self.unreadable_domain_of(key)?;
        let message =
            format!("TrustDomain {domain} cannot be read: {}; no change is made until it can be read", object.fault);
        Some(Blocked { reason: reason::TRUST_DOMAIN_UNREADABLE, message, stalled: false })
    }

    /// The entries in a TrustDomain's grants for services that cannot be read and never could.
    pub(super) fn kept_grants(&self, domain: &str, granted: &BTreeSet<String>) -> KeptGrants {
        let services = self.partly_known_services(domain);
        let services: BTreeSet<Place> = services.into_iter().filter(|place| granted.contains(&place.0)).collect();
        let written = if services.is_empty() { None } else { self.written_grants.get(domain).cloned() };
        KeptGrants { services, written }
    }

    /// The services that cannot be read, with their last written entries, for the policies of services that call them.
    pub(super) fn unreadable_services(&self, domain: &str) -> UnreadableServices<'_> {
        let services: BTreeSet<Place> = self.partly_known_services(domain).into_iter().collect();
        let written = if services.is_empty() { None } else { self.written_grants.get(domain) };
        UnreadableServices { services, written }
    }

    /// The `grants.json` to read, because it holds entries of services that cannot be read and must be kept.
    pub(crate) fn grants_to_read(&self, domain: &str) -> Option<ObjectKey> {
        if self.partly_known_services(domain).is_empty() || self.written_grants.contains_key(domain) {
            return None;
        }
        let issuer = self.trust_domains.get(domain)?.spec.tokens.issued_by.as_ref()?;
        Some(ObjectKey::config_map(&issuer.namespace, names::grants(domain)))
    }

    pub(crate) fn take_written_grants(&mut self, domain: &str, grants: Grants) {
        self.written_grants.insert(domain.to_owned(), grants);
    }

    fn partly_known_services(&self, domain: &str) -> Vec<Place> {
        let places =
            self.unreadable_places(Resource::SERVICE).filter(|place| self.is_partly_known(Resource::SERVICE, place));
        let is_its = |place: &&Place| {
            self.services.get(*place).is_some_and(|service| service.spec.trust_domain_ref.name == domain)
        };
        places.filter(is_its).cloned().collect()
    }

    /// A custom resource that cannot be read.
    pub(crate) fn unreadable(&self, key: &ObjectRef) -> Option<&UnreadableObject> {
        let (namespace, name) = key.names();
        self.unreadable.get(key.resource(), &(namespace.to_owned(), name.to_owned()))
    }

    /// Completes an unreadable service from its ServiceCertificate, which was written from it.
    pub(super) fn complete_from_child(&mut self, place: &Place) {
        if !self.is_partly_known(Resource::SERVICE, place) {
            return;
        }
        let Some(child) = self.certificates.get(place).map(|child| child.spec.clone()) else { return };
        if let Some(service) = self.services.get_mut(place) {
            let spec = &mut Arc::make_mut(service).spec;
            spec.service_account_name = child.service_account_name;
            spec.workload = child.workload;
        }
    }

    /// The TrustDomain that a custom resource refers to, if that cannot be read and never could: no decision is made
    /// for the resource.
    pub(crate) fn unreadable_domain_of(&self, key: &ObjectRef) -> Option<(&str, &UnreadableObject)> {
        let (namespace, name) = key.names();
        let place = (namespace.to_owned(), name.to_owned());
        let domain = match key {
            ObjectRef::TrustDomain(_) => return None,
            ObjectRef::Certificate(..) => &self.certificates.get(&place)?.spec.trust_domain_ref.name,
            ObjectRef::Service(..) => &self.services.get(&place)?.spec.trust_domain_ref.name,
        };
        let found = self.unreadable.get(Resource::TRUST_DOMAIN, &(String::new(), domain.clone()))?;
        (!found.was_read).then_some((domain, found))
    }

    /// Returns true if only the parseable part of a custom resource is known.
    pub(super) fn is_partly_known(&self, resource: Resource, place: &Place) -> bool {
        self.unreadable.get(resource, place).is_some_and(|object| !object.was_read)
    }

    pub(crate) fn apply_unreadable_trust_domain(&mut self, unreadable: &Unreadable) -> BTreeSet<ObjectRef> {
        let name = place(&unreadable.meta).1;
        let known = self.trust_domains.get(&name).map(|known| known.metadata.clone());
        let Some(was_read) = self.is_news(Resource::TRUST_DOMAIN, unreadable, known.as_ref()) else {
            return BTreeSet::new();
        };
        let mut keys = BTreeSet::from([ObjectRef::TrustDomain(name.clone())]);
        if was_read {
            keep(self.trust_domains.get_mut(&name), unreadable, |domain| &mut domain.metadata);
        } else {
            keys.extend(
                partial_trust_domain(unreadable).map(|domain| self.apply_trust_domain(domain)).unwrap_or_default(),
            );
        }
        self.note(Resource::TRUST_DOMAIN, unreadable, was_read);
        keys
    }

    pub(crate) fn apply_unreadable_certificate(&mut self, unreadable: &Unreadable) -> BTreeSet<ObjectRef> {
        let place = place(&unreadable.meta);
        let known = self.certificates.get(&place).map(|known| known.metadata.clone());
        let Some(was_read) = self.is_news(Resource::CERTIFICATE, unreadable, known.as_ref()) else {
            return BTreeSet::new();
        };
        let mut keys = BTreeSet::from([ObjectRef::Certificate(place.0.clone(), place.1.clone())]);
        if was_read {
            keep(self.certificates.get_mut(&place), unreadable, |certificate| &mut certificate.metadata);
        } else {
            keys.extend(self.apply_certificate(partial_certificate(unreadable)));
        }
        self.note(Resource::CERTIFICATE, unreadable, was_read);
        keys.extend(self.services.contains_key(&place).then_some(ObjectRef::Service(place.0, place.1)));
        keys
    }

    pub(crate) fn apply_unreadable_service(&mut self, unreadable: &Unreadable) -> BTreeSet<ObjectRef> {
        let place = place(&unreadable.meta);
        let known = self.services.get(&place).map(|known| known.metadata.clone());
        let Some(was_read) = self.is_news(Resource::SERVICE, unreadable, known.as_ref()) else {
            return BTreeSet::new();
        };
        let mut keys = BTreeSet::from([ObjectRef::Service(place.0.clone(), place.1.clone())]);
        if was_read {
            keep(self.services.get_mut(&place), unreadable, |service| &mut service.metadata);
        } else {
            keys.extend(self.apply_service(partial_service(unreadable)));
        }
        self.note(Resource::SERVICE, unreadable, was_read);
        self.complete_from_child(&place);
        keys
    }

    pub(crate) fn apply_unreadable_namespace(&mut self, unreadable: &Unreadable) -> BTreeSet<ObjectRef> {
        let name = place(&unreadable.meta).1;
        let known = self.namespaces.get(&name).cloned();
        let was_read = known.is_some() && !self.is_partly_known(Resource::NAMESPACE, &(String::new(), name.clone()));
        let terminating = unreadable.meta.deletion_timestamp.is_some();
        let facts = known
            .map_or_else(|| NamespaceFacts::from(&unreadable.meta), |known| NamespaceFacts { terminating, ..known });
        let keys = self.apply_namespace(&name, facts);
        self.note(Resource::NAMESPACE, unreadable, was_read);
        keys
    }

    /// Applies a Secret that cannot be read. A ring counts as present and is not used; other objects keep their
    /// previous state.
    pub(crate) fn apply_unreadable_secret(&mut self, unreadable: &Unreadable) -> BTreeSet<ObjectRef> {
        let place = place(&unreadable.meta);
        let facts = facts::metadata_facts(&unreadable.meta);
        let secret = facts::unreadable_secret(&place, facts, self.operator_namespace(), &unreadable.fault);
        let is_ring = matches!(secret, SecretFacts::CaRing { .. } | SecretFacts::SigningRing { .. });
        let uid = unreadable.meta.uid.as_deref().unwrap_or_default();
        let was_read = !is_ring && self.secrets.get(&place).is_some_and(|known| known.uid() == uid);
        let keys = if was_read { BTreeSet::new() } else { self.apply_secret(place, secret) };
        self.note(Resource::SECRET, unreadable, was_read);
        keys
    }

    pub(crate) fn apply_unreadable_config_map(&mut self, unreadable: &Unreadable) -> BTreeSet<ObjectRef> {
        let place = place(&unreadable.meta);
        let uid = unreadable.meta.uid.as_deref().unwrap_or_default();
        let was_read = self.config_maps.get(&place).is_some_and(|known| known.uid == uid);
        let facts = facts::metadata_facts(&unreadable.meta);
        let keys = if was_read { BTreeSet::new() } else { self.apply_config_map(place, facts, None) };
        self.note(Resource::CONFIG_MAP, unreadable, was_read);
        keys
    }

    /// A pod that cannot be read counts as one that does not reload and started before anything was published.
    pub(crate) fn apply_unreadable_pod(&mut self, unreadable: &Unreadable) -> BTreeSet<ObjectRef> {
        let place = place(&unreadable.meta);
        let was_read = unreadable.meta.uid.as_deref().is_some_and(|uid| self.knows_pod(&place, uid));
        let facts: Option<PodFacts> = partly(&unreadable.meta, &raw(unreadable));
        let keys = if was_read { BTreeSet::new() } else { self.apply_pod(&place, facts) };
        self.note(Resource::POD, unreadable, was_read);
        keys
    }

    /// None: the arriving object is older than the known one. Otherwise true if the object could be read before.
    fn is_news(&self, resource: Resource, unreadable: &Unreadable, known: Option<&ObjectMeta>) -> Option<bool> {
        let Some(known) = known else { return Some(false) };
        if super::metadata::stale(&unreadable.meta, known) {
            return None;
        }
        Some(known.uid == unreadable.meta.uid && !self.is_partly_known(resource, &place(&unreadable.meta)))
    }

    fn note(&mut self, resource: Resource, unreadable: &Unreadable, was_read: bool) {
        let has_conditions = [Resource::TRUST_DOMAIN, Resource::CERTIFICATE, Resource::SERVICE].contains(&resource);
        let raw = if has_conditions { raw(unreadable) } else { Value::Null };
        let conditions = raw.pointer("/status/conditions").and_then(Value::as_array).cloned();
        self.unreadable.put(resource, unreadable, was_read, conditions.unwrap_or_default());
    }
}

/// Keeps the previous state with the new metadata.
fn keep<K: Clone>(known: Option<&mut Arc<K>>, unreadable: &Unreadable, meta: impl Fn(&mut K) -> &mut ObjectMeta) {
    if let Some(known) = known {
        *meta(Arc::make_mut(known)) = unreadable.meta.clone();
    }
}

fn version(meta: &ObjectMeta) -> Version {
    Version {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    }
}

fn raw(unreadable: &Unreadable) -> Value {
    serde_json::from_slice(&unreadable.raw).unwrap_or_default()
}

fn partial_service(unreadable: &Unreadable) -> GaiaService {
    let mut service: GaiaService = partial(unreadable).unwrap_or_else(|| {
        let spec = serde_json::from_value(json!({ "trustDomainRef": { "name": domain_of(unreadable) } }));
        GaiaService { metadata: ObjectMeta::default(), spec: spec.unwrap_or_default(), status: None }
    });
    service.metadata = unreadable.meta.clone();
    service
}

fn partial_certificate(unreadable: &Unreadable) -> ServiceCertificate {
    let mut certificate: ServiceCertificate = partial(unreadable).unwrap_or_else(|| {
        let spec = serde_json::from_value(json!({ "trustDomainRef": { "name": domain_of(unreadable) } }));
        ServiceCertificate { metadata: ObjectMeta::default(), spec: spec.unwrap_or_default(), status: None }
    });
    certificate.metadata = unreadable.meta.clone();
    certificate
}

fn partial_trust_domain(unreadable: &Unreadable) -> Option<TrustDomain> {
    let nothing = || serde_json::from_value(json!({ "metadata": {}, "spec": { "trustDomain": "" } })).ok();
    let mut domain: TrustDomain = partial(unreadable).or_else(nothing)?;
    domain.metadata = unreadable.meta.clone();
    Some(domain)
}

/// The TrustDomain that an object of the operator refers to, if that much can be parsed.
fn domain_of(unreadable: &Unreadable) -> String {
    let raw = raw(unreadable);
    raw.pointer("/spec/trustDomainRef/name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The parseable part of an object: parts that do not parse are removed one by one while the rest is valid.
fn partial<K: DeserializeOwned>(unreadable: &Unreadable) -> Option<K> {
    let mut value = raw(unreadable);
    let object = value.as_object_mut()?;
    object.insert("metadata".to_owned(), json!({}));
    for _ in 0..MOST_FAULTS {
        let error = match serde_path_to_error::deserialize::<_, K>(&value) {
            Ok(found) => return Some(found),
            Err(error) => error,
        };
        let mut at = &mut value;
        let mut segments = error.path().iter().peekable();
        segments.peek()?;
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            at = match segment {
                Segment::Map { key } | Segment::Enum { variant: key } if is_last => {
                    at.as_object_mut()?.remove(key)?;
                    break;
                }
                Segment::Seq { index } if is_last => {
                    let list = at.as_array_mut()?;
                    if *index >= list.len() {
                        return None;
                    }
                    list.remove(*index);
                    break;
                }
                Segment::Map { key } | Segment::Enum { variant: key } => at.get_mut(key)?,
                Segment::Seq { index } => at.get_mut(index)?,
                Segment::Unknown => return None,
            };
        }
    }
    None
}

const MOST_FAULTS: usize = 100;

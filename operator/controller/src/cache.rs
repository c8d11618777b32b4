//! The cluster snapshot, kept up to date by watches and by the operator's own writes.

mod callers;
pub(crate) mod facts;
pub(crate) mod instances;
mod lagging;
mod metadata;
mod observe;
mod triggers;
mod unreadable;
mod user_secrets;
pub(crate) mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::ledger::LedgerRecord;
use gaia_api::mount::Grants;
use gaia_api::names;
use gaia_plan::instances::instance::Target;
use gaia_plan::object::{ObjectFacts, ObjectKey, ObjectKind, Version};
use gaia_plan::pacing::backoff::Failures;
use gaia_plan::pacing::budget::IssuanceBudget;
use gaia_plan::trust_domain::{Abilities, ExternalCa, Rollout};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use self::callers::CallerIndex;
use self::instances::InstanceIndex;
pub(crate) use self::instances::ledgers::Reading;
use self::instances::ledgers::Readings;
pub(crate) use self::instances::{Census, DialRules, InstanceKey, Probing, Subject};
pub(crate) use self::unreadable::Blocked;
use self::unreadable::UnreadableIndex;
use crate::cache::facts::{KnownCas, SecretFacts};
use crate::store::{ObjectRef, Reported, Stored};

/// The shared cluster snapshot.
pub(crate) type SharedCache = Arc<Mutex<ClusterCache>>;

/// Locks the snapshot. A poisoned one is still consistent: every change of it is made in one piece.
pub(crate) fn lock(world: &Mutex<ClusterCache>) -> MutexGuard<'_, ClusterCache> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A namespace and a name.
pub(crate) type Place = (String, String);

/// A namespace, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamespaceFacts {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) terminating: bool,
}

/// The fixed surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) operator_namespace: String,
    pub(crate) cluster_domain: String,
    /// The namespaces that are watched; empty: all.
    pub(crate) watch_namespaces: Vec<String>,
}

/// The cluster snapshot.
pub(crate) struct ClusterCache {
    surroundings: Surroundings,
    trust_domains: BTreeMap<String, Arc<TrustDomain>>,
    certificates: HashMap<Place, Arc<ServiceCertificate>>,
    services: BTreeMap<Place, Arc<GaiaService>>,
    namespaces: HashMap<String, NamespaceFacts>,
    secrets: HashMap<Place, SecretFacts>,
    config_maps: HashMap<Place, ObjectFacts>,
    /// The contents of the ledgers among them.
    ledgers: HashMap<Place, LedgerRecord>,
    /// The collected ledgers of instances, and the operator that collects them.
    readings: Readings,
    /// Bring-your-own CAs, by TrustDomain.
    external_ca: HashMap<String, Result<ExternalCa, String>>,
    known_cas: Arc<KnownCas>,
    /// ServiceCertificates by the Secret they name.
    claims: HashMap<Place, Vec<String>>,
    callers: CallerIndex,
    /// The number of objects in a namespace that refer to a TrustDomain.
    consumers: BTreeMap<String, BTreeMap<String, usize>>,
    /// Pods and endpoints that use written objects.
    instances: InstanceIndex,
    /// The last rollout state of each TrustDomain.
    rollout: BTreeMap<String, Rollout>,
    /// The last restart of each workload.
    pub(crate) restarted: BTreeMap<Target, String>,
    /// The operations enabled on pods and workloads.
    pub(crate) abilities: Abilities,
    /// True: every endpoint may be dialled, as in a directory, whose manifests have one owner.
    pub(crate) allows_all_endpoints: bool,
    /// Recently deleted objects.
    deleted: self::writes::deleted::Deletions,
    /// Created objects that no watch has reported yet.
    unconfirmed: self::writes::created::Unconfirmed,
    /// Objects that cannot be read.
    unreadable: UnreadableIndex,
    /// The last written `grants.json`, by TrustDomain: known where a service cannot be read.
    written_grants: HashMap<String, Grants>,
    /// Objects that exist and belong to another owner. They are not watched.
    foreign: HashSet<ObjectKey>,
    /// Objects of the operator that were deleted and that a custom resource requests.
    lost: HashSet<ObjectKey>,
    /// Writes of projections and leaf Secrets that were refused.
    refused_writes: self::writes::refused::RefusedWrites,
    /// Which Secrets of users that services name exist.
    user_secrets: self::user_secrets::UserSecrets,
    /// The reported lists of lagging instances.
    reported_lags: self::lagging::ReportedLags,
    pub(crate) failures: HashMap<ObjectRef, Failures>,
    pub(crate) budgets: HashMap<ObjectRef, IssuanceBudget>,
}

impl ClusterCache {
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            trust_domains: BTreeMap::new(),
            certificates: HashMap::new(),
            services: BTreeMap::new(),
            namespaces: HashMap::new(),
            secrets: HashMap::new(),
            config_maps: HashMap::new(),
            ledgers: HashMap::new(),
            readings: Readings::default(),
            external_ca: HashMap::new(),
            known_cas: Arc::default(),
            claims: HashMap::new(),
            callers: CallerIndex::default(),
            consumers: BTreeMap::new(),
            instances: InstanceIndex::default(),
            rollout: BTreeMap::new(),
            restarted: BTreeMap::new(),
            abilities: Abilities::default(),
            allows_all_endpoints: false,
            deleted: self::writes::deleted::Deletions::default(),
            unconfirmed: self::writes::created::Unconfirmed::default(),
            unreadable: UnreadableIndex::default(),
            written_grants: HashMap::new(),
            foreign: HashSet::new(),
            lost: HashSet::new(),
            refused_writes: self::writes::refused::RefusedWrites::default(),
            user_secrets: self::user_secrets::UserSecrets::default(),
            reported_lags: self::lagging::ReportedLags::default(),
            failures: HashMap::new(),
            budgets: HashMap::new(),
        }
    }

    pub(crate) fn operator_namespace(&self) -> &str {
        &self.surroundings.operator_namespace
    }

    /// The CAs by which leaves are identified, for parsing Secrets outside the lock.
    pub(crate) fn known_cas(&self) -> Arc<KnownCas> {
        Arc::clone(&self.known_cas)
    }

    pub(crate) fn trust_domain(&self, name: &str) -> Option<&Arc<TrustDomain>> {
        self.trust_domains.get(name)
    }

    /// The keys of all custom resources.
    pub(crate) fn all_keys(&self) -> Vec<ObjectRef> {
        let domains = self.trust_domains.keys().map(|name| ObjectRef::TrustDomain(name.clone()));
        let services =
            self.services.keys().map(|(namespace, name)| ObjectRef::Service(namespace.clone(), name.clone()));
        let certificates = self.certificates.keys();
        let certificates =
            certificates.map(|(namespace, name)| ObjectRef::Certificate(namespace.clone(), name.clone()));
        domains.chain(services).chain(certificates).collect()
    }

    /// The metadata of a custom resource.
    pub(crate) fn metadata(&self, key: &ObjectRef) -> Option<&ObjectMeta> {
        match key {
            ObjectRef::TrustDomain(name) => self.trust_domains.get(name).map(|found| &found.metadata),
            ObjectRef::Certificate(namespace, name) => {
                self.certificates.get(&(namespace.clone(), name.clone())).map(|found| &found.metadata)
            }
            ObjectRef::Service(namespace, name) => {
                self.services.get(&(namespace.clone(), name.clone())).map(|found| &found.metadata)
            }
        }
    }

    /// Returns true if the known version of a custom resource is newer than this one.
    pub(crate) fn is_newer(&self, key: &ObjectRef, version: Option<&str>) -> bool {
        self.metadata(key).is_some_and(|known| is_older(version, known.resource_version.as_deref()))
    }

    /// Removes the attempts at a custom resource that is deleted, including one that ended afterwards.
    pub(crate) fn forget_attempts(&mut self, key: &ObjectRef) {
        if self.metadata(key).is_none() {
            self.failures.remove(key);
            self.budgets.remove(key);
        }
    }

    /// The conditions of a custom resource.
    pub(crate) fn conditions(&self, key: &ObjectRef) -> Vec<Value> {
        let (namespace, name) = key.names();
        let place = (namespace.to_owned(), name.to_owned());
        let conditions = match key {
            ObjectRef::TrustDomain(name) => {
                self.trust_domains.get(name).and_then(|it| Some(&it.status.as_ref()?.conditions))
            }
            ObjectRef::Certificate(..) => {
                self.certificates.get(&place).and_then(|it| Some(&it.status.as_ref()?.conditions))
            }
            ObjectRef::Service(..) => self.services.get(&place).and_then(|it| Some(&it.status.as_ref()?.conditions)),
        };
        conditions.into_iter().flatten().filter_map(|condition| serde_json::to_value(condition).ok()).collect()
    }

    pub(crate) fn is_terminating(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|facts| facts.terminating)
    }

    pub(crate) fn set_external_ca(&mut self, trust_domain: &str, ca: Result<ExternalCa, String>) {
        self.external_ca.insert(trust_domain.to_owned(), ca);
    }

    pub(crate) fn mark_foreign(&mut self, key: ObjectKey) {
        self.foreign.insert(key);
    }

    pub(crate) fn clear_foreign(&mut self, key: &ObjectKey) {
        self.foreign.remove(key);
    }

    /// The objects that a custom resource requests and that belong to another owner.
    pub(crate) fn foreign_of(&self, key: &ObjectRef) -> Vec<ObjectKey> {
        let (namespace, name) = key.names();
        let belongs = |object: &&ObjectKey| match key {
            ObjectRef::TrustDomain(domain) => {
                [names::trust(domain), names::grants(domain), names::token_signer(domain)].contains(&object.name)
            }
            ObjectRef::Certificate(..) => {
                let certificate = self.certificates.get(&(namespace.to_owned(), name.to_owned()));
                let secret = certificate.map(|certificate| certificate.secret_name());
                object.kind == ObjectKind::Secret
                    && object.namespace == namespace
                    && Some(&object.name) == secret.as_ref()
            }
            ObjectRef::Service(..) => {
                let ours = [names::policy(name), names::ledger(name), name.to_owned()];
                object.namespace == namespace && ours.contains(&object.name)
            }
        };
        self.foreign.iter().filter(belongs).cloned().collect()
    }

    /// The state of the signing CA's ring, as last seen.
    pub(crate) fn ring_version(&self, ring: &str) -> Option<String> {
        let place = (self.surroundings.operator_namespace.clone(), ring.to_owned());
        self.secrets.get(&place).map(|secret| secret.resource_version().to_owned())
    }

    /// The known version of an object.
    pub(crate) fn version(&self, key: &ObjectKey) -> Option<Version> {
        let place = (key.namespace.clone(), key.name.clone());
        match key.kind {
            ObjectKind::Secret => self.secrets.get(&place).map(SecretFacts::version),
            ObjectKind::ConfigMap => self.config_maps.get(&place).map(ObjectFacts::version),
            ObjectKind::ServiceCertificate => self.certificates.get(&place).map(|found| Version {
                uid: found.metadata.uid.clone().unwrap_or_default(),
                resource_version: found.metadata.resource_version.clone().unwrap_or_default(),
            }),
        }
    }

    /// Returns true if a copy of a ring can be read and holds exactly this `ring.json`.
    pub(crate) fn is_copied(&self, copy: &ObjectKey, ring_json: &[u8]) -> bool {
        let found = self.secrets.get(&(copy.namespace.clone(), copy.name.clone()));
        let Some(SecretFacts::CaRing { facts, ring: Ok(_), .. } | SecretFacts::SigningRing { facts, ring: Ok(_), .. }) =
            found
        else {
            return false;
        };
        facts.data.get(names::key::RING) == Some(&gaia_pki::sha256_hex(ring_json))
    }

    #[cfg(test)]
    pub(crate) fn count_lost(&self) -> usize {
        self.lost.len()
    }

    #[cfg(test)]
    pub(crate) fn is_claimed(&self, secret: &Place) -> bool {
        self.claims.contains_key(secret)
    }

    /// An object is deleted, and stays so.
    pub(crate) fn note_deleted(&mut self, meta: &ObjectMeta) {
        self.deleted.add(meta);
    }

    /// Applies an object that the operator read or wrote, unless its deletion was seen before.
    #[must_use = "dependent objects would not be planned again"]
    pub(crate) fn take_stored(&mut self, object: Stored) -> BTreeSet<ObjectRef> {
        let meta = match &object {
            Stored::Secret(secret) => &secret.metadata,
            Stored::ConfigMap(map) => &map.metadata,
            Stored::Certificate(certificate) => &certificate.metadata,
        };
        if self.deleted.is_late(meta) {
            return BTreeSet::new();
        }
        self.note_answer(&object.key(), meta);
        self.clear_foreign(&object.key());
        match object {
            Stored::Secret(secret) => {
                let cas = self.known_cas();
                let place = place(&secret.metadata);
                let facts = facts::read_secret(secret, &self.surroundings.operator_namespace, &cas);
                self.apply_secret(place, facts)
            }
            Stored::ConfigMap(map) => {
                let (facts, ledger) = (facts::config_map_facts(&map), facts::ledger_record(&map));
                self.apply_config_map(place(&map.metadata), facts, ledger)
            }
            Stored::Certificate(certificate) => self.apply_certificate(*certificate),
        }
    }

    /// Applies a custom resource whose status the operator has just written. It never adds one: an object that is no
    /// longer known under this UID was removed by a watch.
    #[must_use = "dependent objects would not be planned again"]
    pub(crate) fn take_reported(&mut self, object: Reported) -> BTreeSet<ObjectRef> {
        if object.metadata().uid.as_deref() != self.uid_of(&object.key()) || self.deleted.is_late(object.metadata()) {
            return BTreeSet::new();
        }
        match object {
            Reported::TrustDomain(domain) => self.apply_trust_domain(*domain),
            Reported::Certificate(certificate) => self.apply_certificate(*certificate),
            Reported::Service(service) => self.apply_service(*service),
        }
    }

    pub(crate) fn trust_domain_places(&self) -> Vec<Place> {
        self.trust_domains.keys().map(|name| (String::new(), name.clone())).collect()
    }

    pub(crate) fn namespace_places(&self) -> Vec<Place> {
        self.namespaces.keys().map(|name| (String::new(), name.clone())).collect()
    }

    pub(crate) fn certificate_places(&self) -> Vec<Place> {
        self.certificates.keys().cloned().collect()
    }

    pub(crate) fn service_places(&self) -> Vec<Place> {
        self.services.keys().cloned().collect()
    }

    pub(crate) fn secret_places(&self) -> Vec<Place> {
        self.secrets.keys().cloned().collect()
    }

    pub(crate) fn config_map_places(&self) -> Vec<Place> {
        self.config_maps.keys().cloned().collect()
    }

    /// Removes an object that the operator deleted, or that was found to be deleted; returns the keys to plan again.
    /// `seen`: its version before the response; an object created since then stays.
    #[must_use = "dependent objects would not be planned again"]
    pub(crate) fn forget(&mut self, key: &ObjectKey, seen: Option<&Version>) -> BTreeSet<ObjectRef> {
        if self.version(key).as_ref().map(|now| &now.uid) != seen.map(|seen| &seen.uid) {
            return BTreeSet::new();
        }
        let place = (key.namespace.clone(), key.name.clone());
        let keys = match key.kind {
            ObjectKind::Secret => self.remove_secret(&place, None),
            ObjectKind::ConfigMap => self.remove_config_map(&place, None),
            ObjectKind::ServiceCertificate => self.remove_certificate(&place),
        };
        self.lost.remove(key);
        keys
    }

    /// Records that a workload was restarted.
    pub(crate) fn record_restart(&mut self, target: Target, value: String) {
        self.restarted.insert(target, value);
    }

    /// Sets the rollout state of a TrustDomain; returns the keys to plan again.
    pub(crate) fn set_rollout(&mut self, domain: &str, rollout: Rollout) -> BTreeSet<ObjectRef> {
        let before = self.rollout.get(domain);
        let fallen_behind = rollout.behind.iter().filter(|uid| before.is_none_or(|b| !b.behind.contains(*uid)));
        let fallen_behind: Vec<String> = fallen_behind.cloned().collect();
        self.probe_soon(domain, fallen_behind.iter());
        let before = self.rollout.get(domain);
        let none = gaia_plan::trust_domain::CutServices::new();
        let was_cut = before.map_or(&none, |before| &before.cut);
        let all_cut = was_cut.keys().chain(rollout.cut.keys());
        let recut = all_cut.filter(|service| was_cut.get(*service) != rollout.cut.get(*service));
        let mut keys: BTreeSet<ObjectRef> =
            recut.map(|(namespace, name)| ObjectRef::Service(namespace.clone(), name.clone())).collect();
        keys.retain(|key| self.metadata(key).is_some());
        let before = self.rollout.insert(domain.to_owned(), rollout);
        let open = |rollout: &Rollout| rollout.open_wave;
        let changed = before.as_ref().map_or(0, open) != self.rollout.get(domain).map_or(0, open);
        if changed {
            keys.extend(self.referring_to(domain));
        }
        keys
    }
}

/// Namespace and name of an object.
pub(crate) fn place(meta: &ObjectMeta) -> Place {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Returns true if an arriving object is older than the known one: the operator's own write may be ahead of the watch.
/// Resource versions of one resource are comparable numbers (KEP-5504).
fn is_older(arriving: Option<&str>, known: Option<&str>) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    matches!((number(arriving), number(known)), (Some(arriving), Some(known)) if arriving < known)
}

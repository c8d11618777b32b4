//! Instances: the pods and endpoints that use objects of the operator, and their probe results.

mod endpoints;
mod index;
pub(crate) mod ledgers;
mod matching;
pub(crate) mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_api::crd::AllowedEndpoint;
use gaia_api::names;
use gaia_plan::instances::endpoint::{Endpoint as Address, Exclusion};
use gaia_plan::instances::instance::{Instance, Instances, Probe};
use gaia_plan::object::ObjectKey;
use jiff::Timestamp;

pub(super) use self::index::InstanceIndex;
pub(super) use self::matching::service_secret;
use self::pods::PodFacts;
use super::lagging::Loaded;
use super::{ClusterCache, Place};
use crate::api_server::Resource;
use crate::queue::work_queue::Laned;
use crate::store::ObjectRef;

/// An instance of a TrustDomain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InstanceKey {
    pub(crate) trust_domain: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
}

impl InstanceKey {
    pub(super) fn new(trust_domain: &str, instance: &Instance) -> Self {
        Self { trust_domain: trust_domain.to_owned(), namespace: instance.namespace.clone(), uid: instance.uid.clone() }
    }
}

impl Laned for InstanceKey {
    fn lane(&self) -> &str {
        &self.namespace
    }
}

/// The keys marked dirty by recent changes.
#[derive(Default)]
pub(crate) struct DirtyKeys {
    /// TrustDomains.
    pub(crate) domains: BTreeSet<String>,
    /// Instances that are to be probed.
    pub(crate) probes: BTreeSet<InstanceKey>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(super) instance: Instance,
    /// The address to probe; none: it cannot be probed, or has no address yet.
    address: Option<Address>,
    /// The server name for the handshake.
    server_name: String,
    /// The service account of its certificate.
    account: String,
    /// The ServiceCertificates whose Secrets it uses.
    certificates: BTreeSet<Place>,
    /// The GaiaServices whose policies it enforces.
    pub(super) services: BTreeSet<Place>,
    /// True if its termination has started.
    pub(super) ends: bool,
    /// The notAfter of the certificate that it presented last.
    shows_until: Option<Timestamp>,
    /// Of an endpoint: the entries of `spec.allowedEndpoints` for its host.
    grants: Vec<AllowedEndpoint>,
    /// Of an endpoint: why it is no instance.
    pub(super) excluded: Option<Exclusion>,
    /// Of an endpoint that is a name, and of each of its addresses: that name.
    name: Option<EndpointName>,
    /// Of an endpoint: the instances and leaves that it showed, the newest last.
    shown: Vec<String>,
}

impl Entry {
    /// The keys of the ServiceCertificates whose Secrets it uses.
    fn certificate_keys(&self) -> impl Iterator<Item = ObjectRef> {
        self.certificates.iter().map(|(namespace, name)| ObjectRef::Certificate(namespace.clone(), name.clone()))
    }
}

/// The name of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
struct EndpointName {
    host: String,
    /// The UID of the endpoint; those of its addresses start with it.
    uid: String,
}

/// The input of a probe.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) trust_domain: String,
    pub(crate) spiffe_trust_domain: String,
    pub(crate) address: Address,
    /// Of an endpoint: which addresses may be dialled for it.
    pub(crate) rules: Option<DialRules>,
    pub(crate) server_name: String,
    pub(crate) expected: SpiffeId,
    /// Every trusted root (PEM).
    pub(crate) roots: Vec<String>,
    /// Fingerprint of the CA that signs.
    pub(crate) ca: String,
    /// True if its ledger is to be read.
    pub(crate) has_ledger: bool,
}

/// Which addresses may be dialled for an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct DialRules {
    pub(crate) grants: Vec<AllowedEndpoint>,
    /// The name to resolve, if the endpoint is one.
    pub(crate) name: Option<String>,
    pub(crate) api_server: BTreeSet<IpAddr>,
}

/// The numbers of instances that use everything, that lag, and that could not be probed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) current: usize,
    pub(crate) behind: usize,
    pub(crate) unknown: usize,
}

impl ClusterCache {
    /// Applies a pod; none: it has terminated, or is irrelevant.
    pub(crate) fn apply_pod(&mut self, place: &Place, facts: Option<PodFacts>) -> BTreeSet<ObjectRef> {
        self.unreadable.forget(Resource::POD, place);
        let index = &mut self.instances;
        if index.pods.get(place) == facts.as_ref() {
            return BTreeSet::new();
        }
        let before = index.take_out(place);
        if let Some(facts) = facts {
            index.put_in(place, facts);
        }
        let mut keys = BTreeSet::new();
        if let Some(before) = before {
            let replaced = self.instances.pods.get(place).is_none_or(|after| after.uid != before.uid);
            if replaced {
                keys.extend(self.put(&before.uid, BTreeMap::new()));
            }
            drop(before);
            self.instances.shapes.retain(|shape| Arc::strong_count(shape) > 1);
        }
        keys.extend(self.match_pod(place));
        keys
    }

    /// Records that a pod was nudged. Its watch reports that too, but later than the next plan is made.
    #[must_use = "dependent objects would not be planned again"]
    pub(crate) fn record_nudge(&mut self, place: &Place, uid: &str, value: &str) -> BTreeSet<ObjectRef> {
        match self.instances.pods.get(place).filter(|facts| facts.uid == uid).cloned() {
            Some(facts) => self.apply_pod(place, Some(PodFacts { nudged: Some(value.to_owned()), ..facts })),
            None => BTreeSet::new(),
        }
    }

    /// The state of a watch of pods; `scope` is its namespace, or none for all.
    pub(crate) fn pods_watched(&mut self, scope: Option<&str>, state: Result<(), String>) -> BTreeSet<ObjectRef> {
        let place = scope.map(str::to_owned);
        if self.instances.watches.get(&place) == Some(&state) {
            return BTreeSet::new();
        }
        self.readings.pods_watched(scope, state.is_ok());
        self.instances.watches.insert(place, state);
        let in_scope = |key: &ObjectRef| match key {
            ObjectRef::TrustDomain(_) => true,
            ObjectRef::Certificate(namespace, _) => scope.is_none_or(|scope| scope == namespace),
            ObjectRef::Service(namespace, name) => {
                let is_watched = self.is_watched(&(namespace.clone(), name.clone()));
                is_watched && scope.is_none_or(|scope| scope == namespace)
            }
        };
        self.all_keys().into_iter().filter(in_scope).collect()
    }

    /// Returns true if this pod is known.
    pub(super) fn knows_pod(&self, place: &Place, uid: &str) -> bool {
        self.instances.pods.get(place).is_some_and(|facts| facts.uid == uid)
            && !self.is_partly_known(Resource::POD, place)
    }

    pub(crate) fn pod_places(&self) -> Vec<Place> {
        self.instances.pods.keys().cloned().collect()
    }

    /// Takes the keys marked dirty. Probes stay marked while no prober runs.
    pub(crate) fn take_dirty(&mut self, with_probes: Probing) -> DirtyKeys {
        let dirty = &mut self.instances.dirty;
        let probes = match with_probes {
            Probing::Leader => std::mem::take(&mut dirty.probes),
            Probing::Nobody => BTreeSet::new(),
        };
        DirtyKeys { domains: std::mem::take(&mut dirty.domains), probes }
    }

    /// All instances that can be probed.
    pub(crate) fn all_instances(&self) -> Vec<InstanceKey> {
        let found = self.instances.found.iter();
        let keys = |(domain, found): (&String, &BTreeMap<String, Entry>)| -> Vec<InstanceKey> {
            found.values().map(|entry| InstanceKey::new(domain, &entry.instance)).collect()
        };
        found.flat_map(keys).collect()
    }

    /// Marks a TrustDomain dirty.
    pub(super) fn mark_dirty(&mut self, domain: &str) {
        if self.trust_domains.contains_key(domain) {
            self.instances.dirty.domains.insert(domain.to_owned());
        }
    }

    /// These are to be probed now.
    pub(super) fn probe_soon<'a>(&mut self, domain: &str, uids: impl Iterator<Item = &'a String>) {
        let Some(found) = self.instances.found.get(domain) else { return };
        let entries = uids.filter_map(|uid| found.get(uid).filter(|entry| entry.address.is_some()));
        let keys: Vec<InstanceKey> = entries.map(|entry| InstanceKey::new(domain, &entry.instance)).collect();
        self.instances.dirty.probes.extend(keys);
    }

    /// The instances that use objects of a TrustDomain.
    pub(super) fn instances_of(&self, domain: &str, granted: &BTreeSet<String>) -> Instances<'_> {
        if let Some(why) = granted.iter().find_map(|namespace| self.instances.unknown(namespace)) {
            return Instances::Unknown(why);
        }
        let all = self.instances.found.get(domain).into_iter().flat_map(BTreeMap::values);
        Instances::Known(
            all.filter(|entry| entry.excluded.is_none())
                .map(|entry| &entry.instance)
                .filter(|instance| granted.contains(&instance.namespace))
                .collect(),
        )
    }

    /// The instances that use a leaf Secret.
    pub(super) fn instances_using(&self, domain: &str, namespace: &str, secret: &str) -> Instances<'_> {
        if let Some(why) = self.instances.unknown(namespace) {
            return Instances::Unknown(why);
        }
        let entries = self.entries_using(domain, &ObjectKey::secret(namespace, secret));
        let counted = entries.into_iter().filter(|entry| entry.excluded.is_none());
        Instances::Known(counted.map(|entry| &entry.instance).collect())
    }

    pub(super) fn entries_using<'a>(&'a self, domain: &str, object: &ObjectKey) -> Vec<&'a Entry> {
        let index = &self.instances;
        let found = index.found.get(domain).filter(|_| self.is_selected(domain, &object.namespace));
        let Some(found) = found else { return vec![] };
        let pods = index.users.get(object).into_iter().flatten();
        let pods = pods.filter_map(|name| index.pods.get(&(object.namespace.clone(), name.clone())));
        let pods = pods.filter_map(|pod| found.get(&pod.uid));
        // No UID of a pod holds a slash.
        let endpoints = found.range(format!("{}/", object.namespace)..format!("{}0", object.namespace));
        let endpoints = endpoints.map(|(_, entry)| entry);
        pods.chain(endpoints).filter(|entry| entry.instance.uses.contains(object)).collect()
    }

    /// The instances that enforce the policy of a service.
    pub(super) fn instances_enforcing(&self, domain: &str, place: &Place) -> Vec<&Instance> {
        let policy = ObjectKey::config_map(&place.0, names::policy(&place.1));
        let entries = self.entries_using(domain, &policy).into_iter().filter(|entry| entry.excluded.is_none());
        entries.map(|entry| &entry.instance).collect()
    }

    pub(super) fn entry(&self, key: &InstanceKey) -> Option<&Entry> {
        self.instances.found.get(&key.trust_domain)?.get(&key.uid)
    }

    /// The reason why the pods of a namespace are unknown.
    pub(super) fn pods_unknown(&self, namespace: &str) -> Option<&str> {
        self.instances.unknown(namespace)
    }

    /// The GaiaService whose pod has an address: the first by name.
    pub(super) fn service_at(&self, address: IpAddr) -> Option<&Place> {
        let index = &self.instances;
        let uids = index.addresses.get(&address).into_iter().flatten();
        let entries = uids.flat_map(|uid| index.found.values().filter_map(move |found| found.get(uid)));
        entries.flat_map(|entry| &entry.services).min()
    }

    /// Returns true if an instance has an address and was never probed: the counts are incomplete.
    pub(crate) fn has_unasked(&self, key: &ObjectRef) -> bool {
        let unasked =
            |entry: &Entry| entry.address.is_some() && entry.excluded.is_none() && entry.instance.probe.is_none();
        match key {
            ObjectRef::TrustDomain(name) => self.instances.found.get(name).is_some_and(|found| {
                found.values().any(|entry| unasked(entry) && self.is_selected(name, &entry.instance.namespace))
            }),
            ObjectRef::Certificate(namespace, name) => {
                let certificate = self.certificates.get(&(namespace.clone(), name.clone()));
                certificate.is_some_and(|certificate| {
                    let secret = ObjectKey::secret(namespace, certificate.secret_name());
                    self.entries_using(&certificate.spec.trust_domain_ref.name, &secret).into_iter().any(unasked)
                })
            }
            ObjectRef::Service(..) => false,
        }
    }

    /// The earliest notAfter of all certificates that the instances of a ServiceCertificate presented.
    pub(crate) fn served_until(&self, place: &Place) -> Option<Timestamp> {
        let certificate = self.certificates.get(place)?;
        let secret = ObjectKey::secret(&place.0, certificate.secret_name());
        let entries = self.entries_using(&certificate.spec.trust_domain_ref.name, &secret);
        entries.into_iter().filter_map(|entry| entry.shows_until).min()
    }

    /// The numbers of a TrustDomain's instances by state.
    pub(crate) fn census(&self, domain: &str) -> Census {
        let behind = self.rollout.get(domain).map(|rollout| &rollout.behind);
        let mut census = Census::default();
        for (uid, entry) in self.instances.found.get(domain).into_iter().flatten() {
            if entry.excluded.is_some() || !self.is_selected(domain, &entry.instance.namespace) {
                continue;
            }
            let seen = entry.instance.probe.as_ref().is_some_and(|probe| probe.seen.is_ok());
            if behind.is_none_or(|behind| !behind.contains(uid)) {
                census.current += 1;
            } else if seen {
                census.behind += 1;
            } else {
                census.unknown += 1;
            }
        }
        census
    }

    /// The input for a probe of an instance; none: it has terminated, or cannot be probed now.
    pub(crate) fn subject(&self, key: &InstanceKey) -> Option<Subject> {
        let (entry, domain) = (self.entry(key)?, &key.trust_domain);
        let trust_domain = self.trust_domains.get(domain)?;
        if !self.is_selected(domain, &entry.instance.namespace) {
            return None;
        }
        let ring = self.ca_ring(&names::ca_ring(domain)).ring()?;
        let spiffe_trust_domain = trust_domain.spec.trust_domain.clone();
        let rules = if entry.is_endpoint() {
            let api_server = self.instances.api_server.clone()?;
            let name = entry.name.as_ref().map(|name| name.host.clone());
            Some(DialRules { grants: entry.grants.clone(), name, api_server })
        } else {
            None
        };
        Some(Subject {
            rules,
            trust_domain: domain.clone(),
            address: entry.address.clone()?,
            server_name: entry.server_name.clone(),
            expected: SpiffeId::workload(&spiffe_trust_domain, &entry.instance.namespace, &entry.account),
            roots: ring.trusted().map(|generation| generation.material.root.clone()).collect(),
            ca: ring.active()?.material.fingerprint.clone(),
            has_ledger: self.has_ledger(entry),
            spiffe_trust_domain,
        })
    }

    /// Returns true if it is an endpoint, and no pod.
    pub(crate) fn is_endpoint(&self, key: &InstanceKey) -> bool {
        self.entry(key).is_some_and(Entry::is_endpoint)
    }

    /// True if an instance is lagging and must be probed soon again; none: it has terminated.
    pub(crate) fn is_behind(&self, key: &InstanceKey) -> Option<bool> {
        let entry = self.entry(key)?;
        let rollout = self.rollout.get(&key.trust_domain);
        Some(rollout.is_some_and(|rollout| rollout.behind.contains(&key.uid)) || self.has_old_policy(entry))
    }

    /// Applies the result of a probe. Only the observed state matters, not the time.
    pub(crate) fn take_probe(
        &mut self,
        key: &InstanceKey,
        probe: Probe,
        shows_until: Option<Timestamp>,
    ) -> BTreeSet<ObjectRef> {
        let InstanceKey { trust_domain: domain, uid, .. } = key;
        let entry = self.instances.found.get_mut(domain).and_then(|found| found.get_mut(uid));
        // What an earlier rule allowed is no evidence.
        let Some(entry) = entry.filter(|entry| entry.address.is_some()) else { return BTreeSet::new() };
        if entry.excluded == Some(Exclusion::Balancer) {
            return BTreeSet::new();
        }
        if entry.is_endpoint() && entry.note_reappearance(&probe) {
            return self.exclude_endpoint(key, Exclusion::Balancer);
        }
        let was_excluded = entry.excluded.take().is_some();
        entry.shows_until = shows_until;
        let loaded_before = entry.instance.report().map(Loaded::of);
        let before = entry.instance.probe.replace(probe);
        let same = before.is_some_and(|before| Some(&before.seen) == entry.instance.probe.as_ref().map(|p| &p.seen));
        if same && !was_excluded {
            return BTreeSet::new();
        }
        let mut keys: BTreeSet<ObjectRef> = entry.certificate_keys().collect();
        let has_loaded = loaded_before != entry.instance.report().map(Loaded::of);
        if was_excluded || has_loaded {
            keys.extend(entry.service_keys());
        }
        self.mark_dirty(domain);
        keys
    }
}

/// The prober, if one runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probing {
    Leader,
    Nobody,
}

#[cfg(test)]
mod tests;

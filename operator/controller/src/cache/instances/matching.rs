//! Matches pods and endpoints with the operator's objects that they use, after every change of either side.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::crd::{Acknowledgement, Workload};
use gaia_api::names;
use gaia_plan::instances::endpoint::{Endpoint as Address, Host};
use gaia_plan::instances::instance::{Instance, Target};
use gaia_plan::object::{ObjectKey, ObjectKind};

use super::{Entry, InstanceIndex, InstanceKey};
use crate::cache::instances::ledgers::is_watched;
use crate::cache::instances::pods::{PodFacts, Reference};
use crate::cache::{ClusterCache, Place};
use crate::store::ObjectRef;

/// The references of a pod to objects of one TrustDomain.
#[derive(Default)]
struct Gathered {
    uses: BTreeSet<ObjectKey>,
    all_reload: bool,
    has_keys: bool,
    certificates: BTreeSet<Place>,
    services: BTreeSet<Place>,
}

impl ClusterCache {
    /// Matches the pods that refer to an object again.
    pub(in crate::cache) fn match_users(&mut self, object: &ObjectKey) -> BTreeSet<ObjectRef> {
        let users: Vec<String> = self.instances.users.get(object).into_iter().flatten().cloned().collect();
        users.into_iter().flat_map(|name| self.match_pod(&(object.namespace.clone(), name))).collect()
    }

    /// A service came, changed or went.
    pub(in crate::cache) fn match_service(
        &mut self,
        place: &Place,
        domain: &str,
        leaf_secret: String,
    ) -> BTreeSet<ObjectRef> {
        let mut keys = self.match_users(&ObjectKey::config_map(&place.0, names::policy(&place.1)));
        keys.extend(self.match_users(&ObjectKey::secret(&place.0, leaf_secret)));
        keys.extend(self.match_endpoints(place, domain));
        keys
    }

    /// A TrustDomain came, changed or went.
    pub(in crate::cache) fn match_domain(&mut self, domain: &str) -> BTreeSet<ObjectRef> {
        let ours = [names::trust(domain), names::grants(domain), names::token_signer(domain)];
        let objects: Vec<ObjectKey> =
            self.instances.users.keys().filter(|key| ours.contains(&key.name)).cloned().collect();
        let mut keys: BTreeSet<ObjectRef> = objects.iter().flat_map(|object| self.match_users(object)).collect();
        let services = self.services.iter().filter(|(_, found)| found.spec.trust_domain_ref.name == domain);
        let services: Vec<Place> = services.map(|(place, _)| place.clone()).collect();
        for service in services {
            keys.extend(self.match_endpoints(&service, domain));
        }
        keys
    }

    pub(super) fn match_pod(&mut self, place: &Place) -> BTreeSet<ObjectRef> {
        let Some(facts) = self.instances.pods.get(place) else { return BTreeSet::new() };
        let uid = facts.uid.clone();
        let mut by_domain: BTreeMap<String, Gathered> = BTreeMap::new();
        for reference in facts.references.iter() {
            self.gather(&place.0, reference, &mut by_domain);
        }
        let entries = by_domain.into_iter().map(|(domain, gathered)| {
            let entry = self.pod_entry(place, facts, gathered);
            (domain, entry)
        });
        let entries = entries.collect();
        self.put(&uid, entries)
    }

    /// Adds the TrustDomains that an object of that name belongs to.
    fn gather(&self, namespace: &str, reference: &Reference, by_domain: &mut BTreeMap<String, Gathered>) {
        let name = reference.name.as_ref();
        let mut note = |domain: &str, certificate: Option<Place>, service: Option<Place>| {
            let start = || Gathered { all_reload: true, ..Gathered::default() };
            let gathered = by_domain.entry(domain.to_owned()).or_insert_with(start);
            let key = ObjectKey { kind: reference.kind, namespace: namespace.to_owned(), name: name.to_owned() };
            gathered.uses.insert(key);
            gathered.all_reload &= reference.reloads;
            gathered.has_keys |= reference.has_keys && name == names::trust(domain);
            gathered.certificates.extend(certificate);
            gathered.services.extend(service);
        };
        let domain_of = |suffix: &str| name.strip_suffix(suffix).filter(|td| self.trust_domains.contains_key(*td));
        match reference.kind {
            ObjectKind::Secret => {
                let claims = self.claims.get(&(namespace.to_owned(), name.to_owned()));
                for claim in claims.into_iter().flatten() {
                    let place = (namespace.to_owned(), claim.clone());
                    let Some(certificate) = self.certificates.get(&place) else { continue };
                    if self.claimed_by(certificate, &place).is_none() {
                        note(&certificate.spec.trust_domain_ref.name, Some(place), None);
                    }
                }
                if let Some(domain) = domain_of("-token-signer") {
                    note(domain, None, None);
                }
            }
            ObjectKind::ConfigMap => {
                for domain in [domain_of("-trust"), domain_of("-grants")].into_iter().flatten() {
                    note(domain, None, None);
                }
                let place = name.strip_suffix("-auth").map(|service| (namespace.to_owned(), service.to_owned()));
                if let Some((place, service)) = place.and_then(|place| self.services.get_key_value(&place)) {
                    note(&service.spec.trust_domain_ref.name, None, Some(place.clone()));
                }
            }
            ObjectKind::ServiceCertificate => {}
        }
    }

    fn pod_entry(&self, place: &Place, facts: &PodFacts, gathered: Gathered) -> Entry {
        let certificates =
            gathered.certificates.iter().filter_map(|place| Some((place, self.certificates.get(place)?)));
        let certificates: Vec<_> = certificates.map(|(place, found)| (place, &found.spec)).collect();
        let services = gathered.services.iter().filter_map(|place| self.services.get(place));
        let workloads: Vec<&Workload> = if certificates.is_empty() {
            services.map(|service| &service.spec.workload).collect()
        } else {
            certificates.iter().map(|(_, spec)| &spec.workload).collect()
        };
        let wave = certificates.first().map_or_else(
            || gathered.services.first().map_or(0, |service| self.wave_of(service)),
            |(place, _)| self.wave_of(place),
        );
        let probed = certificates.iter().find(|(_, spec)| spec.workload.port.is_some());
        let port = probed.and_then(|(_, spec)| u16::try_from(spec.workload.port?).ok());
        let service = probed.or(certificates.first()).map(|(place, spec)| {
            let account = spec.service_account_name.clone().unwrap_or_else(|| place.1.clone());
            (account, server_name(&spec.workload, place))
        });
        let (account, server_name) = service.unwrap_or_default();
        Entry {
            instance: Instance {
                namespace: place.0.clone(),
                name: place.1.clone(),
                uid: facts.uid.clone(),
                uses: gathered.uses,
                has_keys: gathered.has_keys,
                reloads: gathered.all_reload,
                started: facts.started,
                acknowledgement: acknowledgement(&workloads),
                wave,
                restart_targets: restart_targets(&place.0, &workloads),
                can_be_probed: port.is_some(),
                nudged: facts.nudged.clone(),
                probe: None,
            },
            address: facts.ip.zip(port).map(|(ip, port)| Address { host: Host::Address(ip), port }),
            server_name,
            account,
            certificates: gathered.certificates,
            services: gathered.services,
            ends: facts.ends,
            shows_until: None,
            grants: vec![],
            excluded: None,
            name: None,
            shown: vec![],
        }
    }

    /// Replaces the entries of an instance for each TrustDomain, and keeps the probe results.
    pub(super) fn put(&mut self, uid: &str, mut entries: BTreeMap<String, Entry>) -> BTreeSet<ObjectRef> {
        let mut keys = BTreeSet::new();
        let mut changed = BTreeSet::new();
        let Self { instances: InstanceIndex { found, dirty, .. }, readings, services, .. } = self;
        for (domain, entry) in &mut entries {
            let before = found.get(domain).and_then(|found| found.get(uid));
            if let Some(before) = before {
                entry.keep_seen(before);
            }
            let moved = before.is_none_or(|before| {
                let (was, is) = (&before.instance, &entry.instance);
                let is_same_address = before.address == entry.address && before.grants == entry.grants;
                !is_same_address || was.started != is.started || before.ends != entry.ends
            });
            if moved && entry.address.is_some() {
                dirty.probes.insert(InstanceKey::new(domain, &entry.instance));
            }
        }
        for (domain, found) in found.iter_mut() {
            let before = found.remove(uid);
            let after = entries.remove(domain);
            if let (Some(before), None) = (&before, &after) {
                keys.extend(readings.note_termination(before, |service| is_watched(services, service)));
            }
            if before != after {
                keys.extend(before.iter().chain(&after).flat_map(Entry::certificate_keys));
                changed.insert(domain.clone());
            }
            if let (Some(before), None) = (&before, &after) {
                dirty.probes.remove(&InstanceKey::new(domain, &before.instance));
            }
            found.extend(after.map(|entry| (uid.to_owned(), entry)));
        }
        for (domain, entry) in entries {
            keys.extend(entry.certificate_keys());
            found.insert(domain.clone(), BTreeMap::from([(uid.to_owned(), entry)]));
            changed.insert(domain);
        }
        found.retain(|_, found| !found.is_empty());
        for domain in changed {
            self.mark_dirty(&domain);
        }
        keys.retain(|key| self.metadata(key).is_some());
        keys
    }
}

/// An instance holds rotations if one of its workloads requires it.
fn acknowledgement(workloads: &[&Workload]) -> Acknowledgement {
    let best_effort = |workload: &&Workload| workload.acknowledgement == Acknowledgement::BestEffort;
    if !workloads.is_empty() && workloads.iter().all(best_effort) {
        Acknowledgement::BestEffort
    } else {
        Acknowledgement::Required
    }
}

pub(super) fn restart_targets(namespace: &str, workloads: &[&Workload]) -> Vec<Target> {
    let all = workloads.iter().flat_map(|workload| &workload.restart_targets);
    let all =
        all.map(|target| Target { namespace: namespace.to_owned(), kind: target.kind, name: target.name.clone() });
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

pub(super) fn server_name(workload: &Workload, (namespace, name): &Place) -> String {
    workload.server_name.clone().unwrap_or_else(|| format!("{name}.{namespace}.svc"))
}

/// The Secret of a service's certificate.
pub(in crate::cache) fn service_secret(spec: &gaia_api::crd::GaiaServiceSpec, name: &str) -> String {
    let asked_for = spec.certificate.as_ref().and_then(|overrides| overrides.secret_name.clone());
    asked_for.unwrap_or_else(|| names::leaf_secret(name))
}

//! Endpoints of GaiaServices: which of them are instances, by `spec.allowedEndpoints` of the TrustDomain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gaia_api::crd::{AllowedEndpoint, GaiaService};
use gaia_api::names;
use gaia_plan::instances::endpoint::{Endpoint, Excluded, Exclusion, Host, exclusion, grants};
use gaia_plan::instances::instance::{Instance, Probe};
use gaia_plan::object::ObjectKey;
use jiff::Timestamp;

use super::matching::{restart_targets, server_name, service_secret};
use super::{EndpointName, Entry, InstanceKey};
use crate::cache::{ClusterCache, Place};
use crate::store::ObjectRef;

/// Allows every address of an endpoint.
fn any_endpoint() -> AllowedEndpoint {
    AllowedEndpoint { cidrs: ["0.0.0.0/0", "::/0"].map(str::to_owned).into(), ..AllowedEndpoint::default() }
}

impl ClusterCache {
    /// Matches the endpoints of a service again: it, or its TrustDomain, was created, changed or deleted.
    pub(super) fn match_endpoints(&mut self, place: &Place, domain: &str) -> BTreeSet<ObjectRef> {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        if let Some(service) = self.services.get(place) {
            for endpoint in &service.spec.endpoints {
                let uid = endpoint_uid(place, endpoint);
                let entry = self.endpoint_entry(place, uid.clone(), endpoint);
                let addresses = self.instances.resolved.get(&uid).filter(|_| entry.is_dialled_by_name());
                match addresses.filter(|addresses| !addresses.is_empty()) {
                    Some(addresses) => entries.extend(addresses.iter().filter_map(|address| entry.at(address))),
                    None => drop(entries.insert(uid, entry)),
                }
            }
        }
        let prefix = endpoint_uid(place, "");
        let named: BTreeSet<&String> = entries.values().filter_map(|entry| Some(&entry.name.as_ref()?.uid)).collect();
        let is_used = |uid: &String| !uid.starts_with(&prefix) || named.contains(uid);
        self.instances.resolved.retain(|uid, _| is_used(uid));
        let known = self.instances.found.get(domain).into_iter().flat_map(|found| found.range(prefix.clone()..));
        let known = known.map(|(uid, _)| uid).take_while(|uid| uid.starts_with(&prefix));
        let gone: Vec<String> = known.filter(|uid| !entries.contains_key(*uid)).cloned().collect();
        let mut keys: BTreeSet<ObjectRef> = gone.iter().flat_map(|uid| self.put(uid, BTreeMap::new())).collect();
        for (uid, entry) in entries {
            keys.extend(self.put(&uid, BTreeMap::from([(domain.to_owned(), entry)])));
        }
        keys
    }

    fn endpoint_entry(&self, place: &Place, uid: String, endpoint: &str) -> Entry {
        let (namespace, name) = place;
        let service = self.services.get(place);
        let spec = service.map(|service| service.spec.clone()).unwrap_or_default();
        let domain = &spec.trust_domain_ref.name;
        let mut uses = BTreeSet::from([
            ObjectKey::config_map(namespace, names::trust(domain)),
            ObjectKey::config_map(namespace, names::policy(name)),
            ObjectKey::secret(namespace, service_secret(&spec, name)),
        ]);
        let trust_domain = self.trust_domains.get(domain);
        let issuer = trust_domain.and_then(|domain| domain.spec.tokens.issued_by.as_ref());
        if issuer.is_some_and(|issuer| issuer.namespace == *namespace && issuer.name == *name) {
            uses.insert(ObjectKey::secret(namespace, names::token_signer(domain)));
            uses.insert(ObjectKey::config_map(namespace, names::grants(domain)));
        }
        let allowed = trust_domain.map(|domain| domain.spec.allowed_endpoints.as_slice()).unwrap_or_default();
        let parsed = Endpoint::parse(endpoint);
        let grants = match &parsed {
            Some(_) if self.allows_all_endpoints => vec![any_endpoint()],
            Some(parsed) => grants(namespace, &parsed.host, allowed),
            None => vec![],
        };
        let no_addresses = BTreeSet::new();
        let api_server = self.instances.api_server.as_ref().unwrap_or(&no_addresses);
        let excluded = match &parsed {
            None => Some(Exclusion::Invalid),
            Some(parsed) => exclusion(&parsed.host, &grants, api_server),
        };
        let address = parsed.filter(|_| excluded.is_none());
        let endpoint_name = address.as_ref().and_then(|address| match &address.host {
            Host::Name(host) => Some(EndpointName { host: host.clone(), uid: uid.clone() }),
            Host::Address(_) => None,
        });
        Entry {
            instance: Instance {
                namespace: namespace.clone(),
                name: endpoint.to_owned(),
                uid,
                uses,
                has_keys: true,
                reloads: true,
                started: None,
                acknowledgement: spec.workload.acknowledgement,
                wave: spec.rotation_wave,
                restart_targets: restart_targets(namespace, &[&spec.workload]),
                can_be_probed: address.is_some(),
                nudged: None,
                probe: None,
            },
            address,
            server_name: server_name(&spec.workload, place),
            account: spec.service_account_name.clone().unwrap_or_else(|| name.clone()),
            certificates: BTreeSet::from([place.clone()]),
            services: BTreeSet::from([place.clone()]),
            ends: false,
            shows_until: None,
            grants,
            excluded,
            name: endpoint_name,
            shown: vec![],
        }
    }

    /// Applies the addresses that a resolver returned for the name of an endpoint: each is an instance.
    pub(crate) fn take_answer(&mut self, key: &InstanceKey, answer: &BTreeSet<IpAddr>) -> BTreeSet<ObjectRef> {
        let entry = self.entry(key).filter(|entry| entry.excluded != Some(Exclusion::Balancer));
        let Some(entry) = entry else { return BTreeSet::new() };
        let (services, uid) = (entry.service_keys(), entry.name.as_ref().map(|name| name.uid.clone()));
        let Some(uid) = uid else { return BTreeSet::new() };
        if !self.instances.resolved.entry(uid).or_default().answered(answer) {
            return BTreeSet::new();
        }
        let mut keys = self.match_again(key);
        keys.extend(services);
        keys
    }

    /// Applies the result of dialling an address of a name. `is_vacant`: it refused the connection, or presented
    /// another SPIFFE ID.
    pub(crate) fn take_vacancy(&mut self, key: &InstanceKey, is_vacant: bool, now: Timestamp) -> BTreeSet<ObjectRef> {
        let Some(domain) = self.trust_domains.get(&key.trust_domain) else { return BTreeSet::new() };
        let min_delay = domain.spec.propagation.min_delay.value();
        let Some((uid, address)) = self.entry(key).and_then(Entry::address_of_name) else { return BTreeSet::new() };
        let addresses = self.instances.resolved.get_mut(&uid);
        if addresses.is_some_and(|addresses| addresses.probed(address, is_vacant, now, min_delay)) {
            return self.match_again(key);
        }
        BTreeSet::new()
    }

    /// Matches the endpoints of the service of an endpoint again.
    fn match_again(&mut self, key: &InstanceKey) -> BTreeSet<ObjectRef> {
        let place = self.entry(key).and_then(|entry| entry.services.first().cloned());
        let Some(place) = place else { return BTreeSet::new() };
        let keys = self.match_endpoints(&place, &key.trust_domain);
        self.mark_dirty(&key.trust_domain);
        keys
    }

    /// The addresses of the API server: endpoints may name them only by `cidrs`.
    pub(crate) fn set_api_server(&mut self, addresses: BTreeSet<IpAddr>) -> BTreeSet<ObjectRef> {
        if self.instances.api_server.as_ref() == Some(&addresses) {
            return BTreeSet::new();
        }
        self.instances.api_server = Some(addresses);
        let services = self.services.iter().filter(|(_, service)| !service.spec.endpoints.is_empty());
        let services: Vec<(Place, String)> =
            services.map(|(place, service)| (place.clone(), service.spec.trust_domain_ref.name.clone())).collect();
        let mut keys = BTreeSet::new();
        for (place, domain) in services {
            keys.extend(self.match_endpoints(&place, &domain));
            // None could be probed before.
            let prefix = endpoint_uid(&place, "");
            let found = self.instances.found.get(&domain).into_iter().flat_map(|found| found.range(prefix.clone()..));
            let uids = found.map(|(uid, _)| uid.clone()).take_while(|uid| uid.starts_with(&prefix));
            let uids: Vec<String> = uids.collect();
            self.probe_soon(&domain, uids.iter());
            keys.insert(ObjectRef::Service(place.0, place.1));
        }
        keys
    }

    /// An endpoint has an address that may not be dialled, or is a balancer: it is no instance, and with a name none of its
    /// addresses is.
    pub(crate) fn exclude_endpoint(&mut self, key: &InstanceKey, why: Exclusion) -> BTreeSet<ObjectRef> {
        let Some(entry) = self.entry(key) else { return BTreeSet::new() };
        let uid = entry.name.as_ref().map_or_else(|| key.uid.clone(), |name| name.uid.clone());
        let mut keys = BTreeSet::new();
        if uid != key.uid {
            self.instances.resolved.remove(&uid);
            keys.extend(self.match_again(key));
        }
        let found = self.instances.found.get_mut(&key.trust_domain);
        let entry = found.and_then(|found| found.get_mut(&uid)).filter(|entry| entry.address.is_some());
        let Some(entry) = entry else { return keys };
        if entry.excluded == Some(why) {
            return keys;
        }
        entry.excluded = Some(why);
        (entry.instance.probe, entry.shows_until) = (None, None);
        keys.extend(entry.service_keys());
        keys.extend(entry.certificate_keys());
        self.mark_dirty(&key.trust_domain);
        keys
    }

    /// The endpoints of a service that are no instances.
    pub(in crate::cache) fn excluded_endpoints<'a>(
        &self,
        service: &'a GaiaService,
        place: &Place,
    ) -> Vec<Excluded<'a>> {
        let found = self.instances.found.get(&service.spec.trust_domain_ref.name);
        let excluded = |endpoint: &'a String| {
            let why = found?.get(&endpoint_uid(place, endpoint))?.excluded?;
            Some(Excluded { endpoint, why })
        };
        service.spec.endpoints.iter().filter_map(excluded).collect()
    }
}

impl Entry {
    /// Only the UIDs of endpoints hold a slash.
    pub(in crate::cache) fn is_endpoint(&self) -> bool {
        self.instance.uid.contains('/')
    }

    /// The services that it is an instance of.
    pub(super) fn service_keys(&self) -> BTreeSet<ObjectRef> {
        self.services.iter().map(|(namespace, name)| ObjectRef::Service(namespace.clone(), name.clone())).collect()
    }

    /// Keeps the previous probe results, unless the endpoint may no longer be dialled.
    pub(super) fn keep_seen(&mut self, before: &Self) {
        if self.excluded.is_some() {
            return;
        }
        self.instance.probe.clone_from(&before.instance.probe);
        self.shows_until = before.shows_until;
        self.shown.clone_from(&before.shown);
        let is_learned = matches!(before.excluded, Some(Exclusion::Address | Exclusion::Balancer));
        if is_learned && before.address.is_some() {
            self.excluded = before.excluded;
        }
    }

    /// True if it is a name whose addresses are its instances.
    fn is_dialled_by_name(&self) -> bool {
        self.name.is_some() && self.excluded.is_none()
    }

    /// The instance at an address of its name, with its UID.
    fn at(&self, address: IpAddr) -> Option<(String, Self)> {
        let port = self.address.as_ref()?.port;
        let mut entry = self.clone();
        entry.instance.uid = format!("{}/{address}", self.instance.uid);
        entry.instance.name = format!("{} ({address})", self.instance.name);
        entry.address = Some(Endpoint { host: Host::Address(address), port });
        Some((entry.instance.uid.clone(), entry))
    }

    /// The UID of the endpoint and the address, of one that is an address of a name.
    fn address_of_name(&self) -> Option<(String, IpAddr)> {
        let uid = &self.name.as_ref().filter(|name| name.uid != self.instance.uid)?.uid;
        match self.address.as_ref()?.host {
            Host::Address(address) => Some((uid.clone(), address)),
            Host::Name(_) => None,
        }
    }

    /// Applies the state that a probe observed. Returns true if an instance or a leaf reappeared after another one: an
    /// instance that restarts, or gets a new leaf, never returns to the previous one.
    pub(super) fn note_reappearance(&mut self, probe: &Probe) -> bool {
        let Ok(shown) = &probe.seen else { return false };
        let instance = shown.report.as_ref().map(|report| report.instance.clone()).unwrap_or_default();
        let now = format!("{instance} {}", shown.fingerprint);
        if self.shown.last() == Some(&now) {
            return false;
        }
        let returns = self.shown.contains(&now);
        self.shown.push(now);
        if self.shown.len() > MOST_SHOWN {
            self.shown.remove(0);
        }
        returns
    }
}

/// The number of distinguished instances behind an address.
const MOST_SHOWN: usize = 8;

fn endpoint_uid((namespace, name): &Place, endpoint: &str) -> String {
    format!("{namespace}/{name}/{endpoint}")
}

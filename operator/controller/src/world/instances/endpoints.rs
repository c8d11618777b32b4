//! Endpoints of GaiaServices: which of them are instances, by `spec.allowedEndpoints` of the TrustDomain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gaia_api::crd::GaiaService;
use gaia_api::names;
use gaia_plan::endpoint::{Endpoint, Excluded, Exclusion, exclusion, grants};
use gaia_plan::instance::Instance;
use gaia_plan::object::ObjectKey;

use super::matching::{restart_targets, server_name, service_secret};
use super::{Entry, InstanceKey};
use crate::store::Key;
use crate::world::{Place, World};

impl World {
    /// Matches the endpoints of a service again: it, or its TrustDomain, was created, changed or deleted.
    pub(super) fn match_endpoints(&mut self, place: &Place, domain: &str) -> BTreeSet<Key> {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        if let Some(service) = self.services.get(place) {
            for endpoint in &service.spec.endpoints {
                let uid = endpoint_uid(place, endpoint);
                entries.insert(uid.clone(), self.endpoint_entry(place, uid, endpoint));
            }
        }
        let prefix = endpoint_uid(place, "");
        let known = self.instances.found.get(domain).into_iter().flat_map(|found| found.range(prefix.clone()..));
        let known = known.map(|(uid, _)| uid).take_while(|uid| uid.starts_with(&prefix));
        let gone: Vec<String> = known.filter(|uid| !entries.contains_key(*uid)).cloned().collect();
        let mut keys: BTreeSet<Key> = gone.iter().flat_map(|uid| self.put(uid, BTreeMap::new())).collect();
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
        let grants = parsed.as_ref().map(|parsed| grants(namespace, &parsed.host, allowed)).unwrap_or_default();
        let no_addresses = BTreeSet::new();
        let api_server = self.instances.api_server.as_ref().unwrap_or(&no_addresses);
        let excluded = match &parsed {
            None => Some(Exclusion::Invalid),
            Some(parsed) => exclusion(&parsed.host, &grants, api_server),
        };
        let address = parsed.filter(|_| excluded.is_none());
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
        }
    }

    /// The addresses of the API server: endpoints may name them only by `cidrs`.
    pub(crate) fn set_api_server(&mut self, addresses: BTreeSet<IpAddr>) -> BTreeSet<Key> {
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
            keys.insert(Key::Service(place.0, place.1));
        }
        keys
    }

    /// An endpoint has an address that may not be dialled: it is no instance until it has none.
    pub(crate) fn exclude_endpoint(&mut self, key: &InstanceKey) -> BTreeSet<Key> {
        let found = self.instances.found.get_mut(&key.trust_domain);
        let entry = found.and_then(|found| found.get_mut(&key.uid)).filter(|entry| entry.address.is_some());
        let Some(entry) = entry else { return BTreeSet::new() };
        if entry.excluded == Some(Exclusion::Address) {
            return BTreeSet::new();
        }
        entry.excluded = Some(Exclusion::Address);
        (entry.instance.probe, entry.shows_until) = (None, None);
        let mut keys = entry.service_keys();
        keys.extend(entry.certificates.iter().map(|place| Key::Certificate(place.0.clone(), place.1.clone())));
        self.stir(&key.trust_domain);
        keys
    }

    /// The endpoints of a service that are no instances.
    pub(in crate::world) fn excluded_endpoints<'a>(
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
    pub(in crate::world) fn is_endpoint(&self) -> bool {
        self.instance.uid.contains('/')
    }

    /// The services that it is an instance of.
    pub(super) fn service_keys(&self) -> BTreeSet<Key> {
        self.services.iter().map(|(namespace, name)| Key::Service(namespace.clone(), name.clone())).collect()
    }

    /// Takes over what was seen of it before, unless it may no longer be dialled.
    pub(super) fn keep_seen(&mut self, before: &Self) {
        if self.excluded.is_some() {
            return;
        }
        self.instance.probe.clone_from(&before.instance.probe);
        self.shows_until = before.shows_until;
        if before.excluded == Some(Exclusion::Address) && before.address.is_some() {
            self.excluded = before.excluded;
        }
    }
}

fn endpoint_uid((namespace, name): &Place, endpoint: &str) -> String {
    format!("{namespace}/{name}/{endpoint}")
}

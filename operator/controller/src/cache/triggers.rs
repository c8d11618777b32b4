//! Applies changes to the cluster snapshot, and returns the keys to plan again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::ledger::LedgerRecord;
use gaia_plan::object::{ObjectFacts, ObjectKey, ObjectKind};

use super::instances::service_secret;
use super::metadata::{differs, slim, stale};
use super::{ClusterCache, NamespaceFacts, Place, callers, is_older, place};
use crate::api_server::Resource;
use crate::cache::facts::{KnownCas, SecretFacts};
use crate::store::ObjectRef;

impl ClusterCache {
    pub(crate) fn apply_trust_domain(&mut self, mut domain: TrustDomain) -> BTreeSet<ObjectRef> {
        let name = domain.metadata.name.clone().unwrap_or_default();
        let before = self.trust_domains.get(&name);
        if before.is_some_and(|known| stale(&domain.metadata, &known.metadata)) {
            return BTreeSet::new();
        }
        let replaced = before.is_some_and(|known| known.metadata.uid != domain.metadata.uid);
        let mut keys = if replaced { self.remove_trust_domain(&name) } else { BTreeSet::new() };
        slim(&mut domain.metadata);
        let freed = self.unreadable.forget(Resource::TRUST_DOMAIN, &(String::new(), name.clone()));
        let before = self.trust_domains.get(&name).filter(|_| !freed);
        let changed = before.is_none_or(|known| known.spec != domain.spec || known.metadata.uid != domain.metadata.uid);
        let differs =
            before.is_none_or(|known| differs(&domain.metadata, &known.metadata) || known.status != domain.status);
        if changed {
            keys.extend(self.namesakes(&domain));
        }
        self.trust_domains.insert(name.clone(), Arc::new(domain));
        if changed {
            keys.extend(self.referring_to(&name));
            keys.extend(self.match_domain(&name));
        }
        if differs {
            keys.insert(ObjectRef::TrustDomain(name));
        }
        keys
    }

    pub(crate) fn remove_trust_domain(&mut self, name: &str) -> BTreeSet<ObjectRef> {
        let gone = self.trust_domains.remove(name);
        self.external_ca.remove(name);
        self.rollout.remove(name);
        let ours = [gaia_api::names::trust(name), gaia_api::names::grants(name), gaia_api::names::token_signer(name)];
        self.foreign.retain(|object| !ours.contains(&object.name));
        self.forget_projections(name);
        let rings = [gaia_api::names::ca_ring(name), gaia_api::names::signing_ring(name)];
        let copies = rings.each_ref().map(|ring| gaia_api::names::previous(ring));
        self.lost.retain(|object| !ours.iter().chain(&rings).chain(&copies).any(|own| *own == object.name));
        let key = ObjectRef::TrustDomain(name.to_owned());
        self.failures.remove(&key);
        let mut keys = self.referring_to(name);
        keys.extend(gone.iter().flat_map(|gone| self.namesakes(gone)));
        keys.extend(self.match_domain(name));
        keys.insert(key);
        keys
    }

    pub(crate) fn apply_certificate(&mut self, mut certificate: ServiceCertificate) -> BTreeSet<ObjectRef> {
        let place = place(&certificate.metadata);
        let before = self.certificates.get(&place).cloned();
        if before.as_ref().is_some_and(|known| stale(&certificate.metadata, &known.metadata)) {
            return BTreeSet::new();
        }
        let replaced = before.as_ref().is_some_and(|known| known.metadata.uid != certificate.metadata.uid);
        let mut keys = if replaced { self.remove_certificate(&place) } else { BTreeSet::new() };
        let before = before.filter(|_| !replaced);
        slim(&mut certificate.metadata);
        self.drop_certificate_lags(&place, certificate.status.as_mut());
        let freed = self.unreadable.forget(Resource::CERTIFICATE, &place);
        let after = Arc::new(certificate);
        let changed = freed || before.as_ref().is_none_or(|known| differs(&after.metadata, &known.metadata));
        let reported = before.as_ref().is_none_or(|known| known.status != after.status);
        if changed || reported {
            keys.insert(ObjectRef::Certificate(place.0.clone(), place.1.clone()));
            keys.insert(ObjectRef::Service(place.0.clone(), place.1.clone()));
        }
        if before.is_none() {
            let secret = (place.0.clone(), after.secret_name());
            let claims = self.claims.entry(secret).or_default();
            if !claims.contains(&place.1) {
                claims.push(place.1.clone());
            }
            keys.extend(self.count_consumer(&after.spec.trust_domain_ref.name, &place.0, 1));
        }
        let respecified = before.as_ref().is_none_or(|known| known.spec != after.spec);
        let (domain, secret) = (after.spec.trust_domain_ref.name.clone(), after.secret_name());
        let secret = ObjectKey::secret(&place.0, secret);
        self.certificates.insert(place.clone(), after);
        self.complete_from_child(&place);
        if respecified {
            self.mark_dirty(&domain);
            keys.extend(self.match_users(&secret));
        }
        keys.retain(
            |key| !matches!(key, ObjectRef::Service(ns, name) if !self.services.contains_key(&(ns.clone(), name.clone()))),
        );
        keys
    }

    pub(crate) fn remove_certificate(&mut self, place: &Place) -> BTreeSet<ObjectRef> {
        let Some(gone) = self.certificates.remove(place) else { return BTreeSet::new() };
        let key = ObjectRef::Certificate(place.0.clone(), place.1.clone());
        self.forget_reports(&key);
        self.budgets.remove(&key);
        let secret = (place.0.clone(), gone.secret_name());
        let mut keys = self.count_consumer(&gone.spec.trust_domain_ref.name, &place.0, -1);
        keys.insert(key);
        if let Some(claims) = self.claims.get_mut(&secret) {
            claims.retain(|name| *name != place.1);
            keys.extend(claims.iter().map(|name| ObjectRef::Certificate(place.0.clone(), name.clone())));
            if claims.is_empty() {
                self.claims.remove(&secret);
                let secret = ObjectKey::secret(&secret.0, secret.1);
                self.foreign.remove(&secret);
                self.lost.remove(&secret);
                self.forget_refusals(|object| *object == secret);
            }
        }
        if self.services.contains_key(place) {
            keys.insert(ObjectRef::Service(place.0.clone(), place.1.clone()));
        }
        self.mark_dirty(&gone.spec.trust_domain_ref.name);
        keys.extend(self.match_users(&ObjectKey::secret(&place.0, gone.secret_name())));
        keys
    }

    pub(crate) fn apply_service(&mut self, mut service: GaiaService) -> BTreeSet<ObjectRef> {
        let place = place(&service.metadata);
        let before = self.services.get(&place).cloned();
        if before.as_ref().is_some_and(|known| stale(&service.metadata, &known.metadata)) {
            return BTreeSet::new();
        }
        let replaced = before.as_ref().is_some_and(|known| known.metadata.uid != service.metadata.uid);
        let mut keys = if replaced { self.remove_service(&place) } else { BTreeSet::new() };
        let before = before.filter(|_| !replaced);
        slim(&mut service.metadata);
        self.drop_service_lags(&place, service.status.as_mut());
        let freed = self.unreadable.forget(Resource::SERVICE, &place);
        let after = Arc::new(service);
        let domain = after.spec.trust_domain_ref.name.clone();
        let changed = freed || before.as_ref().is_none_or(|known| known.spec != after.spec);
        let differs = freed
            || before
                .as_ref()
                .is_none_or(|known| differs(&after.metadata, &known.metadata) || known.status != after.status);
        let secret = service_secret(&after.spec, &place.1);
        let has_new_identity = before.as_deref().map(callers::identity) != Some(callers::identity(&after));
        self.callers.update(&place, before.as_deref(), Some(&after));
        keys.extend(self.calling(&place, before.as_deref().filter(|_| !freed), Some(&after)));
        self.services.insert(place.clone(), after);
        if changed {
            keys.extend(self.match_service(&place, &domain, secret));
            // It is in the grants.
            self.mark_dirty(&domain);
        }
        if has_new_identity {
            // It is in the policies of the services that it calls.
            keys.extend(self.naming(&place));
        }
        let was_watched = before.as_ref().is_some_and(|before| gaia_plan::api_key_usage::is_watched(before));
        if self.is_watched(&place) && (changed || !was_watched) {
            self.probe_service_soon(&place, &domain);
        }
        if differs {
            keys.insert(ObjectRef::Service(place.0.clone(), place.1.clone()));
        }
        if before.is_none() {
            keys.extend(self.count_consumer(&domain, &place.0, 1));
        }
        keys
    }

    pub(crate) fn remove_service(&mut self, place: &Place) -> BTreeSet<ObjectRef> {
        let Some(gone) = self.services.remove(place) else { return BTreeSet::new() };
        let key = ObjectRef::Service(place.0.clone(), place.1.clone());
        self.forget_reports(&key);
        for name in [gaia_api::names::policy(&place.1), gaia_api::names::ledger(&place.1)] {
            let object = ObjectKey::config_map(&place.0, name);
            self.lost.remove(&object);
            self.foreign.remove(&object);
        }
        self.foreign.retain(|object| {
            object.kind != ObjectKind::ServiceCertificate || object.namespace != place.0 || object.name != place.1
        });
        self.readings.forget(place);
        self.user_secrets.forget(place);
        let domain = &gone.spec.trust_domain_ref.name;
        let mut keys = self.count_consumer(domain, &place.0, -1);
        keys.extend(self.match_service(place, domain, service_secret(&gone.spec, &place.1)));
        self.callers.update(place, Some(&gone), None);
        keys.extend(self.naming(place));
        keys.extend(self.calling(place, Some(&gone), None));
        keys.insert(key);
        self.mark_dirty(domain);
        keys
    }

    pub(crate) fn apply_namespace(&mut self, name: &str, facts: NamespaceFacts) -> BTreeSet<ObjectRef> {
        let freed = self.unreadable.forget(Resource::NAMESPACE, &(String::new(), name.to_owned()));
        if !freed && self.namespaces.get(name) == Some(&facts) {
            return BTreeSet::new();
        }
        self.namespaces.insert(name.to_owned(), facts);
        self.in_namespace(name)
    }

    pub(crate) fn remove_namespace(&mut self, name: &str) -> BTreeSet<ObjectRef> {
        self.namespaces.remove(name);
        self.lost.retain(|key| key.namespace != name);
        self.foreign.retain(|key| key.namespace != name);
        self.restarted.retain(|target, _| target.namespace != name);
        self.forget_refusals_in(name);
        self.in_namespace(name)
    }

    pub(crate) fn apply_secret(&mut self, place: Place, mut arriving: SecretFacts) -> BTreeSet<ObjectRef> {
        let mut keys = BTreeSet::new();
        if let Some(before) = self.secrets.get(&place) {
            let is_same = before.uid() == arriving.uid();
            let same = is_same && before.resource_version() == arriving.resource_version();
            if same || is_older(Some(arriving.resource_version()), Some(before.resource_version())) {
                return BTreeSet::new();
            }
            if !is_same {
                keys = self.remove_secret(&place, None);
            }
        }
        self.lost.remove(&ObjectKey::secret(&place.0, place.1.clone()));
        self.unreadable.forget(Resource::SECRET, &place);
        arriving.prove(&self.known_cas);
        let is_ring = matches!(arriving, SecretFacts::CaRing { .. });
        keys.extend(self.affected_by_secret(&place, Some(&arriving)));
        self.stir_by_leaf(&arriving);
        self.secrets.insert(place, arriving);
        if is_ring {
            self.learn_cas();
        }
        keys.retain(|key| self.metadata(key).is_some());
        keys
    }

    pub(crate) fn remove_secret(&mut self, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        let Some(known) = self.secrets.get(place) else { return BTreeSet::new() };
        if is_older(version, Some(known.resource_version())) {
            return BTreeSet::new();
        }
        let gone = self.secrets.remove(place);
        let mut keys = self.affected_by_secret(place, gone.as_ref());
        if let Some(gone) = &gone {
            self.stir_by_leaf(gone);
        }
        if matches!(gone, Some(SecretFacts::CaRing { .. } | SecretFacts::SigningRing { .. })) {
            // It may only have lost its label: its TrustDomain reads it, and queues the others if it is deleted.
            keys.retain(|key| matches!(key, ObjectRef::TrustDomain(_)));
        }
        keys.retain(|key| self.metadata(key).is_some());
        self.note_lost(ObjectKey::secret(&place.0, place.1.clone()), &keys);
        keys
    }

    /// Records that an object of the operator was deleted. One that no custom resource requests is not recorded: the
    /// record would never be removed.
    fn note_lost(&mut self, object: ObjectKey, missed_by: &BTreeSet<ObjectRef>) {
        if missed_by.iter().any(|key| self.metadata(key).is_some()) {
            self.lost.insert(object);
        }
    }

    pub(crate) fn apply_config_map(
        &mut self,
        place: Place,
        facts: ObjectFacts,
        ledger: Option<LedgerRecord>,
    ) -> BTreeSet<ObjectRef> {
        let mut keys = BTreeSet::new();
        if let Some(before) = self.config_maps.get(&place) {
            let is_same = before.uid == facts.uid;
            let same = is_same && before.resource_version == facts.resource_version;
            if same || is_older(Some(&facts.resource_version), Some(&before.resource_version)) {
                return BTreeSet::new();
            }
            if !is_same {
                keys = self.remove_config_map(&place, None);
            }
        }
        self.lost.remove(&ObjectKey::config_map(&place.0, place.1.clone()));
        self.unreadable.forget(Resource::CONFIG_MAP, &place);
        keys.extend(self.affected_by_config_map(&place));
        keys.extend(self.affected_by_dated_file(&place, &facts));
        match ledger {
            Some(ledger) => drop(self.ledgers.insert(place.clone(), ledger)),
            None => drop(self.ledgers.remove(&place)),
        }
        self.config_maps.insert(place, facts);
        keys
    }

    pub(crate) fn remove_config_map(&mut self, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
        let Some(known) = self.config_maps.get(place) else { return BTreeSet::new() };
        if is_older(version, Some(&known.resource_version)) {
            return BTreeSet::new();
        }
        self.config_maps.remove(place);
        self.ledgers.remove(place);
        let keys = self.affected_by_config_map(place);
        self.note_lost(ObjectKey::config_map(&place.0, place.1.clone()), &keys);
        keys
    }

    fn affected_by_secret(&self, place: &Place, secret: Option<&SecretFacts>) -> BTreeSet<ObjectRef> {
        let mut keys: BTreeSet<ObjectRef> = self
            .claims
            .get(place)
            .into_iter()
            .flatten()
            .map(|name| ObjectRef::Certificate(place.0.clone(), name.clone()))
            .collect();
        let domain = secret.and_then(SecretFacts::trust_domain);
        match secret {
            Some(SecretFacts::CaRing { .. } | SecretFacts::SigningRing { .. }) => {
                // By its name, in case the label is lost.
                for name in self.trust_domains.keys() {
                    if gaia_api::names::ca_ring(name) == place.1 || gaia_api::names::signing_ring(name) == place.1 {
                        keys.insert(ObjectRef::TrustDomain(name.clone()));
                        keys.extend(self.referring_to(name));
                    }
                }
            }
            Some(SecretFacts::Signer(_) | SecretFacts::Unreadable { .. }) => {
                keys.extend(domain.map(|name| ObjectRef::TrustDomain(name.to_owned())));
            }
            Some(SecretFacts::Leaf { .. }) | None => {}
        }
        keys
    }

    /// The progress of a rotation depends on the stored certificates.
    fn stir_by_leaf(&mut self, secret: &SecretFacts) {
        if let SecretFacts::Leaf { secret, .. } = secret
            && let Some(domain) = secret.trust_domain()
        {
            self.mark_dirty(domain);
        }
    }

    fn affected_by_config_map(&self, place: &Place) -> BTreeSet<ObjectRef> {
        let mut keys = BTreeSet::new();
        for name in self.trust_domains.keys() {
            if gaia_api::names::trust(name) == place.1 || gaia_api::names::grants(name) == place.1 {
                keys.insert(ObjectRef::TrustDomain(name.clone()));
            }
        }
        if let Some(service) = place.1.strip_suffix("-auth").or_else(|| place.1.strip_suffix("-ledger"))
            && self.services.contains_key(&(place.0.clone(), service.to_owned()))
        {
            keys.insert(ObjectRef::Service(place.0.clone(), service.to_owned()));
        }
        keys
    }

    /// Collects the CAs of all readable rings, and searches again for the issuers of leaves without a known one.
    fn learn_cas(&mut self) {
        let rings = self.secrets.values().filter_map(|secret| match secret {
            SecretFacts::CaRing { ring: Ok(ring), copy: false, .. } => Some(ring),
            _ => None,
        });
        self.known_cas = Arc::new(KnownCas::of(rings));
        for secret in self.secrets.values_mut() {
            secret.prove(&self.known_cas);
        }
    }

    /// The keys of all objects that refer to a TrustDomain.
    pub(crate) fn referring_to(&self, domain: &str) -> BTreeSet<ObjectRef> {
        let mut keys = self.services_of(domain);
        let certificates = self.certificates.iter().filter(|(_, found)| found.spec.trust_domain_ref.name == domain);
        keys.extend(certificates.map(|((namespace, name), _)| ObjectRef::Certificate(namespace.clone(), name.clone())));
        keys
    }

    /// The other TrustDomains with the same `spec.trustDomain`.
    fn namesakes(&self, domain: &TrustDomain) -> BTreeSet<ObjectRef> {
        let others = self.trust_domains.values().filter(|other| {
            other.spec.trust_domain == domain.spec.trust_domain && other.metadata.name != domain.metadata.name
        });
        others.filter_map(|other| other.metadata.name.clone()).map(ObjectRef::TrustDomain).collect()
    }

    pub(crate) fn services_of(&self, domain: &str) -> BTreeSet<ObjectRef> {
        let services = self.services.iter().filter(|(_, found)| found.spec.trust_domain_ref.name == domain);
        services.map(|((namespace, name), _)| ObjectRef::Service(namespace.clone(), name.clone())).collect()
    }

    fn in_namespace(&self, namespace: &str) -> BTreeSet<ObjectRef> {
        let domains = self.trust_domains.keys().map(|name| ObjectRef::TrustDomain(name.clone()));
        let services = self.services.keys().filter(|place| place.0 == namespace);
        // A caller counts where its namespace is selected.
        let naming = services.clone().flat_map(|place| self.naming(place));
        let calling =
            services.clone().flat_map(|place| self.calling(place, None, self.services.get(place).map(AsRef::as_ref)));
        let services = services.map(|(namespace, name)| ObjectRef::Service(namespace.clone(), name.clone()));
        let certificates = self.certificates.keys().filter(|place| place.0 == namespace);
        let certificates =
            certificates.map(|(namespace, name)| ObjectRef::Certificate(namespace.clone(), name.clone()));
        domains.chain(services).chain(naming).chain(calling).chain(certificates).collect()
    }

    /// The TrustDomain is planned again when a namespace gets its first consumer or loses its last.
    fn count_consumer(&mut self, domain: &str, namespace: &str, change: isize) -> BTreeSet<ObjectRef> {
        let namespaces: &mut BTreeMap<String, usize> = self.consumers.entry(domain.to_owned()).or_default();
        let count = namespaces.entry(namespace.to_owned()).or_default();
        let before = *count;
        *count = before.saturating_add_signed(change);
        let after = *count;
        if after == 0 {
            namespaces.remove(namespace);
        }
        if namespaces.is_empty() {
            self.consumers.remove(domain);
        }
        if (before == 0) == (after == 0) {
            BTreeSet::new()
        } else {
            BTreeSet::from([ObjectRef::TrustDomain(domain.to_owned())])
        }
    }
}

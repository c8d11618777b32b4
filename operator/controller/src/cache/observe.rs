//! Builds the inputs of decisions from the cluster snapshot.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::crd::{GaiaService, Renewal, ServiceCertificate};
use gaia_api::names;
use gaia_plan::api_key_usage::LedgerObject;
use gaia_plan::domain::DomainView;
use gaia_plan::keyring::epoch::{EpochMac, EpochMacs};
use gaia_plan::keyring::ring::{CaMaterial, Ring, SigningMaterial};
use gaia_plan::leaf::LeafSecret;
use gaia_plan::object::{ObjectFacts, ObjectKey, ObjectKind, OwnerRef, Ownership, is_ours};
use gaia_plan::pacing::budget::IssuanceBudget;
use gaia_plan::trust_domain::{LeafView, RingView, SignerSecret};
use gaia_plan::{gaia_service, service_certificate, trust_domain};
use jiff::Timestamp;

use super::{ClusterCache, Place};
use crate::api_server::Resource;
use crate::cache::facts::{SecretFacts, metadata_facts};
use crate::store::ObjectRef;

impl ClusterCache {
    /// The input of a decision about a ServiceCertificate.
    pub(crate) fn observe_certificate(
        &self,
        place: &Place,
        now: Timestamp,
    ) -> Option<service_certificate::Observed<'_>> {
        let found = self.certificates.get(place)?;
        let key = ObjectRef::Certificate(place.0.clone(), place.1.clone());
        Some(service_certificate::Observed {
            certificate: found,
            domain: self.domain_view(&found.spec.trust_domain_ref.name, &place.0),
            secret: self.leaf_secret(found, place),
            claimed_by: self.claimed_by(found, place),
            instances: self.instances_using(&found.spec.trust_domain_ref.name, &place.0, &found.secret_name()),
            wave: self.wave_of(place),
            open_wave: self.rollout.get(&found.spec.trust_domain_ref.name).map_or(0, |rollout| rollout.open_wave),
            failures: self.failures.get(&key),
            budget: self.budgets.get(&key).copied().unwrap_or_else(|| IssuanceBudget::full(now)),
            cluster_domain: &self.surroundings.cluster_domain,
            operator_namespace: &self.surroundings.operator_namespace,
        })
    }

    /// The input of a decision about a GaiaService; `callers` and `targets` as returned by [`ClusterCache::callers_of`] and
    /// [`ClusterCache::targets_of`].
    pub(crate) fn observe_service<'a>(
        &'a self,
        place: &Place,
        callers: &'a [&'a GaiaService],
        targets: &'a [&'a GaiaService],
    ) -> Option<gaia_service::Observed<'a>> {
        let found = self.services.get(place)?;
        let policy = ObjectKey::config_map(&place.0, names::policy(&place.1));
        let ledger = ObjectKey::config_map(&place.0, names::ledger(&place.1));
        let owner = Some(("GaiaService", place.1.as_str()));
        let record = || self.ledgers.get(&(ledger.namespace.clone(), ledger.name.clone())).cloned();
        Some(gaia_service::Observed {
            service: found,
            domain: self.domain_view(&found.spec.trust_domain_ref.name, &place.0),
            child: self.child(place),
            policy: self.held_config_map(&policy, owner),
            policy_lost: self.lost.contains(&policy),
            ledger: match self.held_config_map(&ledger, owner) {
                Ownership::Ours(facts) => Ownership::Ours(LedgerObject { facts, record: record() }),
                Ownership::Absent => Ownership::Absent,
                Ownership::Foreign => Ownership::Foreign,
                Ownership::Unreadable(why) => Ownership::Unreadable(why),
            },
            ledger_lost: self.lost.contains(&ledger),
            watch: self.watch_of(found, place),
            callers,
            targets,
            unreadable: self.unreadable_services(&found.spec.trust_domain_ref.name),
            grants_cut: self.rollout.get(&found.spec.trust_domain_ref.name).and_then(|rollout| rollout.cut.get(place)),
            missing_secrets: self.missing_secrets(place),
            instances: self.instances_enforcing(&found.spec.trust_domain_ref.name, place),
            certificate_users: self.certificate_users(place),
            leaf: self.served_leaf(place),
            excluded_endpoints: self.excluded_endpoints(found, place),
            failures: self.failures.get(&ObjectRef::Service(place.0.clone(), place.1.clone())),
        })
    }

    /// The input of a decision about a TrustDomain.
    pub(crate) fn observe_trust_domain(&self, name: &str) -> Option<trust_domain::Observed<'_>> {
        let domain = self.trust_domains.get(name)?;
        let consumers: BTreeSet<String> =
            self.consumers.get(name).into_iter().flatten().map(|(ns, _)| ns.clone()).collect();
        let granted: BTreeSet<String> =
            consumers.iter().filter(|namespace| self.is_selected(name, namespace)).cloned().collect();
        let ca = self.ca_ring(&names::ca_ring(name));
        let signing = self.signing_ring(&names::signing_ring(name));
        let rings_missing = ca.facts().is_none() || signing.facts().is_none();
        let known = |name: String| self.known_config_maps(&name, &granted);
        Some(trust_domain::Observed {
            domain,
            ca,
            signing,
            ca_copy: self.ca_ring(&names::previous(&names::ca_ring(name))),
            signing_copy: self.signing_ring(&names::previous(&names::signing_ring(name))),
            macs: EpochMacs {
                ca: self.epoch_mac(&names::ca_ring(name)),
                signing: self.epoch_mac(&names::signing_ring(name)),
            },
            leaves_exist: rings_missing && self.has_leaves(name),
            external_ca: domain.spec.ca.existing_secret_ref.as_ref().and_then(|_| self.external_ca.get(name).cloned()),
            trust: known(names::trust(name)),
            grants: known(names::grants(name)),
            signers: self.known_signers(&names::token_signer(name), &granted),
            refused: self.refused_in(&granted),
            unwatched: self.unwatched(name),
            lost: self.lost.iter().filter(|key| key.name.starts_with(name)).cloned().collect(),
            services: self.services_in(name, |namespace| granted.contains(namespace)),
            instances: self.instances_of(name, &granted),
            kept: self.kept_grants(name, &granted),
            older_namesake: trust_domain::older_namesake(domain, self.trust_domains.values().map(AsRef::as_ref)),
            selected: self.namespaces.keys().filter(|namespace| self.is_selected(name, namespace)).cloned().collect(),
            consumers,
            granted,
            leaves: self.leaf_views(name),
            certificates: self.constrained_certificates(name),
            cluster_domain: &self.surroundings.cluster_domain,
            restarted: self.restarted.clone(),
            abilities: self.abilities,
            failures: self.failures.get(&ObjectRef::TrustDomain(name.to_owned())),
            operator_namespace: &self.surroundings.operator_namespace,
        })
    }

    /// The ServiceCertificates of a TrustDomain in granted namespaces; none where no CA has name constraints.
    fn constrained_certificates(&self, domain: &str) -> Vec<&ServiceCertificate> {
        let ring = self.ca_ring(&names::ca_ring(domain));
        let in_ring = ring.ring().into_iter().flat_map(|ring| &ring.generations).map(|ca| &ca.material.path);
        let external = self.external_ca.get(domain).and_then(|ca| ca.as_ref().ok()).map(|ca| &ca.path);
        if in_ring.chain(external).all(|path| path.constraints.is_empty()) {
            return vec![];
        }
        let all = self.certificates.iter().filter(|(place, certificate)| {
            certificate.spec.trust_domain_ref.name == domain && self.is_selected(domain, &place.0)
        });
        all.map(|(_, certificate)| certificate.as_ref()).collect()
    }

    fn services_in(&self, domain: &str, wanted: impl Fn(&str) -> bool) -> Vec<&GaiaService> {
        self.services
            .iter()
            .filter(|(place, service)| service.spec.trust_domain_ref.name == domain && wanted(&place.0))
            .map(|(_, service)| service.as_ref())
            .collect()
    }

    /// The trust ConfigMap of a namespace, if it is the operator's and can be read.
    fn trust_facts(&self, domain: &str, namespace: &str) -> Option<&ObjectFacts> {
        let place = (namespace.to_owned(), names::trust(domain));
        let facts = self.config_maps.get(&place).filter(|facts| owned(facts, None))?;
        self.why_unreadable(Resource::CONFIG_MAP, &place).is_none().then_some(facts)
    }

    fn domain_view<'a>(&'a self, name: &'a str, namespace: &str) -> DomainView<'a> {
        DomainView {
            name,
            namespace: self.namespaces.get_key_value(namespace).map(|(name, _)| name.as_str()).unwrap_or_default(),
            object: self.trust_domains.get(name).map(AsRef::as_ref),
            selected: self.is_selected(name, namespace),
            ca: self.ca_ring(&names::ca_ring(name)).ring(),
            ca_mac: self.epoch_mac(&names::ca_ring(name)),
            signing: self.signing_ring(&names::signing_ring(name)).ring(),
            trust: self.trust_facts(name, namespace),
        }
    }

    pub(super) fn is_selected(&self, domain: &str, namespace: &str) -> bool {
        let selector = self.trust_domains.get(domain).and_then(|domain| domain.spec.namespace_selector.as_ref());
        match (selector, self.namespaces.get(namespace)) {
            // Its labels cannot be read: its current ones are kept.
            (Some(_), Some(facts))
                if self.is_partly_known(Resource::NAMESPACE, &(String::new(), namespace.to_owned())) =>
            {
                !facts.terminating
            }
            (Some(selector), Some(facts)) => !facts.terminating && selector.matches(&facts.labels),
            _ => false,
        }
    }

    /// The namespaces that a TrustDomain selects and that are not watched.
    fn unwatched(&self, domain: &str) -> Vec<String> {
        let watched = &self.surroundings.watch_namespaces;
        if watched.is_empty() {
            return vec![];
        }
        let outside = self.namespaces.keys().filter(|namespace| !watched.contains(namespace));
        let mut outside: Vec<String> =
            outside.filter(|namespace| self.is_selected(domain, namespace)).cloned().collect();
        outside.sort_unstable();
        outside
    }

    fn leaf_secret(&self, certificate: &ServiceCertificate, place: &Place) -> Ownership<LeafSecret> {
        let key = ObjectKey::secret(&place.0, certificate.secret_name());
        match self.secrets.get(&(key.namespace.clone(), key.name.clone())) {
            Some(SecretFacts::Leaf { secret, .. }) => {
                let secret = secret.unpack();
                let is_ours = owned(&secret.facts, Some(("ServiceCertificate", &place.1)));
                if is_ours { Ownership::Ours(secret) } else { Ownership::Foreign }
            }
            Some(SecretFacts::Unreadable { why, .. }) => Ownership::Unreadable(why.clone()),
            // A ring or a signer is the operator's, but never a ServiceCertificate's.
            Some(_) => Ownership::Foreign,
            None if self.foreign.contains(&key) => Ownership::Foreign,
            None => Ownership::Absent,
        }
    }

    /// The oldest ServiceCertificate that names the same Secret has priority. Ages have a resolution of seconds: of two
    /// with the same age the one that has the Secret keeps it, else the first by name gets it.
    pub(super) fn claimed_by(&self, certificate: &ServiceCertificate, place: &Place) -> Option<String> {
        let secret = (place.0.clone(), certificate.secret_name());
        let mut rivals = self.claims.get(&secret)?.iter().filter(|name| **name != place.1).peekable();
        rivals.peek()?;
        let owners: Vec<OwnerRef> = match self.secrets.get(&secret) {
            Some(SecretFacts::Leaf { secret, .. }) => secret.owners().collect(),
            _ => vec![],
        };
        let rank = |found: &ServiceCertificate| {
            let created = found.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let has_it = owners.iter().any(|owner| Some(&owner.uid) == found.metadata.uid.as_ref());
            (created, !has_it, found.metadata.name.clone())
        };
        let rivals = rivals.filter_map(|name| self.certificates.get(&(place.0.clone(), name.clone())));
        let first = rivals.min_by_key(|rival| rank(rival)).filter(|rival| rank(rival) < rank(certificate))?;
        first.metadata.name.clone()
    }

    fn child(&self, place: &Place) -> Ownership<&ServiceCertificate> {
        match self.certificates.get(place) {
            None => Ownership::Absent,
            Some(found) => {
                let facts = metadata_facts(&found.metadata);
                if owned(&facts, Some(("GaiaService", &place.1))) { Ownership::Ours(found) } else { Ownership::Foreign }
            }
        }
    }

    fn held_config_map(&self, key: &ObjectKey, owner: Option<(&str, &str)>) -> Ownership<ObjectFacts> {
        let place = (key.namespace.clone(), key.name.clone());
        if let Some(why) = self.why_unreadable(Resource::CONFIG_MAP, &place) {
            return Ownership::Unreadable(why);
        }
        match self.config_maps.get(&place) {
            Some(facts) if owned(facts, owner) => Ownership::Ours(facts.clone()),
            Some(_) => Ownership::Foreign,
            None if self.foreign.contains(key) => Ownership::Foreign,
            None => Ownership::Absent,
        }
    }

    /// The known ConfigMaps of that name, and foreign ones in granted namespaces.
    fn known_config_maps(&self, name: &str, granted: &BTreeSet<String>) -> BTreeMap<String, Ownership<ObjectFacts>> {
        let foreign = self.foreign.iter().filter(|key| key.kind == ObjectKind::ConfigMap && key.name == name);
        let foreign = foreign
            .filter(|key| granted.contains(&key.namespace))
            .map(|key| (key.namespace.clone(), Ownership::Foreign));
        let ours = self.config_maps.iter().filter(|(place, _)| place.1 == name);
        foreign
            .chain(ours.map(|(place, facts)| {
                let why = self.why_unreadable(Resource::CONFIG_MAP, place);
                (place.0.clone(), why.map_or_else(|| Ownership::Ours(facts.clone()), Ownership::Unreadable))
            }))
            .filter(|(namespace, _)| !self.is_terminating(namespace))
            .collect()
    }

    fn known_signers(&self, name: &str, granted: &BTreeSet<String>) -> BTreeMap<String, Ownership<SignerSecret>> {
        let foreign = self.foreign.iter().filter(|key| key.kind == ObjectKind::Secret && key.name == name);
        let foreign = foreign
            .filter(|key| granted.contains(&key.namespace))
            .map(|key| (key.namespace.clone(), Ownership::Foreign));
        let ours = self.secrets.iter().filter(|(place, _)| place.1 == name);
        foreign
            .chain(ours.map(|((namespace, _), secret)| match secret {
                SecretFacts::Signer(signer) => (namespace.clone(), Ownership::Ours(signer.as_ref().clone())),
                SecretFacts::Unreadable { why, .. } => (namespace.clone(), Ownership::Unreadable(why.clone())),
                _ => (namespace.clone(), Ownership::Foreign),
            }))
            .filter(|(namespace, _)| !self.is_terminating(namespace))
            .collect()
    }

    pub(super) fn ca_ring(&self, secret: &str) -> RingView<'_, CaMaterial> {
        match self.operator_secret(secret) {
            Some(SecretFacts::CaRing { facts, ring, .. }) => ring_view(ring.as_ref(), facts),
            // A Secret with a ring's name is parsed as one.
            Some(_) | None => RingView::Missing,
        }
    }

    fn signing_ring(&self, secret: &str) -> RingView<'_, SigningMaterial> {
        match self.operator_secret(secret) {
            Some(SecretFacts::SigningRing { facts, ring, .. }) => ring_view(ring.as_ref(), facts),
            Some(_) | None => RingView::Missing,
        }
    }

    /// The MACs by the key in a ring, or in its copy where the ring is missing.
    fn epoch_mac(&self, ring: &str) -> Option<&dyn EpochMac> {
        let found = self.operator_secret(ring).or_else(|| self.operator_secret(&names::previous(ring)));
        match found? {
            SecretFacts::CaRing { mac, .. } | SecretFacts::SigningRing { mac, .. } => {
                mac.as_ref().map(|mac| mac as &dyn EpochMac)
            }
            _ => None,
        }
    }

    fn operator_secret(&self, name: &str) -> Option<&SecretFacts> {
        self.secrets.get(&(self.surroundings.operator_namespace.clone(), name.to_owned()))
    }

    /// The leaf Secrets of a TrustDomain, each with the ServiceCertificate that asks for it.
    fn leaf_views(&self, domain: &str) -> Vec<LeafView<'_>> {
        let mut views: BTreeMap<(&str, &str), LeafView<'_>> = BTreeMap::new();
        for (place, secret) in &self.secrets {
            let SecretFacts::Leaf { secret, .. } = secret else { continue };
            if secret.trust_domain() != Some(domain) {
                continue;
            }
            let view = LeafView {
                secret_namespace: &place.0,
                secret_name: &place.1,
                secret: Some(secret),
                leaf: secret.leaf(),
                is_claimed: false,
                is_held: false,
                duration: None,
                renews: false,
                wave: 0,
            };
            views.insert((&place.0, &place.1), view);
        }
        for (secret, names) in &self.claims {
            for name in names {
                let place = (secret.0.clone(), name.clone());
                let Some(certificate) = self.certificates.get(&place) else { continue };
                if certificate.spec.trust_domain_ref.name != domain || self.claimed_by(certificate, &place).is_some() {
                    continue;
                }
                let Some(view) = views.get_mut(&(secret.0.as_str(), secret.1.as_str())) else { continue };
                view.is_claimed = true;
                if self.unreadable.get(Resource::CERTIFICATE, &place).is_some() {
                    // In use, and not re-issued.
                    view.is_held = true;
                    continue;
                }
                view.duration = certificate.spec.duration.as_ref().map(gaia_api::Span::value);
                view.renews = certificate.spec.renewal == Renewal::Enabled;
                view.wave = self.wave_of(&place);
            }
        }
        let owned = |view: &LeafView<'_>| {
            let Some(SecretFacts::Leaf { secret, .. }) =
                self.secrets.get(&(view.secret_namespace.to_owned(), view.secret_name.to_owned()))
            else {
                return false;
            };
            let mut owners = secret.owners().filter(|owner| owner.kind == "ServiceCertificate");
            owners.any(|owner| {
                let place = (view.secret_namespace.to_owned(), owner.name);
                self.unreadable.get(Resource::CERTIFICATE, &place).is_some()
            })
        };
        if self.unreadable.has(Resource::CERTIFICATE) {
            for view in views.values_mut().filter(|view| !view.is_claimed) {
                let is_owned = owned(view);
                (view.is_claimed, view.is_held) = (is_owned, is_owned);
            }
        }
        views.into_values().collect()
    }

    /// The wave of the GaiaService that a ServiceCertificate belongs to; 0 for one without.
    pub(super) fn wave_of(&self, certificate: &Place) -> i32 {
        self.services.get(certificate).map_or(0, |service| service.spec.rotation_wave)
    }

    fn has_leaves(&self, domain: &str) -> bool {
        let is_its = |secret: &SecretFacts| match secret {
            SecretFacts::Leaf { secret, .. } => secret.trust_domain() == Some(domain),
            _ => false,
        };
        self.secrets.values().any(is_its)
    }
}

fn ring_view<'a, M>(
    ring: Result<&'a Ring<M>, &'a gaia_plan::keyring::ring::RingError>,
    facts: &'a ObjectFacts,
) -> RingView<'a, M> {
    match ring {
        Ok(ring) => RingView::Readable { ring, facts },
        Err(error) => RingView::Unreadable { error, facts },
    }
}

fn owned(facts: &ObjectFacts, owner: Option<(&str, &str)>) -> bool {
    let owners: &[OwnerRef] = &facts.owners;
    is_ours(&facts.labels, &facts.annotations, owners, owner)
}

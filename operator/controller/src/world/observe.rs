//! What a decision rests on, looked up in the world.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::crd::{GaiaService, ServiceCertificate};
use gaia_api::names;
use gaia_plan::budget::IssuanceBudget;
use gaia_plan::certificate::LeafSecret;
use gaia_plan::domain::DomainView;
use gaia_plan::object::{Held, ObjectFacts, ObjectKey, ObjectKind, OwnerRef, is_ours};
use gaia_plan::ring::{CaMaterial, Ring, SigningMaterial};
use gaia_plan::trust_domain::{RingView, SignerSecret};
use gaia_plan::{certificate, service, trust_domain};
use jiff::Timestamp;

use super::{Place, World};
use crate::facts::{SecretFacts, metadata_facts};
use crate::store::Key;

impl World {
    /// What a decision about a ServiceCertificate rests on.
    pub(crate) fn observe_certificate(&self, place: &Place, now: Timestamp) -> Option<certificate::Observed<'_>> {
        let found = self.certificates.get(place)?;
        let key = Key::Certificate(place.0.clone(), place.1.clone());
        Some(certificate::Observed {
            certificate: found,
            domain: self.domain_view(&found.spec.trust_domain_ref.name, &place.0),
            secret: self.leaf_secret(found, place),
            claimed_by: self.claimed_by(found, place),
            failures: self.failures.get(&key),
            budget: self.budgets.get(&key).copied().unwrap_or_else(|| IssuanceBudget::full(now)),
            cluster_domain: &self.surroundings.cluster_domain,
            operator_namespace: &self.surroundings.operator_namespace,
        })
    }

    /// What a decision about a GaiaService rests on; `services` are those of its TrustDomain.
    pub(crate) fn observe_service<'a>(
        &'a self,
        place: &Place,
        services: &'a [&'a GaiaService],
    ) -> Option<service::Observed<'a>> {
        let found = self.services.get(place)?;
        let policy = ObjectKey::config_map(&place.0, names::policy(&place.1));
        Some(service::Observed {
            service: found,
            domain: self.domain_view(&found.spec.trust_domain_ref.name, &place.0),
            child: self.child(place),
            policy: self.held_config_map(&policy, Some(("GaiaService", &place.1))),
            policy_lost: self.lost.contains(&policy),
            services,
            failures: self.failures.get(&Key::Service(place.0.clone(), place.1.clone())),
        })
    }

    /// What a decision about a TrustDomain rests on.
    pub(crate) fn observe_trust_domain(&self, name: &str) -> Option<trust_domain::Observed<'_>> {
        let domain = self.trust_domains.get(name)?;
        let consumers: BTreeSet<String> =
            self.consumers.get(name).into_iter().flatten().map(|(ns, _)| ns.clone()).collect();
        let granted: BTreeSet<String> =
            consumers.iter().filter(|namespace| self.is_selected(name, namespace)).cloned().collect();
        let ca = self.ca_ring(name);
        let signing = self.signing_ring(name);
        let rings_missing = ca.facts().is_none() || signing.facts().is_none();
        let known = |name: String| self.known_config_maps(&name, &granted);
        Some(trust_domain::Observed {
            domain,
            ca,
            signing,
            ca_copy_exists: self.is_known_secret(&names::previous(&names::ca_ring(name))),
            signing_copy_exists: self.is_known_secret(&names::previous(&names::signing_ring(name))),
            leaves_exist: rings_missing && self.has_leaves(name),
            brought_ca: domain.spec.ca.existing_secret_ref.as_ref().and_then(|_| self.brought.get(name).cloned()),
            trust: known(names::trust(name)),
            grants: known(names::grants(name)),
            signers: self.known_signers(&names::token_signer(name), &granted),
            lost: self.lost.iter().filter(|key| key.name.starts_with(name)).cloned().collect(),
            services: self.services_in(name, |namespace| granted.contains(namespace)),
            consumers,
            granted,
            failures: self.failures.get(&Key::TrustDomain(name.to_owned())),
            operator_namespace: &self.surroundings.operator_namespace,
        })
    }

    /// The GaiaServices of the TrustDomain of the service at that place, in the namespaces it selects.
    pub(crate) fn services_beside(&self, place: &Place) -> Vec<&GaiaService> {
        let Some(service) = self.services.get(place) else { return vec![] };
        let domain = &service.spec.trust_domain_ref.name;
        self.services_in(domain, |namespace| self.is_selected(domain, namespace))
    }

    fn services_in(&self, domain: &str, wanted: impl Fn(&str) -> bool) -> Vec<&GaiaService> {
        self.services
            .iter()
            .filter(|(place, service)| service.spec.trust_domain_ref.name == domain && wanted(&place.0))
            .map(|(_, service)| service.as_ref())
            .collect()
    }

    fn domain_view<'a>(&'a self, name: &'a str, namespace: &str) -> DomainView<'a> {
        DomainView {
            name,
            namespace: self.namespaces.get_key_value(namespace).map(|(name, _)| name.as_str()).unwrap_or_default(),
            object: self.trust_domains.get(name).map(AsRef::as_ref),
            selected: self.is_selected(name, namespace),
            ca: self.ca_ring(name).ring(),
            signing: self.signing_ring(name).ring(),
        }
    }

    fn is_selected(&self, domain: &str, namespace: &str) -> bool {
        let selector = self.trust_domains.get(domain).and_then(|domain| domain.spec.namespace_selector.as_ref());
        match (selector, self.namespaces.get(namespace)) {
            (Some(selector), Some(facts)) => !facts.terminating && selector.matches(&facts.labels),
            _ => false,
        }
    }

    fn leaf_secret(&self, certificate: &ServiceCertificate, place: &Place) -> Held<LeafSecret> {
        let key = ObjectKey::secret(&place.0, certificate.secret_name());
        match self.secrets.get(&(key.namespace.clone(), key.name.clone())) {
            Some(SecretFacts::Leaf { secret, .. }) if owned(&secret.facts, Some(("ServiceCertificate", &place.1))) => {
                Held::Ours(secret.clone())
            }
            // A ring or a signer is the operator's, but never a ServiceCertificate's.
            Some(_) => Held::Foreign,
            None if self.foreign.contains(&key) => Held::Foreign,
            None => Held::Absent,
        }
    }

    /// The oldest ServiceCertificate that names the same Secret wins. Ages are told in whole seconds: of two of one age
    /// the one that has the Secret keeps it, else the first by name gets it.
    fn claimed_by(&self, certificate: &ServiceCertificate, place: &Place) -> Option<String> {
        let secret = (place.0.clone(), certificate.secret_name());
        let owners = self.secrets.get(&secret).map(|secret| secret.facts().owners.as_slice()).unwrap_or_default();
        let rank = |found: &ServiceCertificate| {
            let created = found.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let has_it = owners.iter().any(|owner| Some(&owner.uid) == found.metadata.uid.as_ref());
            (created, !has_it, found.metadata.name.clone())
        };
        let claims = self.claims.get(&secret)?;
        let rivals = claims.iter().filter(|name| **name != place.1);
        let rivals = rivals.filter_map(|name| self.certificates.get(&(place.0.clone(), name.clone())));
        let first = rivals.min_by_key(|rival| rank(rival)).filter(|rival| rank(rival) < rank(certificate))?;
        first.metadata.name.clone()
    }

    fn child(&self, place: &Place) -> Held<&ServiceCertificate> {
        match self.certificates.get(place) {
            None => Held::Absent,
            Some(found) => {
                let facts = metadata_facts(&found.metadata);
                if owned(&facts, Some(("GaiaService", &place.1))) { Held::Ours(found) } else { Held::Foreign }
            }
        }
    }

    fn held_config_map(&self, key: &ObjectKey, owner: Option<(&str, &str)>) -> Held<ObjectFacts> {
        match self.config_maps.get(&(key.namespace.clone(), key.name.clone())) {
            Some(facts) if owned(facts, owner) => Held::Ours(facts.clone()),
            Some(_) => Held::Foreign,
            None if self.foreign.contains(key) => Held::Foreign,
            None => Held::Absent,
        }
    }

    /// ConfigMaps of that name wherever one is known, and those that are in the way in granted namespaces.
    fn known_config_maps(&self, name: &str, granted: &BTreeSet<String>) -> BTreeMap<String, Held<ObjectFacts>> {
        let foreign = self.foreign.iter().filter(|key| key.kind == ObjectKind::ConfigMap && key.name == name);
        let foreign =
            foreign.filter(|key| granted.contains(&key.namespace)).map(|key| (key.namespace.clone(), Held::Foreign));
        let ours = self.config_maps.iter().filter(|(place, _)| place.1 == name);
        foreign
            .chain(ours.map(|((namespace, _), facts)| (namespace.clone(), Held::Ours(facts.clone()))))
            .filter(|(namespace, _)| !self.is_terminating(namespace))
            .collect()
    }

    fn known_signers(&self, name: &str, granted: &BTreeSet<String>) -> BTreeMap<String, Held<SignerSecret>> {
        let foreign = self.foreign.iter().filter(|key| key.kind == ObjectKind::Secret && key.name == name);
        let foreign =
            foreign.filter(|key| granted.contains(&key.namespace)).map(|key| (key.namespace.clone(), Held::Foreign));
        let ours = self.secrets.iter().filter(|(place, _)| place.1 == name);
        foreign
            .chain(ours.map(|((namespace, _), secret)| match secret {
                SecretFacts::Signer(signer) => (namespace.clone(), Held::Ours(signer.clone())),
                _ => (namespace.clone(), Held::Foreign),
            }))
            .filter(|(namespace, _)| !self.is_terminating(namespace))
            .collect()
    }

    fn ca_ring(&self, domain: &str) -> RingView<'_, CaMaterial> {
        match self.operator_secret(&names::ca_ring(domain)) {
            Some(SecretFacts::CaRing { facts, ring, .. }) => ring_view(ring.as_ref(), facts),
            Some(other) => RingView::Unreadable { error: &NO_RING, facts: other.facts() },
            None => RingView::Missing,
        }
    }

    fn signing_ring(&self, domain: &str) -> RingView<'_, SigningMaterial> {
        match self.operator_secret(&names::signing_ring(domain)) {
            Some(SecretFacts::SigningRing { facts, ring, .. }) => ring_view(ring.as_ref(), facts),
            Some(other) => RingView::Unreadable { error: &NO_RING, facts: other.facts() },
            None => RingView::Missing,
        }
    }

    fn operator_secret(&self, name: &str) -> Option<&SecretFacts> {
        self.secrets.get(&(self.surroundings.operator_namespace.clone(), name.to_owned()))
    }

    fn is_known_secret(&self, name: &str) -> bool {
        self.operator_secret(name).is_some()
    }

    fn has_leaves(&self, domain: &str) -> bool {
        self.secrets.values().any(|secret| match secret {
            SecretFacts::Leaf { secret, .. } => {
                secret.facts.labels.get(names::TRUST_DOMAIN_LABEL).is_some_and(|label| label == domain)
            }
            _ => false,
        })
    }
}

fn ring_view<'a, M>(
    ring: Result<&'a Ring<M>, &'a gaia_plan::ring::RingError>,
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

static NO_RING: gaia_plan::ring::RingError = gaia_plan::ring::RingError::NoRing;

//! The operator's observations, and its plans.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::crd::{GaiaService, NamespaceSelector, Renewal, TrustDomain};
use gaia_api::names::{self, MANAGED_BY, MANAGED_BY_LABEL, TRUST_DOMAIN_LABEL, key};
use gaia_plan::api_key_usage::LedgerObject;
use gaia_plan::domain::DomainView;
use gaia_plan::instances::instance::{Instance, Instances};
use gaia_plan::instances::lagging::ServedLeaf;
use gaia_plan::keyring::epoch::{EpochMac, EpochMacs};
use gaia_plan::keyring::ring::{CaMaterial, CaRing, Ring, RingError, SigningMaterial, SigningRing};
use gaia_plan::leaf::{LeafFacts, LeafSecret};
use gaia_plan::object::{ObjectFacts, ObjectKey, ObjectKind, Ownership, is_ours};
use gaia_plan::pacing::budget::IssuanceBudget;
use gaia_plan::rules::name_policy::other_meaning;
use gaia_plan::trust_domain::{LeafView, RingView, SignerSecret};
use gaia_plan::{gaia_service, service_certificate, trust_domain};

use super::{CLUSTER_DOMAIN, Name, OPERATOR_NAMESPACE, Planned, Resource, Rings, Status, Stored, World, owners};

/// Both rings as they were found.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    ca: Option<(&'a Result<CaRing, RingError>, &'a ObjectFacts)>,
    signing: Option<(&'a Result<SigningRing, RingError>, &'a ObjectFacts)>,
}

impl World {
    /// The plan for one resource.
    pub(crate) fn plan(&self, resource: &Resource) -> Planned {
        self.plan_in_order(resource, false)
    }

    /// The same, with the observations listed in the opposite order.
    pub(crate) fn plan_in_order(&self, resource: &Resource, reversed: bool) -> Planned {
        match resource {
            Resource::Domain(name) => self.plan_domain(name, reversed),
            Resource::Certificate(name) => self.plan_certificate(name, self.budget(name), self.failures(resource)),
            Resource::Service(name) => self.plan_service(name, reversed),
        }
    }

    pub(super) fn failures(&self, resource: &Resource) -> Option<&gaia_plan::pacing::backoff::Failures> {
        self.memory.failures.get(resource)
    }

    pub(super) fn budget(&self, name: &Name) -> IssuanceBudget {
        self.memory.budgets.get(name).copied().unwrap_or_else(|| IssuanceBudget::full(self.now))
    }

    fn plan_domain(&self, name: &str, reversed: bool) -> Planned {
        let plan = |observed: &trust_domain::Observed<'_>| trust_domain::plan(observed, self.now);
        let trust_domain::DomainPlan { plan, rollout } = self.with_domain(name, reversed, plan);
        let (status, rollout) = (Status::Domain(plan.status), Some(rollout));
        Planned { actions: plan.actions, status, next_check: plan.next_check, rollout }
    }

    /// Hands over what the operator sees of a TrustDomain.
    pub(crate) fn with_domain<T>(
        &self,
        name: &str,
        reversed: bool,
        use_it: impl FnOnce(&trust_domain::Observed<'_>) -> T,
    ) -> T {
        let domain = &self.domains[name];
        let rings = self.rings(name);
        let mut services = self.services_of(domain, reversed);
        let consumers = self.consumers(name);
        let granted: BTreeSet<String> =
            consumers.iter().filter(|namespace| self.selects(domain, namespace)).cloned().collect();
        services.retain(|service| granted.contains(&space(&service.metadata)));
        let config_maps = |name: String| {
            let held = self.namespaces.keys().map(|namespace| {
                let held = self.held(&ObjectKey::config_map(namespace, &name), None);
                (namespace.clone(), map(held, |stored| stored.facts.clone()))
            });
            held.filter(|(_, held)| *held != Ownership::Absent).collect::<BTreeMap<_, _>>()
        };
        let signers = self.namespaces.keys().map(|namespace| {
            let held = self.held(&ObjectKey::secret(namespace, names::token_signer(name)), None);
            (namespace.clone(), self.as_signer(held))
        });
        let copies = self.copies(name);
        let mut instances = self.instances(name);
        if reversed {
            instances.reverse();
        }
        let leaves = self.leaf_secrets(name);
        let observed = trust_domain::Observed {
            kept: trust_domain::KeptGrants::default(),
            domain,
            ca: view(rings.ca),
            signing: view(rings.signing),
            ca_copy: view(copies.ca),
            signing_copy: view(copies.signing),
            macs: EpochMacs { ca: self.mac(&names::ca_ring(name)), signing: self.mac(&names::signing_ring(name)) },
            leaves_exist: self.seen().iter().any(|(key, stored)| is_leaf_of(key, stored, name)),
            external_ca: domain.spec.ca.existing_secret_ref.as_ref().and(self.external_ca.clone()),
            older_namesake: trust_domain::older_namesake(domain, self.domains.values()),
            selected: self.namespaces.keys().filter(|namespace| self.selects(domain, namespace)).cloned().collect(),
            consumers,
            granted,
            trust: config_maps(names::trust(name)),
            grants: config_maps(names::grants(name)),
            signers: signers.filter(|(_, held)| *held != Ownership::Absent).collect(),
            refused: self.memory.refused.clone(),
            unwatched: self.unwatched.clone(),
            lost: self.memory.lost.clone(),
            services,
            leaves: self.leaf_views(name, &leaves, reversed),
            instances: self.known(&instances),
            restarted: self.memory.restarted.clone(),
            abilities: self.abilities,
            failures: self.failures(&Resource::Domain(name.to_owned())),
            certificates: self.certificates.values().filter(|found| found.spec.trust_domain_ref.name == name).collect(),
            cluster_domain: CLUSTER_DOMAIN,
            operator_namespace: OPERATOR_NAMESPACE,
        };
        use_it(&observed)
    }

    pub(super) fn plan_certificate(
        &self,
        name: &Name,
        budget: IssuanceBudget,
        failures: Option<&gaia_plan::pacing::backoff::Failures>,
    ) -> Planned {
        let certificate = &self.certificates[name];
        let domain_name = &certificate.spec.trust_domain_ref.name;
        let secret_name = certificate.secret_name();
        let owner = Some(("ServiceCertificate", name.1.as_str()));
        let held = self.held(&ObjectKey::secret(&name.0, &secret_name), owner);
        let instances = self.instances_of(&(name.0.clone(), secret_name.clone()));
        let observed = service_certificate::Observed {
            certificate,
            domain: self.domain_view(domain_name, &name.0),
            secret: self.as_leaf(held, &secret_name),
            claimed_by: self.claimed_by(name),
            instances: self.known(&instances),
            wave: self.wave(name),
            open_wave: self.memory.rollout.get(domain_name).map_or(0, |rollout| rollout.open_wave),
            failures,
            budget,
            cluster_domain: CLUSTER_DOMAIN,
            operator_namespace: OPERATOR_NAMESPACE,
        };
        let plan = service_certificate::plan(&observed, self.now);
        Planned {
            actions: plan.actions,
            status: Status::Certificate(plan.status),
            next_check: plan.next_check,
            rollout: None,
        }
    }

    /// An older ServiceCertificate that names the same Secret.
    fn claimed_by(&self, name: &Name) -> Option<String> {
        let certificate = &self.certificates[name];
        let secret_name = certificate.secret_name();
        let age = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            (meta.creation_timestamp.as_ref().map(|time| time.0), meta.name.clone())
        };
        let older = self.certificates_in(&name.0).filter(|(_, other)| {
            other.secret_name() == secret_name && age(&other.metadata) < age(&certificate.metadata)
        });
        older.map(|(name, _)| name.1.clone()).min()
    }

    fn certificates_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a gaia_api::crd::ServiceCertificate)> {
        let from = (namespace.to_owned(), String::new());
        self.certificates.range(from..).take_while(move |(name, _)| name.0 == namespace)
    }

    fn wave(&self, name: &Name) -> i32 {
        self.services.get(name).map_or(0, |service| service.spec.rotation_wave)
    }

    fn known<'a>(&'a self, instances: &'a [Instance]) -> Instances<'a> {
        match &self.pods_unknown {
            Some(why) => Instances::Unknown(why),
            None => Instances::Known(instances.iter().collect()),
        }
    }

    /// The leaf Secrets of a TrustDomain.
    fn leaf_secrets(&self, domain: &str) -> Vec<(&ObjectKey, LeafSecret)> {
        let leaves = self.seen().iter().filter(|(key, stored)| is_leaf_of(key, stored, domain));
        leaves.map(|(key, stored)| (key, self.leaf_facts(stored))).collect()
    }

    fn leaf_views<'a>(
        &self,
        domain: &str,
        secrets: &'a [(&ObjectKey, LeafSecret)],
        reversed: bool,
    ) -> Vec<LeafView<'a>> {
        let mut views: Vec<LeafView<'a>> = vec![];
        for (key, secret) in secrets {
            let claim = self.certificates_in(&key.namespace).find(|(name, certificate)| {
                certificate.secret_name() == key.name
                    && certificate.spec.trust_domain_ref.name == domain
                    && self.claimed_by(name).is_none()
            });
            views.push(LeafView {
                secret_namespace: &key.namespace,
                secret_name: &key.name,
                secret: Some(&secret.facts),
                leaf: secret.leaf.as_ref(),
                is_claimed: claim.is_some(),
                is_held: false,
                duration: claim.and_then(|(_, certificate)| Some(certificate.spec.duration.as_ref()?.value())),
                renews: claim.is_some_and(|(_, certificate)| certificate.spec.renewal == Renewal::Enabled),
                wave: claim.map_or(0, |(name, _)| self.wave(name)),
            });
        }
        if reversed {
            views.reverse();
        }
        views
    }

    /// The content of the cache.
    pub(super) fn seen(&self) -> &BTreeMap<ObjectKey, Stored> {
        self.view.as_ref().unwrap_or(&self.objects)
    }

    /// Objects are watched by label. One without it is only found by a POST, and then read by name.
    pub(super) fn held(&self, key: &ObjectKey, owner: Option<(&str, &str)>) -> Ownership<&Stored> {
        match self.seen().get(key) {
            Some(stored) if is_labelled(stored) => return Ownership::Ours(stored),
            _ if !self.memory.probed.contains(key) => return Ownership::Absent,
            _ => {}
        }
        match self.objects.get(key) {
            None => Ownership::Absent,
            Some(stored) => {
                let facts = &stored.facts;
                let ours = is_ours(&facts.labels, &facts.annotations, &facts.owners, owner);
                if ours { Ownership::Ours(stored) } else { Ownership::Foreign }
            }
        }
    }

    /// Rings are found by name, whatever their labels are.
    fn rings(&self, domain: &str) -> Found<'_> {
        self.find(names::ca_ring(domain), names::signing_ring(domain))
    }

    fn copies(&self, domain: &str) -> Found<'_> {
        self.find(names::previous(&names::ca_ring(domain)), names::previous(&names::signing_ring(domain)))
    }

    fn find(&self, ca: String, signing: String) -> Found<'_> {
        let read = |name: String| {
            let stored = self.seen().get(&ObjectKey::secret(OPERATOR_NAMESPACE, name))?;
            Some((stored.rings.as_deref(), &stored.facts))
        };
        Found {
            ca: read(ca).map(|(rings, facts)| (rings.map_or(&NO_CA_RING, |r| &r.ca), facts)),
            signing: read(signing).map(|(rings, facts)| (rings.map_or(&NO_SIGNING_RING, |r| &r.signing), facts)),
        }
    }

    /// The MACs by the key in a ring, or in its copy.
    pub(super) fn mac(&self, ring: &str) -> Option<&dyn EpochMac> {
        let stored = |name: String| self.seen().get(&ObjectKey::secret(OPERATOR_NAMESPACE, name));
        let found = stored(ring.to_owned()).or_else(|| stored(names::previous(ring)))?;
        found.mac.as_ref().map(|mac| mac as &dyn EpochMac)
    }

    /// The CA ring, if it can be read.
    pub(crate) fn ca_ring(&self, domain: &str) -> Option<&CaRing> {
        self.rings(domain).ca.and_then(|(ring, _)| ring.as_ref().ok())
    }

    /// The signing ring, if it can be read.
    pub(crate) fn signing_ring(&self, domain: &str) -> Option<&SigningRing> {
        self.rings(domain).signing.and_then(|(ring, _)| ring.as_ref().ok())
    }

    /// The trust ConfigMap of a namespace, if it is the operator's.
    fn trust_facts(&self, domain: &str, namespace: &str) -> Option<&ObjectFacts> {
        match self.held(&ObjectKey::config_map(namespace, names::trust(domain)), None) {
            Ownership::Ours(stored) => Some(&stored.facts),
            Ownership::Absent | Ownership::Foreign | Ownership::Unreadable(_) => None,
        }
    }

    pub(super) fn domain_view<'a>(&'a self, name: &'a str, namespace: &'a str) -> DomainView<'a> {
        let object = self.domains.get(name);
        DomainView {
            name,
            namespace,
            object,
            selected: object.is_some_and(|domain| self.selects(domain, namespace)),
            ca: self.ca_ring(name).filter(|_| object.is_some()),
            ca_mac: self.mac(&names::ca_ring(name)),
            signing: self.signing_ring(name).filter(|_| object.is_some()),
            trust: self.trust_facts(name, namespace),
        }
    }

    pub(crate) fn selects(&self, domain: &TrustDomain, namespace: &str) -> bool {
        let selector: Option<&NamespaceSelector> = domain.spec.namespace_selector.as_ref();
        let labels = self.namespaces.get(namespace);
        selector.zip(labels).is_some_and(|(selector, labels)| selector.matches(labels))
    }

    pub(super) fn consumers(&self, domain: &str) -> BTreeSet<String> {
        let certificates = self.certificates.iter().filter(|(_, c)| c.spec.trust_domain_ref.name == domain);
        let services = self.services.iter().filter(|(_, s)| s.spec.trust_domain_ref.name == domain);
        certificates.map(|(name, _)| name.0.clone()).chain(services.map(|(name, _)| name.0.clone())).collect()
    }

    fn leaf_facts(&self, stored: &Stored) -> LeafSecret {
        let leaf = self.leaf(stored).map(|(leaf, key_matches)| LeafFacts {
            fingerprint: leaf.fingerprint.clone(),
            serial: stored.content["tls.crt"].clone(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            key_matches,
            issuer: self.known_ca(&leaf.issuer).then(|| leaf.issuer.clone()),
            names_hash: leaf.names_hash.clone(),
            ambiguous_names: leaf.dns.iter().filter(|name| other_meaning(name).is_some()).cloned().collect(),
        });
        LeafSecret { facts: stored.facts.clone(), leaf }
    }

    /// Returns true if a ring has that CA, also one of a deleted TrustDomain.
    fn known_ca(&self, fingerprint: &str) -> bool {
        let rings = self.seen().values().filter_map(|stored| stored.rings.as_ref()?.ca.as_ref().ok());
        rings.into_iter().any(|ring| ring.generations.iter().any(|g| g.material.fingerprint == fingerprint))
    }

    /// A ring or a signer is the operator's, but never a ServiceCertificate's.
    pub(super) fn as_leaf(&self, held: Ownership<&Stored>, name: &str) -> Ownership<LeafSecret> {
        match held {
            Ownership::Ours(stored) if is_signer(stored, name) || stored.content.contains_key(key::RING) => {
                Ownership::Foreign
            }
            held => map(held, |stored| self.leaf_facts(stored)),
        }
    }

    /// A leaf that has a signer's name is not one.
    fn as_signer(&self, held: Ownership<&Stored>) -> Ownership<SignerSecret> {
        match held {
            Ownership::Ours(stored) if stored.content.contains_key(key::TLS_CERT) => Ownership::Foreign,
            held => map(held, |stored| {
                let kid = stored.content.get(key::JWT_SIGNING_KEY).and_then(|text| text.strip_prefix("KEY "));
                SignerSecret { facts: stored.facts.clone(), kid: kid.map(str::to_owned) }
            }),
        }
    }
}

fn is_signer(stored: &Stored, name: &str) -> bool {
    name.ends_with("-token-signer") && !stored.content.contains_key(key::TLS_CERT)
}

/// A leaf of that TrustDomain, as the operator identifies one.
pub(super) fn is_leaf_of(object: &ObjectKey, stored: &Stored, domain: &str) -> bool {
    object.kind == ObjectKind::Secret
        && is_labelled(stored)
        && stored.facts.labels.get(TRUST_DOMAIN_LABEL).is_some_and(|label| label == domain)
        && !stored.content.contains_key(key::RING)
        && !is_signer(stored, &object.name)
}

pub(super) fn is_labelled(stored: &Stored) -> bool {
    stored.facts.labels.get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY)
}

/// A ring with the key of every generation that is trusted.
fn parse<M: serde::de::DeserializeOwned + gaia_plan::keyring::ring::Material>(
    stored: &Stored,
    id: impl Fn(&M) -> String,
) -> Result<Ring<M>, RingError> {
    let json = stored.content.get(key::RING).ok_or_else(|| RingError::Corrupt("it is missing".to_owned()))?;
    let ring = Ring::<M>::parse(json.as_bytes())?;
    for generation in ring.trusted().filter(|generation| !stored.is_copy || generation.distrust.is_none()) {
        let found = stored.content.get(&generation.private_key_name());
        if found.is_none_or(|text| *text != format!("KEY {}", id(&generation.material))) {
            return Err(RingError::KeyMismatch(generation.id.clone()));
        }
    }
    Ok(ring)
}

pub(super) fn read_rings(stored: &Stored) -> Option<Rings> {
    stored.content.get(key::RING)?;
    Some(Rings {
        ca: parse(stored, |material: &CaMaterial| material.fingerprint.clone()),
        signing: parse(stored, |material: &SigningMaterial| material.jwk.kid().to_owned()),
    })
}

fn view<'a, M>(found: Option<(&'a Result<Ring<M>, RingError>, &'a ObjectFacts)>) -> RingView<'a, M> {
    match found {
        None => RingView::Missing,
        Some((Ok(ring), facts)) => RingView::Readable { ring, facts },
        Some((Err(error), facts)) => RingView::Unreadable { error, facts },
    }
}

static NO_CA_RING: Result<CaRing, RingError> = Err(RingError::Corrupt(String::new()));
static NO_SIGNING_RING: Result<SigningRing, RingError> = Err(RingError::Corrupt(String::new()));

pub(super) fn map<T, U>(held: Ownership<T>, into: impl Fn(T) -> U) -> Ownership<U> {
    match held {
        Ownership::Absent => Ownership::Absent,
        Ownership::Ours(found) => Ownership::Ours(into(found)),
        Ownership::Foreign => Ownership::Foreign,
        Ownership::Unreadable(why) => Ownership::Unreadable(why),
    }
}

fn space(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    meta.namespace.clone().unwrap_or_default()
}

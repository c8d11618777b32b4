//! Projections: what pods and issuers mount, as a pure function of rings and custom resources.

use std::collections::{BTreeMap, HashMap};

use gaia_api::SpiffeId;
use gaia_api::crd::{CallerSpec, GaiaService, TrustDomainSpec};
use gaia_api::mount::{DeniedSubject, Denylist, SCHEMA_VERSION, ServiceIdentity, TokenRules};
use gaia_api::names::{COMPONENT_LABEL, TRUST_DOMAIN_LABEL, key};
use gaia_pki::Jwk;
use jiff::Timestamp;

use crate::keyring::ring::{CaRing, SigningRing, State};
use crate::object::{DesiredObject, ObjectKey, OtherKeys, Template};

/// The trust anchors as one PEM file, in the order of the ring. Expired roots are left out, except the active one.
#[must_use]
pub fn bundle(ring: &CaRing, now: Timestamp) -> String {
    let active = ring.active().map(|generation| generation.id.as_str());
    let mut roots: Vec<&str> = vec![];
    for generation in ring.trusted() {
        let in_force = generation.material.not_after > now || Some(generation.id.as_str()) == active;
        let root = generation.material.root.as_str();
        if in_force && !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots.concat()
}

/// Returns the time when the bundle changes next because a root expires.
#[must_use]
pub fn bundle_changes_at(ring: &CaRing, now: Timestamp) -> Option<Timestamp> {
    ring.trusted().map(|generation| generation.material.not_after).filter(|end| *end > now).min()
}

/// The content of ConfigMap `<td>-trust`.
#[must_use]
pub fn trust_data(
    spec: &TrustDomainSpec,
    ca: &CaRing,
    signing: &SigningRing,
    now: Timestamp,
) -> BTreeMap<String, String> {
    let keys: Vec<Jwk> = signing.trusted().map(|generation| generation.material.jwk.clone()).collect();
    // RFC 7517 section 5 lets a JWK set have other members; readers of plain JWK sets ignore them.
    let jwks = serde_json::json!({ "schemaVersion": SCHEMA_VERSION, "keys": keys });
    let public = signing.active().map(|generation| generation.material.public_key.clone()).unwrap_or_default();
    BTreeMap::from([
        (key::CA_CERT.to_owned(), bundle(ca, now)),
        (key::JWKS.to_owned(), json(&jwks)),
        (key::JWT_SIGNING_PUB.to_owned(), public),
        (key::DENYLIST.to_owned(), json(&denylist(spec, ca, signing))),
    ])
}

/// The revocations: those of the spec, and compromised keys.
#[must_use]
pub fn denylist(spec: &TrustDomainSpec, ca: &CaRing, signing: &SigningRing) -> Denylist {
    let leaked = signing.generations.iter().filter(|generation| generation.state == State::Distrusted);
    let mut subjects: Vec<DeniedSubject> = spec
        .revoked
        .subjects
        .iter()
        .map(|subject| DeniedSubject { sub: subject.sub.clone(), not_before: subject.not_before })
        .collect();
    subjects.sort();
    Denylist {
        schema_version: SCHEMA_VERSION,
        leaves: sorted(&spec.revoked.leaves),
        kids: leaked.map(|generation| generation.material.jwk.kid().to_owned()).collect(),
        jtis: sorted(&spec.revoked.jtis),
        subjects,
        issuers: crate::keyring::leaked::denied_issuers(spec, ca),
    }
}

/// The format and rules of the platform's tokens.
#[must_use]
pub fn token_rules(spec: &TrustDomainSpec) -> TokenRules {
    TokenRules {
        issuer: spec.tokens.issuer.clone(),
        audience: spec.tokens.audience.clone(),
        max_ttl_seconds: spec.tokens.max_ttl.value().as_secs(),
    }
}

/// The identity of a service.
#[must_use]
pub fn identity(spec: &TrustDomainSpec, service: &GaiaService) -> ServiceIdentity {
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    let account = service.spec.service_account_name.clone().unwrap_or_else(|| name.clone());
    ServiceIdentity { spiffe_id: SpiffeId::workload(&spec.trust_domain, &namespace, &account), namespace, name }
}

/// GaiaServices by namespace and name, to resolve declared callers.
#[derive(Debug)]
pub struct Callers<'a>(HashMap<(&'a str, &'a str), &'a GaiaService>);

impl<'a> Callers<'a> {
    /// An index of these.
    #[must_use]
    pub fn of(services: &[&'a GaiaService]) -> Self {
        let names = |service: &'a GaiaService| {
            let meta = &service.metadata;
            (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
        };
        Self(services.iter().map(|service| (names(service), *service)).collect())
    }

    /// The identity of a declared caller: that of the GaiaService of that name, else the one it would have by default.
    /// `namespace`: that of the service which declares it.
    #[must_use]
    pub fn id(&self, spec: &TrustDomainSpec, namespace: &str, caller: &CallerSpec) -> SpiffeId {
        let namespace = caller.namespace.as_deref().unwrap_or(namespace);
        self.0.get(&(namespace, caller.service.as_str())).map_or_else(
            || SpiffeId::workload(&spec.trust_domain, namespace, &caller.service),
            |service| identity(spec, service).spiffe_id,
        )
    }
}

/// A ConfigMap with exactly this content.
pub(crate) fn config_map(
    key: ObjectKey,
    trust_domain: &str,
    component: &str,
    data: BTreeMap<String, String>,
) -> DesiredObject {
    DesiredObject {
        key,
        secret_type: None,
        labels: labels(trust_domain, component),
        annotations: BTreeMap::new(),
        template: Template::default(),
        data,
        other_keys: OtherKeys::Remove,
        owner: None,
    }
}

/// The labels of a projection.
#[must_use]
pub fn labels(trust_domain: &str, component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (TRUST_DOMAIN_LABEL.to_owned(), trust_domain.to_owned()),
        (COMPONENT_LABEL.to_owned(), component.to_owned()),
    ])
}

/// A copy, sorted and without repetition.
#[must_use]
pub fn sorted(list: &[String]) -> Vec<String> {
    let mut list = list.to_vec();
    list.sort();
    list.dedup();
    list
}

/// Compact JSON of one of Gaia's own types.
#[must_use]
pub fn json(value: &impl serde::Serialize) -> String {
    // Gaia's own types have string keys only, so they always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

//! `targets` and `tokenIssuer` of `policy.json`: the identities that a service expects of the servers it calls, where they
//! are not the default for their names.

use std::collections::BTreeSet;

use gaia_api::SpiffeId;
use gaia_api::crd::condition::warning;
use gaia_api::crd::{GaiaService, TrustDomain};
use gaia_api::mount::{Grants, ServiceIdentity};

use super::Observed;
use crate::outcome::conditions::Warning;
use crate::pacing::shares;
use crate::projection::{identity, json};

/// Services of a TrustDomain that cannot be read, and the last written `grants.json`.
#[derive(Debug, Clone, Default)]
pub struct UnreadableServices<'a> {
    /// Namespace and name of each.
    pub services: BTreeSet<(String, String)>,
    /// None: not known.
    pub written: Option<&'a Grants>,
}

/// The targets that fit, and the services that do not.
#[derive(Debug, Default)]
pub(super) struct Targets {
    pub(super) kept: Vec<ServiceIdentity>,
    cut: Vec<ServiceIdentity>,
}

/// The token issuer, by `spec.tokens.issuedBy` of the TrustDomain.
pub(super) fn token_issuer(observed: &Observed<'_>, domain: &TrustDomain) -> Option<ServiceIdentity> {
    let issuer = domain.spec.tokens.issued_by.as_ref()?;
    let is_it = |found: &ServiceIdentity| found.namespace == issuer.namespace && found.name == issuer.name;
    let known = observed.targets.iter().map(|service| identity_of(observed, domain, service)).find(is_it);
    Some(known.unwrap_or_else(|| ServiceIdentity {
        namespace: issuer.namespace.clone(),
        name: issuer.name.clone(),
        spiffe_id: SpiffeId::workload(&domain.spec.trust_domain, &issuer.namespace, &issuer.name),
    }))
}

/// The services that declare this one as a caller and whose identity is not the default, within `budget` bytes that
/// namespaces share.
pub(super) fn of(observed: &Observed<'_>, domain: &TrustDomain, budget: usize) -> Targets {
    let meta = &observed.service.metadata;
    let own = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let own_id = identity(&domain.spec, observed.service).spiffe_id;
    let declaring = observed.targets.iter().filter(|service| declares(service, own));
    let mut all: Vec<ServiceIdentity> =
        declaring.map(|service| identity_of(observed, domain, service)).chain(written(observed, &own_id)).collect();
    all.retain(|target| {
        target.spiffe_id != SpiffeId::workload(&domain.spec.trust_domain, &target.namespace, &target.name)
    });
    all.sort();
    all.dedup();
    let entries: Vec<(&str, usize)> =
        all.iter().map(|target| (target.namespace.as_str(), json(target).len() + SEPARATOR)).collect();
    let cuts = shares::cut(&entries, budget);
    let mut targets = Targets::default();
    for (index, target) in all.into_iter().enumerate() {
        if cuts.contains_key(&index) { targets.cut.push(target) } else { targets.kept.push(target) }
    }
    targets
}

/// The bytes that targets may have of those that are left in the file.
pub(super) fn budget(left: usize) -> usize {
    left.min(MAX_BYTES)
}

/// The services whose entries were cut, with the effect and the next step.
pub(super) fn too_large(observed: &Observed<'_>) -> Option<Warning> {
    let domain = observed.domain.granted().ok()?;
    let cut = of(observed, domain, MAX_BYTES).cut;
    let first = cut.first()?;
    let message = format!(
        "{} services list this one in spec.callers and set their own serviceAccountName (the first is {}/{}); their \
         entries in targets of policy.json exceed the share of their namespaces ({} KiB in all): calls to them are \
         refused in JWTOnly; set serviceAccountName only where it differs from the service's name",
        cut.len(),
        first.namespace,
        first.name,
        MAX_BYTES / 1024
    );
    Some(Warning::new(warning::GRANTS_TOO_LARGE, message))
}

fn declares(service: &GaiaService, caller: (&str, &str)) -> bool {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    service
        .spec
        .callers
        .iter()
        .any(|declared| (declared.namespace.as_deref().unwrap_or(namespace), declared.service.as_str()) == caller)
}

/// The identity of a service; for one that cannot be read, the last written one.
fn identity_of(observed: &Observed<'_>, domain: &TrustDomain, service: &GaiaService) -> ServiceIdentity {
    let found = identity(&domain.spec, service);
    let place = (found.namespace.clone(), found.name.clone());
    if !observed.unreadable.services.contains(&place) {
        return found;
    }
    let mut written = observed.unreadable.written.into_iter().flat_map(|grants| &grants.services);
    let is_place = |known: &&ServiceIdentity| known.namespace == place.0 && known.name == place.1;
    written.rfind(is_place).cloned().unwrap_or(found)
}

/// The services that cannot be read and that accepted this caller when `grants.json` was last written.
fn written<'a>(observed: &'a Observed<'_>, own: &'a SpiffeId) -> impl Iterator<Item = ServiceIdentity> + 'a {
    let unreadable = &observed.unreadable;
    let grants = unreadable.written.filter(|_| !unreadable.services.is_empty());
    let services = grants.into_iter().flat_map(|grants| grants.services.iter().map(move |service| (grants, service)));
    let kept = services.filter(move |(grants, service)| {
        let is_unreadable =
            unreadable.services.iter().any(|(ns, name)| *ns == service.namespace && *name == service.name);
        is_unreadable && grants.grants.iter().any(|row| row.caller == *own && row.target == service.spiffe_id)
    });
    kept.map(|(_, service)| service.clone())
}

/// All targets of one service together.
const MAX_BYTES: usize = 256 * 1024;
const SEPARATOR: usize = 1;

//! `grants.json`: every service of the TrustDomain, and the callers of each. It is one ConfigMap, so that it has a bound,
//! which namespaces share.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gaia_api::SpiffeId;
use gaia_api::mount::{Grant, Grants, SCHEMA_VERSION, ServiceIdentity};
use gaia_api::names::key;
use jiff::Timestamp;

use crate::pacing::shares::{self, Cut};
use crate::projection::{Callers, identity, json, sorted, token_rules};
use crate::trust_domain::Observed;

/// Services whose entries do not fit, by namespace and name.
pub type CutServices = BTreeMap<(String, String), Cut>;

/// The content of ConfigMap `<td>-grants`, and the services that do not fit in it. None: it must not be changed.
pub(crate) fn data(observed: &Observed<'_>) -> (Option<BTreeMap<String, String>>, CutServices) {
    let Some(mut grants) = observed.kept.merge(all(observed)) else { return (None, CutServices::new()) };
    let mut text = json(&grants);
    let cut = if text.len() > MAX_BYTES { cut(observed, &mut grants) } else { CutServices::new() };
    if !cut.is_empty() {
        text = json(&grants);
    }
    (Some(BTreeMap::from([(key::GRANTS.to_owned(), text)])), cut)
}

fn all(observed: &Observed<'_>) -> Grants {
    let (spec, services) = (&observed.domain.spec, &observed.services);
    let mut identities: Vec<ServiceIdentity> = services.iter().map(|service| identity(spec, service)).collect();
    identities.sort();
    let callers = Callers::of(services);
    let mut grants: Vec<Grant> = vec![];
    for service in services {
        let target = identity(spec, service);
        for caller in &service.spec.callers {
            grants.push(Grant {
                caller: callers.id(spec, &target.namespace, caller),
                target: target.spiffe_id.clone(),
                scopes: sorted(&caller.scopes),
                on_behalf_of: caller.on_behalf_of,
            });
        }
    }
    grants.sort();
    grants.dedup();
    Grants {
        schema_version: SCHEMA_VERSION,
        tokens: token_rules(spec),
        token_ttl_seconds: spec.tokens.ttl.as_ref().map(|ttl| ttl.value().as_secs()),
        services: identities,
        grants,
    }
}

/// Removes the services that do not fit, with the grants to them: of the namespaces that ask for most, the youngest first.
fn cut(observed: &Observed<'_>, grants: &mut Grants) -> CutServices {
    let empty = Grants { services: vec![], grants: vec![], ..grants.clone() };
    let total = MAX_BYTES.saturating_sub(json(&empty).len());
    let mut rows: HashMap<&SpiffeId, usize> = HashMap::new();
    for grant in &grants.grants {
        *rows.entry(&grant.target).or_default() += json(grant).len() + SEPARATOR;
    }
    let ages: HashMap<(&str, &str), Option<Timestamp>> = observed
        .services
        .iter()
        .map(|service| {
            let meta = &service.metadata;
            let name = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
            (name, meta.creation_timestamp.as_ref().map(|created| created.0))
        })
        .collect();
    let age = |service: &ServiceIdentity| ages.get(&(service.namespace.as_str(), service.name.as_str())).copied();
    let mut services: Vec<&ServiceIdentity> = grants.services.iter().collect();
    services.sort_by_cached_key(|service| (age(service), service.namespace.clone(), service.name.clone()));
    let mut entries: Vec<(&str, usize)> = vec![];
    for service in &services {
        // The grants to an identity that several services have count once.
        let granted = rows.remove(&service.spiffe_id).unwrap_or_default();
        entries.push((service.namespace.as_str(), json(service).len() + SEPARATOR + granted));
    }
    let cuts = shares::cut(&entries, total).into_iter();
    let cut: CutServices = cuts
        .filter_map(|(index, cut)| {
            let service = services.get(index)?;
            Some(((service.namespace.clone(), service.name.clone()), cut))
        })
        .collect();
    grants.services.retain(|service| !cut.contains_key(&(service.namespace.clone(), service.name.clone())));
    let kept: BTreeSet<&SpiffeId> = grants.services.iter().map(|service| &service.spiffe_id).collect();
    grants.grants.retain(|grant| kept.contains(&grant.target));
    cut
}

/// A ConfigMap has at most a mebibyte, with names, labels and annotations.
const MAX_BYTES: usize = 900 * 1024;
const SEPARATOR: usize = 1;

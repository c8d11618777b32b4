//! The services that name a service among their callers: an edit wakes only those whose policies rest on it.

use std::collections::{BTreeSet, HashMap};

use gaia_api::crd::{CallerSpec, GaiaService};

use super::{ClusterCache, Place};
use crate::store::ObjectRef;

/// Services by the callers that they name, whether those exist or not.
#[derive(Default)]
pub(super) struct CallerIndex(HashMap<Place, BTreeSet<Place>>);

impl CallerIndex {
    /// The service at that place changes.
    pub(super) fn update(&mut self, place: &Place, before: Option<&GaiaService>, after: Option<&GaiaService>) {
        let callers = |service: Option<&GaiaService>| -> BTreeSet<Place> {
            let callers = service.into_iter().flat_map(|service| &service.spec.callers);
            callers.map(|caller| place_of(caller, &place.0)).collect()
        };
        let (before, after) = (callers(before), callers(after));
        for caller in before.difference(&after) {
            if let Some(naming) = self.0.get_mut(caller) {
                naming.remove(place);
                if naming.is_empty() {
                    self.0.remove(caller);
                }
            }
        }
        for caller in after.difference(&before) {
            self.0.entry(caller.clone()).or_default().insert(place.clone());
        }
    }
}

impl ClusterCache {
    /// The services that name the one at that place among their callers.
    pub(super) fn naming(&self, caller: &Place) -> BTreeSet<ObjectRef> {
        let naming = self.callers.0.get(caller).into_iter().flatten();
        naming.map(|(namespace, name)| ObjectRef::Service(namespace.clone(), name.clone())).collect()
    }

    /// The GaiaServices that the one at that place names among its callers, where its TrustDomain grants them.
    pub(crate) fn callers_of(&self, place: &Place) -> Vec<&GaiaService> {
        let Some(service) = self.services.get(place) else { return vec![] };
        let domain = &service.spec.trust_domain_ref.name;
        let named: BTreeSet<Place> = service.spec.callers.iter().map(|caller| place_of(caller, &place.0)).collect();
        let found = named.iter().filter_map(|caller| self.services.get(caller).map(|found| (caller, found)));
        let found = found.filter(|(caller, found)| {
            found.spec.trust_domain_ref.name == *domain && self.is_selected(domain, &caller.0)
        });
        found.map(|(_, found)| found.as_ref()).collect()
    }
}

impl ClusterCache {
    /// The GaiaServices that name the one at that place among their callers, where its TrustDomain grants them, and the
    /// token issuer.
    pub(crate) fn targets_of(&self, place: &Place) -> Vec<&GaiaService> {
        let Some(service) = self.services.get(place) else { return vec![] };
        let domain = &service.spec.trust_domain_ref.name;
        let issuer = self.trust_domains.get(domain).and_then(|domain| domain.spec.tokens.issued_by.as_ref());
        let issuer = issuer.map(|issuer| (issuer.namespace.clone(), issuer.name.clone()));
        let naming = self.callers.0.get(place).into_iter().flatten();
        let places: BTreeSet<&Place> = naming.chain(issuer.as_ref()).collect();
        let found = places.into_iter().filter_map(|target| self.services.get(target).map(|found| (target, found)));
        let found = found.filter(|(target, found)| {
            found.spec.trust_domain_ref.name == *domain && self.is_selected(domain, &target.0)
        });
        found.map(|(_, found)| found.as_ref()).collect()
    }

    /// The services in whose policies the identity of the one at that place is, where a change of it touches them: those
    /// that it names among its callers, and all where it issues tokens.
    pub(super) fn calling(
        &self,
        place: &Place,
        before: Option<&GaiaService>,
        after: Option<&GaiaService>,
    ) -> BTreeSet<ObjectRef> {
        if let (Some(before), Some(after)) = (before, after)
            && identity(before) == identity(after)
            && before.spec.callers == after.spec.callers
        {
            return BTreeSet::new();
        }
        // The default for a name is in no policy.
        let has_own_account = |service: &&GaiaService| {
            service.spec.service_account_name.as_deref().is_some_and(|account| account != place.1)
        };
        let services = before.into_iter().chain(after);
        if !services.clone().any(|service| has_own_account(&service)) {
            return BTreeSet::new();
        }
        let domains = services.clone().map(|service| service.spec.trust_domain_ref.name.as_str());
        let all = domains.filter(|domain| self.is_issuer(domain, place)).flat_map(|domain| self.services_of(domain));
        let called_by = services.flat_map(|service| &service.spec.callers).map(|caller| place_of(caller, &place.0));
        let named = called_by.filter(|caller| self.services.contains_key(caller));
        named.map(|(namespace, name)| ObjectRef::Service(namespace, name)).chain(all).collect()
    }

    fn is_issuer(&self, domain: &str, place: &Place) -> bool {
        let issuer = self.trust_domains.get(domain).and_then(|domain| domain.spec.tokens.issued_by.as_ref());
        issuer.is_some_and(|issuer| issuer.namespace == place.0 && issuer.name == place.1)
    }
}

/// The object that a caller entry names: in the namespace of the service, unless another is given.
fn place_of(caller: &CallerSpec, namespace: &str) -> Place {
    (caller.namespace.clone().unwrap_or_else(|| namespace.to_owned()), caller.service.clone())
}

/// The parts of a service's identity: its TrustDomain and its service account.
pub(super) fn identity(service: &GaiaService) -> (&str, Option<&str>) {
    (&service.spec.trust_domain_ref.name, service.spec.service_account_name.as_deref())
}

#[cfg(test)]
mod tests;

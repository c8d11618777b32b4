//! Endpoints that are no instances. Those that are, are modelled as pods.

use std::collections::BTreeSet;

use gaia_plan::api_key_usage::Watched;
use gaia_plan::instances::endpoint::{Endpoint, Excluded, Exclusion, exclusion, grants};

use super::World;

impl World {
    /// The endpoints of a service that the operator does not dial.
    pub(super) fn excluded_endpoints(&self, namespace: &str, service: &str) -> Vec<Excluded<'_>> {
        let Some(found) = self.services.get(&(namespace.to_owned(), service.to_owned())) else { return vec![] };
        let domain = self.domains.get(&found.spec.trust_domain_ref.name);
        let allowed = domain.map(|domain| domain.spec.allowed_endpoints.as_slice()).unwrap_or_default();
        let why = |endpoint: &str| match Endpoint::parse(endpoint) {
            None => Some(Exclusion::Invalid),
            Some(Endpoint { host, .. }) => exclusion(&host, &grants(namespace, &host, allowed), &BTreeSet::new()),
        };
        let endpoints = found.spec.endpoints.iter();
        endpoints.filter_map(|endpoint| Some(Excluded { endpoint, why: why(endpoint)? })).collect()
    }

    /// The same, as the evidence on callers needs them.
    pub(super) fn excluded_watched(&self, namespace: &str, service: &str) -> impl Iterator<Item = Watched<'_>> {
        let watched = |Excluded { endpoint, why }| Watched {
            name: endpoint,
            uid: endpoint,
            serves: true,
            has_said_its_last: false,
            read: None,
            failing: None,
            excluded: Some(why.cause()),
        };
        self.excluded_endpoints(namespace, service).into_iter().map(watched)
    }
}

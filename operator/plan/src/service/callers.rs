//! Callers that are declared and do not exist.

use gaia_api::crd::condition::warning;

use super::Observed;
use crate::conditions::Warning;

/// A warning for each entry of `spec.callers` that names no GaiaService of the TrustDomain. The policy has it all the same,
/// with the identity that a service of that name has by default.
pub(super) fn not_found(observed: &Observed<'_>) -> Vec<Warning> {
    let own = observed.service.metadata.namespace.as_deref().unwrap_or_default();
    let exists = |namespace: &str, name: &str| {
        observed.callers.iter().any(|found| {
            found.metadata.namespace.as_deref() == Some(namespace) && found.metadata.name.as_deref() == Some(name)
        })
    };
    let callers = observed.service.spec.callers.iter();
    let missing = callers.filter_map(|caller| {
        let namespace = caller.namespace.as_deref().unwrap_or(own);
        let name = caller.service.as_str();
        (!exists(namespace, name)).then(|| {
            let message = format!(
                "spec.callers: GaiaService {namespace}/{name} does not exist, or does not belong to TrustDomain {}; create \
                 it, or correct service and namespace",
                observed.domain.name
            );
            Warning::new(warning::CALLER_NOT_FOUND, message)
        })
    });
    // Without a TrustDomain, callers are not known.
    if observed.domain.granted().is_ok() { missing.collect() } else { vec![] }
}

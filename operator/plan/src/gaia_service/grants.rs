//! The share of a service's namespace in `grants.json`.

use gaia_api::crd::condition::warning;

use super::Observed;
use crate::outcome::conditions::Warning;

/// The warning that the entries of the service are left out: the token issuer knows neither it nor its callers.
pub(super) fn too_large(observed: &Observed<'_>) -> Option<Warning> {
    observed.grants_cut.map(|cut| {
        let message = format!(
            "spec.callers: grants.json of the TrustDomain would exceed 900 KiB, and the services of this namespace have {} \
             bytes where their share is {}: this service is left out, and no service token is issued for calls to it or \
             by it; shorten spec.callers of the services in this namespace, or spread them over several",
            cut.asked, cut.share
        );
        Warning::new(warning::GRANTS_TOO_LARGE, message)
    })
}

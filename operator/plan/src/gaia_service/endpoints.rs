//! Warnings about `spec.endpoints`.

use gaia_api::crd::condition::warning::{ENDPOINT_IS_BALANCER, ENDPOINT_NOT_ALLOWED};

use super::Observed;
use crate::instances::endpoint::{Excluded, Exclusion};
use crate::outcome::conditions::Warning;

/// One warning for each endpoint that is no instance.
pub(super) fn warnings(observed: &Observed<'_>) -> Vec<Warning> {
    if observed.domain.object.is_none() {
        return vec![];
    }
    observed.excluded_endpoints.iter().map(|excluded| warning(observed, excluded)).collect()
}

fn warning(observed: &Observed<'_>, Excluded { endpoint, why }: &Excluded<'_>) -> Warning {
    let (domain, namespace) =
        (observed.domain.name, observed.service.metadata.namespace.as_deref().unwrap_or_default());
    let field = format!("spec.allowedEndpoints of TrustDomain {domain}");
    let (cause, next) = match why {
        Exclusion::Balancer => {
            let message = format!(
                "spec.endpoints: several instances answer in turn at an address of {endpoint}, so an answer proves \
                 nothing about the others; they count by time alone; next step: list the address of each instance"
            );
            return Warning::new(ENDPOINT_IS_BALANCER, message);
        }
        Exclusion::Invalid => ("it is not a host and port".to_owned(), "correct spec.endpoints".to_owned()),
        Exclusion::NotListed => {
            let cause = format!("{field} has no entry for namespace {namespace} and this host");
            (cause, format!("add one to {field}, or remove the endpoint"))
        }
        Exclusion::Address => {
            let cause = format!("{field} does not allow an address of it for namespace {namespace}");
            (cause, format!("add its networks to cidrs in {field}, or remove the endpoint"))
        }
    };
    let message =
        format!("spec.endpoints: {endpoint} is not probed and counts by time alone: {cause}; next step: {next}");
    Warning::new(ENDPOINT_NOT_ALLOWED, message)
}

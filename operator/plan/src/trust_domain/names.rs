//! Checks that a bring-your-own CA can sign the names in use (RFC 5280 section 4.2.1.10).

use std::collections::HashMap;

use gaia_api::crd::{ServiceCertificate, reason};
use gaia_pki::NameConstraints;

use super::Observed;
use crate::Refusal;
use crate::name_policy::{ExcludedNames, Requester, names};

/// The names of one ServiceCertificate that a CA cannot sign.
struct Excluded {
    /// `<namespace>/<name>`.
    certificate: String,
    names: ExcludedNames,
}

/// Names of services in the cluster decide: a CA that cannot sign them is not used.
///
/// # Errors
/// `CAInvalid` with the CA, the name and the next step.
pub(crate) fn check(observed: &Observed<'_>, id: &str, constraints: &NameConstraints) -> Result<(), Refusal> {
    let excluded = excluded(observed, constraints);
    let mut own = excluded.iter().filter(|found| !found.names.own.is_empty());
    let Some(first) = own.next() else { return Ok(()) };
    let more = own.count();
    let rest = if more > 0 { format!(", and names of {more} more") } else { String::new() };
    let secret = observed.domain.spec.ca.existing_secret_ref.as_ref().map(|secret| secret.name.as_str());
    let at = format!("Secret {}/{}", observed.operator_namespace, secret.unwrap_or_default());
    let message = format!(
        "spec.ca.existingSecretRef: CA {id} in {at} cannot sign {} of ServiceCertificate {}{rest} (nameConstraints); put a \
         CA that permits the names of services into {at}",
        first.names.own.join(", "),
        first.certificate
    );
    Err(Refusal::stalled(reason::CA_INVALID, message))
}

/// The extra names that a CA cannot sign, in words; none if it can sign all.
pub(crate) fn left_out(observed: &Observed<'_>, constraints: &NameConstraints) -> Option<String> {
    let excluded = excluded(observed, constraints);
    let mut all = excluded.iter().filter(|found| !found.names.extra.is_empty());
    let first = all.next()?;
    let more = all.count();
    let rest = if more > 0 { format!(", and names of {more} more") } else { String::new() };
    Some(format!("{} of ServiceCertificate {}{rest}", first.names.extra.join(", "), first.certificate))
}

fn excluded(observed: &Observed<'_>, constraints: &NameConstraints) -> Vec<Excluded> {
    if constraints.is_empty() {
        return vec![];
    }
    let leaves = observed.leaves.iter().filter_map(|view| {
        let leaf = view.leaf.filter(|leaf| leaf.issuer.is_some())?;
        Some(((view.secret_namespace, view.secret_name.to_owned()), leaf.ambiguous_names.as_slice()))
    });
    let stored: StoredNames<'_> = leaves.collect();
    let certificates = observed.certificates.iter();
    let mut all: Vec<Excluded> =
        certificates.filter_map(|certificate| of_one(observed, certificate, &stored, constraints)).collect();
    all.sort_by(|one, other| one.certificate.cmp(&other.certificate));
    all
}

/// Names of stored certificates that also mean something else, by Secret: they stay in the certificates.
type StoredNames<'a> = HashMap<(&'a str, String), &'a [String]>;

fn of_one(
    observed: &Observed<'_>,
    certificate: &ServiceCertificate,
    stored: &StoredNames<'_>,
    constraints: &NameConstraints,
) -> Option<Excluded> {
    let namespace = certificate.metadata.namespace.as_deref()?;
    let name = certificate.metadata.name.as_deref()?;
    let who = Requester {
        namespace,
        name,
        cluster_domain: observed.cluster_domain,
        operator_namespace: observed.operator_namespace,
    };
    // Names that are not allowed are issued by no CA.
    let stored = stored.get(&(namespace, certificate.secret_name())).copied().unwrap_or_default();
    let names = names(who, &certificate.spec, &observed.domain.spec.allowed_names, stored).ok()?;
    let (_, names) = names.within(who, certificate.spec.headless, constraints);
    Some(Excluded { certificate: format!("{namespace}/{name}"), names })
}

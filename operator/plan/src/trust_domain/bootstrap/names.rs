//! Checks that a bring-your-own CA can sign the names in use (RFC 5280 section 4.2.1.10).

use std::collections::{BTreeSet, HashMap};

use gaia_api::crd::condition::warning;
use gaia_api::crd::{ServiceCertificate, ServiceCertificateSpec, reason};
use gaia_pki::NameConstraints;

use crate::Refusal;
use crate::outcome::conditions::Warning;
use crate::rules::name_policy::{ExcludedNames, Requester, names};
use crate::trust_domain::Observed;

/// The names of one ServiceCertificate, or of services in one namespace, that a CA cannot sign.
struct Excluded {
    /// `ServiceCertificate <namespace>/<name>`, or `services in namespace <namespace>`.
    holder: String,
    names: ExcludedNames,
}

/// Names of services in the cluster decide, also of those that selected namespaces may get later: a CA that cannot sign
/// them is not used.
///
/// # Errors
/// `CAInvalid` with the CA, the name and the next step.
pub(crate) fn check(observed: &Observed<'_>, id: &str, constraints: &NameConstraints) -> Result<(), Refusal> {
    let Some(what) = cannot_sign(observed, id, constraints) else { return Ok(()) };
    let message = format!(
        "spec.ca.existingSecretRef: {what}; put a CA that permits the names of services into {}, or let \
         spec.namespaceSelector select fewer namespaces",
        secret(observed)
    );
    Err(Refusal::stalled(reason::CA_INVALID, message))
}

/// The warning that the active CA cannot sign names of services: it was activated before there was such a name, or by an
/// earlier version.
pub(crate) fn warning(observed: &Observed<'_>) -> Option<Warning> {
    let active = observed.ca.ring()?.active()?;
    let what = cannot_sign(observed, &active.id, &active.material.path.constraints)?;
    let message = format!(
        "spec.ca.existingSecretRef: {what}: such certificates are not issued; put a CA that permits the names of services \
         into {}",
        secret(observed)
    );
    Some(Warning::new(warning::CA_CANNOT_SIGN, message))
}

fn secret(observed: &Observed<'_>) -> String {
    let secret = observed.domain.spec.ca.existing_secret_ref.as_ref().map(|secret| secret.name.as_str());
    format!("Secret {}/{}", observed.operator_namespace, secret.unwrap_or_default())
}

/// The names of services that a CA cannot sign, as text; none if it can sign all.
fn cannot_sign(observed: &Observed<'_>, id: &str, constraints: &NameConstraints) -> Option<String> {
    let mut excluded = excluded(observed, constraints);
    excluded.extend(of_namespaces(observed, constraints));
    let mut own = excluded.iter().filter(|found| !found.names.own.is_empty());
    let first = own.next()?;
    let more = own.count();
    let rest = if more > 0 { format!(", and names of {more} more") } else { String::new() };
    Some(format!(
        "CA {id} in {} cannot sign {} of {}{rest} (nameConstraints)",
        secret(observed),
        first.names.own.join(", "),
        first.holder
    ))
}

/// The names of services that a CA could not sign in selected namespaces without any ServiceCertificate.
fn of_namespaces(observed: &Observed<'_>, constraints: &NameConstraints) -> Vec<Excluded> {
    if constraints.is_empty() {
        return vec![];
    }
    let used: BTreeSet<&str> =
        observed.certificates.iter().filter_map(|certificate| certificate.metadata.namespace.as_deref()).collect();
    let unused = observed.selected.iter().filter(|namespace| !used.contains(namespace.as_str()));
    let excluded = unused.filter_map(|namespace| {
        let who = Requester {
            namespace,
            name: SAMPLE,
            cluster_domain: observed.cluster_domain,
            operator_namespace: observed.operator_namespace,
        };
        let names = names(who, &ServiceCertificateSpec::default(), &observed.domain.spec.allowed_names, &[]).ok()?;
        let (_, mut names) = names.within(who, false, constraints);
        names.own.iter_mut().for_each(|name| *name = name.replacen(SAMPLE, "<service>", 1));
        Some(Excluded { holder: format!("services in namespace {namespace}"), names })
    });
    excluded.collect()
}

/// The extra names that a CA cannot sign, as text; none if it can sign all.
pub(crate) fn left_out(observed: &Observed<'_>, constraints: &NameConstraints) -> Option<String> {
    let excluded = excluded(observed, constraints);
    let mut all = excluded.iter().filter(|found| !found.names.extra.is_empty());
    let first = all.next()?;
    let more = all.count();
    let rest = if more > 0 { format!(", and names of {more} more") } else { String::new() };
    Some(format!("{} of {}{rest}", first.names.extra.join(", "), first.holder))
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
    all.sort_by(|one, other| one.holder.cmp(&other.holder));
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
    Some(Excluded { holder: format!("ServiceCertificate {namespace}/{name}"), names })
}

/// A placeholder for the name of any service.
const SAMPLE: &str = "any-service";

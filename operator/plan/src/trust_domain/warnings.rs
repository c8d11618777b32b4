//! Warnings of what a TrustDomain declares and that has no effect, or another one than intended.

use gaia_api::crd::TrustDomain;
use gaia_api::crd::condition::warning;

use super::Observed;
use crate::outcome::conditions::Warning;

pub(super) fn of_declarations(observed: &Observed<'_>) -> Vec<Warning> {
    let all = [token_issuer_not_found(observed), name_taken(observed), nothing_selected(observed)];
    all.into_iter().flatten().collect()
}

/// The name of the oldest of the other TrustDomains with the same `spec.trustDomain`, if it is older than this one. Of
/// two of one age, the first by name counts as the older one.
#[must_use]
pub fn older_namesake<'a>(domain: &TrustDomain, all: impl IntoIterator<Item = &'a TrustDomain>) -> Option<&'a str> {
    let age = |found: &TrustDomain| {
        (found.metadata.creation_timestamp.as_ref().map(|time| time.0), found.metadata.name.clone())
    };
    let own = age(domain);
    let older = all.into_iter().filter(|other| other.spec.trust_domain == domain.spec.trust_domain && age(other) < own);
    older.min_by_key(|other| age(other))?.metadata.name.as_deref()
}

fn name_taken(observed: &Observed<'_>) -> Option<Warning> {
    let older = observed.older_namesake?;
    let message = format!(
        "spec.trustDomain: TrustDomain {older} is older and has the same name {}: services of both have the same SPIFFE IDs \
         and different CAs; use one TrustDomain, or another name",
        observed.domain.spec.trust_domain
    );
    Some(Warning::new(warning::TRUST_DOMAIN_NAME_TAKEN, message))
}

/// The GaiaService that gets the signing key does not exist: no service token can be issued.
fn token_issuer_not_found(observed: &Observed<'_>) -> Option<Warning> {
    let issuer = observed.domain.spec.tokens.issued_by.as_ref()?;
    let exists = observed.services.iter().any(|found| {
        found.metadata.namespace.as_ref() == Some(&issuer.namespace)
            && found.metadata.name.as_ref() == Some(&issuer.name)
    });
    (!exists).then(|| {
        let message = format!(
            "spec.tokens.issuedBy: GaiaService {}/{} does not exist, belongs to another TrustDomain, or its namespace is not \
             selected: no service tokens are issued",
            issuer.namespace, issuer.name
        );
        Warning::new(warning::TOKEN_ISSUER_NOT_FOUND, message)
    })
}

fn nothing_selected(observed: &Observed<'_>) -> Option<Warning> {
    let why = match observed.domain.spec.namespace_selector {
        None => "is not set",
        Some(_) if observed.selected.is_empty() => "matches the labels of no namespace",
        Some(_) => return None,
    };
    let message = format!("spec.namespaceSelector {why}: no namespace may use this TrustDomain");
    Some(Warning::new(warning::NO_NAMESPACE_SELECTED, message))
}

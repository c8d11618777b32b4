//! Warnings of what a GaiaService declares and that has no effect, and of what its instances refused.

use std::collections::BTreeSet;

use gaia_api::crd::condition::warning;
use gaia_api::crd::{GaiaService, TrustDomain};
use gaia_api::names::key;

use super::Observed;
use crate::outcome::conditions::Warning;

pub(super) fn of(observed: &Observed<'_>) -> Vec<Warning> {
    let mut warnings = callers_not_found(observed);
    warnings.extend(secrets_not_found(observed));
    warnings.extend(files_refused(observed));
    warnings
}

/// The Secrets that the instances of a service need besides those that the operator writes: field, name and key of
/// each.
#[must_use]
pub fn required_secrets(
    service: &GaiaService,
    domain: Option<&TrustDomain>,
) -> BTreeSet<(String, String, &'static str)> {
    let auth = &service.spec.auth;
    let keys = auth.api_keys_secret_ref.as_ref();
    let keys = keys.map(|found| ("spec.auth.apiKeysSecretRef".to_owned(), found.name.clone(), key::API_KEYS));
    let issuers = domain.into_iter().flat_map(|domain| {
        let issuers = domain.spec.user_token_issuers.iter();
        // Without a list, issuers of others are accepted too, and not every namespace has tokens of each.
        let named = issuers
            .filter(|issuer| auth.user_tokens.as_ref().is_some_and(|asked| asked.issuers.contains(&issuer.name)));
        named.filter_map(|issuer| {
            let secret = issuer.api_key_secret_ref.as_ref()?;
            let domain = domain.metadata.name.as_deref().unwrap_or_default();
            let field = format!("spec.userTokenIssuers of TrustDomain {domain}, issuer {}", issuer.name);
            Some((field, secret.name.clone(), key::ISSUER_API_KEY))
        })
    });
    keys.into_iter().chain(issuers).collect()
}

fn secrets_not_found(observed: &Observed<'_>) -> Vec<Warning> {
    let namespace = observed.service.metadata.namespace.as_deref().unwrap_or_default();
    let required = required_secrets(observed.service, observed.domain.object);
    let missing = required.into_iter().filter(|(_, name, _)| observed.missing_secrets.contains(name));
    let warnings = missing.map(|(field, name, key)| {
        let message = format!("{field}: Secret {namespace}/{name} does not exist; create it with the key {key}");
        Warning::new(warning::SECRET_NOT_FOUND, message)
    });
    warnings.collect()
}

/// Warnings for files that instances reject. The quoted text and the number of named instances are limited.
fn files_refused(observed: &Observed<'_>) -> Vec<Warning> {
    let warnings = observed.instances.iter().flat_map(|instance| {
        let refused = instance.report().into_iter().flat_map(|report| &report.refused);
        refused.map(|(part, why)| {
            let message = format!(
                "{}: {}: {}; the previously loaded version stays in force",
                instance.name,
                printable(part, LONGEST_PART),
                printable(why, LONGEST_REASON)
            );
            Warning::new(warning::FILES_REFUSED, message)
        })
    });
    warnings.collect()
}

fn printable(text: &str, longest: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(longest).collect()
}

/// A warning for each entry of `spec.callers` that names no GaiaService of the TrustDomain. The policy contains it
/// nevertheless, with the default identity of a service of that name.
fn callers_not_found(observed: &Observed<'_>) -> Vec<Warning> {
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
                "spec.callers: GaiaService {namespace}/{name} does not exist, belongs to another TrustDomain than {}, or its \
                 namespace is not selected; create it, or correct service and namespace",
                observed.domain.name
            );
            Warning::new(warning::CALLER_NOT_FOUND, message)
        })
    });
    // Without a TrustDomain, callers are not known.
    if observed.domain.granted().is_ok() { missing.collect() } else { vec![] }
}

const LONGEST_PART: usize = 32;
const LONGEST_REASON: usize = 256;

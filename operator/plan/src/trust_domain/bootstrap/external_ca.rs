//! Checks of the CA in `existingSecretRef`.

use std::time::Duration;

use gaia_api::crd::condition::warning;
use gaia_api::crd::reason;
use jiff::Timestamp;

use super::names;
use crate::Refusal;
use crate::keyring::leaked::LeakedKeys;
use crate::keyring::ring::{MaterialRequest, Ring, short_id};
use crate::leaf::key_spec;
use crate::outcome::conditions::Warning;
use crate::rules::limits;
use crate::trust_domain::{ExternalCa, Observed};

/// Checks that the CA in `existingSecretRef` can be used.
pub(crate) fn check(observed: &Observed<'_>) -> Result<(), Refusal> {
    let Some(secret) = &observed.domain.spec.ca.existing_secret_ref else { return Ok(()) };
    match &observed.external_ca {
        Some(Ok(ca)) => check_found(observed, ca),
        Some(Err(why)) => Err(invalid(observed, &secret.name, why)),
        None => Ok(()),
    }
}

/// The CA that a spec requests: a new one, or the one in the Secret that it names.
///
/// # Errors
/// The CA is missing or invalid.
pub(crate) fn ca_material(observed: &Observed<'_>, now: Timestamp) -> Result<MaterialRequest, Refusal> {
    let spec = &observed.domain.spec;
    let Some(secret) = &spec.ca.existing_secret_ref else {
        return Ok(MaterialRequest::NewCa {
            key: key_spec(&spec.ca.private_key.clone().unwrap_or_default()),
            life_seconds: spec.ca.duration().value().as_secs(),
        });
    };
    match &observed.external_ca {
        Some(Ok(ca)) => {
            check_found(observed, ca)?;
            check_life(observed, &secret.name, ca, now)?;
            Ok(MaterialRequest::ExistingCa { secret: secret.name.clone(), fingerprint: ca.fingerprint.clone() })
        }
        Some(Err(why)) => Err(invalid(observed, &secret.name, why)),
        None => Err(invalid(observed, &secret.name, "it was not read yet")),
    }
}

/// When the CA in `existingSecretRef` becomes valid, if that is ahead of the clock.
pub(crate) fn external_ca_begins(observed: &Observed<'_>, now: Timestamp) -> Option<Timestamp> {
    observed.domain.spec.ca.existing_secret_ref.as_ref()?;
    let found = observed.external_ca.as_ref()?.as_ref().ok()?;
    Some(found.not_before).filter(|begins| *begins > now)
}

/// Checks that the CA in `existingSecretRef` is valid now, as the first CA of a ring signs at once.
pub(super) fn check_begun(observed: &Observed<'_>, now: Timestamp) -> Result<(), Refusal> {
    let Some(begins) = external_ca_begins(observed, now) else { return Ok(()) };
    let secret = observed.domain.spec.ca.existing_secret_ref.as_ref().map(|secret| secret.name.as_str());
    let message = format!(
        "spec.ca.existingSecretRef: the CA in Secret {}/{} is valid only from {begins}, which is ahead of the operator's \
         clock: it is used from then on. Put a CA that is valid into the Secret, or correct the clock of the operator's node",
        observed.operator_namespace,
        secret.unwrap_or_default()
    );
    Err(Refusal::stalled(reason::NOT_YET_VALID, message))
}

/// Faults for which only strict peers refuse the CA, and faults of a CA that an earlier version accepted.
pub(crate) fn warnings(observed: &Observed<'_>) -> Vec<Warning> {
    let (Some(secret), Some(Ok(ca))) = (&observed.domain.spec.ca.existing_secret_ref, &observed.external_ca) else {
        return vec![];
    };
    let at = format!("Secret {}/{}", observed.operator_namespace, secret.name);
    let warning = |why: &str| {
        let message = format!(
            "spec.ca.existingSecretRef: CA {} in {at} is used, but strict peers (OpenSSL with -x509_strict, Python 3.13) \
             refuse it: {why}; replace it with one that follows RFC 5280",
            short_id(&ca.fingerprint)
        );
        Warning::new(warning::CA_NOT_STRICT, message)
    };
    let mut warnings: Vec<Warning> = ca.not_strict.iter().map(|why| warning(why)).collect();
    if let Some(why) = ca.refused.as_ref().filter(|_| is_in_use(observed, ca)) {
        let message = format!(
            "spec.ca.existingSecretRef: CA {} in {at} stays in use, but peers refuse it: {why}; put another CA into {at}",
            short_id(&ca.fingerprint)
        );
        warnings.push(Warning::new(warning::CA_NOT_STRICT, message));
    }
    warnings
}

fn check_found(observed: &Observed<'_>, ca: &ExternalCa) -> Result<(), Refusal> {
    let spec = &observed.domain.spec;
    let name = spec.ca.existing_secret_ref.as_ref().map(|secret| secret.name.as_str()).unwrap_or_default();
    let at = format!("Secret {}/{name}", observed.operator_namespace);
    let leaked = LeakedKeys::of(spec, observed.ca.ring(), Some(&ca.path));
    if let Some(leaked) = leaked.in_path(&ca.fingerprint, &ca.path) {
        let id = short_id(&ca.fingerprint);
        let what = if leaked.is(&ca.fingerprint) {
            format!("CA {id} in {at} is distrusted")
        } else {
            format!("CA {id} in {at} has the public key of {}, which is distrusted", leaked.id)
        };
        let message = format!("spec.ca.distrusted: {what}; put a CA with a new key into {at}");
        return Err(Refusal::stalled(reason::CA_DISTRUSTED, message));
    }
    match &ca.refused {
        // A CA that an earlier version accepted stays in use, with a warning.
        _ if is_in_use(observed, ca) => Ok(()),
        Some(why) => Err(invalid(observed, name, why)),
        None => names::check(observed, &short_id(&ca.fingerprint), &ca.path.constraints),
    }
}

/// Returns true if the ring has it already.
fn is_in_use(observed: &Observed<'_>, ca: &ExternalCa) -> bool {
    let ring = observed.ca.ring();
    ring.is_some_and(|ring| ring.trusted().any(|generation| generation.material.fingerprint == ca.fingerprint))
}

fn check_life(observed: &Observed<'_>, secret: &str, ca: &ExternalCa, now: Timestamp) -> Result<(), Refusal> {
    let spec = &observed.domain.spec;
    let left = Duration::try_from(ca.not_after.duration_since(now)).unwrap_or_default();
    let leaf = spec.certificate_defaults.duration.value();
    let needed = limits::least_life_left(leaf, &spec.propagation);
    // It is accepted as the replacement of one that expires earlier: no running workload loses validity.
    let active = observed.ca.ring().and_then(Ring::active);
    let is_longer = active.is_some_and(|active| ca.not_after > active.material.not_after && ca.not_after > now);
    if left >= needed || is_longer {
        return Ok(());
    }
    // The message names the expiry and not the remaining validity, because it must not change from one evaluation to
    // the next.
    let needed = limits::text(needed);
    let end = ca.not_after;
    let message = format!(
        "spec.ca.existingSecretRef: the CA in Secret {}/{secret} expires at {end}, too soon for certificates of {}: \
         it must be valid for at least 2(longest certificate + propagation.minDelay + propagation.deadline) + \
         propagation.minDelay + 2 propagation.clockSkew = {needed}",
        observed.operator_namespace,
        limits::text(leaf)
    );
    Err(Refusal::stalled(reason::DURATION_NOT_POSSIBLE, message))
}

fn invalid(observed: &Observed<'_>, secret: &str, why: &str) -> Refusal {
    let namespace = observed.operator_namespace;
    Refusal::stalled(reason::CA_INVALID, format!("spec.ca.existingSecretRef: Secret {namespace}/{secret}: {why}"))
}

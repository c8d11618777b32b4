//! What is reported of a TrustDomain.

use gaia_api::crd::condition::{CA_ROTATING, EXPIRING_SOON, SIGNING_KEYS_ROTATING};
use gaia_api::crd::{Condition, Counts, GenerationStatus, RingStatus, TrustDomainStatus, Truth, reason};
use gaia_pki::SigningAlgorithm;
use jiff::Timestamp;

use super::bootstrap::signing_key_spec;
use super::{Decision, Observed};
use crate::backoff::saturating_sub;
use crate::certificate::key_spec;
use crate::conditions::{Obstacles, Report};
use crate::ring::{CaMaterial, CaRing, Generation, Ring, SigningMaterial, State};
use crate::unsupported;

pub(super) fn status(observed: &Observed<'_>, decision: &Decision, now: Timestamp) -> TrustDomainStatus {
    let domain = observed.domain;
    let before = domain.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let report = Report { before, generation: domain.metadata.generation, now };
    let unsupported = unsupported_fields(observed);
    let obstacles = Obstacles {
        refusal: decision.refusal.as_ref(),
        // A failure matters as long as what failed is still to be done.
        failures: observed.failures.filter(|_| !decision.actions.is_empty()),
        pending: decision.actions.first().map(|action| (reason::RECONCILING, action.to_string())),
        unsupported: &unsupported,
    };
    let mut conditions = report.standard(ready(observed, now), &obstacles);
    let settled = |type_| report.condition(type_, Truth::False, reason::SETTLED, String::new());
    conditions.extend([settled(CA_ROTATING), settled(SIGNING_KEYS_ROTATING), expiring_soon(observed, &report, now)]);
    TrustDomainStatus {
        observed_generation: domain.metadata.generation,
        ca: observed.ca.ring().map(|ring| ring_status(ring, describe_ca)),
        signing_keys: observed.signing.ring().map(|ring| ring_status(ring, describe_key)),
        instances: Some(Counts { current: 0, total: 0, summary: "-".to_owned() }),
        rotating: Some("-".to_owned()),
        conditions,
        ..Default::default()
    }
}

/// From when on the CA is about to end: when its successor would have to be on its way.
pub(super) fn expiring_from(observed: &Observed<'_>, ring: &CaRing) -> Option<Timestamp> {
    let spec = &observed.domain.spec;
    let times = &spec.propagation;
    let lead = 2 * (spec.certificate_defaults.duration.value() + times.min_delay.value() + times.deadline.value());
    Some(saturating_sub(ring.active()?.material.not_after, lead))
}

/// Fields that say something else than what is in force, and whose change this version cannot carry out.
fn unsupported_fields(observed: &Observed<'_>) -> Vec<&'static str> {
    let spec = &observed.domain.spec;
    let mut fields = unsupported::trust_domain(observed.domain);
    if let Some(active) = observed.ca.ring().and_then(Ring::active) {
        let material = &active.material;
        let brought = observed.brought_ca.as_ref().and_then(|ca| ca.as_ref().ok());
        let other_certificate = brought.is_some_and(|ca| ca.fingerprint != material.fingerprint);
        if material.brought != spec.ca.existing_secret_ref.is_some() || other_certificate {
            fields.push("spec.ca.existingSecretRef (another CA than the one in force)");
        } else if !material.brought && key_spec(&spec.ca.private_key.clone().unwrap_or_default()) != material.key {
            fields.push("spec.ca.privateKey (another key than the one in force)");
        }
    }
    if let Some(active) = observed.signing.ring().and_then(Ring::active) {
        let in_force = match active.material.jwk.algorithm() {
            SigningAlgorithm::Rs256 => gaia_api::crd::TokenAlgorithm::RS256,
            SigningAlgorithm::Es256 => gaia_api::crd::TokenAlgorithm::ES256,
        };
        if signing_key_spec(in_force) != signing_key_spec(spec.tokens.algorithm) {
            fields.push("spec.tokens.algorithm (another one than the one in force)");
        }
    }
    fields
}

fn ready(observed: &Observed<'_>, now: Timestamp) -> Result<String, (&'static str, String)> {
    let active = (observed.ca.ring().and_then(Ring::active), observed.signing.ring().and_then(Ring::active));
    let (Some(ca), Some(_)) = active else {
        return Err((reason::TRUST_DOMAIN_NOT_READY, "there is no CA and no signing key yet".to_owned()));
    };
    if ca.material.not_after <= now {
        return Err((reason::CA_EXPIRED, format!("the CA {} ended at {}", ca.id, ca.material.not_after)));
    }
    Ok(format!("CA {} signs until {}", ca.id, ca.material.not_after))
}

fn expiring_soon(observed: &Observed<'_>, report: &Report<'_>, now: Timestamp) -> Condition {
    let Some(ring) = observed.ca.ring() else {
        return report.condition(EXPIRING_SOON, Truth::Unknown, reason::TRUST_DOMAIN_NOT_READY, String::new());
    };
    let end = ring.active().map(|active| active.material.not_after);
    match (expiring_from(observed, ring), end) {
        (Some(from), Some(end)) if from <= now => {
            report.condition(EXPIRING_SOON, Truth::True, reason::CA_EXPIRES_SOON, format!("the CA ends at {end}"))
        }
        _ => report.condition(EXPIRING_SOON, Truth::False, reason::SETTLED, String::new()),
    }
}

fn ring_status<M>(ring: &Ring<M>, describe: impl Fn(&Generation<M>) -> GenerationStatus) -> RingStatus {
    let in_state = |wanted: &[State]| {
        ring.generations.iter().filter(|g| wanted.contains(&g.state)).map(&describe).collect::<Vec<_>>()
    };
    RingStatus {
        active: in_state(&[State::Active]).pop(),
        next: in_state(&[State::Staged, State::Published]).pop(),
        retiring: in_state(&[State::Retiring]),
        distrusted: in_state(&[State::Distrusted]),
    }
}

fn describe_ca(generation: &Generation<CaMaterial>) -> GenerationStatus {
    GenerationStatus {
        id: generation.id.clone(),
        fingerprint: Some(generation.material.fingerprint.clone()),
        kid: None,
        not_after: Some(generation.material.not_after),
        state: generation.state.as_str().to_owned(),
        since: generation.since,
        safe_to_remove_time: None,
    }
}

fn describe_key(generation: &Generation<SigningMaterial>) -> GenerationStatus {
    GenerationStatus {
        id: generation.id.clone(),
        fingerprint: None,
        kid: Some(generation.material.jwk.kid().to_owned()),
        not_after: None,
        state: generation.state.as_str().to_owned(),
        since: generation.since,
        safe_to_remove_time: None,
    }
}

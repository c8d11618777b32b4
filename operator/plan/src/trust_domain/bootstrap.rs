//! Making a ring's first generation, once (ROTATION rule 7).

use std::collections::BTreeMap;
use std::time::Duration;

use gaia_api::crd::{TokenAlgorithm, reason};
use gaia_api::names::annotation;
use gaia_pki::KeySpec;
use jiff::Timestamp;

use super::Observed;
use crate::certificate::key_spec;
use crate::handled::{Answer, Handled};
use crate::object::{DesiredObject, OtherKeys, Template};
use crate::ring::{MaterialRequest, Ring, RingKind, RingRequest};
use crate::{Action, Refusal, limits, projection};

/// The ring to make next: the CA's first.
///
/// # Errors
/// A new ring must not be made, or cannot be.
pub(super) fn next(observed: &Observed<'_>, now: Timestamp) -> Result<Action, Refusal> {
    let kind = if observed.ca.facts().is_none() { RingKind::Ca } else { RingKind::SigningKeys };
    may_bootstrap(observed, kind)?;
    let spec = &observed.domain.spec;
    let material = match kind {
        RingKind::Ca => ca_material(observed, now)?,
        RingKind::SigningKeys => MaterialRequest::SigningKeys {
            key: signing_key_spec(spec.tokens.algorithm),
            max_ttl_seconds: spec.tokens.max_ttl.value().as_secs(),
        },
    };
    let revision = match kind {
        RingKind::Ca => spec.ca.rotation_revision,
        RingKind::SigningKeys => spec.tokens.rotation_revision,
    };
    let mut handled = Handled::default();
    if let Some(asked) = observed.domain.metadata.annotations.as_ref().and_then(|all| all.get(annotation::BOOTSTRAP)) {
        handled.record(annotation::BOOTSTRAP, Answer::done(asked));
    }
    let message = format!("created {kind} {}", observed.ring_key(kind).name);
    Ok(Action::CreateRing(RingRequest {
        trust_domain: observed.name().to_owned(),
        spiffe_trust_domain: spec.trust_domain.clone(),
        material,
        epoch: super::newest_projected(observed, kind).unwrap_or_default() + 1,
        revision,
        handled,
        object: desired_ring(observed, kind).create().with_event(reason::RING_CREATED, message),
    }))
}

/// Labels that rings have lost. Without them they would not be watched.
pub(super) fn repairs(observed: &Observed<'_>) -> Vec<Action> {
    let rings = [(RingKind::Ca, observed.ca.facts()), (RingKind::SigningKeys, observed.signing.facts())];
    rings
        .into_iter()
        .filter_map(|(kind, facts)| desired_ring(observed, kind).change_from(facts?))
        .map(|change| {
            let message = format!("Secret {}: put right {}", change.key.name, change.summary());
            Action::Write(Box::new(change.with_event(reason::REPAIRED, message)))
        })
        .collect()
}

/// Whether the CA that was brought can (still) be used.
pub(super) fn check_brought_ca(observed: &Observed<'_>) -> Result<(), Refusal> {
    match (&observed.domain.spec.ca.existing_secret_ref, &observed.brought_ca) {
        (Some(secret), Some(Err(why))) => Err(ca_invalid(observed, &secret.name, why)),
        _ => Ok(()),
    }
}

/// A new ring is made only if the ring, its copy, the trust ConfigMap and leaves of this TrustDomain are all absent, or
/// if a person said so for this very TrustDomain.
fn may_bootstrap(observed: &Observed<'_>, kind: RingKind) -> Result<(), Refusal> {
    let meta = &observed.domain.metadata;
    let asked = meta.annotations.as_ref().and_then(|annotations| annotations.get(annotation::BOOTSTRAP));
    if asked.is_some() && asked == meta.uid.as_ref() {
        return Ok(());
    }
    let copy_exists = match kind {
        RingKind::Ca => observed.ca_copy.facts().is_some(),
        RingKind::SigningKeys => observed.signing_copy.facts().is_some(),
    };
    let evidence = [
        (copy_exists, "its copy exists"),
        (observed.trust.values().any(|held| held.ours().is_some()), "trust ConfigMaps made from it exist"),
        (observed.leaves_exist, "certificates of this TrustDomain exist"),
    ];
    let found: Vec<&str> = evidence.iter().filter(|(exists, _)| *exists).map(|(_, what)| *what).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Refusal::stalled(
        reason::RING_MISSING,
        format!(
            "Secret {}/{} is missing although {}: nothing is made anew, because everything that trusts the lost keys \
             would break. Restore the Secret from a backup, or annotate the TrustDomain with {}={} to start over",
            observed.operator_namespace,
            observed.ring_key(kind).name,
            found.join(" and "),
            annotation::BOOTSTRAP,
            meta.uid.as_deref().unwrap_or("<its uid>")
        ),
    ))
}

/// The CA that a spec asks for: a new one, or the one in the Secret that it names.
///
/// # Errors
/// It cannot be had.
pub(crate) fn ca_material(observed: &Observed<'_>, now: Timestamp) -> Result<MaterialRequest, Refusal> {
    let spec = &observed.domain.spec;
    let Some(secret) = &spec.ca.existing_secret_ref else {
        return Ok(MaterialRequest::NewCa {
            key: key_spec(&spec.ca.private_key.clone().unwrap_or_default()),
            life_seconds: spec.ca.duration().value().as_secs(),
        });
    };
    match &observed.brought_ca {
        Some(Ok(ca)) if spec.ca.distrusted.iter().any(|entry| entry.fingerprint == ca.fingerprint) => {
            Err(Refusal::stalled(
                reason::CA_DISTRUSTED,
                format!(
                    "spec.ca.distrusted: CA {} is the only one in spec.ca.existingSecretRef; put another one into \
                     Secret {}/{} first",
                    crate::ring::short_id(&ca.fingerprint),
                    observed.operator_namespace,
                    secret.name
                ),
            ))
        }
        Some(Ok(ca)) => {
            let left = Duration::try_from(ca.not_after.duration_since(now)).unwrap_or_default();
            let leaf = spec.certificate_defaults.duration.value();
            let needed = limits::least_life_left(leaf, &spec.propagation);
            // It is accepted in place of one that ends earlier: nothing that runs is left to expire.
            let active = observed.ca.ring().and_then(Ring::active);
            let is_longer = active.is_some_and(|active| ca.not_after > active.material.not_after && ca.not_after > now);
            // The message names the end and not the life that is left: it must not change from look to look.
            if left < needed && !is_longer {
                let needed = limits::text(needed);
                let end = ca.not_after;
                let message = format!(
                    "spec.ca.existingSecretRef: the CA in Secret {}/{} ends at {end}, too soon for certificates of {}: \
                     it must be in force for at least 2(longest certificate + propagation.minDelay + \
                     propagation.deadline) + propagation.minDelay + 2 propagation.clockSkew = {needed}",
                    observed.operator_namespace,
                    secret.name,
                    limits::text(leaf)
                );
                return Err(Refusal::stalled(reason::DURATION_NOT_POSSIBLE, message));
            }
            Ok(MaterialRequest::ExistingCa { secret: secret.name.clone(), fingerprint: ca.fingerprint.clone() })
        }
        Some(Err(why)) => Err(ca_invalid(observed, &secret.name, why)),
        None => Err(ca_invalid(observed, &secret.name, "it was not read yet")),
    }
}

fn ca_invalid(observed: &Observed<'_>, secret: &str, why: &str) -> Refusal {
    let namespace = observed.operator_namespace;
    Refusal::stalled(reason::CA_INVALID, format!("spec.ca.existingSecretRef: Secret {namespace}/{secret}: {why}"))
}

/// A ring's Secret without its content.
pub(crate) fn desired_ring(observed: &Observed<'_>, kind: RingKind) -> DesiredObject {
    let component = match kind {
        RingKind::Ca => "ca-ring",
        RingKind::SigningKeys => "signing-ring",
    };
    DesiredObject {
        key: observed.ring_key(kind),
        secret_type: Some("Opaque"),
        labels: projection::labels(observed.name(), component),
        annotations: BTreeMap::new(),
        template: Template::default(),
        data: BTreeMap::new(),
        other_keys: OtherKeys::Keep,
        owner: None,
    }
}

/// The key of an algorithm (RFC 7518: RS256 with 2048 bits, ES256 with P-256).
pub(crate) fn signing_key_spec(algorithm: TokenAlgorithm) -> KeySpec {
    match algorithm {
        TokenAlgorithm::RS256 => KeySpec::Rsa2048,
        TokenAlgorithm::ES256 => KeySpec::Ecdsa256,
    }
}

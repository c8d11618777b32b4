//! Creates the first generation of a ring, once (docs/rotation.md, "The order of writes").

use std::collections::BTreeMap;

use gaia_api::crd::{TokenAlgorithm, reason};
use gaia_api::names::{self, annotation};
use gaia_pki::KeySpec;
use jiff::Timestamp;

use super::external_ca::{self, ca_material};
use crate::keyring::handled::{Answer, Handled};
use crate::keyring::ring::{Material, MaterialRequest, RingKind, RingRequest};
use crate::object::{DesiredObject, OtherKeys, Template};
use crate::trust_domain::{Observed, RingView};
use crate::{Action, Refusal, projection};

/// The ring to create next: the CA ring first.
///
/// # Errors
/// A new ring must not, or cannot, be created.
pub(crate) fn next(observed: &Observed<'_>, now: Timestamp) -> Result<Action, Refusal> {
    let kind = if observed.ca.facts().is_none() { RingKind::Ca } else { RingKind::SigningKeys };
    may_bootstrap(observed, kind)?;
    let spec = &observed.domain.spec;
    let material = match kind {
        RingKind::Ca => {
            external_ca::check_begun(observed, now)?;
            ca_material(observed, now)?
        }
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
        epoch: newest_epoch(observed, kind) + 1,
        revision,
        handled,
        object: desired_ring(observed, kind).create().with_event(reason::RING_CREATED, message),
    }))
}

/// Labels that rings have lost. Without them they would not be watched.
pub(crate) fn repairs(observed: &Observed<'_>) -> Vec<Action> {
    let rings = [(RingKind::Ca, observed.ca.facts()), (RingKind::SigningKeys, observed.signing.facts())];
    rings
        .into_iter()
        .filter_map(|(kind, facts)| desired_ring(observed, kind).change_from(facts?))
        .map(|change| {
            let message = format!("Secret {}: restored {}", change.key.name, change.summary());
            Action::Write(Box::new(change.with_event(reason::REPAIRED, message)))
        })
        .collect()
}

/// A new ring is created only if the ring, its copy, the trust ConfigMap and leaves of this TrustDomain are all absent,
/// or if the annotation `gaia.dev/bootstrap` names this TrustDomain and the epoch of the missing ring. The new ring's
/// epoch is later, so the annotation applies to one loss only.
fn may_bootstrap(observed: &Observed<'_>, kind: RingKind) -> Result<(), Refusal> {
    let meta = &observed.domain.metadata;
    let asked = meta.annotations.as_ref().and_then(|annotations| annotations.get(annotation::BOOTSTRAP));
    let uid = meta.uid.as_deref().unwrap_or_default();
    let is_asked = |asked: &String| {
        let mut parts = asked.split(',').map(str::trim);
        parts.next() == Some(uid) && parts.any(|part| part == ring_at_epoch(observed, kind))
    };
    if !uid.is_empty() && asked.is_some_and(is_asked) {
        return Ok(());
    }
    let copy_exists = match kind {
        RingKind::Ca => observed.ca_copy.facts().is_some(),
        RingKind::SigningKeys => observed.signing_copy.facts().is_some(),
    };
    let evidence = [
        (copy_exists, "its copy exists"),
        (observed.trust.values().any(|held| held.ours().is_some()), "trust ConfigMaps written from it exist"),
        (observed.leaves_exist, "certificates of this TrustDomain exist"),
    ];
    let found: Vec<&str> = evidence.iter().filter(|(exists, _)| *exists).map(|(_, what)| *what).collect();
    if found.is_empty() {
        return Ok(());
    }
    let td = observed.name();
    let restore = restorable_epoch(observed, kind).map_or_else(
        || format!("Restore the Secret from a backup (its copy {} cannot be used)", previous(observed, kind)),
        |epoch| {
            let asked = format!("{}={}@{epoch}", annotation::RESTORE, short_name(kind));
            format!(
                "Restore it from its copy {}, which loses nothing: kubectl annotate td {td} --overwrite {asked}; or \
                 restore the Secret from a backup",
                previous(observed, kind)
            )
        },
    );
    let missing = [(RingKind::Ca, observed.ca.facts()), (RingKind::SigningKeys, observed.signing.facts())];
    let missing = missing.into_iter().filter(|(_, facts)| facts.is_none());
    let missing: String = missing.map(|(kind, _)| format!(",{}", ring_at_epoch(observed, kind))).collect();
    Err(Refusal::stalled(
        reason::RING_MISSING,
        format!(
            "Secret {}/{} is missing although {}: no new one is created, because everything that trusts the lost keys \
             would break. {restore}. If neither is possible, start over, which breaks every connection until all pods \
             have new certificates: annotation {}={uid}{missing}",
            observed.operator_namespace,
            observed.ring_key(kind).name,
            found.join(" and "),
            annotation::BOOTSTRAP,
        ),
    ))
}

/// `ca@7`: a missing ring, and its newest known epoch.
fn ring_at_epoch(observed: &Observed<'_>, kind: RingKind) -> String {
    format!("{}@{}", short_name(kind), newest_epoch(observed, kind))
}

/// The newest known epoch of a missing ring, from its copy and its projections.
fn newest_epoch(observed: &Observed<'_>, kind: RingKind) -> u64 {
    let copied = match kind {
        RingKind::Ca => observed.ca_copy.ring().map(|ring| ring.epoch),
        RingKind::SigningKeys => observed.signing_copy.ring().map(|ring| ring.epoch),
    };
    crate::trust_domain::newest_projected(observed, kind).max(copied).unwrap_or_default()
}

/// The epoch of a ring's copy, if the ring can be restored from it.
fn restorable_epoch(observed: &Observed<'_>, kind: RingKind) -> Option<u64> {
    fn of<M: Material + Clone>(copy: &RingView<'_, M>) -> Option<u64> {
        let copy = copy.ring()?;
        copy.restored(None, copy.epoch, Timestamp::UNIX_EPOCH).is_ok().then_some(copy.epoch)
    }
    match kind {
        RingKind::Ca => of(&observed.ca_copy),
        RingKind::SigningKeys => of(&observed.signing_copy),
    }
}

fn previous(observed: &Observed<'_>, kind: RingKind) -> String {
    names::previous(&observed.ring_key(kind).name)
}

/// A ring's name in annotations.
fn short_name(kind: RingKind) -> &'static str {
    match kind {
        RingKind::Ca => "ca",
        RingKind::SigningKeys => "signing",
    }
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

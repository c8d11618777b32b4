//! Detection of rings that are older than their projections (docs/rotation.md, "The order of writes").

use std::collections::BTreeSet;

use gaia_api::crd::reason;
use gaia_api::names;

use crate::Refusal;
use crate::keyring::epoch::{Claim, annotations_of};
use crate::keyring::ring::RingKind;
use crate::object::{ObjectFacts, ObjectKey, Ownership};
use crate::trust_domain::Observed;

/// An object that carries an epoch.
struct Claimed {
    object: ObjectKey,
    claim: Claim,
}

/// The refusal for a ring that is an older backup: nothing may be written from it.
pub(crate) fn outdated(observed: &Observed<'_>) -> Option<Refusal> {
    let rings = [
        (RingKind::Ca, observed.ca.ring().map(|ring| ring.epoch)),
        (RingKind::SigningKeys, observed.signing.ring().map(|ring| ring.epoch)),
    ];
    rings.into_iter().find_map(|(kind, epoch)| {
        let epoch = epoch?;
        let newest = newer(observed, kind, epoch).into_iter().max_by_key(|claimed| claimed.claim.epoch)?;
        let (name, _) = annotations_of(kind);
        Some(Refusal::stalled(
            reason::RING_OUTDATED,
            format!(
                "{} was written from a ring of epoch {} ({name}), but the ring in force has epoch {epoch}: an older ring \
                 never overwrites a newer one. Restore a newer backup of Secret {}, or its copy",
                newest.object,
                newest.claim.epoch,
                observed.ring_key(kind).name
            ),
        ))
    })
}

/// The newest epoch of a ring that a projection carries.
pub(crate) fn newest_projected(observed: &Observed<'_>, kind: RingKind) -> Option<u64> {
    let epoch = match kind {
        RingKind::Ca => observed.ca.ring().map(|ring| ring.epoch),
        RingKind::SigningKeys => observed.signing.ring().map(|ring| ring.epoch),
    };
    newer(observed, kind, epoch.unwrap_or_default()).into_iter().map(|claimed| claimed.claim.epoch).max()
}

/// The objects that prove that a ring of that epoch is outdated. With the ring's key, one valid MAC is enough. Without
/// a key, as in rings of earlier versions, an object that one tenant can write decides nothing: the issuer's namespace
/// decides, or more than half of the namespaces that hold projections.
fn newer(observed: &Observed<'_>, kind: RingKind, epoch: u64) -> Vec<Claimed> {
    let all = claims(observed, kind);
    let newer = |claimed: &&Claimed| claimed.claim.is_newer_than(epoch);
    if observed.macs.of(kind).is_none() {
        let namespaces: BTreeSet<&str> = all.iter().map(|claimed| claimed.object.namespace.as_str()).collect();
        let claiming: BTreeSet<&str> =
            all.iter().filter(newer).map(|claimed| claimed.object.namespace.as_str()).collect();
        let issuer = observed.domain.spec.tokens.issued_by.as_ref();
        let by_issuer = issuer.is_some_and(|issuer| claiming.contains(issuer.namespace.as_str()));
        if !by_issuer && 2 * claiming.len() <= namespaces.len() {
            return vec![];
        }
    }
    all.into_iter().filter(|claimed| claimed.claim.is_newer_than(epoch)).collect()
}

fn claims(observed: &Observed<'_>, kind: RingKind) -> Vec<Claimed> {
    let mac = observed.macs.of(kind);
    let read = |object: ObjectKey, facts: &ObjectFacts| {
        let value = |name: &str| facts.annotations.get(name).map(String::as_str);
        let claim = Claim::read(kind, || object.clone(), value, mac)?;
        Some(Claimed { object, claim })
    };
    let map = |namespace: &String, held: &Ownership<ObjectFacts>, name: String| {
        read(ObjectKey::config_map(namespace, name), held.ours()?)
    };
    let trust = observed.trust.iter().filter_map(|(ns, held)| map(ns, held, names::trust(observed.name())));
    let grants = observed.grants.iter().filter_map(|(ns, held)| map(ns, held, names::grants(observed.name())));
    let signers = observed.signers.iter().filter_map(|(namespace, held)| {
        let object = ObjectKey::secret(namespace, names::token_signer(observed.name()));
        read(object, &held.ours()?.facts)
    });
    let leaves = observed.leaves.iter().filter_map(|view| {
        let secret = view.secret?;
        let object = || ObjectKey::secret(view.secret_namespace, view.secret_name);
        let claim = Claim::read(kind, object, |name| secret.annotation(name), mac)?;
        Some(Claimed { object: object(), claim })
    });
    trust.chain(grants).chain(signers).chain(leaves).collect()
}

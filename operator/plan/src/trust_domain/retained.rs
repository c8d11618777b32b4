//! Secrets that `deletionPolicy: Retain` left: their `ca.crt` follows the bundle, so that their users trust the peers
//! of the next CA.

use std::collections::BTreeMap;

use gaia_api::names::{annotation, key};
use jiff::Timestamp;

use super::distribution::namespaces::last_refusal;
use super::{LeafView, Observed};
use crate::keyring::ring::{CaRing, RingKind};
use crate::leaf::LeafRecord;
use crate::object::{ObjectChange, ObjectKey};
use crate::{Action, projection};

/// The writes of `ca.crt` that are due now, and when refused ones are tried again. They delay no rotation.
pub(super) fn actions(observed: &Observed<'_>, ca: &CaRing, now: Timestamp) -> (Vec<Action>, Vec<Timestamp>) {
    let bundle = projection::bundle(ca, now);
    let hash = gaia_pki::sha256_hex(bundle.as_bytes());
    let (mut actions, mut retries) = (vec![], vec![]);
    let mut by_namespace: BTreeMap<&str, usize> = BTreeMap::new();
    for (view, secret) in observed.leaves.iter().filter_map(|view| Some((view, outdated(observed, view, &hash, now)?)))
    {
        let object = ObjectKey::secret(view.secret_namespace, view.secret_name);
        if let Some((_, Some(retry_at))) = last_refusal(observed, &object, now) {
            retries.push(retry_at);
            continue;
        }
        let count = by_namespace.entry(view.secret_namespace).or_default();
        *count += 1;
        // The others follow in the next plan: no namespace fills this one.
        if *count > AT_A_TIME {
            retries.push(now);
            continue;
        }
        let mut change = ObjectChange::nothing(object.clone(), Some(secret.version()));
        change.data.insert(key::CA_CERT.to_owned(), Some(bundle.clone()));
        let epoch = crate::keyring::epoch::annotations(RingKind::Ca, &object, ca.epoch, observed.macs.ca);
        change.annotations = epoch.into_iter().map(|(name, value)| (name, Some(value))).collect();
        actions.push(Action::Write(Box::new(change)));
    }
    (actions, retries)
}

/// The Secret, if the operator owns it, no ServiceCertificate claims it and it lacks the newest bundle. As other
/// writers can change such a Secret, it counts only with an unexpired certificate that a CA of the ring issued.
fn outdated<'a>(
    observed: &Observed<'_>,
    view: &LeafView<'a>,
    bundle_hash: &str,
    now: Timestamp,
) -> Option<&'a dyn LeafRecord> {
    let secret = view.secret.filter(|_| view.is_retained() && !view.is_held)?;
    let is_in_use = view.leaf.is_some_and(|leaf| leaf.issuer.is_some() && leaf.not_after > now);
    let can_be_written = !secret.is_immutable() && secret.secret_type() == Some(crate::leaf::TLS_SECRET);
    let is_due = is_in_use
        && can_be_written
        && secret.annotation(annotation::SPEC_HASH).is_some()
        && secret.data_hash(key::CA_CERT) != Some(bundle_hash)
        && observed.selected.contains(view.secret_namespace);
    is_due.then_some(secret)
}

/// Writes in one namespace by one plan.
const AT_A_TIME: usize = 16;

//! Trust bundle, signer and grants in the namespaces.

use std::collections::BTreeMap;

use gaia_api::crd::reason;
use gaia_api::names::{self, annotation, key};
use jiff::Timestamp;

use super::grants::CutServices;
use super::namespaces::{Cause, Projections, Unwritten, last_refusal};
use crate::keyring::ring::{CaRing, Ring, RingKind, SigningRing};
use crate::object::{
    DesiredObject, ObjectChange, ObjectFacts, ObjectKey, OtherKeys, Ownership, Template, immutable, not_owned,
    unreadable,
};
use crate::trust_domain::Observed;
use crate::{Action, Refusal, WriteSigner, projection, published};

/// The writes and deletions that are due, and the projections that do not match.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) actions: Vec<Action>,
    pub(crate) projections: Projections,
    /// Services whose entries do not fit into the grants.
    pub(crate) cut: CutServices,
}

/// The writes and deletions that make the projections match rings and resources.
pub(crate) fn actions(observed: &Observed<'_>, ca: &CaRing, signing: &SigningRing, now: Timestamp) -> Work {
    let mut work = Work::default();
    let trust = projection::trust_data(&observed.domain.spec, ca, signing, now);
    for namespace in &observed.granted {
        let object = ObjectKey::config_map(namespace, names::trust(observed.name()));
        let both = epoch(observed, RingKind::Ca, ca, &object);
        let both = both.into_iter().chain(epoch(observed, RingKind::SigningKeys, signing, &object)).collect();
        let desired = config_map(observed, object, "trust", both, &trust);
        let change = project(observed, &desired, observed.trust.get(namespace), |facts| facts);
        let dated = change.map(|change| change.map(|change| published::DENYLIST.date(change, now)));
        let action = dated.map(|change| change.map(|change| Action::Write(Box::new(change))));
        work.add(observed, desired.key, action, now);
    }
    let issuer = issuer_namespace(observed);
    if let Some(namespace) = issuer {
        let object = ObjectKey::secret(namespace, names::token_signer(observed.name()));
        work.add(observed, object, signer(observed, namespace, signing), now);
        let (grants, cut) = super::grants::data(observed);
        work.cut = cut;
        if let Some(grants) = grants {
            // The issuer's objects depend on the signing ring only. The epoch also identifies an object that has lost
            // its label.
            let object = ObjectKey::config_map(namespace, names::grants(observed.name()));
            let epoch = epoch(observed, RingKind::SigningKeys, signing, &object);
            let desired = config_map(observed, object, "grants", epoch, &grants);
            // Grants change with the services: that is no repair, so it is not announced as one.
            let change = project(observed, &desired, observed.grants.get(namespace), |facts| facts);
            let action = change.map(|change| change.map(|change| Action::Write(Box::new(quiet(change)))));
            work.add(observed, desired.key, action, now);
        }
    }
    work.actions.extend(leftovers(observed, issuer));
    work
}

impl Work {
    /// One namespace never holds up the writes of others: a write that was refused is tried again later.
    fn add(
        &mut self,
        observed: &Observed<'_>,
        object: ObjectKey,
        action: Result<Option<Action>, Refusal>,
        now: Timestamp,
    ) {
        let cause = match action {
            Ok(None) => return,
            Err(refusal) => Some(Cause { refusal, is_local: true }),
            Ok(Some(action)) => match last_refusal(observed, &object, now) {
                Some((cause, Some(retry_at))) => {
                    self.projections.retries.push(retry_at);
                    Some(cause)
                }
                last => {
                    self.actions.push(action);
                    last.map(|(cause, _)| cause)
                }
            },
        };
        self.projections.unwritten.push(Unwritten { object, cause });
    }
}

/// The namespace of `spec.tokens.issuedBy`, once that GaiaService exists and its namespace is granted.
fn issuer_namespace<'a>(observed: &'a Observed<'_>) -> Option<&'a str> {
    let issuer = observed.domain.spec.tokens.issued_by.as_ref()?;
    let exists = observed.services.iter().any(|service| {
        service.metadata.namespace.as_deref() == Some(issuer.namespace.as_str())
            && service.metadata.name.as_deref() == Some(issuer.name.as_str())
    });
    (exists && observed.granted.contains(&issuer.namespace)).then_some(issuer.namespace.as_str())
}

/// The epoch of a ring from which an object is written, with its MAC.
fn epoch<M>(observed: &Observed<'_>, kind: RingKind, ring: &Ring<M>, object: &ObjectKey) -> BTreeMap<String, String> {
    crate::keyring::epoch::annotations(kind, object, ring.epoch, observed.macs.of(kind))
}

fn config_map(
    observed: &Observed<'_>,
    key: ObjectKey,
    component: &str,
    annotations: BTreeMap<String, String>,
    data: &BTreeMap<String, String>,
) -> DesiredObject {
    DesiredObject { annotations, ..projection::config_map(key, observed.name(), component, data.clone()) }
}

/// The write that changes an object to the desired state; none if it already is.
fn project<T>(
    observed: &Observed<'_>,
    desired: &DesiredObject,
    held: Option<&Ownership<T>>,
    facts: impl Fn(&T) -> &ObjectFacts,
) -> Result<Option<ObjectChange>, Refusal> {
    let name = &desired.key;
    match held {
        None | Some(Ownership::Absent) => {
            let create = desired.create();
            if observed.lost.contains(name) {
                let message = format!("recreated {name} after its deletion");
                return Ok(Some(create.with_event(reason::REPAIRED, message)));
            }
            Ok(Some(create))
        }
        Some(Ownership::Foreign) => Err(not_owned(name, desired.secret_type)),
        Some(Ownership::Unreadable(why)) => Err(unreadable(name, why)),
        Some(Ownership::Ours(held)) => {
            let facts = facts(held);
            let Some(change) = desired.change_from(facts) else { return Ok(None) };
            if facts.immutable && !change.data.is_empty() {
                return Err(immutable(name));
            }
            let only_denylist = change.labels.is_empty() && change.data.keys().eq([key::DENYLIST]);
            if !is_of_epochs(desired, facts) || only_denylist {
                // The ring, or the spec, has changed: that is no repair.
                return Ok(Some(change));
            }
            let message = format!("{name}: restored {}", change.summary());
            Ok(Some(change.with_event(reason::REPAIRED, message)))
        }
    }
}

/// The same write, without telling of it unless the object was missing.
fn quiet(change: ObjectChange) -> ObjectChange {
    if change.on.is_some() && change.labels.is_empty() { ObjectChange { event: None, ..change } } else { change }
}

/// Returns true if it was written from the ring in force.
fn is_of_epochs(desired: &DesiredObject, facts: &ObjectFacts) -> bool {
    [annotation::CA_EPOCH, annotation::SIGNING_EPOCH]
        .into_iter()
        .all(|epoch| desired.annotations.get(epoch).is_none_or(|value| facts.annotations.get(epoch) == Some(value)))
}

fn signer(observed: &Observed<'_>, namespace: &str, signing: &SigningRing) -> Result<Option<Action>, Refusal> {
    let Some(active) = signing.active() else { return Ok(None) };
    let kid = active.material.jwk.kid().to_owned();
    let object = ObjectKey::secret(namespace, names::token_signer(observed.name()));
    let desired = DesiredObject {
        annotations: epoch(observed, RingKind::SigningKeys, signing, &object),
        key: object,
        secret_type: Some("Opaque"),
        labels: projection::labels(observed.name(), "token-signer"),
        template: Template::default(),
        data: BTreeMap::from([(key::KID.to_owned(), kid.clone())]),
        other_keys: OtherKeys::Keep,
        owner: None,
    };
    let held = observed.signers.get(namespace);
    let change = project(observed, &desired, held, |secret| &secret.facts)?;
    let stored = held.and_then(Ownership::ours);
    let key_is_right = stored.is_some_and(|secret| secret.kid.as_deref() == Some(&kid));
    if !key_is_right && stored.is_some_and(|secret| secret.facts.immutable) {
        return Err(immutable(&desired.key));
    }
    match (change, stored) {
        (Some(change), _) if key_is_right => Ok(Some(Action::Write(Box::new(change)))),
        (None, _) if key_is_right => Ok(None),
        (Some(object), _) => Ok(Some(write_signer(observed, kid, object))),
        (None, stored) => {
            let object = ObjectChange::nothing(desired.key.clone(), stored.map(|secret| secret.facts.version()));
            let message = format!("{}: restored data {}", desired.key, key::JWT_SIGNING_KEY);
            Ok(Some(write_signer(observed, kid, object.with_event(reason::REPAIRED, message))))
        }
    }
}

fn write_signer(observed: &Observed<'_>, kid: String, object: ObjectChange) -> Action {
    Action::WriteSigner(WriteSigner { trust_domain: observed.name().to_owned(), kid, object })
}

/// Projections that are no longer used: a signer and grants outside the issuer's namespace, and a trust bundle in a
/// namespace without any object that refers to the TrustDomain. While such objects exist, the bundle stays even if the
/// namespace is no longer selected, because its pods would break.
fn leftovers(observed: &Observed<'_>, issuer: Option<&str>) -> Vec<Action> {
    let mut actions = vec![];
    let stays = |facts: &&ObjectFacts| !facts.is_deleting;
    for (namespace, held) in observed.signers.iter().filter(|(namespace, _)| Some(namespace.as_str()) != issuer) {
        let key = ObjectKey::secret(namespace, names::token_signer(observed.name()));
        let facts = held.ours().map(|secret| &secret.facts).filter(stays);
        actions.extend(facts.map(|facts| Action::Delete { key, version: facts.version() }));
    }
    for (namespace, held) in observed.grants.iter().filter(|(namespace, _)| Some(namespace.as_str()) != issuer) {
        let key = ObjectKey::config_map(namespace, names::grants(observed.name()));
        actions.extend(held.ours().filter(stays).map(|facts| Action::Delete { key, version: facts.version() }));
    }
    for (namespace, held) in observed.trust.iter().filter(|(namespace, _)| !observed.consumers.contains(*namespace)) {
        let key = ObjectKey::config_map(namespace, names::trust(observed.name()));
        actions.extend(held.ours().filter(stays).map(|facts| Action::Delete { key, version: facts.version() }));
    }
    actions
}

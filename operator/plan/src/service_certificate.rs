//! ServiceCertificate: one leaf in one Secret.

mod request;
mod status;

use std::collections::BTreeMap;
use std::time::Duration;

use gaia_api::crd::{DeletionPolicy, ServiceCertificate, ServiceCertificateStatus, reason};
use gaia_api::names::{annotation, key};
use jiff::Timestamp;

use self::request::Request;
use crate::domain::DomainView;
use crate::instances::instance::Instances;
use crate::instances::lagging::{self, Lagging, ServedLeaf};
use crate::keyring::epoch::Claim;
use crate::keyring::ring::{CaMaterial, Generation, RingKind};
use crate::leaf::{LeafFacts, LeafSecret, TLS_SECRET, issued_at};
use crate::object::{DesiredObject, ObjectChange, ObjectKey, OtherKeys, Ownership, Template, not_owned_as, unreadable};
use crate::pacing::backoff::Failures;
use crate::pacing::budget::IssuanceBudget;
use crate::plan::owner;
use crate::rules::limits;
use crate::{Action, IssueLeaf, Plan, Refusal, projection};

/// The input of a decision about one ServiceCertificate.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// It.
    pub certificate: &'a ServiceCertificate,
    /// The TrustDomain it refers to.
    pub domain: DomainView<'a>,
    /// The Secret it names.
    pub secret: Ownership<LeafSecret>,
    /// An older ServiceCertificate that names the same Secret.
    pub claimed_by: Option<String>,
    /// The instances that use the Secret.
    pub instances: Instances<'a>,
    /// The wave of its service.
    pub wave: i32,
    /// Certificates up to this wave may be re-issued by a new CA.
    pub open_wave: i32,
    /// Attempts that failed.
    pub failures: Option<&'a Failures>,
    /// The issuance budget that is left.
    pub budget: IssuanceBudget,
    /// The cluster's DNS domain.
    pub cluster_domain: &'a str,
    /// The operator's own namespace.
    pub operator_namespace: &'a str,
}

/// Decides about one ServiceCertificate.
#[must_use]
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<ServiceCertificateStatus> {
    let decision = decide(observed, now);
    let actions = match &decision {
        LeafDecision::Act(action) | LeafDecision::Keep(_, action) => vec![action.as_ref().clone()],
        LeafDecision::Settled | LeafDecision::Refused(_) | LeafDecision::KeepLater(..) | LeafDecision::Wait { .. } => {
            vec![]
        }
    };
    let lagging = lagging(observed, now);
    let next_check = next_check(observed, &decision, lagging.next, now);
    Plan { actions, status: status::status(observed, &decision, lagging, now), next_check }
}

/// The lagging instances of a ServiceCertificate without a GaiaService. Those of a GaiaService are in its own status.
fn lagging(observed: &Observed<'_>, now: Timestamp) -> Lagging {
    let mut owners = observed.certificate.metadata.owner_references.iter().flatten();
    let (Instances::Known(all), false) = (&observed.instances, owners.any(|owner| owner.kind == "GaiaService")) else {
        return Lagging::default();
    };
    let secret = observed.secret.ours().filter(|_| observed.claimed_by.is_none());
    let leaf =
        secret.and_then(|secret| Some(ServedLeaf::of(secret_key(observed), &secret.facts, secret.leaf.as_ref()?)));
    lagging::of(all, &observed.domain, leaf.as_ref(), None, now)
}

/// The cause for which a leaf is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Missing,
    Unreadable,
    KeyMismatch,
    NotOurCa,
    Revoked,
    CaChanged,
    NamesDiffer,
    SpecChanged,
    RenewalRequested,
    RenewalDue,
}

#[derive(Debug, Clone, PartialEq)]
enum LeafDecision {
    /// All is as it should be.
    Settled,
    /// Something is to be written.
    Act(Box<Action>),
    /// Something should be written, but not before a time.
    Wait { until: Timestamp, why: String },
    /// No write.
    Refused(Refusal),
    /// No certificate is issued, but `ca.crt` of the stored Secret is kept up to date.
    Keep(Refusal, Box<Action>),
    /// The same, but that failed and is not tried again before a time.
    KeepLater(Refusal, Timestamp),
}

fn decide(observed: &Observed<'_>, now: Timestamp) -> LeafDecision {
    let request = match Request::of(observed) {
        Ok(request) => request,
        Err(refusal) => return refuse(observed, refusal, now),
    };
    if let Err(refusal) = check_secret(observed) {
        return LeafDecision::Refused(refusal);
    }
    let action = match (cause(observed, &request, now), observed.secret.ours()) {
        (Some(cause), _) => match issue(observed, &request, cause, now) {
            Ok(action) => Some(action),
            Err(refusal) => return LeafDecision::Refused(refusal),
        },
        (None, Some(secret)) => repair(observed, &request, secret, now),
        (None, None) => None,
    };
    let Some(action) = action else { return LeafDecision::Settled };
    let generation = observed.certificate.metadata.generation;
    let cap = limits::retry_cap(request.duration);
    if let Some(failures) = observed.failures.filter(|failures| failures.holds_back(generation, cap, now)) {
        return LeafDecision::Wait { until: failures.retry_at(cap), why: failures.message.clone() };
    }
    if let Action::IssueLeaf(leaf) = &action
        && leaf.not_before >= leaf.not_after
    {
        let why =
            format!("the operator's clock is behind: the CA of TrustDomain {} is not valid yet", observed.domain.name);
        // From the next whole second on, the leaf expires after its CA becomes valid.
        let first_end = crate::pacing::backoff::saturating_add(leaf.not_before, Duration::from_secs(1));
        return LeafDecision::Wait { until: crate::pacing::backoff::saturating_sub(first_end, request.duration), why };
    }
    if matches!(action, Action::IssueLeaf(_)) && !observed.budget.allows(now) {
        let why = "issued too often: a burst of 10, then one a minute".to_owned();
        return LeafDecision::Wait { until: observed.budget.next(now), why };
    }
    LeafDecision::Act(Box::new(action))
}

/// Refuses the request. The stored Secret stays in use, so its `ca.crt` still follows the ring.
fn refuse(observed: &Observed<'_>, refusal: Refusal, now: Timestamp) -> LeafDecision {
    let (Ok(domain), Ok(()), Some(ring), Some(secret)) =
        (observed.domain.granted(), check_secret(observed), observed.domain.ca, observed.secret.ours())
    else {
        return LeafDecision::Refused(refusal);
    };
    let bundle = projection::bundle(ring, now);
    let is_right = secret.facts.data.get(key::CA_CERT) == Some(&gaia_pki::sha256_hex(bundle.as_bytes()));
    if is_right {
        return LeafDecision::Refused(refusal);
    }
    let generation = observed.certificate.metadata.generation;
    let spec = &observed.certificate.spec;
    let life = spec.duration.as_ref().unwrap_or(&domain.spec.certificate_defaults.duration).value();
    let cap = limits::retry_cap(life);
    if let Some(failures) = observed.failures.filter(|failures| failures.holds_back(generation, cap, now)) {
        return LeafDecision::KeepLater(refusal, failures.retry_at(cap));
    }
    let mut change = ObjectChange::nothing(secret_key(observed), Some(secret.facts.version()));
    change
        .annotations
        .extend(epoch_annotations(observed, ring.epoch).into_iter().map(|(name, value)| (name, Some(value))));
    change.data.insert(key::CA_CERT.to_owned(), Some(bundle));
    LeafDecision::Keep(refusal, Box::new(Action::Write(Box::new(change))))
}

/// Checks that the Secret may be written.
fn check_secret(observed: &Observed<'_>) -> Result<(), Refusal> {
    let name = observed.certificate.secret_name();
    if let Some(other) = &observed.claimed_by {
        let message = format!("spec.secretName: Secret {name} is written by the older ServiceCertificate {other}");
        return Err(Refusal::stalled(reason::SECRET_CLAIMED, message));
    }
    if let (Some(ring), Some(secret)) = (observed.domain.ca, observed.secret.ours())
        && let Some(claim) = claimed_epoch(observed, secret).filter(|claim| claim.is_newer_than(ring.epoch))
    {
        let found = claim.epoch;
        let message = format!(
            "Secret {name} was written from a CA ring of epoch {found}, but the ring in force has epoch {}: an older \
             ring never overwrites a newer one",
            ring.epoch
        );
        return Err(Refusal::stalled(reason::RING_OUTDATED, message));
    }
    match &observed.secret {
        Ownership::Foreign => {
            let namespace = observed.certificate.metadata.namespace.as_deref().unwrap_or_default();
            let (named, key) = (format!("Secret {name}"), ObjectKey::secret(namespace, name));
            let refusal = not_owned_as(&named, &key, Some(TLS_SECRET)).about("spec.secretName");
            Err(Refusal { reason: reason::SECRET_NOT_OWNED, ..refusal })
        }
        Ownership::Ours(secret) if secret.facts.immutable => Err(Refusal::stalled(
            reason::SECRET_IMMUTABLE,
            format!(
                "spec.secretName: Secret {name} is immutable, so no certificate can be stored in it; delete it so that the \
                 operator can create its own"
            ),
        )),
        Ownership::Ours(secret) if secret.facts.type_.as_deref() != Some(TLS_SECRET) => Err(Refusal::stalled(
            reason::SECRET_TYPE_MISMATCH,
            format!(
                "spec.secretName: Secret {name} has type {:?}, which cannot be changed; it must be {TLS_SECRET}: delete it so \
                 that the operator can create its own",
                secret.facts.type_.as_deref().unwrap_or_default()
            ),
        )),
        Ownership::Unreadable(why) => {
            let namespace = observed.certificate.metadata.namespace.as_deref().unwrap_or_default();
            Err(unreadable(&ObjectKey::secret(namespace, name), why))
        }
        Ownership::Ours(_) | Ownership::Absent => Ok(()),
    }
}

/// The Secret's name as an object.
fn secret_key(observed: &Observed<'_>) -> ObjectKey {
    let namespace = observed.certificate.metadata.namespace.as_deref().unwrap_or_default();
    ObjectKey::secret(namespace, observed.certificate.secret_name())
}

/// The epoch of the CA ring that a Secret carries.
fn claimed_epoch(observed: &Observed<'_>, secret: &LeafSecret) -> Option<Claim> {
    let value = |name: &str| secret.facts.annotations.get(name).map(String::as_str);
    Claim::read(RingKind::Ca, || secret_key(observed), value, observed.domain.ca_mac)
}

/// The annotations of an epoch of the CA ring on the Secret.
fn epoch_annotations(observed: &Observed<'_>, epoch: u64) -> BTreeMap<String, String> {
    crate::keyring::epoch::annotations(RingKind::Ca, &secret_key(observed), epoch, observed.domain.ca_mac)
}

fn cause(observed: &Observed<'_>, request: &Request<'_>, now: Timestamp) -> Option<Cause> {
    let Some(secret) = observed.secret.ours() else { return Some(Cause::Missing) };
    let Some(leaf) = &secret.leaf else { return Some(Cause::Unreadable) };
    if !leaf.key_matches {
        return Some(Cause::KeyMismatch);
    }
    if !leaf.issuer.as_ref().is_some_and(|issuer| request.trusts(issuer)) {
        return Some(Cause::NotOurCa);
    }
    if request.revoked.contains(&leaf.fingerprint) {
        return Some(Cause::Revoked);
    }
    let annotations = &secret.facts.annotations;
    if annotations.get(annotation::SPEC_HASH) != Some(&request.hash) {
        return Some(Cause::SpecChanged);
    }
    if !request.has_names_of(leaf) {
        return Some(Cause::NamesDiffer);
    }
    if request
        .renew_requested
        .as_ref()
        .is_some_and(|value| annotations.get(annotation::RENEW_REQUESTED_AT) != Some(value))
    {
        return Some(Cause::RenewalRequested);
    }
    if ca_change_due(observed, request, leaf).is_some_and(|due| due <= now) {
        return Some(Cause::CaChanged);
    }
    // A leaf that expires no later than the stored one is no renewal: close to the expiry of the CA it would only loop.
    let better = request.not_after(now) > leaf.not_after;
    (request.renews && leaf.lifetime().renewal_time <= now && better).then_some(Cause::RenewalDue)
}

/// Returns the time when a leaf is due for re-issue because another CA was activated. None: its issuer is the active
/// CA, or its wave has not started.
fn ca_change_due(observed: &Observed<'_>, request: &Request<'_>, leaf: &LeafFacts) -> Option<Timestamp> {
    let issuer = issuing_ca(request, leaf)?;
    let active = request.ring.active().filter(|active| active.id != issuer.id)?;
    let switched = active.activated_time.unwrap_or(active.since);
    if issuer.distrust.is_some() && request.renews {
        return Some(switched);
    }
    if !request.renews || observed.wave > observed.open_wave {
        return None;
    }
    let spread = request.min_delay.min(LONGEST_JITTER);
    Some(crate::pacing::backoff::saturating_add(switched, leaf.share_of(spread)))
}

fn issue(observed: &Observed<'_>, request: &Request<'_>, cause: Cause, now: Timestamp) -> Result<Action, Refusal> {
    let not_after = request.not_after(now);
    if not_after <= now {
        return Err(Refusal::stalled(
            reason::CA_EXPIRED,
            format!("the CA of TrustDomain {} expired at {not_after}: it can no longer sign", observed.domain.name),
        ));
    }
    let mut desired = desired(observed, request, revision(observed) + 1, now);
    desired.annotations.insert(annotation::ISSUED_AT.to_owned(), gaia_api::crd::whole_seconds(now).to_string());
    let object = match observed.secret.ours() {
        None => desired.create(),
        Some(secret) => {
            let version = secret.facts.version();
            desired
                .change_from(&secret.facts)
                .unwrap_or_else(|| ObjectChange::nothing(desired.key.clone(), Some(version)))
        }
    };
    let (reason, message) = announcement(observed, cause);
    Ok(Action::IssueLeaf(Box::new(IssueLeaf {
        trust_domain: observed.domain.name.to_owned(),
        ca_fingerprint: request.ca_fingerprint.to_owned(),
        spiffe_id: request.spiffe_id.to_string(),
        common_name: request.common_name.clone(),
        dns_names: request.names.dns.clone(),
        ip_addresses: request.names.ip.clone(),
        usages: request.usages.clone(),
        key: request.key,
        not_before: request.not_before(now),
        not_after,
        paced: is_paced(observed, request, cause),
        object: object.with_event(reason, message),
    })))
}

/// Returns true if the stored certificate can be used until it is replaced.
fn is_paced(observed: &Observed<'_>, request: &Request<'_>, cause: Cause) -> bool {
    match cause {
        Cause::Missing | Cause::Unreadable | Cause::KeyMismatch | Cause::NotOurCa | Cause::Revoked => false,
        Cause::CaChanged | Cause::NamesDiffer | Cause::SpecChanged | Cause::RenewalRequested | Cause::RenewalDue => {
            let leaf = observed.secret.ours().and_then(|secret| secret.leaf.as_ref());
            leaf.and_then(|leaf| issuing_ca(request, leaf)).is_none_or(|issuer| issuer.distrust.is_none())
        }
    }
}

/// The CA of the ring that issued a leaf.
fn issuing_ca<'r>(request: &Request<'r>, leaf: &LeafFacts) -> Option<&'r Generation<CaMaterial>> {
    request.ring.generations.iter().find(|ca| Some(&ca.material.fingerprint) == leaf.issuer.as_ref())
}

/// Repairs labels, annotations, `ca.crt` and the owner without a new certificate.
fn repair(observed: &Observed<'_>, request: &Request<'_>, secret: &LeafSecret, now: Timestamp) -> Option<Action> {
    let change = desired(observed, request, revision(observed), now).change_from(&secret.facts)?;
    if change.annotations.contains_key(annotation::CA_EPOCH) && change.labels.is_empty() && change.owners.is_none() {
        // The ring has a newer epoch: that is no repair.
        return Some(Action::Write(Box::new(change)));
    }
    let message = format!("Secret {}: restored {}", change.key.name, change.summary());
    Some(Action::Write(Box::new(change.with_event(reason::REPAIRED, message))))
}

fn desired(observed: &Observed<'_>, request: &Request<'_>, revision: u64, now: Timestamp) -> DesiredObject {
    let meta = &observed.certificate.metadata;
    let spec = &observed.certificate.spec;
    let mut annotations = BTreeMap::from([
        (annotation::SPEC_HASH.to_owned(), request.hash.clone()),
        (annotation::REVISION.to_owned(), revision.to_string()),
    ]);
    annotations.extend(epoch_annotations(observed, request.ring.epoch));
    if let Some(value) = &request.renew_requested {
        annotations.insert(annotation::RENEW_REQUESTED_AT.to_owned(), value.clone());
    }
    DesiredObject {
        key: secret_key(observed),
        secret_type: Some(TLS_SECRET),
        labels: projection::labels(observed.domain.name, "leaf"),
        annotations,
        template: Template {
            labels: spec.secret_template.labels.clone(),
            annotations: spec.secret_template.annotations.clone(),
        },
        data: BTreeMap::from([(key::CA_CERT.to_owned(), projection::bundle(request.ring, now))]),
        other_keys: OtherKeys::Keep,
        owner: (spec.deletion_policy == DeletionPolicy::Delete).then(|| owner("ServiceCertificate", meta)),
    }
}

/// The number of times that the certificate was issued, as the Secret records it. Without the Secret, counting
/// continues from the last reported status.
fn revision(observed: &Observed<'_>) -> u64 {
    let kept = observed.secret.ours().and_then(|secret| secret.facts.number(annotation::REVISION));
    let reported = observed.certificate.status.as_ref().and_then(|status| status.revision);
    kept.unwrap_or_default().max(reported.and_then(|n| u64::try_from(n).ok()).unwrap_or_default())
}

fn announcement(observed: &Observed<'_>, cause: Cause) -> (&'static str, String) {
    let name = observed.certificate.secret_name();
    let why = match cause {
        Cause::Missing if revision(observed) == 0 => {
            return (reason::CERTIFICATE_ISSUED, format!("issued the first certificate into Secret {name}"));
        }
        Cause::Missing => "the Secret was missing",
        Cause::Unreadable => "tls.crt or tls.key could not be read",
        Cause::KeyMismatch => "tls.key did not belong to tls.crt",
        Cause::NotOurCa => "tls.crt was not signed by a trusted CA of the TrustDomain",
        Cause::Revoked => "the certificate was revoked",
        Cause::CaChanged => "another CA is active",
        Cause::NamesDiffer => "tls.crt had other names",
        Cause::SpecChanged => "the spec changed",
        Cause::RenewalRequested => "a renewal was requested",
        Cause::RenewalDue => "two thirds of its validity had passed",
    };
    (reason::CERTIFICATE_RENEWED, format!("issued a new certificate into Secret {name}: {why}"))
}

fn next_check(
    observed: &Observed<'_>,
    decision: &LeafDecision,
    lags_from: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    let mut thresholds = vec![crate::pacing::backoff::saturating_add(now, MAX_WAIT)];
    thresholds.extend(lags_from);
    if let Some(leaf) = observed.secret.ours().and_then(|secret| secret.leaf.as_ref()) {
        thresholds.extend([leaf.not_before, leaf.lifetime().renewal_time, leaf.not_after]);
    }
    if let Some(ring) = observed.domain.ca {
        thresholds.extend(projection::bundle_changes_at(ring, now));
    }
    if let (Some(leaf), Ok(request)) = (observed.secret.ours().and_then(|s| s.leaf.as_ref()), Request::of(observed)) {
        thresholds.extend(ca_change_due(observed, &request, leaf));
    }
    if let LeafDecision::Wait { until, .. } | LeafDecision::KeepLater(_, until) = decision {
        thresholds.push(*until);
    }
    // The deletion of a foreign Secret raises no event, because it is not watched.
    if matches!(observed.secret, Ownership::Foreign) {
        thresholds.push(crate::pacing::backoff::saturating_add(now, FOREIGN_RECHECK));
    }
    crate::plan::earliest(thresholds, now)
}

const MAX_WAIT: Duration = Duration::from_secs(3600);
/// The longest time over which a new CA's re-issues are spread, before the rate limit of the execution applies.
const LONGEST_JITTER: Duration = Duration::from_secs(30);
const FOREIGN_RECHECK: Duration = Duration::from_secs(10);

//! Findings of TrustDomains.

use gaia_api::crd::condition::{self, warning};
use gaia_api::crd::{Condition, GenerationStatus, TrustDomain, TrustDomainStatus, find_condition, is_true};
use jiff::Timestamp;

use super::snapshot::Snapshot;
use super::{Findings, after};

pub(super) fn check(snapshot: &Snapshot, now: Timestamp, findings: &mut Findings) {
    if snapshot.domains.is_empty() && snapshot.unreadable.is_empty() {
        findings.add("GAIA201", "TrustDomain", "no object of this kind exists");
    }
    for domain in &snapshot.domains {
        let name = domain.metadata.name.clone().unwrap_or_default();
        let object = format!("TrustDomain {name}");
        let status = domain.status.clone().unwrap_or_default();
        check_conditions(&object, &status.conditions, findings);
        check_authority(&object, domain, &status, now, findings);
        check_times(&object, &status, now, findings);
        match snapshot.trust.get(&name).map(|trust| &trust.anchors) {
            None => findings.add("GAIA209", &object, "its ConfigMap does not exist"),
            Some(Err(why)) => findings.add("GAIA209", &object, why.clone()),
            Some(Ok(anchors)) => {
                let distrusted = status.ca.iter().flat_map(|ca| &ca.distrusted);
                let served = distrusted
                    .filter(|ca| anchors.iter().any(|anchor| ca.fingerprint.as_ref() == Some(&anchor.fingerprint())));
                for ca in served {
                    findings.add("GAIA207", &object, format!("CA {} is distrusted since {}", ca.id, ca.since));
                }
            }
        }
    }
}

fn check_conditions(object: &str, conditions: &[Condition], findings: &mut Findings) {
    let stalled = find_condition(conditions, condition::STALLED).filter(|found| found.status == "True");
    let not_ready = find_condition(conditions, condition::READY).filter(|found| found.status == "False");
    if let Some(found) = stalled.or(not_ready) {
        let is_ring = matches!(found.reason.as_str(), "RingMissing" | "RingUnreadable");
        findings.add(if is_ring { "GAIA206" } else { "GAIA204" }, object, cause(found));
    }
    for type_ in [condition::CA_ROTATING, condition::SIGNING_KEYS_ROTATING] {
        if let Some(found) = find_condition(conditions, type_).filter(|found| found.reason == "PastDeadline") {
            findings.add("GAIA205", object, cause(found));
        }
    }
    for found in warnings(conditions) {
        findings.add("GAIA208", object, cause(found));
    }
}

/// The warning conditions that are True.
pub(super) fn warnings(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    conditions.iter().filter(|found| found.status == "True" && warning::ALL.contains(&found.type_.as_str()))
}

/// The cause that a condition reports.
pub(super) fn cause(condition: &Condition) -> String {
    format!("{} ({}): {}", condition.type_, condition.reason, condition.message)
}

fn check_authority(
    object: &str,
    domain: &TrustDomain,
    status: &TrustDomainStatus,
    now: Timestamp,
    findings: &mut Findings,
) {
    let Some(ca) = &status.ca else { return };
    let Some((active, not_after)) = ca.active.as_ref().and_then(|active| Some((active, active.not_after?))) else {
        return;
    };
    if not_after <= now {
        findings.add("GAIA203", object, format!("CA {} expired at {not_after}", active.id));
        return;
    }
    // A rotation starts at the end minus 2(L + P + D); one D later it is overdue.
    let spec = &domain.spec;
    let (leaf, propagation) = (spec.certificate_defaults.duration.value(), &spec.propagation);
    let due = leaf * 2 + propagation.min_delay.value() * 2 + propagation.deadline.value();
    let is_rotating = is_true(&status.conditions, condition::CA_ROTATING);
    if after(now, due) > not_after && ca.next.is_none() && !is_rotating {
        findings.add("GAIA202", object, format!("CA {} expires at {not_after} and no rotation has started", active.id));
    }
}

fn check_times(object: &str, status: &TrustDomainStatus, now: Timestamp, findings: &mut Findings) {
    let rings = status.ca.iter().chain(&status.signing_keys);
    let generations = rings.flat_map(|ring| ring.active.iter().chain(&ring.next).chain(&ring.retiring));
    let is_ahead = |generation: &&GenerationStatus| generation.since > after(now, CLOCK_MARGIN);
    if let Some(ahead) = { generations }.find(is_ahead) {
        findings.add("GAIA210", object, format!("generation {} is {} since {}", ahead.id, ahead.state, ahead.since));
    }
}

const CLOCK_MARGIN: std::time::Duration = std::time::Duration::from_secs(60);

//! Findings of certificates and services.

use std::time::Duration;

use gaia_api::SpiffeId;
use gaia_api::crd::condition::{self, warning};
use gaia_api::crd::{Condition, Renewal, find_condition, is_true};
use gaia_pki::Certificate;
use jiff::Timestamp;

use super::snapshot::{Snapshot, Stored};
use super::trust_domains::{cause, warnings};
use super::{Findings, after};

pub(super) fn check(snapshot: &Snapshot, now: Timestamp, findings: &mut Findings) {
    for stored in &snapshot.certificates {
        let object = format!("ServiceCertificate {}/{}", stored.namespace, stored.name);
        let conditions = conditions_of(stored);
        let before = findings.0.len();
        check_secret(&object, snapshot, stored, now, findings);
        // A condition that repeats one of these faults is no other finding.
        let is_reported = findings.0.len() > before;
        check_conditions(&object, conditions, is_reported, findings);
        check_served(&object, snapshot, stored, now, findings);
    }
    for service in &snapshot.services {
        let meta = &service.metadata;
        let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let child = format!("ServiceCertificate {namespace}/{name}");
        let is_reported = findings.0.iter().any(|finding| finding.object == child && finding.id != "GAIA308");
        let conditions = service.status.iter().flat_map(|status| &status.conditions).cloned().collect::<Vec<_>>();
        check_conditions(&format!("GaiaService {namespace}/{name}"), &conditions, is_reported, findings);
    }
}

fn conditions_of(stored: &Stored) -> &[Condition] {
    stored.object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
}

fn check_conditions(object: &str, conditions: &[Condition], is_reported: bool, findings: &mut Findings) {
    let stalled = find_condition(conditions, condition::STALLED).filter(|found| found.status == "True");
    let not_ready = find_condition(conditions, condition::READY).filter(|found| found.status == "False");
    if let Some(found) = stalled.or(not_ready).filter(|_| !is_reported) {
        findings.add("GAIA307", object, cause(found));
    }
    for found in warnings(conditions) {
        findings.add("GAIA308", object, cause(found));
    }
}

fn check_secret(object: &str, snapshot: &Snapshot, stored: &Stored, now: Timestamp, findings: &mut Findings) {
    let secret = stored.object.secret_name();
    let chain = match stored.secret.as_ref().map(|leaf| &leaf.chain) {
        None => return findings.add("GAIA305", object, format!("Secret {secret} does not exist")),
        Some(Err(why)) => return findings.add("GAIA304", object, format!("Secret {secret}: {why}")),
        Some(Ok(chain)) => chain,
    };
    let Some(leaf) = chain.first() else { return };
    if leaf.not_after() <= now {
        findings.add("GAIA301", object, format!("it expired at {}", leaf.not_after()));
    } else if leaf.not_before() > now {
        findings.add("GAIA303", object, format!("it is valid from {}, it is {now}", leaf.not_before()));
    } else if stored.object.spec.renewal == Renewal::Enabled && now > overdue(leaf) {
        findings.add(
            "GAIA302",
            object,
            format!("its renewal was due at {}; it expires at {}", due(leaf), leaf.not_after()),
        );
    }
    let anchors = snapshot.anchors_of(&stored.object);
    let is_issued = |anchor: &Certificate| chain.last().is_some_and(|last| last == anchor || last.is_issued_by(anchor));
    if !anchors.is_empty() && !anchors.iter().any(is_issued) {
        findings.add("GAIA306", object, format!("its issuer {:?} is not in the trust bundle", leaf.issuer()));
    }
    check_names(object, snapshot, stored, leaf, findings);
}

fn check_names(object: &str, snapshot: &Snapshot, stored: &Stored, leaf: &Certificate, findings: &mut Findings) {
    let Some(domain) = snapshot.domain_of(&stored.object) else { return };
    let spec = &stored.object.spec;
    let account = spec.service_account_name.as_deref().unwrap_or(&stored.name);
    let expected = SpiffeId::workload(&domain.spec.trust_domain, &stored.namespace, account);
    if leaf.uris() != [expected.as_str()] {
        let found = leaf.uris().join(", ");
        return findings.add(
            "GAIA310",
            object,
            format!("its SPIFFE ID is {found:?} and must be {:?}", expected.as_str()),
        );
    }
    let is_left_out = is_true(conditions_of(stored), warning::NAMES_LEFT_OUT);
    let missing = spec.extra_dns_names.iter().find(|name| !leaf.dns_names().contains(name));
    if let Some(missing) = missing.filter(|_| !is_left_out) {
        findings.add("GAIA310", object, format!("it lacks the name {missing:?} of extraDNSNames"));
    }
}

fn check_served(object: &str, snapshot: &Snapshot, stored: &Stored, now: Timestamp, findings: &mut Findings) {
    let Some(status) = &stored.object.status else { return };
    let lag = snapshot.domain_of(&stored.object).map(|domain| domain.spec.propagation.min_delay.value());
    let not_served = find_condition(&status.conditions, condition::SERVED)
        .filter(|found| found.status == "False" && after(found.last_transition_time.0, lag.unwrap_or_default()) < now);
    if let Some(found) = not_served {
        findings.add("GAIA309", object, found.message.clone());
    }
}

/// The time of renewal: two thirds of the validity.
fn due(leaf: &Certificate) -> Timestamp {
    after(leaf.not_before(), validity(leaf) * 2 / 3)
}

/// The time at which a renewal is overdue. The margin is the longest time between two attempts, doubled.
fn overdue(leaf: &Certificate) -> Timestamp {
    after(due(leaf), validity(leaf) / 12)
}

fn validity(leaf: &Certificate) -> Duration {
    let seconds = leaf.not_after().as_second() - leaf.not_before().as_second();
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// Returns true if the renewal of a certificate is overdue.
pub(super) fn is_overdue(stored: &Stored, now: Timestamp) -> bool {
    let leaf = stored.secret.as_ref().and_then(|leaf| leaf.chain.as_ref().ok()?.first());
    leaf.is_some_and(|leaf| now > overdue(leaf) && now < leaf.not_after())
}

//! The ServiceCertificate of a GaiaService, as the status of the GaiaService reports it.

use gaia_api::crd::condition::{READY, RECONCILING, SERVED, STALLED};
use gaia_api::crd::{Condition, ServiceCertificate, ServiceCertificateStatus, Truth, find_condition, is_true, reason};

use crate::Refusal;
use crate::outcome::conditions::Report;

/// The refusal of a stalled ServiceCertificate: its GaiaService is stalled with it, with its reason and message.
pub(super) fn stalled(child: &ServiceCertificate) -> Option<Refusal> {
    let stalled = find_condition(&current(child)?.conditions, STALLED).filter(|found| found.status == "True")?;
    Some(Refusal::stalled(known(&stalled.reason), format!("ServiceCertificate {}: {}", name(child), stalled.message)))
}

/// The pending work of the ServiceCertificate for its spec.
pub(super) fn pending(child: &ServiceCertificate) -> Option<(&'static str, String)> {
    let Some(status) = current(child) else {
        return Some((reason::ISSUING, format!("ServiceCertificate {} is not reconciled yet", name(child))));
    };
    let found = find_condition(&status.conditions, RECONCILING).filter(|found| found.status == "True")?;
    Some((known(&found.reason), format!("ServiceCertificate {}: {}", name(child), found.message)))
}

/// The Ready condition of the ServiceCertificate, with its message.
pub(super) fn ready(child: Option<&ServiceCertificate>) -> Result<String, (&'static str, String)> {
    let waiting = (reason::ISSUING, "no certificate issued yet".to_owned());
    let Some(status) = child.and_then(|child| child.status.as_ref()) else { return Err(waiting) };
    let message = find_condition(&status.conditions, READY).map(|condition| condition.message.clone());
    match message {
        Some(message) if is_true(&status.conditions, READY) => Ok(message),
        Some(message) => Err((reason::CERTIFICATE_NOT_READY, message)),
        None => Err(waiting),
    }
}

/// Returns true if the certificate has instances, or may have: they cannot be listed.
pub(super) fn has_instances(child: &ServiceCertificate) -> bool {
    let found = child.status.as_ref().and_then(|status| find_condition(&status.conditions, SERVED));
    found.is_some_and(|served| ![reason::NO_INSTANCES, reason::ISSUING].contains(&served.reason.as_str()))
}

/// The condition about instances that the ServiceCertificate reports.
pub(super) fn served(report: &Report<'_>, child: Option<&ServiceCertificate>) -> Condition {
    let found = child.and_then(|child| child.status.as_ref()).and_then(|s| find_condition(&s.conditions, SERVED));
    let Some(found) = found else {
        let message = "no certificate issued yet".to_owned();
        return report.condition(SERVED, Truth::Unknown, reason::ISSUING, message);
    };
    let truth = match found.status.as_str() {
        "True" => Truth::True,
        "False" => Truth::False,
        _ => Truth::Unknown,
    };
    report.condition(SERVED, truth, &found.reason, found.message.clone())
}

/// A reason that only a newer operator has is reported as the most general one.
fn known(reason: &str) -> &'static str {
    reason::ALL.iter().find(|known| **known == reason).copied().unwrap_or(reason::CERTIFICATE_NOT_READY)
}

/// The status, if it belongs to the current generation of the spec.
fn current(child: &ServiceCertificate) -> Option<&ServiceCertificateStatus> {
    child.status.as_ref().filter(|status| status.observed_generation == child.metadata.generation)
}

fn name(child: &ServiceCertificate) -> &str {
    child.metadata.name.as_deref().unwrap_or_default()
}

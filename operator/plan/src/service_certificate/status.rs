//! The status of a ServiceCertificate.

use std::time::Duration;

use gaia_api::crd::condition::{SERVED, warning};
use gaia_api::crd::{Counts, Renewal, ServiceCertificateStatus, Truth, reason};
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::request::Request;
use super::{LeafDecision, LeafFacts, LeafSecret, Observed, issued_at};
use crate::instances::instance::{Instances, Need};
use crate::instances::lagging::Lagging;
use crate::object::Ownership;
use crate::outcome::conditions::{Obstacles, Report, Warning, headline, is_accepted};
use crate::rules::limits;
use crate::rules::name_policy::other_meaning;

pub(super) fn status(
    observed: &Observed<'_>,
    decision: &LeafDecision,
    lagging: Lagging,
    now: Timestamp,
) -> ServiceCertificateStatus {
    let certificate = observed.certificate;
    let before = certificate.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let generation = certificate.metadata.generation;
    let observed_generation = certificate.status.as_ref().and_then(|status| status.observed_generation);
    let report = Report { before, is_accepted: is_accepted(observed_generation, generation, before), generation, now };
    let refusal = match decision {
        LeafDecision::Refused(refusal) | LeafDecision::Keep(refusal, _) | LeafDecision::KeepLater(refusal, _) => {
            Some(refusal)
        }
        _ => None,
    };
    // A failure is reported while the failed work is still to be done.
    let failures = observed.failures.filter(|_| matches!(decision, LeafDecision::Act(_) | LeafDecision::Wait { .. }));
    let obstacles = Obstacles { refusal, failures, pending: pending(decision) };
    let mut conditions = report.standard(ready(observed, now), &obstacles);
    let (served, counts) = served(observed);
    conditions.push(report.condition(SERVED, served.0, served.1, served.2));
    let mut warnings = warnings(observed);
    warnings.extend(renewal_disabled(observed, now));
    warnings.extend(ambiguous_names(observed));
    conditions.extend(report.warnings(warnings));
    let (reason, message) = headline(&conditions);
    let mut status = ServiceCertificateStatus {
        observed_generation: certificate.metadata.generation,
        secret_name: Some(certificate.secret_name()),
        served: Some(counts),
        lagging: lagging.named,
        lagging_count: lagging.count,
        failed_attempts: failures.map(|failures| i32::try_from(failures.attempts).unwrap_or(i32::MAX)),
        last_failure_time: failures.map(|failures| gaia_api::crd::whole_seconds(failures.last)),
        reason,
        message,
        conditions,
        ..Default::default()
    };
    if let (Some(secret), None) = (observed.secret.ours(), &observed.claimed_by) {
        describe(&mut status, secret, observed);
    }
    status
}

/// A certificate that would be renewed by now, and is not.
fn renewal_disabled(observed: &Observed<'_>, now: Timestamp) -> Option<Warning> {
    let leaf = observed.secret.ours()?.leaf.as_ref().filter(|_| observed.claimed_by.is_none())?;
    let is_due = observed.certificate.spec.renewal == Renewal::Disabled && leaf.lifetime().renewal_time <= now;
    is_due.then(|| {
        let message = format!(
            "spec.renewal is Disabled: the certificate in Secret {} expires at {} and is not renewed; set spec.renewal: \
             Enabled, or the annotation {}",
            observed.certificate.secret_name(),
            leaf.not_after,
            annotation::RENEW_REQUESTED_AT
        );
        Warning::new(warning::RENEWAL_DISABLED, message)
    })
}

fn describe(status: &mut ServiceCertificateStatus, secret: &LeafSecret, observed: &Observed<'_>) {
    let Some(leaf) = &secret.leaf else { return };
    status.not_before = Some(leaf.not_before);
    status.not_after = Some(leaf.not_after);
    let renews = observed.certificate.spec.renewal == Renewal::Enabled;
    status.renewal_time = renews.then(|| leaf.lifetime().renewal_time);
    status.serial_number = Some(leaf.serial.clone());
    status.fingerprint = Some(leaf.fingerprint.clone());
    status.revision = secret.facts.number(annotation::REVISION).and_then(|number| i64::try_from(number).ok());
    let reported = observed.certificate.status.as_ref().filter(|known| known.fingerprint == status.fingerprint);
    let known_before = || reported.filter(|_| observed.domain.ca.is_none()).and_then(|known| known.issuer.clone());
    status.issuer = leaf.issuer.as_ref().map(|issuer| {
        let generation =
            observed.domain.ca.and_then(|ring| ring.generations.iter().find(|g| g.material.fingerprint == *issuer));
        generation.map_or_else(|| crate::keyring::ring::short_id(issuer), |generation| generation.id.clone())
    });
    status.issuer = status.issuer.take().or_else(known_before);
}

/// Warnings about requested values that are not fulfilled. They stop nothing.
fn warnings(observed: &Observed<'_>) -> Vec<Warning> {
    let Ok(request) = Request::of(observed) else { return vec![] };
    let (asked, domain) = (limits::text(request.asked), observed.domain.name);
    let field = match observed.certificate.spec.duration {
        Some(_) => "spec.duration".to_owned(),
        None => format!("spec.certificateDefaults.duration of TrustDomain {domain}"),
    };
    let limited = (request.duration < request.asked).then(|| {
        let limit = limits::text(request.duration);
        let why = format!("by spec.certificateDefaults.maxDuration of TrustDomain {domain}");
        Warning::new(warning::DURATION_CLAMPED, format!("{field}: requested {asked}, limited to {limit} {why}"))
    });
    let leaf = observed.secret.ours().and_then(|secret| secret.leaf.as_ref());
    let by_end = leaf.and_then(|leaf| {
        let issuer = request.ring.generations.iter().find(|g| Some(&g.material.fingerprint) == leaf.issuer.as_ref())?;
        let life = leaf.lifetime().life;
        let is_clamped = leaf.not_after == issuer.material.not_after && life + A_MINUTE < request.duration;
        let (life, end) = (limits::text(life), leaf.not_after);
        let why = format!("limited by the expiry of CA {} at {end}", issuer.id);
        let message = format!("{field}: requested {asked}, issued for {life}: {why}");
        is_clamped.then(|| Warning::new(warning::DURATION_CLAMPED, message))
    });
    let left_out = names_left_out(observed, &request);
    let too_tight = request.too_tight.map(|refusal| Warning::new(warning::LIFETIMES_TOO_TIGHT, refusal.message));
    limited.into_iter().chain(by_end).chain(too_tight).chain(left_out).collect()
}

/// Extra names that certificates of the CA that signs do not have, or those of the next one will not have.
fn names_left_out(observed: &Observed<'_>, request: &Request<'_>) -> Option<Warning> {
    let step = "remove them, or use a CA that permits them";
    if let Some(active) = request.ring.active().filter(|_| !request.left_out.is_empty()) {
        let names = request.left_out.join(", ");
        let message = format!(
            "CA {} cannot sign {names} (nameConstraints): certificates are issued without them; {step}",
            active.id
        );
        return Some(Warning::new(warning::NAMES_LEFT_OUT, message));
    }
    let next = request.ring.next()?;
    let names = request.left_out_by(&next.material);
    let deadline = observed.domain.object?.spec.propagation.deadline.value();
    let until = crate::pacing::backoff::saturating_add(next.projected_since(), deadline);
    let message = format!(
        "the next CA {} cannot sign {} (nameConstraints): from {until} on certificates are issued without them; {step}",
        next.id,
        names.join(", ")
    );
    (!names.is_empty()).then(|| Warning::new(warning::NAMES_LEFT_OUT, message))
}

/// Warnings about the service's own names that also have another meaning.
fn ambiguous_names(observed: &Observed<'_>) -> Vec<Warning> {
    let Ok(Request { names, .. }) = Request::of(observed) else { return vec![] };
    let (secret, namespace, domain) =
        (observed.certificate.secret_name(), observed.domain.namespace, observed.domain.name);
    let grant = format!(
        "ask an administrator to allow it in spec.allowedNames[].dnsNames of TrustDomain {domain} for \
                 namespace {namespace}"
    );
    let left_out = names.left_out.iter().map(|name| {
        let message = format!(
            "{name} is left out of the certificate: it is also the name of {}; use the name that ends in .svc, or {grant}",
            other_meaning(name).unwrap_or_default()
        );
        Warning::new(warning::NAMES_LEFT_OUT, message)
    });
    let kept = names.kept.iter().map(|name| {
        let message = format!(
            "the certificate in Secret {secret} has the name {name}, which is also the name of {}; once no client \
             uses it, delete the Secret to get a certificate without it, or {grant}",
            other_meaning(name).unwrap_or_default()
        );
        Warning::new(warning::AMBIGUOUS_NAMES, message)
    });
    let certified = names.asked_for.iter().map(|name| {
        let message = format!(
            "spec.extraDNSNames: {name} can also be a public name, as {namespace} is a top-level domain; use names that end \
             in .svc, or {grant}"
        );
        Warning::new(warning::AMBIGUOUS_NAMES, message)
    });
    left_out.chain(kept).chain(certified).collect()
}

/// Ready: the Secret holds a valid, usable leaf that matches the request.
fn ready(observed: &Observed<'_>, now: Timestamp) -> Result<String, (&'static str, String)> {
    let name = observed.certificate.secret_name();
    let (Ownership::Ours(secret), None) = (&observed.secret, &observed.claimed_by) else {
        return Err((reason::ISSUING, format!("Secret {name} holds no certificate yet")));
    };
    let is_trusted = |leaf: &LeafFacts| match (observed.domain.ca, &leaf.issuer) {
        (Some(ring), issuer) => ring.trusted().any(|known| issuer.as_ref() == Some(&known.material.fingerprint)),
        (None, Some(_)) => true,
        // If the ring cannot be read (for example because its format is newer), no issuer is known after a restart. A
        // certificate that the operator stored counts as valid then.
        (None, None) => secret.facts.annotations.contains_key(annotation::SPEC_HASH),
    };
    let usable = |leaf: &&LeafFacts| leaf.key_matches && is_trusted(leaf);
    let Some(leaf) = secret.leaf.as_ref().filter(usable) else {
        return Err((reason::ISSUING, format!("Secret {name} holds no usable certificate")));
    };
    if leaf.not_after <= now {
        return Err((reason::EXPIRED, format!("the certificate in Secret {name} expired at {}", leaf.not_after)));
    }
    if leaf.not_before > now {
        let message = format!(
            "the certificate in Secret {name} is valid only from {}: the operator's clock was ahead when it was \
             issued, or is behind now",
            leaf.not_before
        );
        return Err((reason::NOT_YET_VALID, message));
    }
    // Without a TrustDomain the request is unknown, and the stored certificate stays valid until it expires. A request
    // that is refused does not match the stored certificate.
    let asked_for = match Request::of(observed) {
        Ok(request) => secret.facts.annotations.get(annotation::SPEC_HASH) == Some(&request.hash),
        Err(refusal) => [reason::TRUST_DOMAIN_NOT_FOUND, reason::TRUST_DOMAIN_NOT_READY].contains(&refusal.reason),
    };
    if !asked_for {
        return Err((reason::ISSUING, format!("the certificate in Secret {name} does not match the spec")));
    }
    Ok(format!("Secret {name} holds a certificate that is valid until {}", leaf.not_after))
}

/// The condition that every instance serves the stored certificate, with the counts.
fn served(observed: &Observed<'_>) -> ((Truth, &'static str, String), Counts) {
    let nothing = Counts { summary: "-".to_owned(), ..Counts::default() };
    let all = match &observed.instances {
        Instances::Unknown(why) => return ((Truth::Unknown, reason::NOT_PROBED, (*why).to_owned()), nothing),
        Instances::Known(all) => all,
    };
    let stored = observed.secret.ours().and_then(|secret| Some((secret, secret.leaf.as_ref()?)));
    let (Some((secret, leaf)), Some(domain)) = (stored, observed.domain.object) else {
        return ((Truth::Unknown, reason::ISSUING, "no certificate issued yet".to_owned()), nothing);
    };
    if all.is_empty() {
        let message = "no pod and no endpoint uses the certificate".to_owned();
        return ((Truth::Unknown, reason::NO_INSTANCES, message), nothing);
    }
    if !all.iter().any(|instance| instance.can_be_probed) {
        let message = "there is no port to probe: spec.workload.port is not set".to_owned();
        return ((Truth::Unknown, reason::NOT_PROBED, message), nothing);
    }
    let min_delay = domain.spec.propagation.min_delay.value();
    let need = Need::Leaf(&leaf.fingerprint);
    let issued = issued_at(&secret.facts, leaf);
    let behind: Vec<String> = all
        .iter()
        .filter_map(|instance| {
            let why = instance.check(&need, issued, min_delay).err()?;
            Some(format!("{}: {why}", instance.name))
        })
        .collect();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let (current, total) = (all.len() - behind.len(), all.len());
    let counts = Counts { current: count(current), total: count(total), summary: format!("{current}/{total}") };
    if behind.is_empty() {
        return ((Truth::True, reason::ALL_SERVED, String::new()), counts);
    }
    let named = behind.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = if behind.len() > NAMED { format!("; and {} more", behind.len() - NAMED) } else { String::new() };
    let message = format!("{} of {total} instances do not serve the stored certificate: {named}{more}", behind.len());
    ((Truth::False, reason::NOT_SERVED, message), counts)
}

fn pending(decision: &LeafDecision) -> Option<(&'static str, String)> {
    match decision {
        LeafDecision::Act(action) => Some((reason::ISSUING, action.to_string())),
        LeafDecision::Wait { why, .. } => Some((reason::ISSUING, format!("waiting for the next attempt: {why}"))),
        LeafDecision::Settled | LeafDecision::Refused(_) | LeafDecision::Keep(..) | LeafDecision::KeepLater(..) => None,
    }
}

const NAMED: usize = 3;
/// The requested validity is derived from the certificate's own times, to about a second.
const A_MINUTE: Duration = Duration::from_secs(60);

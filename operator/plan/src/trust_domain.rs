//! TrustDomain: its rings, and their projections into the namespaces.

mod bootstrap;
mod observed;
mod projections;
mod status;

use std::time::Duration;

use gaia_api::crd::{TrustDomainStatus, reason};
use jiff::Timestamp;

pub use self::observed::{BroughtCa, Observed, RingView, SignerSecret};
use crate::{Action, Plan, Refusal, limits, projection};

/// Decides about one TrustDomain.
#[must_use]
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<TrustDomainStatus> {
    let decision = decide(observed, now);
    let waits = observed.failures.filter(|failures| {
        failures.holds_back(observed.domain.metadata.generation, RETRY_CAP, now) && !decision.actions.is_empty()
    });
    let mut thresholds = thresholds(observed, now);
    thresholds.extend(waits.map(|failures| failures.retry_at(RETRY_CAP)));
    let status = status::status(observed, &decision, now);
    let actions = if waits.is_some() { vec![] } else { decision.actions };
    Plan { actions, status, next_check: crate::plan::earliest(thresholds, now) }
}

struct Decision {
    actions: Vec<Action>,
    refusal: Option<Refusal>,
}

impl Decision {
    fn refuse(refusal: Refusal) -> Self {
        Self { actions: vec![], refusal: Some(refusal) }
    }
}

fn decide(observed: &Observed<'_>, now: Timestamp) -> Decision {
    if let Some(refusal) = unusable_ring(observed) {
        return Decision::refuse(refusal);
    }
    let (Some(ca), Some(signing)) = (observed.ca.ring(), observed.signing.ring()) else {
        return match limits::check_trust_domain(&observed.domain.spec).and_then(|()| bootstrap::next(observed, now)) {
            Ok(action) => Decision { actions: vec![action], refusal: None },
            Err(refusal) => Decision::refuse(refusal),
        };
    };
    let mut actions = bootstrap::repairs(observed);
    let written = projections::actions(observed, ca, signing, now);
    actions.extend(written.actions);
    let refusal = limits::check_trust_domain(&observed.domain.spec)
        .and_then(|()| bootstrap::check_brought_ca(observed))
        .err()
        .or(written.refusal);
    Decision { actions, refusal }
}

/// A ring that is there but cannot be worked with: nothing is written until a person has looked.
fn unusable_ring(observed: &Observed<'_>) -> Option<Refusal> {
    let domain = observed.name();
    for (view, name) in [
        (observed.ca.error(), gaia_api::names::ca_ring(domain)),
        (observed.signing.error(), gaia_api::names::signing_ring(domain)),
    ] {
        if let Some(error) = view {
            let message = format!("Secret {}/{name}: {error}; nothing is changed", observed.operator_namespace);
            return Some(Refusal::stalled(reason::RING_UNREADABLE, message));
        }
    }
    let wanted = &observed.domain.spec.trust_domain;
    let made_for = [observed.ca.ring().map(|r| &r.trust_domain), observed.signing.ring().map(|r| &r.trust_domain)];
    made_for.into_iter().flatten().find(|found| *found != wanted).map(|found| {
        Refusal::stalled(
            reason::RING_UNREADABLE,
            format!("spec.trustDomain is {wanted}, but the rings of TrustDomain {domain} were made for {found}"),
        )
    })
}

fn thresholds(observed: &Observed<'_>, now: Timestamp) -> Vec<Timestamp> {
    let mut thresholds = vec![];
    if let Some(ring) = observed.ca.ring() {
        thresholds.extend(projection::bundle_changes_at(ring, now));
        thresholds.extend(status::expiring_from(observed, ring));
    }
    // The Secret of a brought CA carries no label of ours, so nobody tells us when it changes.
    if observed.domain.spec.ca.existing_secret_ref.is_some() {
        thresholds.push(crate::backoff::saturating_add(now, BROUGHT_CA_RECHECK));
    }
    thresholds
}

/// Short, because one namespace that fails must not hold up the others for long.
const RETRY_CAP: Duration = Duration::from_secs(30);
const BROUGHT_CA_RECHECK: Duration = Duration::from_secs(10);

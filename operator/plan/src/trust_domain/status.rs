//! The status of a TrustDomain.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use gaia_api::crd::condition::{CA_ROTATING, EXPIRING_SOON, SIGNING_KEYS_ROTATING};
use gaia_api::crd::{
    Condition, Counts, Exposure, GenerationStatus, Laggard, RingStatus, TrustDomainStatus, Truth, reason,
};
use jiff::Timestamp;

use super::{Decision, Observed};
use crate::keyring::ring::{CaMaterial, CaRing, Distrust, Generation, Ring, SigningMaterial, SigningRing, State};
use crate::outcome::conditions::{Obstacles, Report, headline, is_accepted};
use crate::pacing::backoff::{saturating_add, saturating_sub};
use crate::trust_domain::rotation::{self, Progress};

pub(super) fn status(observed: &Observed<'_>, decision: &Decision, now: Timestamp) -> TrustDomainStatus {
    let domain = observed.domain;
    let before = domain.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let generation = domain.metadata.generation;
    let observed_generation = domain.status.as_ref().and_then(|status| status.observed_generation);
    let report = Report { before, is_accepted: is_accepted(observed_generation, generation, before), generation, now };
    let obstacles = Obstacles {
        refusal: decision.refusal.as_ref(),
        // A failure is reported while the failed work is still to be done.
        failures: observed.failures.filter(|_| !decision.actions.is_empty()),
        pending: decision.actions.first().map(|action| (reason::RECONCILING, action.to_string())),
    };
    let mut conditions = report.standard(ready(observed, now), &obstacles);
    let (ca, signing) = (decision.ca.progress(), decision.signing.progress());
    conditions.push(rotating(&report, CA_ROTATING, ca));
    conditions.push(rotating(&report, SIGNING_KEYS_ROTATING, signing));
    conditions.push(expiring_soon(observed, &report, now));
    let mut warnings = rotation::ignored_annotations(observed);
    warnings.extend(decision.warnings.iter().cloned());
    warnings.extend(super::warnings::of_declarations(observed));
    conditions.extend(report.warnings(warnings));
    let exposed = || [&decision.ca, &decision.signing].into_iter().filter_map(|ring| ring.exposed.as_ref());
    let waited_for = ca.into_iter().chain(signing).flat_map(|progress| &progress.laggards);
    let waited_for = waited_for.chain(&decision.namespaces).chain(exposed().flat_map(|exposed| &exposed.laggards));
    let (laggards, laggard_count) = named(waited_for.chain(&decision.currency.late));
    let (reason, message) = headline(&conditions);
    TrustDomainStatus {
        observed_generation: domain.metadata.generation,
        ca: observed.ca.ring().map(|ring| ring_status(ring, |generation| describe_ca(observed, generation))),
        signing_keys: observed
            .signing
            .ring()
            .map(|ring| ring_status(ring, |generation| describe_key(observed, ring, generation))),
        instances: Some(match decision.currency.counts.summary.as_str() {
            "" => Counts { summary: "-".to_owned(), ..Counts::default() },
            _ => decision.currency.counts.clone(),
        }),
        rotating: Some(what_rotates(ca.is_some(), signing.is_some()).to_owned()),
        laggards,
        laggard_count: (laggard_count > 0).then(|| i32::try_from(laggard_count).unwrap_or(i32::MAX)),
        exposure: exposure(observed, &exposed().map(|exposed| exposed.message.as_str()).collect::<Vec<_>>()),
        reason,
        message,
        conditions,
    }
}

/// Each laggard once, with its first reason, and the total number. There may be as many as certificates.
fn named<'a>(all: impl Iterator<Item = &'a Laggard>) -> (Vec<Laggard>, usize) {
    let mut everybody = HashSet::new();
    let mut first: BTreeMap<(&str, &str), &Laggard> = BTreeMap::new();
    for laggard in all {
        let who = (laggard.namespace.as_str(), laggard.pod.as_str());
        everybody.insert(who);
        let known = first.entry(who).or_insert(laggard);
        if laggard.reason < known.reason {
            *known = laggard;
        }
        if first.len() > NAMED_LAGGARDS {
            first.pop_last();
        }
    }
    (first.into_values().cloned().collect(), everybody.len())
}

fn rotating(report: &Report<'_>, type_: &str, progress: Option<&Progress>) -> Condition {
    match progress {
        Some(progress) => report.condition(type_, Truth::True, progress.reason, progress.message.clone()),
        None => report.condition(type_, Truth::False, reason::SETTLED, String::new()),
    }
}

fn what_rotates(ca: bool, signing: bool) -> &'static str {
    match (ca, signing) {
        (true, true) => "CA,SigningKey",
        (true, false) => "CA",
        (false, true) => "SigningKey",
        (false, false) => "-",
    }
}

/// The measured exposure of the last compromise: until the last ring is through with it.
fn exposure(observed: &Observed<'_>, exposed: &[&str]) -> Option<Exposure> {
    let of_ca = observed.ca.ring().into_iter().flat_map(|ring| ring.generations.iter().filter_map(|g| g.distrust));
    let of_keys =
        observed.signing.ring().into_iter().flat_map(|ring| ring.generations.iter().filter_map(|g| g.distrust));
    let marks: Vec<Distrust> = of_ca.chain(of_keys).collect();
    let last = marks.iter().map(|mark| mark.since).max()?;
    // What a CA takes with it is marked a moment later, and belongs to the same compromise.
    let window = saturating_sub(last, SAME_COMPROMISE);
    let same: Vec<&Distrust> = marks.iter().filter(|mark| mark.since >= window).collect();
    let from = same.iter().map(|mark| mark.since).min()?;
    let until = same.iter().map(|mark| mark.refused_time).collect::<Option<Vec<_>>>();
    let until = until.and_then(|times| times.into_iter().max());
    let message = Some(exposed.join("; ")).filter(|message| until.is_none() && !message.is_empty());
    let message = message.map(|message| message.chars().take(MAX_MESSAGE).collect());
    Some(Exposure { from, until, message })
}

/// The time from which the CA counts as expiring: its successor should be staged by then.
pub(super) fn expiring_from(observed: &Observed<'_>, ring: &CaRing) -> Option<Timestamp> {
    Some(observed.successor_due(&ring.active()?.material))
}

fn ready(observed: &Observed<'_>, now: Timestamp) -> Result<String, (&'static str, String)> {
    let active = (observed.ca.ring().and_then(Ring::active), observed.signing.ring().and_then(Ring::active));
    let leaked = observed.ca.ring().filter(|ring| ring.active().is_none()).and_then(|ring| {
        let distrusted = ring.generations.iter().filter(|generation| generation.state == State::Distrusted);
        Some((distrusted.max_by_key(|generation| generation.since)?, ring.next()))
    });
    if let Some((leaked, next)) = leaked {
        let message = match next {
            Some(next) => format!(
                "CA {} is distrusted and CA {} is valid only from {}: no certificate can be signed until then",
                leaked.id, next.id, next.material.not_before
            ),
            None => format!(
                "CA {} is distrusted and has no replacement: no certificate can be signed; put a CA with a new key into \
                 the Secret of spec.ca.existingSecretRef",
                leaked.id
            ),
        };
        return Err((reason::CA_DISTRUSTED, message));
    }
    let (Some(ca), Some(_)) = active else {
        return Err((reason::TRUST_DOMAIN_NOT_READY, "there is no CA and no signing key yet".to_owned()));
    };
    if ca.material.not_after <= now {
        return Err((reason::CA_EXPIRED, format!("the CA {} expired at {}", ca.id, ca.material.not_after)));
    }
    if ca.material.not_before > now {
        let message =
            format!("the CA {} is valid only from {}: the operator's clock is behind", ca.id, ca.material.not_before);
        return Err((reason::NOT_YET_VALID, message));
    }
    Ok(format!("CA {} is active and valid until {}", ca.id, ca.material.not_after))
}

fn expiring_soon(observed: &Observed<'_>, report: &Report<'_>, now: Timestamp) -> Condition {
    let Some(ring) = observed.ca.ring() else {
        return report.condition(EXPIRING_SOON, Truth::Unknown, reason::TRUST_DOMAIN_NOT_READY, String::new());
    };
    let end = ring.active().map(|active| active.material.not_after);
    match (expiring_from(observed, ring), end) {
        (Some(from), Some(end)) if from <= now => {
            report.condition(EXPIRING_SOON, Truth::True, reason::CA_EXPIRES_SOON, format!("the CA expires at {end}"))
        }
        _ => report.condition(EXPIRING_SOON, Truth::False, reason::SETTLED, String::new()),
    }
}

fn ring_status<M>(ring: &Ring<M>, describe: impl Fn(&Generation<M>) -> GenerationStatus) -> RingStatus {
    let in_state = |wanted: &[State]| {
        ring.generations.iter().filter(|g| wanted.contains(&g.state)).map(&describe).collect::<Vec<_>>()
    };
    RingStatus {
        active: in_state(&[State::Active]).pop(),
        next: in_state(&[State::Staged, State::Published]).pop(),
        retiring: in_state(&[State::Retiring]),
        distrusted: in_state(&[State::Distrusted]),
    }
}

fn describe_ca(observed: &Observed<'_>, generation: &Generation<CaMaterial>) -> GenerationStatus {
    GenerationStatus {
        id: generation.id.clone(),
        fingerprint: Some(generation.material.fingerprint.clone()),
        kid: None,
        not_after: Some(generation.material.not_after),
        state: generation.state.as_str().to_owned(),
        since: generation.since,
        safe_to_remove_time: safe_to_remove(observed, generation, Duration::ZERO),
    }
}

fn describe_key(
    observed: &Observed<'_>,
    ring: &SigningRing,
    generation: &Generation<SigningMaterial>,
) -> GenerationStatus {
    let life = Duration::from_secs(ring.max_ttl_high_water_seconds.unwrap_or_default());
    GenerationStatus {
        id: generation.id.clone(),
        fingerprint: None,
        kid: Some(generation.material.jwk.kid().to_owned()),
        not_after: None,
        state: generation.state.as_str().to_owned(),
        since: generation.since,
        safe_to_remove_time: safe_to_remove(observed, generation, life),
    }
}

/// `switchedTime + G + T + S`, once it is known.
fn safe_to_remove<M>(observed: &Observed<'_>, generation: &Generation<M>, life: Duration) -> Option<Timestamp> {
    let times = &observed.domain.spec.propagation;
    let switched = generation.switched_time.filter(|_| generation.state == State::Retiring)?;
    Some(saturating_add(switched, times.min_delay.value() + life + times.clock_skew.value()))
}

const NAMED_LAGGARDS: usize = 10;
/// As the schema allows.
const MAX_MESSAGE: usize = 2048;
const SAME_COMPROMISE: Duration = Duration::from_secs(60);

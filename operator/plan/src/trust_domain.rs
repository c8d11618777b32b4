//! TrustDomain: its rings, and their projections into the namespaces.

pub(crate) mod bootstrap;
mod clock;
pub(crate) mod distribution;
mod kept;
mod observed;
mod retained;
pub(crate) mod rotation;
mod status;
mod unknown;
mod warnings;
mod watched;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use gaia_api::crd::condition::warning;
use gaia_api::crd::{Acknowledgement, Laggard, TrustDomainStatus, reason};
use gaia_api::names::key;
use jiff::Timestamp;

pub(crate) use self::bootstrap::desired::{desired_ring, signing_key_spec};
pub(crate) use self::bootstrap::epochs::newest_projected;
pub(crate) use self::bootstrap::external_ca::{ca_material, external_ca_begins};
pub use self::distribution::grants::CutServices;
pub(crate) use self::distribution::namespaces::{Projections, Unwritten, named as named_namespaces};
pub use self::kept::KeptGrants;
pub use self::observed::{Abilities, ExternalCa, LeafView, Observed, RingView, SignerSecret, WriteRefusal};
pub use self::warnings::older_namesake;
pub(crate) use self::watched::text as unwatched_text;
use crate::instances::instance::{Instance, Need};
use crate::keyring::ring::{CaRing, RingKind, SigningRing};
use crate::keyring::transition::Step;
use crate::leaf::LeafRecord;
use crate::outcome::conditions::Warning;
use crate::pacing::backoff::saturating_add;
use crate::rules::limits;
use crate::trust_domain::rotation::{Context, Currency, HeldBack, Progress, RingDecision, Urgency, UsedLeaves};
use crate::{Action, Plan, Refusal, projection};

/// The decision about a TrustDomain.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainPlan {
    /// The actions and the status.
    pub plan: Plan<TrustDomainStatus>,
    /// The rollout state for other reconcilers.
    pub rollout: Rollout,
}

/// The rollout state of a TrustDomain's rotation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollout {
    /// Certificates of services up to this wave may be re-issued by a new CA. Other reconcilers must see it before the
    /// plan's actions are carried out.
    pub open_wave: i32,
    /// Services whose entries do not fit into `grants.json`.
    pub cut: CutServices,
    /// UIDs of instances that do not use everything yet: they are probed soon.
    pub behind: BTreeSet<String>,
}

/// Decides about one TrustDomain.
#[must_use]
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> DomainPlan {
    let leaves = UsedLeaves::of(observed);
    let mut decision = decide(observed, &leaves, now);
    let waits = observed.failures.filter(|failures| {
        failures.holds_back(observed.domain.metadata.generation, RETRY_CAP, now) && !decision.actions.is_empty()
    });
    let mut thresholds = thresholds(observed, now);
    thresholds.extend(&decision.thresholds);
    thresholds.extend(waits.map(|failures| failures.retry_at(RETRY_CAP)));
    if let Some(failures) = waits {
        decision.ca.hold_back(&failures.message);
        decision.signing.hold_back(&failures.message);
    }
    let status = status::status(observed, &decision, now);
    let behind = behind(observed, &decision);
    let actions = if waits.is_some() { vec![] } else { decision.actions };
    // Of a CA that is about to be activated only the first wave gets certificates, even if another reconciler reads the
    // ring before the next plan.
    let open_wave =
        if actions.iter().any(switches_ca) { FIRST_WAVE } else { open_wave(observed, &leaves, &decision.left, now) };
    let rollout = Rollout { open_wave, cut: decision.cut, behind };
    DomainPlan { plan: Plan { actions, status, next_check: crate::plan::earliest(thresholds, now) }, rollout }
}

#[derive(Default)]
struct Decision {
    actions: Vec<Action>,
    refusal: Option<Refusal>,
    ca: RingDecision,
    signing: RingDecision,
    currency: Currency,
    thresholds: Vec<Timestamp>,
    warnings: Vec<Warning>,
    /// Namespaces in which something cannot be written.
    namespaces: Vec<Laggard>,
    /// Services whose entries do not fit into the grants.
    cut: CutServices,
    /// Namespaces whose leaf Secrets hold no wave.
    left: BTreeSet<String>,
}

impl Decision {
    fn refuse(refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }

    fn act(actions: Vec<Action>) -> Self {
        Self { actions, ..Self::default() }
    }
}

fn decide(observed: &Observed<'_>, leaves: &UsedLeaves<'_, '_>, now: Timestamp) -> Decision {
    let restore_refused = match rotation::restore(observed, now) {
        Ok(Some(action)) => return Decision::act(vec![action]),
        Ok(None) => None,
        Err(refusal) => Some(refusal),
    };
    if let Some(refusal) = unusable_ring(observed) {
        return Decision::refuse(restore_refused.unwrap_or(refusal));
    }
    let (Some(ca), Some(signing)) = (observed.ca.ring(), observed.signing.ring()) else {
        let broken = broken_inequalities(observed, observed.signing.ring()).into_iter().next();
        return match broken.map_or(Ok(()), Err).and_then(|()| bootstrap::desired::next(observed, now)) {
            Ok(action) => Decision::act(vec![action]),
            Err(refusal) => Decision::refuse(restore_refused.unwrap_or(refusal)),
        };
    };
    let mut decision = live(observed, leaves, ca, signing, now);
    decision.refusal = decision.refusal.or(restore_refused);
    decision
}

/// The plan once both rings exist: emergencies first, then every projection, then the next transitions of the rings.
fn live(
    observed: &Observed<'_>,
    leaves: &UsedLeaves<'_, '_>,
    ca: &CaRing,
    signing: &SigningRing,
    now: Timestamp,
) -> Decision {
    if let Some(refusal) = bootstrap::epochs::outdated(observed) {
        return Decision::refuse(refusal);
    }
    let distribution::projections::Work { actions: writes, mut projections, cut } =
        distribution::projections::actions(observed, ca, signing, now);
    let mut actions = bootstrap::desired::repairs(observed);
    let is_repaired = actions.is_empty();
    actions.extend(writes);
    let (kept, retries) = retained::actions(observed, ca, now);
    projections.retries.extend(retries);
    actions.extend(kept);
    let bundle_hash = gaia_pki::sha256_hex(projection::bundle(ca, now).as_bytes());
    let denylist = projection::json(&projection::denylist(&observed.domain.spec, ca, signing));
    let denylist_hash = gaia_pki::sha256_hex(denylist.as_bytes());
    let unprojected = unprojected_leaf(observed, &bundle_hash, &mut projections);
    // Times from a clock that was set back would end a period too early later.
    let newest = ca.newest_time().max(signing.newest_time());
    let went_back = now < newest;
    let mut context = Context {
        observed,
        leaves,
        ca,
        signing,
        bundle_hash: &bundle_hash,
        denylist_hash: &denylist_hash,
        projections: &projections,
        is_in_leaves: unprojected.is_none(),
        held_back: None,
        now,
    };
    context.held_back = held_back(&context, is_repaired, went_back.then_some(newest));
    let currency = rotation::currency(&context);
    let (mut decide_ca, mut decide_signing) = (rotation::decide_ca(&context), rotation::decide_signing(&context));
    let publishes = |progress: &&mut Progress| progress.reason == reason::PUBLISHING;
    let progress = decide_ca.progress_mut().filter(publishes);
    if let (Some(progress), Some(secret)) = (progress, unprojected.filter(|_| actions.is_empty())) {
        progress.message = format!("{}: Secret {secret} does not hold the newest ca.crt yet", progress.message);
    }
    decide_ca.thresholds.extend(went_back.then_some(newest));
    actions = in_order(observed, (ca, &decide_ca), (signing, &decide_signing), actions);
    let waited_for = [&decide_ca, &decide_signing].into_iter().filter_map(RingDecision::progress);
    let waited_for: Vec<&Laggard> = waited_for.flat_map(|progress| &progress.laggards).collect();
    let (workloads, restart_at) = rotation::workload_actions(observed, &currency, &waited_for, now);
    if actions.is_empty() {
        actions = workloads;
    }
    let behind = left_behind(&context);
    let refusal = bootstrap::external_ca::check(observed)
        .err()
        .or(decide_ca.refusal.take())
        .or(decide_signing.refusal.take())
        .or(projections.refusal(&behind));
    let mut thresholds = std::mem::take(&mut decide_ca.thresholds);
    thresholds.append(&mut decide_signing.thresholds);
    thresholds.extend(restart_at);
    thresholds.extend(&projections.retries);
    if !projections.local(observed).is_empty() {
        let deadline = observed.domain.spec.propagation.deadline.value();
        let since = [ca.projected_since(), signing.projected_since()];
        thresholds.extend(since.map(|since| saturating_add(since, deadline)));
    }
    thresholds.extend(currency.late_from);
    let mut warnings = lifetimes_too_tight(observed, ca, signing);
    warnings.extend(projections.warnings(&behind));
    warnings.extend(watched::warning(observed));
    let (clock_warnings, ends) = clock::behind(observed, newest, now);
    warnings.extend(clock_warnings);
    thresholds.extend(ends);
    warnings.extend(bootstrap::external_ca::warnings(observed));
    warnings.extend(bootstrap::names::warning(observed));
    warnings.extend(unknown::distrusted(observed, ca, signing));
    warnings.extend(rotation::unused_external_ca(&context));
    let namespaces = projections.laggards();
    let left = left_by_waves(&context);
    Decision {
        actions,
        refusal,
        ca: decide_ca,
        signing: decide_signing,
        currency,
        thresholds,
        warnings,
        namespaces,
        cut,
        left,
    }
}

/// The namespaces that rotations have left behind, and those that the current one may leave behind.
fn left_behind(context: &Context<'_, '_>) -> BTreeSet<String> {
    let Context { observed, ca, signing, projections, now, .. } = context;
    let since = [ca.projected_since(), signing.projected_since()];
    let left = since.map(|since| projections.left_behind(observed, since, *now));
    let advanced = if context.is_advanced() { projections.all_refused() } else { BTreeSet::new() };
    left.into_iter().flatten().chain(advanced).collect()
}

/// The namespaces whose certificates a wave of re-issues does not wait for.
fn left_by_waves(context: &Context<'_, '_>) -> BTreeSet<String> {
    let times = &context.observed.domain.spec.propagation;
    let Some(active) = context.ca.active() else { return BTreeSet::new() };
    let began = active.activated_time.unwrap_or(active.since);
    let floor = saturating_add(began, times.min_delay.value() + times.clock_skew.value());
    context.left_behind(&active.id, floor)
}

/// The reason why only urgent steps are taken: a write is pending or was refused, or the clock is behind the rings'
/// times.
fn held_back(context: &Context<'_, '_>, is_repaired: bool, ahead: Option<Timestamp>) -> Option<HeldBack> {
    let unwritten = if context.projections.are_pending() || !is_repaired {
        Some("projections are being written".to_owned())
    } else {
        context.projections.refused().filter(|_| !context.is_advanced())
    };
    let unless = if unwritten.is_some() { Urgency::Emergency } else { Urgency::BeforeExpiry };
    let behind = ahead.map(|newest| format!("the rings hold the time {newest}, which is ahead of the clock"));
    behind.or(unwritten).map(|why| HeldBack { why, unless })
}

/// A missing projection is written before all other steps, except in an emergency. The rings proceed once all
/// projections exist.
fn in_order(
    observed: &Observed<'_>,
    (ca, decide_ca): (&CaRing, &RingDecision),
    (signing, decide_signing): (&SigningRing, &RingDecision),
    projections: Vec<Action>,
) -> Vec<Action> {
    let (Some(ca_facts), Some(signing_facts)) = (observed.ca.facts(), observed.signing.facts()) else {
        return projections;
    };
    let ca = rotation::transition(observed, RingKind::Ca, ca, ca_facts, decide_ca);
    let signing = rotation::transition(observed, RingKind::SigningKeys, signing, signing_facts, decide_signing);
    let transitions: Vec<Action> = ca.into_iter().chain(signing).collect();
    if transitions.is_empty() { projections } else { transitions }
}

fn switches_ca(action: &Action) -> bool {
    let Action::Transition(transition) = action else { return false };
    let switches = |step: &Step| {
        matches!(step, Step::Activate { .. } | Step::Reactivate { .. } | Step::Resume { .. } | Step::StageActive(_))
    };
    transition.kind == RingKind::Ca && transition.steps.iter().any(switches)
}

/// The first leaf Secret that does not hold the newest bundle and could. Those whose last write was refused are noted with
/// the projections.
fn unprojected_leaf(observed: &Observed<'_>, bundle_hash: &str, projections: &mut Projections) -> Option<String> {
    // A Secret that cannot be written is reported by its ServiceCertificate, and must not hold up other services.
    let can_be_written =
        |secret: &dyn LeafRecord| !secret.is_immutable() && secret.secret_type() == Some(crate::leaf::TLS_SECRET);
    let behind = observed.leaves.iter().filter(|view| {
        let is_old =
            |secret: &dyn LeafRecord| secret.data_hash(key::CA_CERT) != Some(bundle_hash) && can_be_written(secret);
        view.is_claimed
            && !view.is_held
            && view.secret.is_some_and(is_old)
            && observed.granted.contains(view.secret_namespace)
    });
    let behind: Vec<&LeafView<'_>> = behind.collect();
    let place = |view: &LeafView<'_>| format!("{}/{}", view.secret_namespace, view.secret_name);
    let lacking: HashSet<String> = behind.iter().map(|view| place(view)).collect();
    if !observed.refused.is_empty() {
        for view in observed.leaves.iter().filter(|view| view.is_claimed && !lacking.contains(&place(view))) {
            projections.note_leaf(observed, view, false);
        }
    }
    behind.into_iter().filter(|view| !projections.note_leaf(observed, view, true)).map(place).min()
}

/// The inequalities between times in the spec that do not hold.
fn broken_inequalities(observed: &Observed<'_>, signing: Option<&SigningRing>) -> Vec<Refusal> {
    let high_water = signing.and_then(|ring| ring.max_ttl_high_water_seconds).unwrap_or_default();
    limits::broken_inequalities(&observed.domain.spec, Duration::from_secs(high_water))
}

/// Once rings exist, a broken inequality is only a warning.
fn lifetimes_too_tight(observed: &Observed<'_>, ca: &CaRing, signing: &SigningRing) -> Vec<Warning> {
    let warning = |message| Warning::new(warning::LIFETIMES_TOO_TIGHT, message);
    let broken = broken_inequalities(observed, Some(signing)).into_iter().map(|refusal| warning(refusal.message));
    let active = ca.active().filter(|active| active.material.is_external && observed.is_too_tight(&active.material));
    let external = active.map(|active| {
        let life = crate::pacing::backoff::since(active.material.not_after, active.material.not_before);
        let least = limits::least_ca_life(observed.leaf_life(), &observed.domain.spec.propagation);
        warning(format!(
            "spec.ca.existingSecretRef: CA {} is valid for {}, and its certificates of {} need {}: certificates that \
             would exceed its expiry at {} are shortened; put its successor into the Secret in time",
            active.id,
            limits::text(life),
            limits::text(observed.leaf_life()),
            limits::text(least),
            active.material.not_after
        ))
    });
    broken.chain(external).collect()
}

/// Instances that do not use everything yet, and instances that hold a step although they do.
fn behind(observed: &Observed<'_>, decision: &Decision) -> BTreeSet<String> {
    let progress = decision.ca.progress().into_iter().chain(decision.signing.progress());
    let waited_for: HashSet<(&str, &str)> =
        progress.flat_map(|progress| &progress.laggards).map(|l| (l.namespace.as_str(), l.pod.as_str())).collect();
    let all = observed.instances.iter();
    let held_up = all.filter(|instance| waited_for.contains(&(instance.namespace.as_str(), instance.name.as_str())));
    decision.currency.behind.keys().cloned().chain(held_up.map(|instance| instance.uid.clone())).collect()
}

/// The first wave that is not through with the new CA; the last one if all are.
fn open_wave(observed: &Observed<'_>, leaves: &UsedLeaves<'_, '_>, left: &BTreeSet<String>, now: Timestamp) -> i32 {
    let Some(active) = observed.ca.ring().and_then(|ring| ring.active()) else { return 0 };
    let p = observed.domain.spec.propagation.min_delay.value();
    let instances_hold = instances_hold_waves(observed, leaves, now);
    let is_through = |view: &LeafView<'_>, users: &[&Instance]| {
        let Some(leaf) = view.leaf else { return !view.is_claimed || view.is_held };
        if leaf.issuer.as_deref() != Some(active.material.fingerprint.as_str()) {
            return !view.is_claimed || !view.renews;
        }
        let need = Need::Leaf(&leaf.fingerprint);
        let is_required = |instance: &&&Instance| {
            instance.acknowledgement == Acknowledgement::Required
                && observed.domain.spec.propagation.require_acknowledgement
        };
        !instances_hold
            || users.iter().filter(is_required).all(|instance| instance.check(&need, view.issued_at(), p).is_ok())
    };
    // What cannot be written is reported by its ServiceCertificate, and holds no other service.
    let is_waited_for = |view: &LeafView<'_>| {
        !left.contains(view.secret_namespace) && !view.secret.is_some_and(LeafRecord::is_immutable)
    };
    let waited_for = leaves.iter().filter(|(view, _)| is_waited_for(view));
    let open = waited_for.filter(|(view, users)| !is_through(view, users)).map(|(view, _)| view.wave);
    open.min().unwrap_or(LAST_WAVE)
}

/// Returns true if instances that do not serve their newest certificate hold a wave. Those that are left behind do not.
fn instances_hold_waves(observed: &Observed<'_>, leaves: &UsedLeaves<'_, '_>, now: Timestamp) -> bool {
    let Some(active) = observed.ca.ring().and_then(|ring| ring.active()) else { return true };
    let times = &observed.domain.spec.propagation;
    let p = times.min_delay.value();
    let mut lagging: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (view, users) in leaves.iter() {
        let Some(leaf) = view.leaf else { continue };
        let need = Need::Leaf(&leaf.fingerprint);
        let behind = users.iter().filter(|instance| instance.check(&need, view.issued_at(), p).is_err());
        lagging.extend(behind.map(|instance| (instance.namespace.as_str(), instance.name.as_str())));
    }
    let floor = saturating_add(active.activated_time.unwrap_or(active.since), p + times.clock_skew.value());
    lagging.iter().any(|(namespace, pod)| rotation::is_issuer(observed, namespace, pod))
        || !rotation::may_leave_behind(observed, floor, now, lagging.len())
}

/// The refusal for a ring that exists but is unusable: nothing is written until an administrator has repaired it.
fn unusable_ring(observed: &Observed<'_>) -> Option<Refusal> {
    for (error, kind) in [(observed.ca.error(), RingKind::Ca), (observed.signing.error(), RingKind::SigningKeys)] {
        if let Some(error) = error {
            let message = format!("{}: {error}; no change is made", observed.ring_key(kind));
            return Some(Refusal::stalled(reason::RING_UNREADABLE, message));
        }
    }
    let domain = observed.name();
    let wanted = &observed.domain.spec.trust_domain;
    let made_for = [observed.ca.ring().map(|r| &r.trust_domain), observed.signing.ring().map(|r| &r.trust_domain)];
    made_for.into_iter().flatten().find(|found| *found != wanted).map(|found| {
        Refusal::stalled(
            reason::RING_UNREADABLE,
            format!("spec.trustDomain is {wanted}, but the rings of TrustDomain {domain} were created for {found}"),
        )
    })
}

fn thresholds(observed: &Observed<'_>, now: Timestamp) -> Vec<Timestamp> {
    let mut thresholds = vec![];
    if let Some(ring) = observed.ca.ring() {
        thresholds.extend(projection::bundle_changes_at(ring, now));
        thresholds.extend(status::expiring_from(observed, ring));
        // Until then it is reported as not valid yet.
        thresholds.extend(ring.active().map(|active| active.material.not_before));
    }
    // The Secret of a bring-your-own CA has no label of the operator, so its changes raise no event.
    if observed.domain.spec.ca.existing_secret_ref.is_some() {
        thresholds.push(crate::pacing::backoff::saturating_add(now, BROUGHT_CA_RECHECK));
    }
    thresholds
}

/// Short, because one namespace that fails must not hold up the others for long.
const RETRY_CAP: Duration = Duration::from_secs(30);
const BROUGHT_CA_RECHECK: Duration = Duration::from_secs(10);
const FIRST_WAVE: i32 = 0;
const LAST_WAVE: i32 = 9;

//! Distrust of a compromised CA, and the period of exposure.

use std::collections::BTreeSet;

use gaia_api::crd::{DistrustMode, reason};
use jiff::Timestamp;

use super::decision::Exposed;
use super::gate::Poll;
use super::{Context, Next, Progress, RingDecision, Urgency, name};
use crate::instances::instance::Need;
use crate::keyring::leaked::LeakedKeys;
use crate::keyring::ring::{CaMaterial, Generation, MaterialRequest, RingKind, State};
use crate::keyring::transition::Step;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::{ca_material, external_ca_begins};
use crate::{Event, Refusal};

const KIND: RingKind = RingKind::Ca;

/// Distrusts the generations that the spec names and the ring has not marked yet.
pub(super) fn of_ca(context: &Context<'_, '_>) -> Option<RingDecision> {
    let leaked = leaked(context);
    for generation in &context.ca.generations {
        let Some(key) = leaked.of_ca(&generation.material) else { continue };
        let is_news = generation.distrust.is_none_or(|known| {
            let is_sharper = known.mode == DistrustMode::AfterReissue && key.mode == DistrustMode::Immediate;
            generation.state.is_trusted() && is_sharper
        });
        if !is_news {
            continue;
        }
        let (steps, refusal) = steps(context, generation, key.mode);
        let what = name(KIND, &generation.id);
        let why = if key.is(&generation.material.fingerprint) {
            String::new()
        } else {
            format!(": it has the public key of {}", name(KIND, &key.id))
        };
        let told = Event::warning(reason::DISTRUSTED, format!("{what} is distrusted ({:?}){why}", key.mode));
        let progress = Progress::new(reason::DISTRUSTED, format!("{what} is being replaced"));
        return Some(RingDecision { refusal, ..RingDecision::act(steps, vec![told], progress) });
    }
    replace_suspect(context)
}

/// Adds the deadline of the removal to the message of a decision that waits.
pub(super) fn with_deadline(
    mut decision: RingDecision,
    suspects: impl Iterator<Item = (String, Timestamp)>,
) -> RingDecision {
    if matches!(decision.next, Next::Act { .. }) {
        return decision;
    }
    let first = suspects.min_by_key(|(_, limit)| *limit);
    if let (Some((what, limit)), Some(progress)) = (first, decision.progress_mut()) {
        progress.message =
            format!("{what} is distrusted and will be removed at {limit} or earlier; until then {}", progress.message);
    }
    decision
}

/// Every public key that leaked.
fn leaked(context: &Context<'_, '_>) -> LeakedKeys {
    let observed = context.observed;
    let external = observed.external_ca.as_ref().and_then(|ca| ca.as_ref().ok()).map(|ca| &ca.path);
    LeakedKeys::of(&observed.domain.spec, Some(context.ca), external)
}

/// Distrusts a generation. A bring-your-own CA may have no replacement: then `Immediate` is carried out nevertheless,
/// and `AfterReissue` waits for one.
fn steps(
    context: &Context<'_, '_>,
    leaked: &Generation<CaMaterial>,
    mode: DistrustMode,
) -> (Vec<Step>, Option<Refusal>) {
    let id = leaked.id.clone();
    let distrust = Step::Distrust { id: id.clone(), mode };
    match (leaked.state, mode) {
        (State::Active, _) => {}
        (State::Retiring, DistrustMode::AfterReissue) => return (vec![Step::Suspect { id, mode }], None),
        // It signed nothing, or nothing that is in use, or its signatures must be refused at once.
        _ => return (vec![distrust], None),
    }
    let suspect = Step::Suspect { id, mode };
    let is_immediate = mode == DistrustMode::Immediate;
    let signed_until = super::ca_removal::signed_until(context, leaked);
    match replacement(context) {
        Ok(Replacement::UnderWay(next)) if is_immediate && is_valid(context, next) => {
            (vec![Step::Activate { id: next.id.clone(), signed_until }, distrust], None)
        }
        Ok(Replacement::UnderWay(_)) if is_immediate => (vec![distrust], None),
        Ok(Replacement::UnderWay(_)) => (vec![suspect], None),
        Ok(Replacement::Former(former)) if !is_valid(context, former) => {
            (vec![if is_immediate { distrust } else { suspect }], None)
        }
        Ok(Replacement::Former(former)) => {
            let last = if is_immediate { distrust } else { suspect };
            (vec![Step::Resume { id: former.id.clone(), signed_until }, last], None)
        }
        Ok(Replacement::Fresh(fresh)) => {
            // The whole ring may have leaked: staged generations are never used.
            let discarded = discard_siblings(context);
            let (first, last) =
                if is_immediate { (distrust, signs_at_once(context, fresh)) } else { (suspect, Step::Stage(fresh)) };
            (std::iter::once(first).chain(discarded).chain([last]).collect(), None)
        }
        Err(why) => (vec![if is_immediate { distrust } else { suspect }], Some(why)),
    }
}

/// Replaces a compromised active CA that has no replacement under preparation: its rotation was aborted, its
/// replacement was compromised too, or there was none. Also applies if no CA is active because the last one was
/// distrusted at once.
fn replace_suspect(context: &Context<'_, '_>) -> Option<RingDecision> {
    let active = context.ca.active();
    let what = match active {
        Some(active) => name(KIND, &active.distrust.map(|_| active.id.clone())?),
        None => "the CA that was distrusted".to_owned(),
    };
    let progress = Progress::new(reason::DISTRUSTED, format!("{what} is being replaced"));
    let signed_until = active.and_then(|active| super::ca_removal::signed_until(context, active));
    let steps = match (replacement(context), active) {
        (Ok(Replacement::UnderWay(_)), Some(_)) => return None,
        (Ok(Replacement::UnderWay(next)), None) => {
            if let Some(decision) = super::ca::held_by_clock(context, next) {
                return Some(decision);
            }
            vec![Step::Activate { id: next.id.clone(), signed_until }]
        }
        (Ok(Replacement::Former(former)), _) => {
            if let Some(decision) = super::ca::held_by_clock(context, former) {
                return Some(decision);
            }
            vec![Step::Resume { id: former.id.clone(), signed_until }]
        }
        (Ok(Replacement::Fresh(fresh)), Some(active)) => {
            // The replacement is newer than a mark of the clock that is right now.
            let mark = active.distrust.filter(|mark| mark.since > context.now);
            let marked = mark.map(|mark| Step::Suspect { id: active.id.clone(), mode: mark.mode });
            discard_siblings(context).chain(marked).chain([Step::Stage(fresh)]).collect()
        }
        (Ok(Replacement::Fresh(fresh)), None) => {
            discard_siblings(context).chain([signs_at_once(context, fresh)]).collect()
        }
        (Err(refusal), _) => return Some(RingDecision::refuse(refusal, vec![])),
    };
    let events = if active.is_none() {
        vec![Event::new(reason::ROTATION_SWITCHED, "activated the CA that replaces a distrusted one".to_owned())]
    } else {
        vec![]
    };
    let decision = RingDecision::act(steps, events, progress);
    Some(if active.is_none() { decision.at_least(Urgency::Emergency) } else { decision })
}

/// Discards all staged and published generations.
fn discard_siblings<'c>(context: &'c Context<'_, '_>) -> impl Iterator<Item = Step> + 'c {
    let siblings = context.ca.generations.iter().filter(|g| matches!(g.state, State::Staged | State::Published));
    siblings.map(|sibling| Step::Discard(sibling.id.clone()))
}

/// Returns true if peers whose clock is that of the operator accept what a CA signs.
fn is_valid(context: &Context<'_, '_>, ca: &Generation<CaMaterial>) -> bool {
    ca.material.not_before <= context.now
}

/// The step that makes a CA sign without waiting for its publication. A bring-your-own CA that begins later is staged, and
/// activated once it is valid.
fn signs_at_once(context: &Context<'_, '_>, fresh: MaterialRequest) -> Step {
    match &fresh {
        MaterialRequest::ExistingCa { .. } if external_ca_begins(context.observed, context.now).is_some() => {
            Step::Stage(fresh)
        }
        _ => Step::StageActive(fresh),
    }
}

/// The replacement of a leaked CA.
enum Replacement<'a> {
    /// It is staged or published already, and did not leak.
    UnderWay(&'a Generation<CaMaterial>),
    /// It was active before and is still trusted.
    Former(&'a Generation<CaMaterial>),
    Fresh(MaterialRequest),
}

/// The replacement of a compromised CA. If the operator generates its CAs, it is a fresh one, because the whole ring
/// may be compromised. A bring-your-own CA can only be the one in the Secret, or one from there that is staged or
/// published.
fn replacement<'c>(context: &'c Context<'_, '_>) -> Result<Replacement<'c>, Refusal> {
    let (observed, ca) = (context.observed, context.ca);
    let leaked = leaked(context);
    let is_sound = |generation: &&Generation<CaMaterial>| leaked.of_ca(&generation.material).is_none();
    let is_external = observed.domain.spec.ca.existing_secret_ref.is_some();
    let suspected = ca.active().and_then(|active| active.distrust).map(|mark| mark.since);
    // One that a clock which ran ahead issued is no replacement yet, and a new one need not wait for the clock.
    let is_fresh = |next: &&Generation<CaMaterial>| {
        is_external || (suspected.is_some_and(|since| next.since >= since) && is_valid(context, next))
    };
    if let Some(next) = ca.next().filter(is_sound).filter(is_fresh) {
        return Ok(Replacement::UnderWay(next));
    }
    let request = ca_material(observed, context.now)?;
    let MaterialRequest::ExistingCa { fingerprint, .. } = &request else { return Ok(Replacement::Fresh(request)) };
    let known = ca.generations.iter().find(|generation| generation.material.fingerprint == *fingerprint);
    Ok(match known.filter(|known| known.state == State::Retiring) {
        Some(former) => Replacement::Former(former),
        None => Replacement::Fresh(request),
    })
}

/// From the edit to the last refusal: noted once every instance was seen to refuse it.
pub(super) fn settle_ca(context: &Context<'_, '_>) -> Option<RingDecision> {
    let old = unsettled(&context.ca.generations)?;
    if !(context.is_projected() && context.is_in_leaves) {
        return None;
    }
    let root_stays = context.ca.trusted().any(|other| old.material.shares_root_with(&other.material));
    let bundle = (!root_stays).then_some(context.bundle_hash);
    let need = Need::Refusal { bundle, denylist: context.denylist_hash };
    let poll = context.poll(|_| true, &need, old.since, BTreeSet::new());
    settle(context, (KIND, old), poll)
}

/// The first generation that is refused, but was not seen to be everywhere.
pub(super) fn unsettled<M>(generations: &[Generation<M>]) -> Option<&Generation<M>> {
    generations.iter().find(|generation| {
        generation.state == State::Distrusted && generation.distrust.is_some_and(|mark| mark.refused_time.is_none())
    })
}

pub(super) fn settle<M>(
    context: &Context<'_, '_>,
    (kind, old): (RingKind, &Generation<M>),
    poll: Poll,
) -> Option<RingDecision> {
    let times = context.times();
    let by_time = saturating_add(old.since, times.min_delay + times.clock_skew);
    if poll.has_no_instances() && context.now < by_time {
        return Some(RingDecision::idle(vec![by_time]));
    }
    if !poll.all_acknowledged() {
        let message = poll.message(&format!("do not refuse {} yet", name(kind, &old.id)));
        let exposed = Exposed { message, laggards: poll.laggards };
        return Some(RingDecision::expose(exposed));
    }
    // Instances in namespaces that are not watched may still accept it.
    if !context.observed.unwatched.is_empty() {
        let message = crate::trust_domain::unwatched_text(&context.observed.unwatched);
        let exposed = Exposed { message, laggards: vec![] };
        return Some(RingDecision::expose(exposed));
    }
    let seen = context.observed.instances.iter().filter_map(|instance| instance.probe.as_ref().map(|probe| probe.at));
    let at = if poll.has_no_instances() {
        by_time
    } else {
        seen.max().unwrap_or(context.now).max(old.since).min(context.now)
    };
    let progress = Progress::new(reason::DISTRUSTED, format!("all instances refuse {}", name(kind, &old.id)));
    Some(RingDecision::act(vec![Step::Refused { id: old.id.clone(), at }], vec![], progress))
}

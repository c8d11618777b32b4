//! The signing keys' ring. The next key is always in the JWK set already.

use std::collections::BTreeSet;

use gaia_api::crd::{DistrustMode, reason};
use gaia_api::names::{self, annotation};
use gaia_pki::{KeySpec, SigningAlgorithm};
use jiff::Timestamp;

use super::gate::Poll;
use super::{Context, LONGEST_EMERGENCY_PUBLISHING, LONGEST_GRACE, Progress, RingDecision, Urgency, name, started};
use crate::Event;
use crate::instances::instance::Need;
use crate::keyring::ring::{Distrust, Generation, MaterialRequest, RingKind, SigningMaterial, State};
use crate::keyring::transition::Step;
use crate::object::ObjectKey;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::signing_key_spec;

const KIND: RingKind = RingKind::SigningKeys;

/// The decision about the ring.
pub(super) fn decide(context: &Context<'_, '_>) -> RingDecision {
    let epoch_key = |context: &Context<'_, '_>| super::add_epoch_key(context, KIND);
    let rules = [
        distrust,
        epoch_key,
        raise_max_ttl,
        replace_suspect,
        super::answers::forget_signing,
        super::answers::abort_signing,
        super::answers::advance_signing,
        stage,
        publish,
        retire,
        settle_exposure,
    ];
    let decision = RingDecision::of(context, &rules).or_else(context, || switch(context));
    let suspects = context.signing.trusted().filter_map(|key| Some((name(KIND, &key.id), key.distrust?.since)));
    super::distrust::with_deadline(
        decision,
        suspects.map(|(what, since)| (what, context.grace_end(since, LONGEST_GRACE))),
    )
}

/// Records a longer token validity in the ring before such tokens are issued: old keys are kept for that long.
fn raise_max_ttl(context: &Context<'_, '_>) -> Option<RingDecision> {
    let wanted = context.observed.domain.spec.tokens.max_ttl.value().as_secs();
    let steps = vec![Step::RaiseMaxTtl(wanted)];
    let known = context.signing.max_ttl_high_water_seconds;
    known.is_none_or(|known| known < wanted).then(|| RingDecision::record(steps, vec![]))
}

/// Distrusts keys that the spec lists, and keys that a holder of a compromised CA could have used.
fn distrust(context: &Context<'_, '_>) -> Option<RingDecision> {
    let signing = context.signing;
    let unhandled = unhandled(context);
    let mut steps: Vec<Step> = unhandled.map(Step::HandleDistrust).into_iter().collect();
    let mut events = vec![];
    for generation in signing.generations.iter().filter(|generation| generation.state != State::Distrusted) {
        let with_ca = unhandled.filter(|_| matches!(generation.state, State::Active | State::Retiring));
        let modes = [listed_mode(context, generation), with_ca.map(|mark| mark.mode)];
        let Some(mode) = modes.into_iter().flatten().max_by_key(|mode| *mode == DistrustMode::Immediate) else {
            continue;
        };
        let known = generation.distrust;
        if known.is_some_and(|known| known.mode == mode || mode == DistrustMode::AfterReissue) {
            continue;
        }
        let what = name(KIND, &generation.id);
        events.push(Event::warning(reason::DISTRUSTED, format!("{what} is distrusted ({mode:?})")));
        let id = generation.id.clone();
        match (generation.state, mode) {
            (State::Active, DistrustMode::Immediate) => {
                steps.push(Step::Distrust { id, mode });
                steps.extend(at_once(context));
            }
            (State::Active | State::Retiring, DistrustMode::AfterReissue) => steps.push(Step::Suspect { id, mode }),
            // It signed nothing, or its signatures must be refused at once. A new next key is staged later.
            (State::Published | State::Staged, _) if signing.active().is_some_and(|a| is_dropped(context, a)) => {}
            _ => steps.push(Step::Distrust { id, mode }),
        }
    }
    if steps.is_empty() {
        return None;
    }
    let progress = Progress::new(reason::DISTRUSTED, "the signing key is being replaced".to_owned());
    Some(RingDecision::act(steps, events, progress))
}

/// Returns true if this transition removes the active key, and with it a next key that is listed too.
fn is_dropped(context: &Context<'_, '_>, active: &Generation<SigningMaterial>) -> bool {
    let modes = [listed_mode(context, active), unhandled(context).map(|mark| mark.mode)];
    modes.contains(&Some(DistrustMode::Immediate))
}

/// The replacement of an active key that is removed at once: the next key unless it is listed too, else a fresh one.
fn at_once(context: &Context<'_, '_>) -> Vec<Step> {
    let fresh = fresh(context);
    if let Some(next) = usable_next(context) {
        return vec![Step::Activate { id: next.id.clone(), signed_until: None }, Step::Stage(fresh)];
    }
    let listed = context.signing.next().map(|next| {
        let mode = listed_mode(context, next).unwrap_or(DistrustMode::Immediate);
        Step::Distrust { id: next.id.clone(), mode }
    });
    listed.into_iter().chain([Step::StageActive(fresh.clone()), Step::Stage(fresh)]).collect()
}

/// The mode with which the spec distrusts a key, if it lists it.
fn listed_mode(context: &Context<'_, '_>, generation: &Generation<SigningMaterial>) -> Option<DistrustMode> {
    let listed = &context.observed.domain.spec.tokens.distrusted;
    listed.iter().find(|entry| entry.kid == generation.material.jwk.kid()).map(|entry| entry.mode)
}

/// A distrust of a CA that was not handled yet: with that CA, tokens of every key that was active could be obtained.
fn unhandled(context: &Context<'_, '_>) -> Option<Distrust> {
    let marks = context.ca.generations.iter().filter_map(|ca| ca.distrust);
    let newest = marks.max_by_key(|mark| (mark.since, mark.mode == DistrustMode::Immediate))?;
    // A ring that was created since has signed no tokens for its holder.
    let began = context.signing.generations.iter().map(|key| key.activated_time.unwrap_or(key.since)).min()?;
    if began > newest.since {
        return None;
    }
    let is_news = context.signing.handled_distrust.is_none_or(|handled| {
        handled.since < newest.since || (handled.mode != newest.mode && newest.mode == DistrustMode::Immediate)
    });
    is_news.then_some(newest)
}

/// The key to promote: unless it is listed too.
fn usable_next<'a>(context: &'a Context<'_, '_>) -> Option<&'a Generation<SigningMaterial>> {
    context.signing.next().filter(|next| listed_mode(context, next).is_none())
}

/// Replaces a compromised active key by the next key, as soon as all instances know that one.
fn replace_suspect(context: &Context<'_, '_>) -> Option<RingDecision> {
    let active = context.signing.active()?;
    let mark = active.distrust?;
    let next = context.signing.next()?;
    let limit = context.grace_end(mark.since, LONGEST_EMERGENCY_PUBLISHING);
    if context.now >= limit {
        return Some(promote(context, next, vec![]).at_least(Urgency::Emergency));
    }
    if next.state != State::Published {
        let message = format!("{} will replace it", name(KIND, &next.id));
        return Some(RingDecision::wait(Progress::new(reason::DISTRUSTED, message), vec![limit]));
    }
    match acknowledged(context, next) {
        Ok(left) => Some(promote(context, next, left).with_thresholds(vec![limit])),
        Err((progress, alarm)) => Some(RingDecision::wait(progress, alarm.into_iter().chain([limit]).collect())),
    }
}

/// Stages a next key of the requested algorithm, so that there always is one.
fn stage(context: &Context<'_, '_>) -> Option<RingDecision> {
    let signing = context.signing;
    let wanted = fresh(context);
    let Some(next) = signing.next() else {
        return Some(RingDecision::record(vec![Step::Stage(wanted)], vec![]));
    };
    let is_wanted = matches!(&wanted, MaterialRequest::SigningKey { key } if *key == spec_of(next));
    (!is_wanted).then(|| RingDecision::record(vec![Step::Discard(next.id.clone()), Step::Stage(wanted)], vec![]))
}

/// Marks a staged key as published once it was read back from every projection.
fn publish(context: &Context<'_, '_>) -> Option<RingDecision> {
    let staged = context.signing.next().filter(|next| next.state == State::Staged)?;
    let left = context.left_behind(&staged.id, staged.projected_since());
    let thresholds = vec![context.publishing_deadline(staged)];
    if !context.projections.outside(&left).is_empty() {
        return Some(RingDecision::idle(thresholds));
    }
    let events = context.published_without(KIND, staged, &left).into_iter().collect();
    Some(RingDecision::record(vec![Step::Publish(staged.id.clone())], events).with_thresholds(thresholds))
}

/// Removes a retiring key once all its tokens have expired.
fn retire(context: &Context<'_, '_>) -> Option<RingDecision> {
    let mut retiring: Vec<_> = context.signing.retiring().collect();
    // Compromised keys first.
    retiring.sort_by_key(|generation| generation.distrust.is_none());
    (!retiring.is_empty())
        .then(|| RingDecision::first(context, retiring.into_iter().filter_map(|old| retire_one(context, old))))
}

fn retire_one(context: &Context<'_, '_>, old: &Generation<SigningMaterial>) -> Option<RingDecision> {
    let now = context.now;
    let times = context.times();
    let what = name(KIND, &old.id);
    let limit = old.distrust.map(|mark| context.grace_end(mark.since, LONGEST_GRACE));
    let go = |how: &str| {
        let (step, reason) = match old.distrust {
            Some(mark) => (Step::Distrust { id: old.id.clone(), mode: mark.mode }, reason::DISTRUSTED),
            None => (Step::Remove(old.id.clone()), reason::ROTATION_COMPLETED),
        };
        let message = format!("removed {what}: {how}");
        let event = if old.distrust.is_some() { Event::warning(reason, message) } else { Event::new(reason, message) };
        Some(RingDecision::act(vec![step], vec![event], Progress::new(reason::RETIRING, format!("{what} is removed"))))
    };
    if let Some(limit) = limit.filter(|limit| now >= *limit) {
        return go(&format!("its grace period ended at {limit}"));
    }
    let Some(switched) = old.switched_time else {
        return Some(watch_issuer(context, old, limit));
    };
    let life = std::time::Duration::from_secs(context.signing.max_ttl_high_water_seconds.unwrap_or_default());
    let safe = saturating_add(switched, times.min_delay + life + times.clock_skew);
    if let Some(progress) = context.held_by_unwatched(KIND, &old.id).filter(|_| old.distrust.is_none()) {
        return Some(RingDecision::wait_aside(progress, limit.into_iter().chain([safe]).collect()));
    }
    if now >= safe {
        let poll = not_switched(context, old);
        if poll.all_acknowledged() {
            return go("the last token it signed has expired");
        }
        let left = poll.message(&format!("do not sign with key {}", active_id(context)));
        return go(&format!("{} lets the rotation proceed although {left}", annotation::ADVANCE_WITHOUT));
    }
    let message = format!("{what} no longer signs; its last token expires by {safe}");
    Some(RingDecision::wait(Progress::new(reason::RETIRING, message), limit.into_iter().chain([safe]).collect()))
}

/// The switch is over when every instance of the issuer signs with the new key.
fn watch_issuer(
    context: &Context<'_, '_>,
    old: &Generation<SigningMaterial>,
    limit: Option<Timestamp>,
) -> RingDecision {
    let times = context.times();
    let what = name(KIND, &old.id);
    let id = active_id(context);
    let signer = names::token_signer(context.observed.name());
    let is_handed_over = !context.projections.unwritten.iter().any(|unwritten| unwritten.object.name == signer);
    let floor = saturating_add(old.since, times.min_delay + times.clock_skew);
    if !is_handed_over {
        let progress =
            Progress::new(reason::PUBLISHING, format!("{} is being written to the token issuer", name(KIND, &id)));
        return RingDecision::wait(progress, limit.into_iter().collect());
    }
    let poll = not_switched(context, old);
    let is_alone = poll.has_no_instances() && context.now < floor;
    let advance = context.may_advance_without(&id);
    if (poll.all_acknowledged() && !is_alone) || (advance && context.now >= floor) {
        let message = if poll.all_acknowledged() {
            format!("all instances of the token issuer sign with {}", name(KIND, &id))
        } else {
            let left = poll.message(&format!("do not sign with key {id}"));
            format!("{what} is retired without waiting, as {} requests: {left}", annotation::ADVANCE_WITHOUT)
        };
        let progress = Progress::new(reason::RETIRING, message);
        let decision = RingDecision::act(vec![Step::Switched(old.id.clone())], vec![], progress);
        return decision.with_thresholds(limit.into_iter().collect());
    }
    if poll.all_acknowledged() {
        let message = format!("{} is active; the token issuer loads it by {floor}", name(KIND, &id));
        let progress = Progress::new(reason::WAITING_FOR_INSTANCES, message);
        return RingDecision::wait(progress, limit.into_iter().chain([floor]).collect());
    }
    let (progress, alarm) = context.waiting(poll, &format!("do not sign with key {id}"), floor);
    RingDecision::wait(progress, alarm.into_iter().chain(limit).chain([floor]).collect())
}

/// The instances of the token issuer that do not sign with the active key.
fn not_switched(context: &Context<'_, '_>, old: &Generation<SigningMaterial>) -> Poll {
    let kid = context.signing.active().map(|active| active.material.jwk.kid()).unwrap_or_default();
    let signer = names::token_signer(context.observed.name());
    context.poll(|object: &ObjectKey| object.name == signer, &Need::SigningKid(kid), old.since, BTreeSet::new())
}

/// The short id of the key that signs.
fn active_id(context: &Context<'_, '_>) -> String {
    context.signing.active().map(|active| active.id.clone()).unwrap_or_default()
}

/// From the edit to the last refusal.
fn settle_exposure(context: &Context<'_, '_>) -> Option<RingDecision> {
    let old = super::distrust::unsettled(&context.signing.generations).filter(|_| context.is_projected())?;
    let poll = context.poll(|_| true, &Need::NoKid(old.material.jwk.kid()), old.since, BTreeSet::new());
    super::distrust::settle(context, (KIND, old), poll)
}

/// The reason why the next key is due for activation, if it is, and the check that it may be activated.
fn switch(context: &Context<'_, '_>) -> RingDecision {
    let Context { observed, signing, now, .. } = context;
    let tokens = &observed.domain.spec.tokens;
    let Some(active) = signing.active() else { return RingDecision::default() };
    let Some(next) = signing.next() else { return RingDecision::default() };
    let activated = active.activated_time.unwrap_or(active.since);
    // An aborted rotation does not restart: its period starts with the abort.
    let given_up = signing.given_up();
    let aborted = given_up.map(|generation| generation.since);
    // A period that is too short is a warning; the ring is rotated as often as it can be.
    let life = std::time::Duration::from_secs(signing.max_ttl_high_water_seconds.unwrap_or_default());
    let least_period = crate::rules::limits::least_rotation_period(life, &observed.domain.spec.propagation);
    let period = tokens.rotation_period.value().max(least_period);
    let due = saturating_add(aborted.map_or(activated, |aborted| aborted.max(activated)), period);
    let asked = tokens.rotation_revision > signing.revision;
    let wanted = signing_key_spec(tokens.algorithm);
    let was_aborted = given_up.is_some_and(|generation| spec_of(generation) == wanted);
    let why = if asked {
        format!("rotationRevision is {}", tokens.rotation_revision)
    } else if spec_of(active) != wanted && !was_aborted {
        format!("spec.tokens.algorithm is {:?}", tokens.algorithm)
    } else if *now >= due {
        "rotationPeriod has passed".to_owned()
    } else {
        return RingDecision::idle(vec![due]);
    };
    if next.state != State::Published {
        let left = context.left_behind(&next.id, next.projected_since());
        let holders = context.projections.outside(&left);
        return RingDecision::wait(context.publishing(KIND, next, &holders), vec![due]);
    }
    match acknowledged(context, next) {
        Ok(left) => promote(context, next, left.into_iter().chain([started(KIND, &why)]).collect()),
        Err((progress, alarm)) => RingDecision::wait(progress, alarm.into_iter().collect()),
    }
}

/// Checks that all instances know the next key. Ok: the event about those that are left behind. Err: those that lag.
fn acknowledged(
    context: &Context<'_, '_>,
    next: &Generation<SigningMaterial>,
) -> Result<Vec<Event>, (Progress, Option<Timestamp>)> {
    let times = context.times();
    let published = next.published_time.unwrap_or(next.since);
    let floor = saturating_add(published, times.min_delay + times.clock_skew);
    let trust = names::trust(context.observed.name());
    let kid = next.material.jwk.kid();
    let left = context.left_behind(&next.id, next.projected_since());
    let holders = context.projections.outside(&left);
    let mut poll = context.poll(|object| object.name == trust, &Need::Kid(kid), published, left.clone());
    context.leave_behind(&mut poll, floor);
    let what = name(KIND, &next.id);
    if context.now < floor {
        let message = format!("{what} was published at {published}; it is activated at {floor} or later");
        return Err((Progress::new(reason::PUBLISHING, message), Some(floor)));
    }
    if !holders.is_empty() {
        return Err((context.publishing(KIND, next, &holders), None));
    }
    if poll.all_acknowledged() || context.may_advance_without(&next.id) {
        return Ok(poll.left_event(&format!("have not loaded {what}")).into_iter().collect());
    }
    Err(context.waiting(poll, &format!("have not loaded {what}"), floor))
}

/// The next key signs, and another one is staged after it.
fn promote(context: &Context<'_, '_>, next: &Generation<SigningMaterial>, mut events: Vec<Event>) -> RingDecision {
    let what = name(KIND, &next.id);
    events.push(Event::new(reason::ROTATION_SWITCHED, format!("activated {what}")));
    let mut steps = vec![Step::Activate { id: next.id.clone(), signed_until: None }, Step::Stage(fresh(context))];
    let revision = context.observed.domain.spec.tokens.rotation_revision;
    if revision > context.signing.revision {
        steps.push(Step::HandleRevision(revision));
    }
    RingDecision::act(steps, events, Progress::new(reason::PUBLISHING, format!("{what} signs")))
}

/// A new key of the requested algorithm.
pub(super) fn fresh(context: &Context<'_, '_>) -> MaterialRequest {
    MaterialRequest::SigningKey { key: signing_key_spec(context.observed.domain.spec.tokens.algorithm) }
}

fn spec_of(generation: &Generation<SigningMaterial>) -> KeySpec {
    signing_key_spec(match generation.material.jwk.algorithm() {
        SigningAlgorithm::Rs256 => gaia_api::crd::TokenAlgorithm::RS256,
        SigningAlgorithm::Es256 => gaia_api::crd::TokenAlgorithm::ES256,
    })
}

//! The CA's ring.

use std::time::Duration;

use gaia_api::crd::reason;
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::ca_removal as removal;
use super::external_ca::{self, News};
use super::{Context, LONGEST_EMERGENCY_PUBLISHING, Progress, RingDecision, Urgency, distrust, name, started};
use crate::Event;
use crate::instances::instance::Need;
use crate::keyring::ring::{CaMaterial, Generation, RingKind, State};
use crate::keyring::transition::Step;
use crate::leaf::key_spec;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::bootstrap::names;
use crate::trust_domain::ca_material;

const KIND: RingKind = RingKind::Ca;

/// The decision about the ring.
pub(super) fn decide(context: &Context<'_, '_>) -> RingDecision {
    let epoch_key = |context: &Context<'_, '_>| super::add_epoch_key(context, KIND);
    let rules = [
        distrust::of_ca,
        epoch_key,
        super::answers::forget_ca,
        super::answers::abort_ca,
        super::answers::advance_ca,
        put_back,
        publish,
        switch,
        removal::retire,
        distrust::settle_ca,
    ];
    let decision = RingDecision::of(context, &rules).or_else(context, || begin(context));
    let suspects = context.ca.generations.iter();
    distrust::with_deadline(
        decision,
        suspects.filter_map(|ca| Some((name(KIND, &ca.id), removal::refused_by(context, ca)?))),
    )
}

/// Marks a staged generation as published once it was read back from every projection.
fn publish(context: &Context<'_, '_>) -> Option<RingDecision> {
    let staged = context.ca.next().filter(|next| next.state == State::Staged)?;
    let left = context.left_behind(&staged.id, staged.projected_since());
    let holders = context.projections.outside(&left);
    let progress = context.publishing(KIND, staged, &holders);
    let thresholds = vec![context.publishing_deadline(staged)];
    if !(holders.is_empty() && context.is_in_leaves) {
        return Some(RingDecision::wait(progress, thresholds));
    }
    let events = context.published_without(KIND, staged, &left).into_iter().collect();
    let decision = RingDecision::act(vec![Step::Publish(staged.id.clone())], events, progress);
    Some(decision.at_least(before_expiry(context)).with_thresholds(thresholds))
}

/// Activates a published generation once all instances trust it.
fn switch(context: &Context<'_, '_>) -> Option<RingDecision> {
    let Context { ca, now, .. } = context;
    let (next, active) = (ca.next()?, ca.active()?);
    let is_published = next.state == State::Published;
    let published = next.published_time.unwrap_or(next.since);
    let times = context.times();
    let floor = saturating_add(published, times.min_delay + times.clock_skew);
    let suspect = active.distrust.map(|mark| mark.since);
    let limit = suspect.map(|since| emergency_limit(context, since, next));
    let what = name(KIND, &next.id);
    let is_time = *now >= floor;
    let clamps_from = context.observed.time_floor(&active.material);
    // A published time ahead of the clock was written by a clock that ran ahead.
    let has_waited = is_time || published > saturating_add(*now, times.clock_skew);
    let is_ending = has_waited && *now > clamps_from && next.material.not_after > active.material.not_after;
    let too_late = limit.is_some_and(|limit| *now >= limit);
    let is_forced = too_late || is_ending;
    if let Err(refusal) = names::check(context.observed, &next.id, &next.material.path.constraints)
        && !is_forced
    {
        let thresholds = limit.into_iter().chain([floor, saturating_add(clamps_from, A_SECOND)]).collect();
        return Some(RingDecision::refuse(refusal, thresholds));
    }
    let left_out = held_for_names(context, next).filter(|_| suspect.is_none());
    let alarms = limit.into_iter().chain([floor, saturating_add(clamps_from, A_SECOND)]).collect();
    if !is_published && !is_forced {
        return Some(RingDecision::idle(alarms));
    }
    let left = context.left_behind(&next.id, next.projected_since());
    let holders = context.projections.outside(&left);
    let mut poll = context.poll(|_| true, &Need::Bundle(context.bundle_hash), published, left.clone());
    context.leave_behind(&mut poll, floor);
    // A Secret may have lost it since it was published; it is repaired first.
    let is_known = is_published && context.is_in_leaves && holders.is_empty();
    let acknowledged = is_known && (poll.all_acknowledged() || context.may_advance_without(&next.id));
    let at_once = suspect.is_some() && is_known && poll.all_acknowledged() && !poll.has_no_instances();
    if let Some((until, names)) = left_out.filter(|_| is_time && acknowledged && !is_forced) {
        let message = format!(
            "{what} cannot sign {names} (nameConstraints): it is activated at {until}, and certificates are issued \
             without these names"
        );
        let thresholds = alarms.into_iter().chain([until]).collect();
        return Some(RingDecision::wait(Progress::new(reason::PUBLISHING, message), thresholds));
    }
    let is_due = (is_time && acknowledged) || at_once || is_forced;
    if let Some(decision) = held_by_clock(context, next).filter(|_| is_due) {
        return Some(decision);
    }
    if is_due {
        let mut events = vec![Event::new(reason::ROTATION_SWITCHED, format!("activated {what}"))];
        events.extend(poll.left_event(&format!("do not trust {what} yet")));
        if is_ending && !(acknowledged && is_time) && suspect.is_none() {
            let end = active.material.not_after;
            let why = if !is_time {
                format!("it was published at {published}, which is ahead of the clock")
            } else if is_known {
                poll.message("do not trust it yet")
            } else {
                "it is not published yet".to_owned()
            };
            events.push(Event::warning(
                reason::ROTATION_FORCED,
                format!("critical: activated {what} although {why}; the previous CA expires at {end}"),
            ));
        }
        let steps = vec![Step::Activate { id: next.id.clone(), signed_until: removal::signed_until(context, active) }];
        let decision = RingDecision::act(steps, events, Progress::new(reason::REISSUING, format!("{what} signs")));
        let urgency = if is_published && !too_late { before_expiry(context) } else { Urgency::Emergency };
        return Some(decision.at_least(urgency).with_thresholds(alarms));
    }
    if is_published && !is_known && poll.all_acknowledged() {
        let progress = if holders.is_empty() {
            Progress::new(reason::PUBLISHING, format!("{what} is being published again"))
        } else {
            context.publishing(KIND, next, &holders)
        };
        return Some(RingDecision::wait(progress, alarms));
    }
    if is_time || (suspect.is_some() && !poll.all_acknowledged()) {
        let (progress, alarm) = context.waiting(poll, &format!("do not trust {what} yet"), floor);
        return Some(RingDecision::wait(progress, alarm.into_iter().chain(alarms).collect()));
    }
    let message = format!("{what} was published at {published}; it is activated at {floor} or later");
    Some(RingDecision::wait(Progress::new(reason::PUBLISHING, message), alarms))
}

/// From its time floor on, the active CA is replaced also by a clock that is behind the times of the rings: without it
/// every certificate would expire. The times of the replacement are those of the current clock.
fn before_expiry(context: &Context<'_, '_>) -> Urgency {
    let floor = context.ca.active().map(|active| context.observed.time_floor(&active.material));
    if floor.is_some_and(|floor| context.now > floor) { Urgency::BeforeExpiry } else { Urgency::Ordinary }
}

/// A CA that is valid only from a time ahead of the clock does not sign: no peer whose clock is right accepts its
/// certificates.
pub(super) fn held_by_clock(context: &Context<'_, '_>, next: &Generation<CaMaterial>) -> Option<RingDecision> {
    let begins = next.material.not_before;
    (begins > context.now).then(|| {
        let what = name(KIND, &next.id);
        let message = format!(
            "held: {what} is valid only from {begins}, which is ahead of the operator's clock; next step: activate \
             {what}. Correct the clock of the operator's node; if the clock was ahead when {what} was issued, \
             annotate the TrustDomain with {}={}",
            annotation::ABORT,
            next.id
        );
        RingDecision::wait(Progress::new(reason::HELD, message), vec![begins])
    })
}

/// The time until which a CA waits because it cannot sign extra names of certificates, and these names. They are no veto.
fn held_for_names(context: &Context<'_, '_>, next: &Generation<CaMaterial>) -> Option<(Timestamp, String)> {
    let until = saturating_add(next.projected_since(), context.times().deadline);
    let names = names::left_out(context.observed, &next.material.path.constraints)?;
    (context.now < until).then_some((until, names))
}

/// The time at which the replacement of a compromised CA is activated without acknowledgement. A bring-your-own CA may
/// arrive long after the previous one was distrusted.
pub(super) fn emergency_limit(
    context: &Context<'_, '_>,
    suspected: Timestamp,
    next: &Generation<CaMaterial>,
) -> Timestamp {
    let limit = context.grace_end(suspected, LONGEST_EMERGENCY_PUBLISHING);
    if next.since > limit { context.grace_end(next.since, LONGEST_EMERGENCY_PUBLISHING) } else { limit }
}

/// The reason why a new CA is due, if it is.
fn begin(context: &Context<'_, '_>) -> RingDecision {
    let Context { observed, ca, now, .. } = context;
    let spec = &observed.domain.spec.ca;
    let Some(active) = ca.active() else { return RingDecision::default() };
    let activated = active.activated_time.unwrap_or(active.since);
    let times = context.times();
    // An aborted rotation does not restart: its period starts with the abort.
    let given_up = ca.given_up();
    let aborted = given_up.map(|generation| generation.since);
    let counts_from = aborted.map_or(activated, |aborted| aborted.max(activated));
    // A period that is too short is a warning; the ring is rotated as often as it can be.
    let least_period = crate::rules::limits::least_rotation_period(Duration::ZERO, &observed.domain.spec.propagation);
    let due_by_period =
        spec.rotation_period.as_ref().map(|period| saturating_add(counts_from, period.value().max(least_period)));
    let due_by_end = observed.successor_due(&active.material);
    let held_until = aborted.map(|aborted| saturating_add(aborted, times.deadline));
    let is_ending = *now >= due_by_end && held_until.is_none_or(|until| *now >= until);
    let is_external = spec.existing_secret_ref.is_some();
    let thresholds = due_by_period.into_iter().chain(held_until).chain((!is_external).then_some(due_by_end)).collect();
    let asked = spec.rotation_revision > ca.revision;
    let why = if is_external {
        match external_ca::news(context, asked) {
            News::None | News::Aborted(_) | News::Resume(_) => None,
            News::Stage(why) => Some(why),
        }
    } else {
        let wanted = key_spec(&spec.private_key.clone().unwrap_or_default());
        let was_aborted = given_up.is_some_and(|g| !g.material.is_external && g.material.key == wanted);
        if asked {
            Some(format!("rotationRevision is {}", spec.rotation_revision))
        } else if active.material.is_external && !was_aborted {
            Some("spec.ca.existingSecretRef was removed".to_owned())
        } else if active.material.key != wanted && !was_aborted {
            Some(format!("spec.ca.privateKey is {wanted}, not {}", active.material.key))
        } else if is_ending {
            Some(format!("the CA expires at {}", active.material.not_after))
        } else if due_by_period.is_some_and(|due| *now >= due) {
            Some("rotationPeriod has passed".to_owned())
        } else {
            None
        }
    };
    // The operator generates no bring-your-own CA: after a raised revision it waits for another one in the Secret.
    let Some(why) = why else { return RingDecision::idle(thresholds) };
    match ca_material(observed, *now) {
        Err(refusal) => RingDecision::refuse(refusal, thresholds),
        Ok(material) => {
            let mut steps = vec![Step::Stage(material)];
            if asked {
                steps.push(Step::HandleRevision(spec.rotation_revision));
            }
            let progress = Progress::new(reason::PUBLISHING, "a new CA is being created".to_owned());
            let decision = RingDecision::act(steps, vec![started(KIND, &why)], progress);
            decision.at_least(before_expiry(context)).with_thresholds(thresholds)
        }
    }
}

/// A former CA that is in the Secret again is still trusted everywhere, so it is activated at once.
fn put_back(context: &Context<'_, '_>) -> Option<RingDecision> {
    let asked = context.observed.domain.spec.ca.rotation_revision > context.ca.revision;
    let (News::Resume(former), Some(active)) = (external_ca::news(context, asked), context.ca.active()) else {
        return None;
    };
    if let Err(refusal) = names::check(context.observed, &former.id, &former.material.path.constraints) {
        return Some(RingDecision::refuse(refusal, vec![]));
    }
    if let Some(decision) = held_by_clock(context, former) {
        return Some(decision);
    }
    let what = name(KIND, &former.id);
    let mut steps = vec![Step::Resume { id: former.id.clone(), signed_until: removal::signed_until(context, active) }];
    let revision = context.observed.domain.spec.ca.rotation_revision;
    if revision > context.ca.revision {
        steps.push(Step::HandleRevision(revision));
    }
    let event = Event::new(reason::ROTATION_SWITCHED, format!("activated {what} again"));
    Some(RingDecision::act(steps, vec![event], Progress::new(reason::REISSUING, format!("{what} signs"))))
}

const A_SECOND: Duration = Duration::from_secs(1);

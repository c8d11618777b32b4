//! The CA's ring.

use std::collections::BTreeSet;
use std::time::Duration;

use gaia_api::crd::{Acknowledgement, Laggard, LaggardKind, reason};
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::brought::{self, News};
use super::gate::Poll;
use super::{
    Context, LONGEST_EMERGENCY_PUBLISHING, LONGEST_GRACE, Progress, RingDecision, Urgency, distrust, name, started,
};
use crate::Event;
use crate::instances::instance::{Instances, Need};
use crate::keyring::ring::{CaMaterial, Generation, RingKind, State};
use crate::keyring::transition::Step;
use crate::leaf::key_spec;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::bootstrap::names;
use crate::trust_domain::{LeafView, ca_material};

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
        retire,
        distrust::settle_ca,
    ];
    let decision = RingDecision::of(context, &rules).or_else(context, || begin(context));
    let suspects = context.ca.generations.iter();
    distrust::with_deadline(decision, suspects.filter_map(|ca| Some((name(KIND, &ca.id), refused_by(context, ca)?))))
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
        let steps = vec![Step::Activate { id: next.id.clone(), signed_until: signed_until(context, active) }];
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
fn emergency_limit(context: &Context<'_, '_>, suspected: Timestamp, next: &Generation<CaMaterial>) -> Timestamp {
    let limit = context.grace_end(suspected, LONGEST_EMERGENCY_PUBLISHING);
    if next.since > limit { context.grace_end(next.since, LONGEST_EMERGENCY_PUBLISHING) } else { limit }
}

/// The deadline for the removal of a compromised CA; none while there is no replacement.
fn refused_by(context: &Context<'_, '_>, suspect: &Generation<CaMaterial>) -> Option<Timestamp> {
    let mark = suspect.distrust?;
    let rest = LONGEST_GRACE.saturating_sub(LONGEST_EMERGENCY_PUBLISHING);
    match suspect.state {
        State::Active => Some(saturating_add(emergency_limit(context, mark.since, context.ca.next()?), rest)),
        // If it waited for a replacement, the rest of the grace period starts when it retires.
        State::Retiring => {
            Some(context.grace_end(mark.since, LONGEST_GRACE).max(context.grace_end(suspect.since, rest)))
        }
        State::Staged | State::Published | State::Removed | State::Distrusted => None,
    }
}

/// Returns the expiry of the last certificate that this CA can have signed, including one that is being issued now.
pub(super) fn signed_until(context: &Context<'_, '_>, ca: &Generation<CaMaterial>) -> Option<Timestamp> {
    let coming = saturating_add(context.now, context.observed.longest_leaf());
    let last = ends_of_leaves(context, ca).fold(coming, Timestamp::max);
    Some(last.min(ca.material.not_after))
}

/// Returns the expiry times of the stored certificates that this CA signed.
fn ends_of_leaves<'c>(
    context: &'c Context<'_, '_>,
    ca: &'c Generation<CaMaterial>,
) -> impl Iterator<Item = Timestamp> + 'c {
    let by_it = context.observed.leaves.iter().filter(|view| is_signed_by(view, ca));
    by_it.filter_map(|view| Some(view.leaf?.not_after))
}

/// Removes a retiring CA once no certificate in use is signed by it.
fn retire(context: &Context<'_, '_>) -> Option<RingDecision> {
    let mut retiring: Vec<_> = context.ca.retiring().collect();
    // Compromised CAs first.
    retiring.sort_by_key(|generation| generation.distrust.is_none());
    (!retiring.is_empty())
        .then(|| RingDecision::first(context, retiring.into_iter().filter_map(|old| retire_one(context, old))))
}

fn retire_one(context: &Context<'_, '_>, old: &Generation<CaMaterial>) -> Option<RingDecision> {
    let now = context.now;
    let times = context.times();
    let what = name(KIND, &old.id);
    let removed = |how: &str| {
        let event = Event::new(reason::ROTATION_COMPLETED, format!("removed {what}: {how}"));
        let progress = Progress::new(reason::RETIRING, format!("{what} is removed"));
        Some(RingDecision::act(vec![Step::Remove(old.id.clone())], vec![event], progress))
    };
    let end = ends_of_leaves(context, old).fold(old.signed_until.unwrap_or(old.material.not_after), Timestamp::max);
    // Certificates that it signed in namespaces that are not watched are in use until it expires.
    let end = if context.observed.unwatched.is_empty() { end } else { old.material.not_after };
    let spent = saturating_add(end, times.clock_skew);
    let floor = saturating_add(old.since, times.min_delay + times.clock_skew);
    if now >= spent && old.distrust.is_none() {
        // These times are absolute: a clock that is behind only makes it later.
        return removed("every certificate it signed has expired").map(|ends| ends.at_least(Urgency::BeforeExpiry));
    }
    let rotation = context.ca.active().map_or("", |active| active.id.as_str());
    let left = context.left_behind(rotation, floor);
    let mut poll = unreplaced(context, old, left.clone());
    context.leave_behind(&mut poll, floor);
    let is_advanced = context.may_advance_without(rotation) && stored(context, old, left).all_acknowledged();
    let replaced = poll.all_acknowledged() || is_advanced;
    if let Some(mark) = old.distrust {
        let limit = refused_by(context, old).unwrap_or(now);
        if replaced || now >= limit {
            let step = Step::Distrust { id: old.id.clone(), mode: mark.mode };
            let how = if poll.all_acknowledged() {
                poll.replaced()
            } else {
                poll.message(&format!("still use certificates of CA {}", old.id))
            };
            let event = Event::warning(reason::DISTRUSTED, format!("{what} is now refused: {how}"));
            let progress = Progress::new(reason::DISTRUSTED, format!("{what} is refused"));
            return Some(RingDecision::act(vec![step], vec![event], progress));
        }
        let message = poll.message(&format!("still use certificates of CA {}", old.id));
        let thresholds = poll.until.into_iter().chain([limit]).collect();
        let laggards = poll.laggards.into_iter().chain(poll.tolerated).collect();
        let progress = Progress { reason: reason::REISSUING, message, laggards };
        return Some(RingDecision::wait(progress, thresholds));
    }
    if !replaced {
        // Certificates that are never re-issued keep their root until they expire, and block no other rotation.
        let is_settling = now >= saturating_add(floor, times.deadline)
            && poll.unknown.is_none()
            && poll.laggards.iter().all(|laggard| laggard.kind == Some(LaggardKind::Secret));
        let message = format!("still serve certificates of CA {}", old.id);
        let (progress, alarm) = context.waiting(poll, &message, floor);
        let thresholds = alarm.into_iter().chain([spent]).collect();
        let wait = if is_settling { RingDecision::wait_aside } else { RingDecision::wait };
        return Some(wait(progress, thresholds));
    }
    if let Some(progress) = context.held_by_unwatched(KIND, &old.id) {
        return Some(RingDecision::wait_aside(progress, vec![spent]));
    }
    let Some(switched) = old.switched_time else {
        let message = if poll.all_acknowledged() {
            format!("{what}: {}", poll.replaced())
        } else {
            let left = poll.message(&format!("still use certificates of CA {}", old.id));
            format!("{what} is removed without waiting, as {} requests: {left}", annotation::ADVANCE_WITHOUT)
        };
        let progress = Progress::new(reason::RETIRING, message);
        let events = poll.left_event(&format!("still serve certificates of CA {}", old.id));
        return Some(RingDecision::act(vec![Step::Switched(old.id.clone())], events.into_iter().collect(), progress));
    };
    let safe = saturating_add(switched, times.min_delay + times.clock_skew);
    if now >= safe {
        if poll.all_acknowledged() {
            return removed(&poll.replaced());
        }
        let left = poll.message(&format!("still use certificates of CA {}", old.id));
        return removed(&format!("{} lets the rotation proceed although {left}", annotation::ADVANCE_WITHOUT));
    }
    let end = safe.min(spent);
    let message = if poll.all_acknowledged() {
        format!("{what} is no longer in use; it will be removed at {end}")
    } else {
        let left = poll.message(&format!("still use certificates of CA {}", old.id));
        format!("{what} will be removed at {end} although {left}, as {} requests", annotation::ADVANCE_WITHOUT)
    };
    Some(RingDecision::wait(Progress::new(reason::RETIRING, message), vec![end]))
}

/// The remaining uses of this CA: certificates that are not re-issued, instances that do not serve the new ones, and
/// open connections.
fn unreplaced(context: &Context<'_, '_>, old: &Generation<CaMaterial>, left: BTreeSet<String>) -> Poll {
    let mut poll = stored(context, old, left);
    let observed = context.observed;
    if !observed.domain.spec.propagation.require_acknowledgement {
        return poll;
    }
    if let Instances::Unknown(why) = &observed.instances {
        poll.unknown = Some((*why).to_owned());
        return poll;
    }
    let p = context.times().min_delay;
    for (view, instance) in context.leaves.pairs() {
        let Some(leaf) = view.leaf.filter(|_| !is_signed_by(view, old)) else { continue };
        poll.add(instance, instance.check(&Need::Leaf(&leaf.fingerprint), view.issued_at(), p));
    }
    let root = old.material.root_fingerprint();
    let root_stays = context.ca.trusted().any(|other| other.id != old.id && other.material.root_fingerprint() == root);
    if !root_stays {
        for instance in observed.instances.iter().filter(|i| i.acknowledgement == Acknowledgement::Required) {
            let open = instance.check(&Need::NoConnection(root), context.now, p);
            if open.is_err() {
                poll.add(instance, open);
            }
        }
    }
    poll
}

/// Stored certificates that this CA signed, and new ones that no instance has presented and that do not count as in use
/// yet. A Secret that `deletionPolicy: Retain` left counts until its certificate expires, but only in a selected
/// namespace: elsewhere any user could write a copy and hold the CA. Other objects need not refer to the TrustDomain
/// there.
fn stored(context: &Context<'_, '_>, old: &Generation<CaMaterial>, left: BTreeSet<String>) -> Poll {
    let times = context.times();
    let mut poll = Poll { left_namespaces: left, ..Poll::default() };
    for (view, users) in context.leaves.iter() {
        let is_kept = view.is_retained() && context.observed.selected.contains(view.secret_namespace);
        let is_used = view.is_claimed || !users.is_empty() || is_kept;
        poll.total += usize::from(is_used);
        let why = match view.leaf {
            Some(leaf) if is_signed_by(view, old) && is_used && leaf.not_after > context.now => {
                poll.until = poll.until.into_iter().chain([leaf.not_after]).min();
                let retained = if view.is_retained() { " (left by deletionPolicy: Retain)" } else { "" };
                format!("the stored certificate{retained} is signed by CA {} and expires at {}", old.id, leaf.not_after)
            }
            None if view.is_claimed => "the stored certificate cannot be read".to_owned(),
            Some(_) if !is_signed_by(view, old) && users.is_empty() => {
                let in_use = saturating_add(view.issued_at(), times.min_delay + times.clock_skew);
                if view.issued_at() < old.since || context.now >= in_use {
                    continue;
                }
                poll.until = poll.until.into_iter().chain([in_use]).min();
                format!("the new certificate counts as in use from {in_use} on")
            }
            _ => continue,
        };
        let laggard = Laggard {
            namespace: view.secret_namespace.to_owned(),
            kind: Some(LaggardKind::Secret),
            pod: view.secret_name.to_owned(),
            reason: format!("NotServed: {why}"),
        };
        let is_left = poll.left_namespaces.contains(view.secret_namespace);
        if is_left { &mut poll.left } else { &mut poll.laggards }.push(laggard);
    }
    poll
}

fn is_signed_by(view: &LeafView<'_>, ca: &Generation<CaMaterial>) -> bool {
    view.leaf.is_some_and(|leaf| leaf.issuer.as_deref() == Some(ca.material.fingerprint.as_str()))
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
    let is_brought = spec.existing_secret_ref.is_some();
    let thresholds = due_by_period.into_iter().chain(held_until).chain((!is_brought).then_some(due_by_end)).collect();
    let asked = spec.rotation_revision > ca.revision;
    let why = if is_brought {
        match brought::news(context, asked) {
            News::None | News::Aborted(_) | News::Resume(_) => None,
            News::Stage(why) => Some(why),
        }
    } else {
        let wanted = key_spec(&spec.private_key.clone().unwrap_or_default());
        let was_aborted = given_up.is_some_and(|g| !g.material.brought && g.material.key == wanted);
        if asked {
            Some(format!("rotationRevision is {}", spec.rotation_revision))
        } else if active.material.brought && !was_aborted {
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
    let (News::Resume(former), Some(active)) = (brought::news(context, asked), context.ca.active()) else {
        return None;
    };
    if let Err(refusal) = names::check(context.observed, &former.id, &former.material.path.constraints) {
        return Some(RingDecision::refuse(refusal, vec![]));
    }
    if let Some(decision) = held_by_clock(context, former) {
        return Some(decision);
    }
    let what = name(KIND, &former.id);
    let mut steps = vec![Step::Resume { id: former.id.clone(), signed_until: signed_until(context, active) }];
    let revision = context.observed.domain.spec.ca.rotation_revision;
    if revision > context.ca.revision {
        steps.push(Step::HandleRevision(revision));
    }
    let event = Event::new(reason::ROTATION_SWITCHED, format!("activated {what} again"));
    Some(RingDecision::act(steps, vec![event], Progress::new(reason::REISSUING, format!("{what} signs"))))
}

const A_SECOND: Duration = Duration::from_secs(1);

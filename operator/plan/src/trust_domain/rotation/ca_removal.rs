//! The removal of a CA from the trust bundle, which answers when a CA may be removed: once no certificate in use is signed
//! by it, no instance presents one, and no connection shows one; or once all of them have expired. `super::gate` says
//! which instances hold that step.

use std::collections::BTreeSet;

use gaia_api::crd::{Acknowledgement, Laggard, LaggardKind, reason};
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::ca::emergency_limit;
use super::gate::Poll;
use super::{Context, LONGEST_EMERGENCY_PUBLISHING, LONGEST_GRACE, Progress, RingDecision, Urgency, name};
use crate::Event;
use crate::instances::instance::{Instances, Need};
use crate::keyring::ring::{CaMaterial, Generation, RingKind, State};
use crate::keyring::transition::Step;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::LeafView;

const KIND: RingKind = RingKind::Ca;

/// Removes a retiring CA once no certificate in use is signed by it.
pub(super) fn retire(context: &Context<'_, '_>) -> Option<RingDecision> {
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

/// The deadline for the removal of a compromised CA; none while there is no replacement.
pub(super) fn refused_by(context: &Context<'_, '_>, suspect: &Generation<CaMaterial>) -> Option<Timestamp> {
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

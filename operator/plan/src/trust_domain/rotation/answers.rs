//! Annotations that request one action on a ring: `gaia.dev/abort` and `gaia.dev/advance-without`.
//!
//! Each value is handled when it is first seen, and the result is recorded in the ring, in the same write. This
//! includes a value that matched nothing, so that it never takes effect later. When the annotation is removed, its
//! record is removed.

use gaia_api::crd::condition::warning;
use gaia_api::crd::reason;
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::{Context, Next, Progress, RingDecision, name};
use crate::Event;
use crate::keyring::handled::{Answer, ONCE};
use crate::keyring::ring::{CaMaterial, Generation, Material, Ring, RingKind, State};
use crate::keyring::transition::Step;
use crate::outcome::conditions::Warning;
use crate::trust_domain::Observed;

pub(super) fn abort_ca(context: &Context<'_, '_>) -> Option<RingDecision> {
    context.annotation(annotation::ABORT)?;
    let revision = context.observed.domain.spec.ca.rotation_revision;
    let signed_until = context.ca.active().and_then(|active| super::ca_removal::signed_until(context, active));
    let in_force = |before: &&Generation<CaMaterial>| before.material.not_after > context.now;
    let not_yet_valid = |before: &Generation<CaMaterial>| {
        let begins = before.material.not_before;
        (begins > context.now).then(|| {
            format!(
                "{} before it is valid only from {begins}, which is ahead of the operator's clock; correct the clock of \
                 the operator's node, or ask again after that time",
                name(RingKind::Ca, &before.id)
            )
        })
    };
    abort(context, (RingKind::Ca, context.ca), revision, signed_until, in_force, not_yet_valid)
}

pub(super) fn abort_signing(context: &Context<'_, '_>) -> Option<RingDecision> {
    let revision = context.observed.domain.spec.tokens.rotation_revision;
    let mut decision = abort(context, (RingKind::SigningKeys, context.signing), revision, None, |_| true, |_| None)?;
    // There is always a next key.
    if let Next::Act { steps, .. } = &mut decision.next
        && steps.iter().any(|step| matches!(step, Step::Abandon(_)))
    {
        steps.push(Step::Stage(super::signing::fresh(context)));
    }
    Some(decision)
}

/// Aborts the rotation to a generation: before its activation it is discarded, afterwards the previous generation is
/// activated again.
/// `not_yet_valid`: the reason why the previous generation cannot sign yet.
fn abort<M: Material>(
    context: &Context<'_, '_>,
    (kind, ring): (RingKind, &Ring<M>),
    revision: i64,
    signed_until: Option<Timestamp>,
    in_force: impl Fn(&&Generation<M>) -> bool,
    not_yet_valid: impl Fn(&Generation<M>) -> Option<String>,
) -> Option<RingDecision> {
    let asked = context.unanswered(annotation::ABORT)?;
    let ignored = |why: &str| Some(record(annotation::ABORT, Answer::ignored(asked, why)));
    let Some(generation) = ring.generation(asked) else {
        return context.names_nothing(kind, asked).then(|| record(annotation::ABORT, unknown(asked)));
    };
    if generation.aborted {
        return Some(record(annotation::ABORT, Answer::done(asked)));
    }
    let mut steps = match generation.state {
        State::Staged | State::Published => vec![Step::Abandon(generation.id.clone())],
        State::Active => {
            // One that retires because of a restore alone may never have been published.
            let has_signed = |before: &&Generation<M>| before.activated_time.is_some() && before.distrust.is_none();
            let before = ring.retiring().filter(has_signed).filter(in_force).last();
            let Some(before) = before else {
                let had_one = ring.generations.iter().any(|other| other.id != generation.id);
                return ignored(if had_one {
                    "the previous generation is already removed"
                } else {
                    "there was no previous generation"
                });
            };
            if let Some(why) = not_yet_valid(before) {
                return ignored(&why);
            }
            vec![Step::Reactivate { id: before.id.clone(), signed_until }]
        }
        State::Retiring | State::Removed | State::Distrusted => {
            return ignored(&format!("it is already {}", generation.state.as_str()));
        }
    };
    if revision > ring.revision {
        steps.push(Step::HandleRevision(revision));
    }
    steps.push(step(annotation::ABORT, Answer::done(asked)));
    let what = name(kind, &generation.id);
    let event = Event::new(reason::ROTATION_ABORTED, format!("aborted the rotation to {what}"));
    let progress = Progress::new(reason::ROTATION_ABORTED, format!("the rotation to {what} is aborted"));
    Some(RingDecision::act(steps, vec![event], progress))
}

pub(super) fn advance_ca(context: &Context<'_, '_>) -> Option<RingDecision> {
    advance(context, RingKind::Ca, context.ca)
}

pub(super) fn advance_signing(context: &Context<'_, '_>) -> Option<RingDecision> {
    advance(context, RingKind::SigningKeys, context.signing)
}

/// Binds `advance-without` to the rotation that the named generation takes part in now. It applies to no other
/// rotation: when that generation is itself replaced later, lagging instances hold that rotation again.
fn advance<M: Material>(context: &Context<'_, '_>, kind: RingKind, ring: &Ring<M>) -> Option<RingDecision> {
    let asked = context.unanswered(annotation::ADVANCE_WITHOUT)?;
    let Some(generation) = ring.generation(asked) else {
        return context.names_nothing(kind, asked).then(|| record(annotation::ADVANCE_WITHOUT, unknown(asked)));
    };
    let rotation = match generation.state {
        State::Staged | State::Published => Some(asked),
        State::Active => ring.retiring().next().map(|_| asked),
        State::Retiring => ring.active().map(|active| active.id.as_str()),
        State::Removed | State::Distrusted => None,
    };
    let answer = match rotation {
        Some(rotation) => Answer { rotation: Some(rotation.to_owned()), ..Answer::done(asked) },
        None => {
            let next = ring.next().map(|next| format!("; the next generation is {}", next.id)).unwrap_or_default();
            let why = format!("no rotation to or from it is waiting: it is {}{next}", generation.state.as_str());
            Answer::ignored(asked, why)
        }
    };
    Some(record(annotation::ADVANCE_WITHOUT, answer))
}

/// Forgets the answers to annotations that were removed.
pub(super) fn forget_ca(context: &Context<'_, '_>) -> Option<RingDecision> {
    forget(context, context.ca)
}

/// The same of the signing keys' ring.
pub(super) fn forget_signing(context: &Context<'_, '_>) -> Option<RingDecision> {
    forget(context, context.signing)
}

fn forget<M>(context: &Context<'_, '_>, ring: &Ring<M>) -> Option<RingDecision> {
    let none = std::collections::BTreeMap::new();
    let present = context.observed.domain.metadata.annotations.as_ref().unwrap_or(&none);
    let removed = ring.handled.without(present);
    let steps: Vec<Step> =
        removed.map(|annotation| Step::Answer { annotation: annotation.to_owned(), answer: None }).collect();
    (!steps.is_empty()).then(|| RingDecision::record(steps, vec![]))
}

/// Warnings for annotations whose value matched nothing, while the annotation is present.
pub(crate) fn ignored(observed: &Observed<'_>) -> Vec<Warning> {
    let rings = [observed.ca.ring().map(|ring| &ring.handled), observed.signing.ring().map(|ring| &ring.handled)];
    let annotations = observed.domain.metadata.annotations.as_ref();
    let present = ONCE.iter().filter_map(|name| Some((*name, annotations?.get(*name)?)));
    let mut warnings = vec![];
    for (name, value) in present {
        let answers = rings.iter().flatten().filter_map(|handled| handled.answer(name, value));
        for why in answers.filter_map(|answer| answer.ignored.as_deref()) {
            let value: String = value.chars().take(MAX_SHOWN).collect();
            let message = format!(
                "metadata.annotations[{name}]: {value:?} is ignored: {why}; remove the annotation, or set it to an id in \
                 status.ca or status.signingKeys"
            );
            warnings.push(Warning::new(warning::ANNOTATION_IGNORED, message));
        }
    }
    warnings
}

impl Context<'_, '_> {
    /// The value of an annotation that neither ring has answered.
    fn unanswered(&self, annotation: &str) -> Option<&str> {
        let value = self.annotation(annotation)?;
        let is_answered = self.ca.handled.answer(annotation, value).is_some()
            || self.signing.handled.answer(annotation, value).is_some();
        (!is_answered).then_some(value)
    }

    /// Returns true if this ring must report that no generation has that id: the CA ring does, if neither has it.
    fn names_nothing(&self, kind: RingKind, asked: &str) -> bool {
        kind == RingKind::Ca && self.signing.generation(asked).is_none()
    }

    /// Returns true if an administrator lets the rotation to that generation proceed without the lagging instances.
    pub(super) fn may_advance_without(&self, rotation: &str) -> bool {
        let allows = |value: &str| {
            let rings = [&self.ca.handled, &self.signing.handled];
            let mut answers = rings.into_iter().filter_map(|h| h.answer(annotation::ADVANCE_WITHOUT, value));
            answers.any(|answer| answer.rotation.as_deref() == Some(rotation))
        };
        self.annotation(annotation::ADVANCE_WITHOUT).is_some_and(allows)
    }
}

fn unknown(asked: &str) -> Answer {
    Answer::ignored(asked, "no generation has that id")
}

fn record(annotation: &str, answer: Answer) -> RingDecision {
    RingDecision::record(vec![step(annotation, answer)], vec![])
}

fn step(annotation: &str, answer: Answer) -> Step {
    Step::Answer { annotation: annotation.to_owned(), answer: Some(answer) }
}

const MAX_SHOWN: usize = 64;

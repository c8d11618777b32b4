//! The decision about one ring: act, wait, or nothing to do.

use gaia_api::crd::{Laggard, reason};
use jiff::Timestamp;

use super::Context;
use crate::keyring::transition::Step;
use crate::{Event, Refusal};

/// The decision about one ring.
#[derive(Debug, Default)]
pub(crate) struct RingDecision {
    pub(crate) next: Next,
    /// A request that cannot be carried out.
    pub(crate) refusal: Option<Refusal>,
    /// Times at which the decision may change without another event, also while it has steps.
    pub(crate) thresholds: Vec<Timestamp>,
    /// Instances that still accept a distrusted generation. They delay no step.
    pub(crate) exposed: Option<Exposed>,
}

/// What comes next in a ring.
#[derive(Debug, Default)]
pub(crate) enum Next {
    /// No rotation is in progress, and none is due.
    #[default]
    Idle,
    /// A rotation is in progress, and its next step is not possible yet.
    Wait { progress: Progress, blocks: Blocks },
    /// The steps of one transition.
    Act { steps: Vec<Step>, events: Vec<Event>, progress: Option<Progress>, urgency: Urgency },
}

/// The rotations of the ring that do not begin while a rotation waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// All others.
    Rotations,
    /// None: it waits for the expiry of a certificate that is never re-issued, or for namespaces that are not watched.
    Nothing,
}

/// How much a transition may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// For projections, and for a clock that is behind the times of the rings.
    Ordinary,
    /// For projections alone: the active CA expires soon.
    BeforeExpiry,
    /// For nothing.
    Emergency,
}

/// The reason why steps are not taken now, unless they are at least that urgent.
pub(crate) struct HeldBack {
    pub(crate) why: String,
    pub(crate) unless: Urgency,
}

/// Instances that still accept a distrusted generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub(crate) message: String,
    pub(crate) laggards: Vec<Laggard>,
}

/// The progress of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Of the condition.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The instances it waits for.
    pub(crate) laggards: Vec<Laggard>,
}

/// A rule of a ring: returns the decision that it requires now, if any.
pub(super) type Rule = for<'c, 'a, 'o> fn(&'c Context<'a, 'o>) -> Option<RingDecision>;

impl Progress {
    pub(super) fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message, laggards: vec![] }
    }
}

impl Urgency {
    /// Steps that come before all others, also before a missing projection.
    fn of(steps: &[Step]) -> Self {
        let is_emergency = |step: &Step| {
            matches!(
                step,
                Step::Suspect { .. }
                    | Step::Distrust { .. }
                    | Step::StageActive(_)
                    | Step::HandleDistrust(_)
                    | Step::Abandon(_)
                    | Step::Discard(_)
                    | Step::Reactivate { .. }
                    | Step::Resume { .. }
                    | Step::RaiseMaxTtl(_)
                    | Step::Answer { .. }
                    | Step::AddEpochKey
            )
        };
        if steps.iter().any(is_emergency) { Self::Emergency } else { Self::Ordinary }
    }
}

impl HeldBack {
    /// The end of a rotation that waits for the clock blocks no urgent one: the clock may catch up after the CA expired.
    fn blocks(&self, next: &Next) -> Blocks {
        let ends = |step: &Step| matches!(step, Step::Switched(_) | Step::Remove(_));
        match next {
            Next::Act { steps, .. } if self.unless == Urgency::BeforeExpiry && steps.iter().all(ends) => {
                Blocks::Nothing
            }
            _ => Blocks::Rotations,
        }
    }
}

impl RingDecision {
    /// The first rule that requires steps decides. The first rule that waits is reported, but does not keep later rules
    /// from acting: while a rotation waits for lagging instances, a compromised generation must still be refused. The
    /// same holds for steps that are held back.
    pub(super) fn of(context: &Context<'_, '_>, rules: &[Rule]) -> Self {
        Self::first(context, rules.iter().filter_map(|rule| rule(context)))
    }

    pub(super) fn first(context: &Context<'_, '_>, decisions: impl Iterator<Item = Self>) -> Self {
        let mut result = Self::default();
        for mut decision in decisions {
            result.thresholds.append(&mut decision.thresholds);
            result.refusal = result.refusal.take().or(decision.refusal);
            result.exposed = result.exposed.take().or(decision.exposed);
            if let (Next::Act { urgency, .. }, Some(held)) = (&decision.next, &context.held_back)
                && *urgency < held.unless
            {
                let blocks = held.blocks(&decision.next);
                decision.next = decision.next.held_back(&held.why, blocks);
            }
            if matches!(decision.next, Next::Act { .. }) {
                return Self { next: decision.next, ..result };
            }
            result.next = result.next.and_wait(decision.next);
        }
        result
    }

    /// Combines it with another decision, unless it takes steps or blocks other rotations.
    pub(super) fn or_else(self, context: &Context<'_, '_>, other: impl FnOnce() -> Self) -> Self {
        match self.next {
            Next::Act { .. } | Next::Wait { blocks: Blocks::Rotations, .. } => self,
            Next::Idle | Next::Wait { blocks: Blocks::Nothing, .. } => {
                Self::first(context, [self, other()].into_iter())
            }
        }
    }

    /// The action that carries out its steps waits, for this cause.
    pub(crate) fn hold_back(&mut self, why: &str) {
        if matches!(self.next, Next::Act { .. }) {
            self.next = std::mem::take(&mut self.next).held_back(why, Blocks::Rotations);
        }
    }

    pub(crate) fn progress(&self) -> Option<&Progress> {
        match &self.next {
            Next::Idle => None,
            Next::Wait { progress, .. } => Some(progress),
            Next::Act { progress, .. } => progress.as_ref(),
        }
    }

    pub(crate) fn progress_mut(&mut self) -> Option<&mut Progress> {
        match &mut self.next {
            Next::Idle => None,
            Next::Wait { progress, .. } => Some(progress),
            Next::Act { progress, .. } => progress.as_mut(),
        }
    }

    /// Steps that are reported as a rotation.
    pub(super) fn act(steps: Vec<Step>, events: Vec<Event>, progress: Progress) -> Self {
        let urgency = Urgency::of(&steps);
        Self { next: Next::Act { steps, events, progress: Some(progress), urgency }, ..Self::default() }
    }

    /// Steps that belong to no rotation, or prepare a later one.
    pub(super) fn record(steps: Vec<Step>, events: Vec<Event>) -> Self {
        let urgency = Urgency::of(&steps);
        Self { next: Next::Act { steps, events, progress: None, urgency }, ..Self::default() }
    }

    /// Waits. Other rotations of the ring do not begin.
    pub(super) fn wait(progress: Progress, thresholds: Vec<Timestamp>) -> Self {
        Self { next: Next::Wait { progress, blocks: Blocks::Rotations }, thresholds, ..Self::default() }
    }

    /// Waits, and blocks no other rotation.
    pub(super) fn wait_aside(progress: Progress, thresholds: Vec<Timestamp>) -> Self {
        Self { next: Next::Wait { progress, blocks: Blocks::Nothing }, thresholds, ..Self::default() }
    }

    pub(super) fn idle(thresholds: Vec<Timestamp>) -> Self {
        Self { thresholds, ..Self::default() }
    }

    pub(super) fn refuse(refusal: Refusal, thresholds: Vec<Timestamp>) -> Self {
        Self { refusal: Some(refusal), thresholds, ..Self::default() }
    }

    pub(super) fn expose(exposed: Exposed) -> Self {
        Self { exposed: Some(exposed), ..Self::default() }
    }

    /// Its steps are at least that urgent.
    pub(super) fn at_least(mut self, least: Urgency) -> Self {
        if let Next::Act { urgency, .. } = &mut self.next {
            *urgency = least.max(*urgency);
        }
        self
    }

    pub(super) fn with_thresholds(self, thresholds: Vec<Timestamp>) -> Self {
        Self { thresholds, ..self }
    }
}

impl Next {
    /// Steps that are not taken, for this cause, are reported if they belong to a rotation.
    fn held_back(self, why: &str, blocks: Blocks) -> Self {
        let Self::Act { steps, progress, .. } = self else { return self };
        let Some(progress) = progress else { return Self::Idle };
        let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let message = format!("held: {why}; next step: {}", steps.join("; "));
        Self::Wait { progress: Progress { reason: reason::HELD, message, ..progress }, blocks }
    }

    /// The first of two waits is reported. Both together block what one of them blocks.
    fn and_wait(self, other: Self) -> Self {
        match (self, other) {
            (Self::Wait { progress, blocks }, Self::Wait { blocks: others, .. }) => {
                let blocks = if others == Blocks::Rotations { others } else { blocks };
                Self::Wait { progress, blocks }
            }
            (Self::Idle, other) => other,
            (first, _) => first,
        }
    }
}

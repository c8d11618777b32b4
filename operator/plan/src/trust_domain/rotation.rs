//! The rotation of both rings: the next transition, and the cause of a wait (docs/rotation.md).
//!
//! All decisions here assume that projections match the ring; `crate::trust_domain` ensures that first. A decision is a
//! [`RingDecision`]: the steps of one transition, or the reason to wait.

mod answers;
mod brought;
mod ca;
mod currency;
mod distrust;
mod gate;
mod holders;
mod requests;
mod signing;
mod workloads;

use std::time::Duration;

use gaia_api::crd::{Laggard, reason};
use jiff::Timestamp;

pub(crate) use self::answers::ignored as ignored_annotations;
pub(crate) use self::brought::unused as unused_brought_ca;
pub(crate) use self::currency::{Currency, UsedLeaves, currency};
pub(crate) use self::gate::{is_issuer, may_leave_behind};
pub(crate) use self::requests::restore;
pub(crate) use self::workloads::workload_actions;
use crate::keyring::ring::{CaRing, Ring, RingKind, SigningRing};
use crate::keyring::transition::{Step, Transition};
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::{Observed, Projections};
use crate::{Action, Event, Refusal};

/// The decision about one ring: steps and progress.
#[derive(Debug, Default)]
pub(crate) struct RingDecision {
    pub(crate) steps: Vec<Step>,
    pub(crate) events: Vec<Event>,
    /// A request that cannot be carried out.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) progress: Option<Progress>,
    /// Times at which the decision may change without another event, also while it has steps.
    pub(crate) thresholds: Vec<Timestamp>,
    /// Instances that still accept a distrusted generation. They delay no step.
    pub(crate) exposed: Option<Exposed>,
    /// True if its steps are taken although a projection cannot be written.
    urgent: bool,
    /// True if it waits for a cause that blocks no other rotation of the ring: the expiry of a certificate that is
    /// never re-issued, or namespaces that are not watched.
    is_settling: bool,
    /// The steps as text, once an action carries them out.
    planned: String,
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

impl Progress {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message, laggards: vec![] }
    }
}

/// A rule of a ring: returns the decision that it requires now, if any.
type Rule = for<'c, 'a, 'o> fn(&'c Context<'a, 'o>) -> Option<RingDecision>;

impl RingDecision {
    /// The first rule that requires steps decides. The first rule that waits is reported, but does not keep later rules
    /// from acting: while a rotation waits for lagging instances, a compromised generation must still be refused. The
    /// same holds for steps that must wait because they are not urgent.
    fn of(context: &Context<'_, '_>, rules: &[Rule]) -> Self {
        Self::first(context, rules.iter().filter_map(|rule| rule(context)))
    }

    fn first(context: &Context<'_, '_>, turns: impl Iterator<Item = Self>) -> Self {
        let mut result = Self::default();
        for mut turn in turns {
            result.thresholds.append(&mut turn.thresholds);
            result.refusal = result.refusal.take().or(turn.refusal.take());
            result.exposed = result.exposed.take().or(turn.exposed.take());
            if !turn.steps.is_empty() {
                match &context.held_back {
                    Some(why) if !turn.is_urgent() => turn.hold_back(&steps_text(&turn.steps), why),
                    _ => {
                        let Self { thresholds, refusal, exposed, .. } = result;
                        return Self { thresholds, refusal, exposed, ..turn };
                    }
                }
            }
            if turn.progress.is_some() {
                result.is_settling = turn.is_settling && (result.progress.is_none() || result.is_settling);
            }
            result.progress = result.progress.take().or(turn.progress);
        }
        result
    }

    /// Drops its steps and reports the cause.
    fn hold_back(&mut self, steps: &str, why: &str) {
        if let Some(progress) = &mut self.progress {
            progress.reason = reason::HELD;
            progress.message = format!("held: {why}; next step: {steps}");
            self.is_settling = false;
        }
    }

    /// The action that carries out its steps waits, for this cause.
    pub(crate) fn wait_for(&mut self, why: &str) {
        let planned = std::mem::take(&mut self.planned);
        if !planned.is_empty() {
            self.hold_back(&planned, why);
        }
    }

    /// Combines it with another decision, unless it already takes steps.
    fn or_else(self, context: &Context<'_, '_>, other: impl FnOnce() -> Self) -> Self {
        if !self.steps.is_empty() || (self.progress.is_some() && !self.is_settling) {
            return self;
        }
        Self::first(context, [self, other()].into_iter())
    }

    /// Returns true if its steps come before all others, also before a missing projection.
    fn is_urgent(&self) -> bool {
        self.urgent
            || self.steps.iter().any(|step| {
                matches!(
                    step,
                    Step::Suspect { .. }
                        | Step::Distrust { .. }
                        | Step::StageActive(_)
                        | Step::Heed(_)
                        | Step::Abandon(_)
                        | Step::Discard(_)
                        | Step::Reactivate { .. }
                        | Step::Resume { .. }
                        | Step::RaiseMaxTtl(_)
                        | Step::Answer { .. }
                        | Step::AddEpochKey
                )
            })
    }

    fn act(steps: Vec<Step>, events: Vec<Event>, progress: Progress) -> Self {
        Self { steps, events, progress: Some(progress), ..Self::default() }
    }

    fn urgent(self) -> Self {
        Self { urgent: true, ..self }
    }

    fn wait(progress: Progress, thresholds: Vec<Timestamp>) -> Self {
        Self { progress: Some(progress), thresholds, ..Self::default() }
    }

    fn settling(self) -> Self {
        Self { is_settling: true, ..self }
    }

    fn rest(thresholds: Vec<Timestamp>) -> Self {
        Self { thresholds, ..Self::default() }
    }
}

/// The input of the decisions about both rings.
pub(crate) struct Context<'a, 'o> {
    pub(crate) observed: &'a Observed<'o>,
    pub(crate) leaves: &'a UsedLeaves<'a, 'o>,
    pub(crate) ca: &'a CaRing,
    pub(crate) signing: &'a SigningRing,
    /// Lower-case hex SHA-256 of the bundle of the CA ring.
    pub(crate) bundle_hash: &'a str,
    /// Lower-case hex SHA-256 of the `denylist.json` that follows from both rings and the spec.
    pub(crate) denylist_hash: &'a str,
    /// The projections that do not match the rings.
    pub(crate) projections: &'a Projections,
    /// True if every leaf Secret has the bundle of the CA ring.
    pub(crate) is_in_leaves: bool,
    /// The reason why only urgent steps are taken now, if any.
    pub(crate) held_back: Option<String>,
    pub(crate) now: Timestamp,
}

/// The ring's times, by the letters of ROTATION.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// P, and G which equals it.
    pub(crate) p: Duration,
    /// S.
    pub(crate) s: Duration,
    /// D.
    pub(crate) d: Duration,
}

impl Context<'_, '_> {
    pub(crate) fn times(&self) -> Times {
        let spec = &self.observed.domain.spec.propagation;
        Times { p: spec.min_delay.value(), s: spec.clock_skew.value(), d: spec.deadline.value() }
    }

    /// The end of a grace period after a distrust. A time ahead of the clock was written by a clock that ran fast, and
    /// an emergency does not wait for it.
    fn grace_end(&self, since: Timestamp, grace: Duration) -> Timestamp {
        if since > saturating_add(self.now, self.times().s) { self.now } else { saturating_add(since, grace) }
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.observed.domain.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// The decision about the CA ring.
pub(crate) fn decide_ca(context: &Context<'_, '_>) -> RingDecision {
    ca::decide(context)
}

/// The decision about the signing ring.
pub(crate) fn decide_signing(context: &Context<'_, '_>) -> RingDecision {
    signing::decide(context)
}

/// The action that carries out the steps of a decision.
pub(crate) fn transition<M>(
    observed: &Observed<'_>,
    kind: RingKind,
    ring: &Ring<M>,
    facts: &crate::object::ObjectFacts,
    turn: &mut RingDecision,
) -> Option<Action> {
    if turn.steps.is_empty() {
        return None;
    }
    turn.planned = steps_text(&turn.steps);
    Some(Action::Transition(Box::new(Transition {
        trust_domain: observed.name().to_owned(),
        spiffe_trust_domain: observed.domain.spec.trust_domain.clone(),
        kind,
        key: observed.ring_key(kind),
        on: facts.version(),
        epoch: ring.epoch,
        steps: std::mem::take(&mut turn.steps),
        events: std::mem::take(&mut turn.events),
    })))
}

/// A ring of an earlier version gets the key that proves the epochs in its projections.
fn add_epoch_key(context: &Context<'_, '_>, kind: RingKind) -> Option<RingDecision> {
    let is_missing = context.observed.macs.of(kind).is_none();
    is_missing.then(|| RingDecision { steps: vec![Step::AddEpochKey], ..RingDecision::default() })
}

fn steps_text(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The name of a ring's generation in messages: `CA 3f9a0c21`.
fn name(kind: RingKind, id: &str) -> String {
    match kind {
        RingKind::Ca => format!("CA {id}"),
        RingKind::SigningKeys => format!("signing key {id}"),
    }
}

fn started(kind: RingKind, why: &str) -> Event {
    let what = match kind {
        RingKind::Ca => "CA",
        RingKind::SigningKeys => "signing key",
    };
    Event::new(reason::ROTATION_STARTED, format!("started a rotation of the {what}: {why}"))
}

/// The longest time that a compromised generation is kept while instances still need it.
const LONGEST_GRACE: Duration = Duration::from_secs(300);
/// The part of that time that may pass before its replacement is activated.
const LONGEST_EMERGENCY_PUBLISHING: Duration = Duration::from_secs(150);

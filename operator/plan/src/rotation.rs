//! The life of both rings: what follows next, and what it waits for (ROTATION).
//!
//! Everything here is decided on a ring whose projections are as the ring says; `crate::trust_domain` sees to that first.
//! A decision is a [`Turn`]: the steps of one transition, or nothing and the reason to wait.

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
use crate::backoff::saturating_add;
use crate::ring::{CaRing, Ring, RingKind, SigningRing};
use crate::transition::{Step, Transition};
use crate::trust_domain::{Observed, Projections};
use crate::{Action, Event, Refusal};

/// What is done about one ring now, and what is said of it.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) steps: Vec<Step>,
    pub(crate) events: Vec<Event>,
    /// A request that cannot be carried out.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) progress: Option<Progress>,
    /// The time when something may follow by time alone; also beside steps, which may have to wait for what is urgent.
    pub(crate) thresholds: Vec<Timestamp>,
    /// Instances that still accept a distrusted generation. They delay no step.
    pub(crate) exposed: Option<Exposed>,
    /// True if its steps are taken although a projection cannot be written.
    urgent: bool,
    /// True if it waits for something that no other rotation of the ring has to wait for: that a certificate which
    /// nothing replaces expires, or that namespaces are watched.
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

/// Where a rotation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Of the condition.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Who is waited for.
    pub(crate) laggards: Vec<Laggard>,
}

impl Progress {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message, laggards: vec![] }
    }
}

/// A rule of a ring's life: what it has to say now, if anything.
type Rule = for<'c, 'a, 'o> fn(&'c Context<'a, 'o>) -> Option<Turn>;

impl Turn {
    /// The first rule that has something to do decides. What the first that waits says is told, but does not keep the
    /// others from acting: who waits for the laggards of a rotation must not wait to refuse what leaked. The same holds
    /// for what must wait now because it is not urgent.
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

    /// Its steps are not taken now, and what is reported of them says so.
    fn hold_back(&mut self, steps: &str, why: &str) {
        if let Some(progress) = &mut self.progress {
            progress.reason = reason::HELD;
            progress.message = format!("held back: {why}; next step: {steps}");
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

    /// The same with what another says, if this one leaves it anything to say.
    fn or_else(self, context: &Context<'_, '_>, other: impl FnOnce() -> Self) -> Self {
        if !self.steps.is_empty() || (self.progress.is_some() && !self.is_settling) {
            return self;
        }
        Self::first(context, [self, other()].into_iter())
    }

    /// Returns true if its steps come before everything else, also before a projection that is missing.
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

/// What both rings are judged with.
pub(crate) struct Context<'a, 'o> {
    pub(crate) observed: &'a Observed<'o>,
    pub(crate) leaves: &'a UsedLeaves<'a, 'o>,
    pub(crate) ca: &'a CaRing,
    pub(crate) signing: &'a SigningRing,
    /// Of the bundle that the CA's ring says: lower-case hex SHA-256.
    pub(crate) bundle_hash: &'a str,
    /// Of the `denylist.json` that both rings and the spec say: lower-case hex SHA-256.
    pub(crate) denylist_hash: &'a str,
    /// The projections that are not what the rings say.
    pub(crate) projections: &'a Projections,
    /// True if every leaf Secret has the bundle that the CA's ring says.
    pub(crate) is_in_leaves: bool,
    /// The reason why only urgent steps are taken now, if so.
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

    /// The end of a grace after a distrust. A time ahead of the clock was written by a clock that ran ahead, and an
    /// emergency does not wait for it.
    fn grace_end(&self, since: Timestamp, grace: Duration) -> Timestamp {
        if since > saturating_add(self.now, self.times().s) { self.now } else { saturating_add(since, grace) }
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.observed.domain.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// What is done about the CA's ring now.
pub(crate) fn ca_turn(context: &Context<'_, '_>) -> Turn {
    ca::turn(context)
}

/// What is done about the signing keys' ring now.
pub(crate) fn signing_turn(context: &Context<'_, '_>) -> Turn {
    signing::turn(context)
}

/// The action that carries out a turn's steps.
pub(crate) fn transition<M>(
    observed: &Observed<'_>,
    kind: RingKind,
    ring: &Ring<M>,
    facts: &crate::object::ObjectFacts,
    turn: &mut Turn,
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
fn add_epoch_key(context: &Context<'_, '_>, kind: RingKind) -> Option<Turn> {
    let is_missing = context.observed.macs.of(kind).is_none();
    is_missing.then(|| Turn { steps: vec![Step::AddEpochKey], ..Turn::default() })
}

fn steps_text(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// How a ring and a generation of it are named to people: `CA 3f9a0c21`.
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
    Event::new(reason::ROTATION_STARTED, format!("a rotation of the {what} began: {why}"))
}

/// The longest that a compromised generation is kept for the sake of those that still use it.
const LONGEST_GRACE: Duration = Duration::from_secs(300);
/// How much of that may pass before its replacement signs.
const LONGEST_EMERGENCY_PUBLISHING: Duration = Duration::from_secs(150);

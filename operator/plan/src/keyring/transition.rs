//! Transitions of a ring: each is one PUT of the whole ring (docs/rotation.md, "The order of writes").
//!
//! A transition is a list of steps, as data. [`Ring::after`] applies them to the public part and is pure. The executor
//! generates the key material that steps need, copies the previous ring, and stores the result.

mod step;

use std::fmt;

use gaia_api::crd::whole_seconds;
use jiff::Timestamp;
use serde::Serialize;

pub use self::step::Step;
use crate::Event;
use crate::keyring::handled::Handled;
use crate::keyring::ring::{Distrust, Generation, Material, Ring, RingKind, State};
use crate::object::{ObjectKey, Version};

/// One change of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// `metadata.name` of the TrustDomain.
    pub trust_domain: String,
    /// The SPIFFE trust domain, for new CAs.
    pub spiffe_trust_domain: String,
    /// Which ring.
    pub kind: RingKind,
    /// Its Secret.
    pub key: ObjectKey,
    /// The state it was planned on.
    pub on: Version,
    /// The epoch it was planned on.
    pub epoch: u64,
    /// In order.
    pub steps: Vec<Step>,
    /// Published once it is done.
    pub events: Vec<Event>,
}

/// The restore of a ring from its copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restore {
    /// `metadata.name` of the TrustDomain.
    pub trust_domain: String,
    /// Which ring.
    pub kind: RingKind,
    /// Its Secret without content: with a version if it exists.
    pub object: crate::object::ObjectChange,
    /// The epoch of the copy; another one is rejected.
    pub epoch: u64,
    /// The epoch that the restored ring has.
    pub new_epoch: u64,
    /// The annotations that this restore is the answer to.
    pub handled: Handled,
}

/// The reason why steps cannot be applied to a ring: it is not the state on which they were planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// There is no such generation in a state that allows it.
    #[error("{step}: the ring has no such generation in a state that allows it")]
    NotPossible {
        /// The step.
        step: String,
    },
    /// After it not exactly one generation would sign.
    #[error("after this step {0} generations would be Active; exactly one must be")]
    NotOneActive(usize),
    /// A kid or fingerprint would be used twice.
    #[error("generation {0} exists already")]
    Reused(String),
    /// The copy holds no generation that could be activated.
    #[error("the copy has no generation that may be activated: its active one is distrusted")]
    NothingToSign,
}

impl<M: Material + Clone> Ring<M> {
    /// The ring after these steps. `made` is the material of the `Stage` and `StageActive` steps, in their order.
    ///
    /// # Errors
    /// [`StepError`] if the ring is not in the state on which the steps were planned.
    pub fn after(&self, steps: &[Step], made: Vec<M>, now: Timestamp) -> Result<Self, StepError> {
        let mut ring = self.clone();
        let mut made = made.into_iter();
        let now = whole_seconds(now);
        for step in steps {
            ring.apply(step, &mut made, now)?;
        }
        ring.epoch += u64::from(steps.iter().any(|step| step.changes_projections(M::ACTIVE_IS_PUBLISHED)));
        ring.forget_removed();
        ring.check_signers().map_err(StepError::NotOneActive)?;
        Ok(ring)
    }

    fn apply(&mut self, step: &Step, made: &mut impl Iterator<Item = M>, now: Timestamp) -> Result<(), StepError> {
        let impossible = || StepError::NotPossible { step: step.to_string() };
        match step {
            Step::Stage(_) => self.add(made.next().ok_or_else(impossible)?, State::Staged, now)?,
            Step::StageActive(_) => self.add(made.next().ok_or_else(impossible)?, State::Active, now)?,
            Step::Publish(id) => {
                let generation = self.find(id, &[State::Staged]).ok_or_else(impossible)?;
                generation.enter(State::Published, now);
                generation.published_time = Some(now);
            }
            Step::Activate { id, signed_until } => {
                self.retire(*signed_until, now);
                let generation = self.find(id, &[State::Staged, State::Published]).ok_or_else(impossible)?;
                generation.enter(State::Active, now);
                generation.activated_time = Some(now);
            }
            Step::Switched(id) => {
                self.find(id, &[State::Retiring]).ok_or_else(impossible)?.switched_time = Some(now);
            }
            Step::Remove(id) => {
                self.find(id, &[State::Retiring]).ok_or_else(impossible)?.enter(State::Removed, now);
            }
            Step::Abandon(id) => {
                let generation = self.find(id, &[State::Staged, State::Published]).ok_or_else(impossible)?;
                generation.enter(State::Removed, now);
                generation.aborted = true;
            }
            Step::Discard(id) => {
                let generation = self.find(id, &[State::Staged, State::Published]).ok_or_else(impossible)?;
                generation.enter(State::Removed, now);
            }
            Step::Reactivate { id, signed_until } => {
                if let Some(active) = self.retire(*signed_until, now) {
                    active.aborted = true;
                }
                let generation = self.find(id, &[State::Retiring]).ok_or_else(impossible)?;
                generation.enter(State::Active, now);
                (generation.switched_time, generation.signed_until) = (None, None);
            }
            Step::Resume { id, signed_until } => {
                self.retire(*signed_until, now);
                let generation = self.find(id, &[State::Retiring]).ok_or_else(impossible)?;
                generation.enter(State::Active, now);
                (generation.switched_time, generation.signed_until) = (None, None);
                generation.activated_time.get_or_insert(now);
                generation.aborted = false;
            }
            Step::Suspect { id, mode } => {
                let living = [State::Staged, State::Published, State::Active, State::Retiring];
                let generation = self.find(id, &living).ok_or_else(impossible)?;
                let mark = generation.distrust.get_or_insert(Distrust { mode: *mode, since: now, refused_time: None });
                // A time ahead of the clock was written by a clock that ran ahead.
                mark.since = mark.since.min(now);
            }
            Step::Distrust { id, mode } => {
                // Also a removed generation: no restore must bring it back.
                let all = [State::Staged, State::Published, State::Active, State::Retiring, State::Removed];
                let generation = self.find(id, &all).ok_or_else(impossible)?;
                generation.enter(State::Distrusted, now);
                let mark = Distrust { mode: *mode, since: now, refused_time: None };
                generation.distrust.get_or_insert(mark).mode = *mode;
            }
            Step::Refused { id, at } => {
                let generation = self.find(id, &[State::Distrusted]).ok_or_else(impossible)?;
                generation.distrust.as_mut().ok_or_else(impossible)?.refused_time = Some(whole_seconds(*at));
            }
            Step::HandleDistrust(distrust) => self.handled_distrust = Some(*distrust),
            Step::HandleRevision(revision) => self.revision = self.revision.max(*revision),
            Step::RaiseMaxTtl(seconds) => {
                self.max_ttl_high_water_seconds = self.max_ttl_high_water_seconds.max(Some(*seconds));
            }
            Step::Answer { annotation, answer: Some(answer) } => self.handled.record(annotation, answer.clone()),
            Step::Answer { annotation, answer: None } => self.handled.forget(annotation),
            // The key is no part of the document.
            Step::AddEpochKey => {}
        }
        Ok(())
    }

    fn add(&mut self, material: M, state: State, now: Timestamp) -> Result<(), StepError> {
        let id = material.id();
        if let Some(known) = self.generation(&id) {
            // A bring-your-own CA that was removed and is in the Secret again starts as a new generation.
            let is_put_back =
                known.material.name() == material.name() && known.state == State::Removed && known.distrust.is_none();
            if !is_put_back || !M::MAY_HAVE_NO_SIGNER {
                return Err(StepError::Reused(id));
            }
            self.generations.retain(|generation| generation.id != id);
        }
        self.generations.push(Generation::new(id, state, now, material));
        Ok(())
    }

    fn find(&mut self, id: &str, states: &[State]) -> Option<&mut Generation<M>> {
        self.generations.iter_mut().find(|generation| generation.id == id && states.contains(&generation.state))
    }

    /// The active generation retires.
    fn retire(&mut self, signed_until: Option<Timestamp>, now: Timestamp) -> Option<&mut Generation<M>> {
        let active = self.generations.iter_mut().find(|generation| generation.state == State::Active)?;
        active.enter(State::Retiring, now);
        active.switched_time = None;
        active.signed_until = signed_until;
        Some(active)
    }

    /// Keeps the last few removed generations for inspection. Distrusted generations stay permanently.
    fn forget_removed(&mut self) {
        let removed = self.generations.iter().filter(|generation| generation.state == State::Removed).count();
        let mut surplus = removed.saturating_sub(KEPT_REMOVED);
        self.generations.retain(|generation| {
            let goes = surplus > 0 && generation.state == State::Removed;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// The copy that is stored as `…-ring-previous` before `after` replaces this ring. Everything that `after` knows to
    /// be compromised is marked so, and its keys are not copied.
    #[must_use]
    pub fn copy_before(&self, after: &Self) -> Self {
        let mut copy = self.clone();
        for generation in &mut copy.generations {
            let mark = after.generation(&generation.id).and_then(|known| known.distrust);
            generation.distrust = generation.distrust.or(mark);
        }
        copy
    }

    /// The ring that a restore of `self`, a copy, creates in place of `current`, if that can be read.
    ///
    /// No generation that is trusted now is lost: those activated since the copy retire. No generation that is known to
    /// be compromised, here or there, is restored. The active generation must already be trusted: an older one that is
    /// no longer trusted only retires. A `current` of an older epoch than the copy is itself a backup: the copy is
    /// closer to what is trusted.
    ///
    /// # Errors
    /// [`StepError::NothingToSign`] if no generation is left that may be activated.
    pub fn restored(&self, current: Option<&Self>, new_epoch: u64, now: Timestamp) -> Result<Self, StepError> {
        let now = whole_seconds(now);
        // A ring that is older than its copy still shows which generations are compromised, but not which are trusted
        // now.
        let in_force = current.filter(|ring| ring.epoch >= self.epoch);
        let known = |id: &str| in_force.and_then(|ring| ring.generation(id));
        let leaked = |id: &str| current.and_then(|ring| ring.generation(id)).and_then(|known| known.distrust);
        let may_sign = |copied: &&Generation<M>| {
            let is_trusted = in_force.is_none() || known(&copied.id).is_some_and(|here| here.state.is_trusted());
            is_trusted && copied.distrust.is_none() && leaked(&copied.id).is_none()
        };
        let signs = self.active().filter(may_sign).or_else(|| in_force.and_then(Self::active));
        let signs = signs.map(|generation| generation.id.clone()).ok_or(StepError::NothingToSign)?;
        let copied = self.generations.iter().map(|copied| merged(Some(copied), known(&copied.id), in_force.is_none()));
        let newer = in_force.into_iter().flat_map(|ring| &ring.generations);
        let newer = newer.filter(|known| self.generation(&known.id).is_none());
        let mut ring = self.clone();
        ring.generations = copied.chain(newer.map(|known| merged(None, Some(known), false))).flatten().collect();
        if in_force.is_none() {
            for generation in &mut ring.generations {
                generation.distrust = generation.distrust.or_else(|| leaked(&generation.id));
                if generation.distrust.is_some() {
                    generation.state = State::Distrusted;
                }
            }
        }
        for generation in &mut ring.generations {
            let before = known(&generation.id).map(|known| known.state);
            if generation.id == signs {
                generation.state = State::Active;
                generation.activated_time.get_or_insert(now);
                (generation.switched_time, generation.signed_until) = (None, None);
                generation.aborted = false;
            } else if generation.state == State::Retiring && before != Some(State::Retiring) {
                (generation.switched_time, generation.signed_until) = (None, None);
            } else if generation.state == State::Staged {
                (generation.staged_time, generation.published_time) = (Some(now), None);
            }
            if before != Some(generation.state) {
                generation.since = now;
            }
        }
        if let Some(current) = current {
            ring.revision = ring.revision.max(current.revision);
            let marks = [ring.handled_distrust, current.handled_distrust];
            ring.handled_distrust = marks.into_iter().flatten().max_by_key(|mark| mark.since);
            ring.max_ttl_high_water_seconds = ring.max_ttl_high_water_seconds.max(current.max_ttl_high_water_seconds);
            ring.handled = ring.handled.merged(&current.handled);
        }
        ring.restored_from = Some(self.epoch);
        ring.epoch = new_epoch;
        Ok(ring)
    }

    /// The newest time that it holds. A clock that is behind it is wrong.
    #[must_use]
    pub fn newest_time(&self) -> Timestamp {
        let all = self.generations.iter().flat_map(|generation| {
            let distrusted = generation.distrust.map(|mark| mark.since);
            let times = [generation.published_time, generation.activated_time, generation.switched_time, distrusted];
            times.into_iter().flatten().chain([generation.since])
        });
        all.max().unwrap_or(Timestamp::MIN)
    }
}

/// The state of a generation after a restore, unless it is the active one: from the copy, and from the current ring.
/// `lost`: the current ring is unknown.
fn merged<M: Clone>(
    copied: Option<&Generation<M>>,
    known: Option<&Generation<M>>,
    lost: bool,
) -> Option<Generation<M>> {
    let mut generation = known.or(copied)?.clone();
    let (then, now) = (copied.map(|copied| copied.state), known.map(|known| known.state));
    let mark = known.and_then(|known| known.distrust);
    generation.distrust = mark.or_else(|| copied.and_then(|copied| copied.distrust));
    generation.activated_time = generation.activated_time.or_else(|| copied.and_then(|copied| copied.activated_time));
    let is_next = |state: Option<State>| matches!(state, Some(State::Staged | State::Published));
    let has_signed = |state: Option<State>| matches!(state, Some(State::Active | State::Retiring));
    let is_refused = [then, now].contains(&Some(State::Distrusted));
    generation.state = if is_refused || (generation.distrust.is_some() && !now.is_some_and(State::is_trusted)) {
        State::Distrusted
    } else if has_signed(now) || has_signed(then) {
        State::Retiring
    } else if is_next(then) && lost {
        // It may have signed since.
        State::Retiring
    } else if is_next(then) && is_next(now) {
        generation.state
    } else if is_next(then) {
        // It may no longer be in any projection: it is published again.
        State::Staged
    } else {
        State::Removed
    };
    Some(generation)
}

impl<M> Generation<M> {
    fn enter(&mut self, state: State, now: Timestamp) {
        self.state = state;
        self.since = now;
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(ToString::to_string).collect();
        write!(f, "replace {}: {}", self.key, steps.join("; "))
    }
}

const KEPT_REMOVED: usize = 8;

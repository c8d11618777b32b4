//! The rotation of both rings: the next transition, and the cause of a wait (docs/rotation.md).
//!
//! All decisions here assume that projections match the ring; `crate::trust_domain` ensures that first. A decision is a
//! [`RingDecision`]: act, wait, or nothing to do.
//!
//! Read `decision` first, then `ca` and `signing`. When a CA may be removed is in `ca_removal`, and which instances hold
//! a step in `gate`.

mod answers;
mod ca;
mod ca_removal;
mod currency;
mod decision;
mod distrust;
mod external_ca;
mod gate;
mod holders;
mod requests;
mod signing;
mod workloads;

use std::time::Duration;

use gaia_api::crd::reason;
use jiff::Timestamp;

pub(crate) use self::answers::ignored as ignored_annotations;
pub(crate) use self::currency::{Currency, UsedLeaves, currency};
pub(crate) use self::decision::{HeldBack, Next, Progress, RingDecision, Urgency};
pub(crate) use self::external_ca::unused as unused_external_ca;
pub(crate) use self::gate::{is_issuer, may_leave_behind};
pub(crate) use self::requests::restore;
pub(crate) use self::workloads::workload_actions;
use crate::keyring::ring::{CaRing, Ring, RingKind, SigningRing};
use crate::keyring::transition::{Step, Transition};
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::{Observed, Projections};
use crate::{Action, Event};

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
    /// The reason why only urgent steps are taken now.
    pub(crate) held_back: Option<HeldBack>,
    pub(crate) now: Timestamp,
}

/// The times of docs/rotation.md ("Times").
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// P, and G which equals it.
    pub(crate) min_delay: Duration,
    /// S.
    pub(crate) clock_skew: Duration,
    /// D.
    pub(crate) deadline: Duration,
}

impl Context<'_, '_> {
    pub(crate) fn times(&self) -> Times {
        let spec = &self.observed.domain.spec.propagation;
        Times {
            min_delay: spec.min_delay.value(),
            clock_skew: spec.clock_skew.value(),
            deadline: spec.deadline.value(),
        }
    }

    /// The end of a grace period after a distrust. A time ahead of the clock was written by a clock that ran fast, and
    /// an emergency does not wait for it.
    fn grace_end(&self, since: Timestamp, grace: Duration) -> Timestamp {
        if since > saturating_add(self.now, self.times().clock_skew) { self.now } else { saturating_add(since, grace) }
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
    decision: &RingDecision,
) -> Option<Action> {
    let Next::Act { steps, events, .. } = &decision.next else { return None };
    Some(Action::Transition(Box::new(Transition {
        trust_domain: observed.name().to_owned(),
        spiffe_trust_domain: observed.domain.spec.trust_domain.clone(),
        kind,
        key: observed.ring_key(kind),
        on: facts.version(),
        epoch: ring.epoch,
        steps: steps.clone(),
        events: events.clone(),
    })))
}

/// A ring of an earlier version gets the key that proves the epochs in its projections.
fn add_epoch_key(context: &Context<'_, '_>, kind: RingKind) -> Option<RingDecision> {
    let is_missing = context.observed.macs.of(kind).is_none();
    is_missing.then(|| RingDecision::record(vec![Step::AddEpochKey], vec![]))
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

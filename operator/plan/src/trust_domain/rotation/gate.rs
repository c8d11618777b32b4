//! The gate before a switch or a removal: timers are the floor, acknowledgement is the gate, D is the alarm.

use std::collections::BTreeSet;

use gaia_api::crd::{Acknowledgement, Laggard, PastDeadline, reason};
use gaia_api::names;
use jiff::Timestamp;

use super::{Context, Progress};
use crate::Event;
use crate::instances::instance::{Instance, Instances, Need};
use crate::object::ObjectKey;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::Observed;

/// The result of checking all instances.
#[derive(Debug, Default)]
pub(super) struct Poll {
    /// Lagging instances that hold the step.
    pub(super) laggards: Vec<Laggard>,
    /// Lagging instances that do not hold the step.
    pub(super) tolerated: Vec<Laggard>,
    /// Lagging instances that are left behind.
    pub(super) left: Vec<Laggard>,
    /// Namespaces whose instances and leaf Secrets are left behind.
    pub(super) left_namespaces: BTreeSet<String>,
    /// The number of instances checked.
    pub(super) total: usize,
    /// The reason why instances are unknown.
    pub(super) unknown: Option<String>,
    /// The earliest time at which an instance no longer holds the step.
    pub(super) until: Option<Timestamp>,
}

impl Poll {
    pub(super) fn all_acknowledged(&self) -> bool {
        self.laggards.is_empty() && self.unknown.is_none()
    }

    pub(super) fn has_no_instances(&self) -> bool {
        self.total == 0 && self.unknown.is_none()
    }

    pub(super) fn add(&mut self, instance: &Instance, result: Result<(), String>) {
        let is_required = instance.acknowledgement == Acknowledgement::Required;
        self.total += usize::from(is_required);
        let Err(why) = result else { return };
        if self.left_namespaces.contains(&instance.namespace) {
            self.left.push(instance.laggard(&why));
        } else if is_required {
            self.laggards.push(instance.laggard(&why));
        } else {
            self.tolerated.push(instance.laggard(&why));
        }
    }

    /// `2 of 12 instances do not …: shop/chat-x: Unreachable: …`.
    pub(super) fn message(&self, what: &str) -> String {
        if let Some(why) = &self.unknown {
            return format!("cannot list instances: {why}");
        }
        format!("{} of {} instances {what}: {}", self.laggards.len(), self.total, named(&self.laggards))
    }

    /// The event that names the instances that the current step leaves behind.
    pub(super) fn left_event(&self, what: &str) -> Option<Event> {
        (!self.left.is_empty()).then(|| {
            let message = format!(
                "left {} of {} instances behind after propagation.deadline: they {what}: {}",
                self.left.len(),
                self.total,
                named(&self.left)
            );
            Event::warning(reason::INSTANCES_LEFT_BEHIND, message)
        })
    }

    /// The text about a removal. It only claims observed facts.
    pub(super) fn replaced(&self) -> String {
        let missed: Vec<Laggard> = self.laggards.iter().chain(&self.left).chain(&self.tolerated).cloned().collect();
        if missed.is_empty() {
            return "every certificate it signed is replaced".to_owned();
        }
        format!("without waiting for {} that may still use it: {}", missed.len(), named(&missed))
    }
}

/// `shop/chat-x: Unreachable: …`, the first few.
fn named(laggards: &[Laggard]) -> String {
    // There may be as many as certificates, so only those that are named are put in order.
    let mut first: Vec<&Laggard> = laggards.iter().collect();
    if first.len() > NAMED {
        first.select_nth_unstable_by(NAMED, |a, b| order(a).cmp(&order(b)));
        first.truncate(NAMED);
    }
    first.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
    let named: Vec<String> = first.into_iter().map(|l| format!("{}/{}: {}", l.namespace, l.pod, l.reason)).collect();
    let more = laggards.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", named.join("; "))
}

impl Context<'_, '_> {
    /// Checks every instance that uses such an object. Those in `left` namespaces do not hold the step.
    pub(super) fn poll(
        &self,
        uses: impl Fn(&ObjectKey) -> bool,
        need: &Need<'_>,
        written: Timestamp,
        left: BTreeSet<String>,
    ) -> Poll {
        let mut poll = Poll { left_namespaces: left, ..Poll::default() };
        if !self.observed.domain.spec.propagation.require_acknowledgement {
            return poll;
        }
        if let Instances::Unknown(why) = &self.observed.instances {
            poll.unknown = Some((*why).to_owned());
            return poll;
        }
        let p = self.times().min_delay;
        for instance in self.observed.instances.iter() {
            if instance.uses.iter().any(&uses) {
                poll.add(instance, instance.check(need, written, p));
            }
        }
        poll
    }

    /// Leaves instances behind that lag for D after the floor of a step, as far as `propagation.pastDeadline` allows
    /// it.
    pub(super) fn leave_behind(&self, poll: &mut Poll, floor: Timestamp) {
        if poll.unknown.is_some() || poll.laggards.is_empty() {
            return;
        }
        let may_be_left =
            |laggard: &Laggard| laggard.kind.is_none() && !is_issuer(self.observed, &laggard.namespace, &laggard.pod);
        let lagging: BTreeSet<(&str, &str)> = poll
            .laggards
            .iter()
            .filter(|laggard| may_be_left(laggard))
            .map(|laggard| (laggard.namespace.as_str(), laggard.pod.as_str()))
            .collect();
        if lagging.is_empty() || !may_leave_behind(self.observed, floor, self.now, lagging.len()) {
            return;
        }
        let (left, waited_for) = std::mem::take(&mut poll.laggards).into_iter().partition(may_be_left);
        poll.laggards = waited_for;
        poll.left.extend::<Vec<Laggard>>(left);
    }

    /// The progress of a step that waits for instances since `since`.
    pub(super) fn waiting(&self, poll: Poll, what: &str, since: Timestamp) -> (Progress, Option<Timestamp>) {
        let alarm = saturating_add(since, self.times().deadline);
        let late = alarm <= self.now;
        let reason = if late { reason::PAST_DEADLINE } else { reason::WAITING_FOR_INSTANCES };
        let until = poll.until;
        let message = poll.message(what);
        let laggards = poll.laggards.into_iter().chain(poll.tolerated).chain(poll.left).collect();
        let progress = Progress { reason, message, laggards };
        (progress, (!late).then_some(alarm).into_iter().chain(until).min())
    }
}

/// Returns true if a step whose floor was `floor` proceeds without this number of instances
/// (`propagation.pastDeadline`): at most max(1, 10 %) of the TrustDomain's.
pub(crate) fn may_leave_behind(observed: &Observed<'_>, floor: Timestamp, now: Timestamp, lagging: usize) -> bool {
    let times = &observed.domain.spec.propagation;
    let Instances::Known(all) = &observed.instances else { return false };
    times.past_deadline == PastDeadline::LeaveBehind
        && now >= saturating_add(floor, times.deadline.value())
        && lagging <= (all.len() / SHARE).max(1)
}

/// Returns true if an instance signs tokens.
pub(crate) fn is_issuer(observed: &Observed<'_>, namespace: &str, pod: &str) -> bool {
    let signer = names::token_signer(observed.name());
    let mut its = observed.instances.iter().filter(|instance| instance.namespace == namespace && instance.name == pod);
    its.any(|instance| instance.uses.iter().any(|object| object.name == signer))
}

fn order(laggard: &Laggard) -> (&str, &str, &str) {
    (&laggard.namespace, &laggard.pod, &laggard.reason)
}

const NAMED: usize = 3;
/// One in this number of instances may be left behind.
const SHARE: usize = 10;

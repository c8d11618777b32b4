//! The gate before a switch or a removal: timers are the floor, acknowledgement is the gate, D is the alarm.

use gaia_api::crd::{Acknowledgement, Laggard, reason};
use jiff::Timestamp;

use super::{Context, Progress};
use crate::backoff::saturating_add;
use crate::instance::{Instance, Instances, Need};
use crate::object::ObjectKey;

/// What became of asking everybody.
#[derive(Debug, Default)]
pub(super) struct Poll {
    /// Who does not yet, and is waited for.
    pub(super) laggards: Vec<Laggard>,
    /// Who does not yet, and is not waited for.
    pub(super) tolerated: Vec<Laggard>,
    /// Who was asked.
    pub(super) total: usize,
    /// Why nobody can be asked.
    pub(super) unknown: Option<String>,
    /// When somebody is not waited for any more by time alone; the first of them.
    pub(super) until: Option<Timestamp>,
}

impl Poll {
    pub(super) fn is_unanimous(&self) -> bool {
        self.laggards.is_empty() && self.unknown.is_none()
    }

    pub(super) fn nobody(&self) -> bool {
        self.total == 0 && self.unknown.is_none()
    }

    pub(super) fn add(&mut self, instance: &Instance, result: Result<(), String>) {
        let is_required = instance.acknowledgement == Acknowledgement::Required;
        self.total += usize::from(is_required);
        let Err(why) = result else { return };
        if is_required {
            self.laggards.push(instance.laggard(&why));
        } else {
            self.tolerated.push(instance.laggard(&why));
        }
    }

    /// `2 of 12 instances do not …: shop/chat-x: Unreachable: …`.
    pub(super) fn message(&self, what: &str) -> String {
        if let Some(why) = &self.unknown {
            return format!("waits to know which instances there are: {why}");
        }
        // There may be as many as certificates, so only those that are named are put in order.
        let mut first: Vec<&Laggard> = self.laggards.iter().collect();
        if first.len() > NAMED {
            first.select_nth_unstable_by(NAMED, |a, b| order(a).cmp(&order(b)));
            first.truncate(NAMED);
        }
        first.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
        let named: Vec<String> =
            first.into_iter().map(|l| format!("{}/{}: {}", l.namespace, l.pod, l.reason)).collect();
        let more = self.laggards.len().saturating_sub(NAMED);
        let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
        format!("{} of {} instances do not {what}: {}{rest}", self.laggards.len(), self.total, named.join("; "))
    }
}

impl Context<'_, '_> {
    /// Asks every instance that uses such an object.
    pub(super) fn poll(&self, uses: impl Fn(&ObjectKey) -> bool, need: &Need<'_>, written: Timestamp) -> Poll {
        let mut poll = Poll::default();
        if !self.observed.domain.spec.propagation.require_acknowledgement {
            return poll;
        }
        if let Instances::Unknown(why) = &self.observed.instances {
            poll.unknown = Some((*why).to_owned());
            return poll;
        }
        let p = self.times().p;
        for instance in self.observed.instances.iter() {
            if instance.uses.iter().any(&uses) {
                poll.add(instance, instance.check(need, written, p));
            }
        }
        poll
    }

    /// That instances are waited for, since `since`.
    pub(super) fn waiting(&self, poll: Poll, what: &str, since: Timestamp) -> (Progress, Option<Timestamp>) {
        let alarm = saturating_add(since, self.times().d);
        let late = alarm <= self.now;
        let reason = if late { reason::PAST_DEADLINE } else { reason::WAITING_FOR_INSTANCES };
        let until = poll.until;
        let message = poll.message(what);
        let laggards = poll.laggards.into_iter().chain(poll.tolerated).collect();
        let progress = Progress { reason, message, laggards };
        (progress, (!late).then_some(alarm).into_iter().chain(until).min())
    }
}

fn order(laggard: &Laggard) -> (&str, &str, &str) {
    (&laggard.namespace, &laggard.pod, &laggard.reason)
}

const NAMED: usize = 3;

//! Conditions that all kinds report alike.

use std::collections::BTreeMap;

use gaia_api::crd::condition::{READY, RECONCILING, STALLED};
use gaia_api::crd::{Condition, Truth, find_condition, is_true, new_condition, reason};
use jiff::Timestamp;

use crate::Refusal;
use crate::pacing::backoff::Failures;

/// The previous conditions of an object and the values that new ones need.
pub(crate) struct Report<'a> {
    /// The conditions reported so far.
    pub(crate) before: &'a [Condition],
    /// True if the previous conditions say that the spec of this generation was accepted: see [`is_accepted`].
    pub(crate) is_accepted: bool,
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
    /// Now.
    pub(crate) now: Timestamp,
}

/// Problems and pending work, most important first.
pub(crate) struct Obstacles<'a> {
    /// The reason why no action is planned.
    pub(crate) refusal: Option<&'a Refusal>,
    /// Attempts that failed.
    pub(crate) failures: Option<&'a Failures>,
    /// The pending work. Reported as `Reconciling` until the spec is accepted (see [`is_accepted`]), and while the
    /// object is not ready.
    pub(crate) pending: Option<(&'static str, String)>,
}

/// Returns true if the last status recorded that the spec of this generation was accepted and carried out. What the
/// operator does after that (a renewal, a rotation, a repair) is no change of the spec: tools that deploy wait on
/// `Reconciling`.
pub(crate) fn is_accepted(observed: Option<i64>, generation: Option<i64>, conditions: &[Condition]) -> bool {
    let is_settled = |type_| find_condition(conditions, type_).is_some() && !is_true(conditions, type_);
    observed == generation && is_settled(RECONCILING) && is_settled(STALLED)
}

/// A condition that is present only while it is True. Its message names everything that it affects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    /// Type and reason: a constant of `gaia_api::crd::condition::warning`.
    pub(crate) type_: &'static str,
    /// The object and field, the cause, and the next step.
    pub(crate) message: String,
}

impl Warning {
    pub(crate) fn new(type_: &'static str, message: String) -> Self {
        Self { type_, message }
    }
}

impl Report<'_> {
    /// The conditions of all warnings: one for each type, in the order of the types.
    pub(crate) fn warnings(&self, warnings: Vec<Warning>) -> Vec<Condition> {
        let mut by_type: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for Warning { type_, message } in warnings {
            by_type.entry(type_).or_default().push(message);
        }
        let condition = |(type_, mut messages): (&'static str, Vec<String>)| {
            messages.sort();
            messages.dedup();
            let more = messages.len().saturating_sub(NAMED);
            messages.truncate(NAMED);
            let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
            self.condition(type_, Truth::True, type_, format!("{}{rest}", messages.join("; ")))
        };
        by_type.into_iter().map(condition).collect()
    }

    /// One condition.
    pub(crate) fn condition(&self, type_: &str, status: Truth, reason: &str, message: String) -> Condition {
        new_condition(self.before, type_, status, reason, message, self.generation, self.now)
    }

    /// `Ready`, `Reconciling` and `Stalled`.
    pub(crate) fn standard(
        &self,
        ready: Result<String, (&'static str, String)>,
        in_the_way: &Obstacles<'_>,
    ) -> Vec<Condition> {
        let is_carried_out = self.is_accepted && ready.is_ok();
        let ready = match (ready, in_the_way.refusal, in_the_way.failures) {
            (Ok(message), ..) => self.condition(READY, Truth::True, reason::READY, message),
            (Err(_), Some(refusal), _) => self.condition(READY, Truth::False, refusal.reason, refusal.message.clone()),
            (Err(_), None, Some(failures)) => {
                self.condition(READY, Truth::False, failures.reason, failures.message.clone())
            }
            (Err((reason, message)), None, None) => self.condition(READY, Truth::False, reason, message),
        };
        vec![ready, self.reconciling(in_the_way, is_carried_out), self.stalled(in_the_way)]
    }

    fn reconciling(&self, in_the_way: &Obstacles<'_>, is_carried_out: bool) -> Condition {
        let under_way = match (in_the_way.refusal, in_the_way.failures, &in_the_way.pending) {
            (Some(refusal), ..) if !refusal.stalled => Some((refusal.reason, refusal.message.clone())),
            (None, Some(failures), _) => Some((failures.reason, failures.message.clone())),
            (None, None, Some((reason, message))) if !is_carried_out => Some((*reason, message.clone())),
            _ => None,
        };
        match under_way {
            Some((reason, message)) => self.condition(RECONCILING, Truth::True, reason, message),
            None => self.condition(RECONCILING, Truth::False, reason::SETTLED, String::new()),
        }
    }

    fn stalled(&self, in_the_way: &Obstacles<'_>) -> Condition {
        match in_the_way.refusal {
            Some(refusal) if refusal.stalled => {
                self.condition(STALLED, Truth::True, refusal.reason, refusal.message.clone())
            }
            _ => self.condition(STALLED, Truth::False, reason::SETTLED, String::new()),
        }
    }
}

/// `status.reason` and `status.message`: those of Stalled if it is True, else of Ready.
pub(crate) fn headline(conditions: &[Condition]) -> (Option<String>, Option<String>) {
    let stalled = find_condition(conditions, STALLED).filter(|condition| condition.status == Truth::True.as_str());
    match stalled.or_else(|| find_condition(conditions, READY)) {
        Some(condition) => (Some(condition.reason.clone()), Some(condition.message.clone())),
        None => (None, None),
    }
}

/// Messages of one type of warning in its condition.
const NAMED: usize = 5;

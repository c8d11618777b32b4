//! Conditions that all kinds report alike.

use gaia_api::crd::condition::{READY, RECONCILING, STALLED};
use gaia_api::crd::{Condition, Truth, new_condition, reason};
use jiff::Timestamp;

use crate::Refusal;
use crate::backoff::Failures;

/// What is reported of an object besides its own facts.
pub(crate) struct Report<'a> {
    /// The conditions reported so far.
    pub(crate) before: &'a [Condition],
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
    /// Now.
    pub(crate) now: Timestamp,
}

/// What stands in the way, the weightiest first.
pub(crate) struct Obstacles<'a> {
    /// Why nothing is done.
    pub(crate) refusal: Option<&'a Refusal>,
    /// Attempts that failed.
    pub(crate) failures: Option<&'a Failures>,
    /// Whether there is still something to do.
    pub(crate) pending: Option<(&'static str, String)>,
}

impl Report<'_> {
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
        let ready = match (ready, in_the_way.refusal, in_the_way.failures) {
            (Ok(message), ..) => self.condition(READY, Truth::True, reason::READY, message),
            (Err(_), Some(refusal), _) => self.condition(READY, Truth::False, refusal.reason, refusal.message.clone()),
            (Err(_), None, Some(failures)) => {
                self.condition(READY, Truth::False, failures.reason, failures.message.clone())
            }
            (Err((reason, message)), None, None) => self.condition(READY, Truth::False, reason, message),
        };
        vec![ready, self.reconciling(in_the_way), self.stalled(in_the_way)]
    }

    fn reconciling(&self, in_the_way: &Obstacles<'_>) -> Condition {
        let under_way = match (in_the_way.refusal, in_the_way.failures, &in_the_way.pending) {
            (Some(refusal), ..) if !refusal.stalled => Some((refusal.reason, refusal.message.clone())),
            (None, Some(failures), _) => Some((failures.reason, failures.message.clone())),
            (None, None, Some((reason, message))) => Some((*reason, message.clone())),
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

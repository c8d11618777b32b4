//! Results of a plan for users: events, refusals and conditions.
//!
//! A refusal names the object and the field, the cause, and whether a user must act. `conditions` turns it, and what was
//! completed, into the conditions of a status (kstatus: Ready, Reconciling, Stalled).

pub(crate) mod conditions;
pub(crate) mod event;
pub(crate) mod refusal;

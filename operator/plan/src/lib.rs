//! Every rotation decision as a pure function: `Observed -> Plan`.
//!
//! No function here reads a clock, generates a key or calls a server. A plan holds *actions* with preconditions, the
//! *status* to report, and the time of the next check. The controller executes actions; the tests execute them on a
//! simulated cluster in memory.

pub mod backoff;
pub mod budget;
pub mod certificate;
mod conditions;
pub mod domain;
pub mod endpoint;
pub mod epoch;
mod event;
pub mod handled;
pub mod instance;
pub mod lagging;
pub mod leaf;
mod leaked;
pub mod legacy;
pub mod limits;
pub mod merge;
mod mode;
pub mod name_policy;
pub mod object;
mod plan;
pub mod projection;
mod refusal;
pub mod ring;
mod rotation;
pub mod service;
pub mod shares;
pub mod transition;
pub mod trust_domain;
mod user_tokens;

pub use event::Event;
pub use plan::{Action, IssueLeaf, Plan, WriteSigner};
pub use refusal::Refusal;

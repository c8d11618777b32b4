//! Every rotation decision as a pure function: `Observed -> Plan`.
//!
//! No function here reads a clock, generates a key or calls a server. A plan holds *actions* with preconditions, the
//! *status* to report, and the time of the next check. The controller executes actions; the tests execute them on a
//! simulated cluster in memory.

pub mod api_key_usage;
pub mod domain;
pub mod gaia_service;
pub mod instances;
pub mod keyring;
pub mod leaf;
pub mod object;
mod outcome;
pub mod pacing;
mod plan;
pub mod projection;
mod published;
pub mod rules;
pub mod service_certificate;
pub mod trust_domain;

pub use outcome::event::Event;
pub use outcome::refusal::Refusal;
pub use plan::{Action, IssueLeaf, Plan, WriteSigner};

//! The Gaia operator: watches, plans, executes.
//!
//! The binary is [`cli::main`]. It runs an [`Operator`], which tests can run in their own process and with their own
//! clock. Without a cluster, [`directory::Engine`] runs the same decisions on a directory.

mod api_server;
mod cache;
pub mod cli;
pub mod directory;
mod execute;
mod observability;
mod probe;
mod process;
mod queue;
mod reconcile;
mod schedule;
mod store;
mod watch;

pub use gaia_plan::trust_domain::Abilities;
pub use process::operator::{Operator, OperatorConfig};

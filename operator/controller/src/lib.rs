//! The Gaia operator: watches, plans, executes.
//!
//! The binary is [`cli::main`]. [`Operator`] is what it runs, for whoever wants to run it in a process and on a clock of
//! their own.

pub mod cli;

mod admin;
mod agenda;
mod api_server;
mod config;
mod crd;
mod epoch_key;
mod error;
mod events;
mod executor;
mod facts;
mod fair;
mod leader;
mod metrics;
mod mint;
mod operator;
mod pacer;
mod plan_command;
mod probe;
mod queue;
mod reconcile;
mod run;
mod signers;
mod store;
mod text;
mod watch;
mod world;

pub use gaia_plan::trust_domain::Abilities;
pub use operator::{Operator, OperatorConfig};
